import { existsSync, mkdirSync, writeFileSync } from 'node:fs'
import { dirname, extname, relative, resolve } from 'node:path'
import { Argument, Option } from 'commander'
import { CrossfadeError } from '../../errors/index.ts'
import { nameArgument, parseNameArgument, type CommandSpec, type Result } from '../command.ts'
import { renderTemplate, templates, type TemplateName } from '../templates.ts'

interface InitOptions {
  readonly config?: string
  readonly template: TemplateName
}

const templateOption = (): Option =>
  new Option('-t, --template <name>', 'what to start from: reshape one table, or split one into two')
    .choices(Object.keys(templates))
    .default('reshape')

const formats = new Set(['.ts', '.mts', '.js', '.mjs', '.json'])

export const init: CommandSpec<InitOptions> = {
  name: 'init',
  summary: 'write a migration.config.ts to start from',
  description: 'Never overwrites a file. Edit the table and column names, then look at the plan.',
  examples: [
    { run: 'crossfade init people', does: 'one table reshaped into a new one' },
    { run: 'crossfade init people --template split', does: 'one table split into two' },
  ],
  arguments: [new Argument('[name]', 'name of the migration').default('people').argParser(parseNameArgument)],
  options: [
    new Option('-c, --config <file>', 'file to write').default('migration.config.ts'),
    templateOption(),
  ],
  run: (_, options, [name = 'people']) => Promise.resolve(write(name, options)),
}

export const initMigration: CommandSpec<InitOptions> = {
  name: 'init-migration',
  summary: 'write the definition of one migration into a file of its own',
  description: 'As `crossfade init`, with the file named. The ending chooses the format: .ts, .js or .json.',
  examples: [
    { run: 'crossfade init-migration people --config people.config.ts', does: 'in TypeScript' },
    { run: 'crossfade init-migration people --config people.json', does: 'in JSON' },
  ],
  arguments: [nameArgument('name of the migration')],
  options: [
    new Option('-c, --config <file>', 'file to write').default('migration.config.ts'),
    templateOption(),
  ],
  run: (_, options, [name = '']) => Promise.resolve(write(name, options)),
}

function write(name: string, { config = 'migration.config.ts', template }: InitOptions): Result {
  const path = resolve(config)
  if (!formats.has(extname(path)))
    throw new CrossfadeError({
      kind: 'input',
      code: 'CONFIG.FORMAT',
      message: `${config} ends in ${extname(path) || 'nothing'}; a definition is TypeScript, JavaScript or JSON.`,
      mend: `Give it one of the endings ${[...formats].join(', ')}.`,
    })
  if (existsSync(path))
    throw new CrossfadeError({
      kind: 'input',
      code: 'CONFIG.EXISTS',
      message: `${path} exists already; nothing was written.`,
      mend: `Write another file: \`crossfade init-migration ${name} --config ${name}.config.ts\`, or remove this one first.`,
    })
  mkdirSync(dirname(path), { recursive: true })
  writeFileSync(
    path,
    renderTemplate(templates[template], name, extname(path) === '.json' ? 'json' : 'module'),
    {
      flag: 'wx',
    },
  )
  const shown = relative(process.cwd(), path)
  const flag = shown === 'migration.config.ts' ? '' : ` --config ${shown}`
  return {
    data: { name, path, template },
    text: [`Wrote ${shown}: ${templates[template].does}.`],
    next: [
      `1. Put your tables and columns into ${shown}.`,
      '2. Say where the database is: export CROSSFADE_DATABASE_URL=postgres://user:password@host:5432/app',
      `3. See what would happen: crossfade plan ${name}${flag}`,
      '4. In another terminal, a local Temporal with a worker: crossfade dev',
      `5. Start it: crossfade run ${name}${flag} --wait`,
    ],
  }
}
