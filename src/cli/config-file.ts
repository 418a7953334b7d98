import { existsSync, readFileSync } from 'node:fs'
import { basename, extname, resolve } from 'node:path'
import type { Migration } from '../definition/index.ts'
import { CrossfadeError, isCrossfadeError } from '../errors/index.ts'

/** Looked for in this order in the current folder; never in a folder above it. */
const configNames = [
  'migration.config.ts',
  'migration.config.mts',
  'migration.config.js',
  'migration.config.mjs',
  'migration.config.json',
] as const

export interface ConfigFile {
  readonly path: string
  /** Who named it. */
  readonly from: '--config' | 'CROSSFADE_CONFIG' | 'the current folder'
}

interface Where {
  readonly config?: string | undefined
  readonly cwd?: string
  readonly environment?: NodeJS.ProcessEnv
}

/** The config file that holds: `--config`, else `CROSSFADE_CONFIG`, else the one in the current folder. */
export function findConfigFile({
  config,
  cwd = process.cwd(),
  environment = process.env,
}: Where): ConfigFile | undefined {
  if (config !== undefined) return { path: resolve(cwd, config), from: '--config' }
  const named = environment['CROSSFADE_CONFIG']
  if (named) return { path: resolve(cwd, named), from: 'CROSSFADE_CONFIG' }
  const found = configNames.map((name) => resolve(cwd, name)).find((path) => existsSync(path))
  return found === undefined ? undefined : { path: found, from: 'the current folder' }
}

/**
 * Every definition of the config file, with its defaults.
 * @throws `CONFIG.NOT_FOUND`, `CONFIG.BROKEN`, `CONFIG.EMPTY`, `CONFIG.DUPLICATE`, `DEFINITION.INVALID`
 */
export async function loadDefinitions(where: Where): Promise<{ file: ConfigFile; migrations: Migration[] }> {
  const file = findConfigFile(where)
  if (!file || !existsSync(file.path)) throw notFound(file, where.cwd ?? process.cwd())
  const exported = await readExport(file.path)
  const definitions = Array.isArray(exported) ? (exported as unknown[]) : [exported]
  if (definitions.length === 0 || exported === undefined || exported === null) throw empty(file.path)
  const { resolveMigration } = await import('../definition/index.ts')
  const migrations = definitions.map((definition) => resolveMigration(definition))
  const names = migrations.map(({ name }) => name)
  const twice = names.find((name, i) => names.indexOf(name) !== i)
  if (twice !== undefined)
    throw new CrossfadeError({
      kind: 'input',
      code: 'CONFIG.DUPLICATE',
      message: `${file.path} holds two migrations of the name ${twice}.`,
      mend: 'Give each its own name: it is the identity of the workflow that runs it.',
    })
  return { file, migrations }
}

/**
 * The one that `name` names; without a name the only one.
 * @throws `CONFIG.NO_SUCH_MIGRATION`, `CONFIG.NAME_NEEDED`
 */
export function chooseMigration(
  { file, migrations }: { readonly file: ConfigFile; readonly migrations: readonly Migration[] },
  name: string | undefined,
): Migration {
  const names = migrations.map((migration) => migration.name).join(', ')
  const [only] = migrations
  if (name === undefined) {
    if (only && migrations.length === 1) return only
    throw new CrossfadeError({
      kind: 'input',
      code: 'CONFIG.NAME_NEEDED',
      message: `${file.path} holds ${migrations.length} migrations.`,
      mend: `Name one of them: ${names}.`,
    })
  }
  const found = migrations.find((migration) => migration.name === name)
  if (found) return found
  throw new CrossfadeError({
    kind: 'input',
    code: 'CONFIG.NO_SUCH_MIGRATION',
    message: `There is no migration ${name} in ${file.path}.`,
    mend: `It holds ${names}; another file is named with --config FILE.`,
  })
}

async function readExport(path: string): Promise<unknown> {
  try {
    if (extname(path) === '.json') return JSON.parse(readFileSync(path, 'utf8')) as unknown
    const { createJiti } = await import('jiti')
    const author = await import('../index.ts')
    // The author's import of crossfade-db is this very installation, wherever the file lies.
    const jiti = createJiti(import.meta.url, {
      fsCache: false,
      moduleCache: false,
      interopDefault: false,
      virtualModules: { 'crossfade-db': author },
    })
    const module = await jiti.import<Record<string, unknown>>(path)
    return 'default' in module ? module['default'] : isCommonJs(module) ? module : undefined
  } catch (error) {
    if (isCrossfadeError(error)) throw error
    const reason = (error instanceof Error ? error.message : String(error)).replaceAll(/\s+/g, ' ').trim()
    throw new CrossfadeError({
      kind: 'input',
      code: 'CONFIG.BROKEN',
      message: `${path} could not be read: ${reason}${/[.!?]$/.test(reason) ? '' : '.'}`,
      mend: `Correct ${basename(path)}; --trace shows where it broke.`,
      cause: error,
    })
  }
}

/** `module.exports = { … }` of CommonJS has no default: it is the definition itself. */
const isCommonJs = (module: object): boolean => Array.isArray(module) || 'mappings' in module

function notFound(file: ConfigFile | undefined, cwd: string): CrossfadeError {
  return new CrossfadeError({
    kind: 'input',
    code: 'CONFIG.NOT_FOUND',
    message: file
      ? `There is no file ${file.path} (named by ${file.from}).`
      : `There is no ${configNames[0]} in ${cwd}.`,
    mend: 'Write one with `crossfade init NAME`, or name yours with --config FILE.',
  })
}

const empty = (path: string): CrossfadeError =>
  new CrossfadeError({
    kind: 'input',
    code: 'CONFIG.EMPTY',
    message: `${path} exports no migration.`,
    mend: 'Export one by default: `export default defineMigration({ … })`, or an array of them.',
  })
