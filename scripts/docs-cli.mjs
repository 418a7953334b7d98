// Writes docs/reference/cli.md from the commands themselves: `npm run docs:cli`. A test fails when it is not current.
import { readFileSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { format, resolveConfig } from 'prettier'
import { commandDetails } from '../src/cli/command.ts'
import { environment } from '../src/cli/commands/help.ts'
import { exitCodeMeanings } from '../src/cli/exit-codes.ts'
import { createProgram } from '../src/cli/program.ts'

const target = fileURLToPath(new URL('../docs/reference/cli.md', import.meta.url))

const silent = { out() {}, note() {}, style: (_, text) => text, noteStyle: (_, text) => text }
const cell = (text) => text.replaceAll('|', '\\|')
const table = (header, rows) => [
  `| ${header.join(' | ')} |`,
  `|${header.map(() => ' --- ').join('|')}|`,
  ...rows.map((row) => `| ${row.map(cell).join(' | ')} |`),
]
const isCommon = (option) => option.helpGroupHeading !== undefined || option.long === '--help'

function optionRow(option) {
  const choices = option.argChoices ? ` (${option.argChoices.join(', ')})` : ''
  const value = option.defaultValue
  const preset = typeof value === 'string' ? ` Default: \`${value}\`.` : ''
  const required = option.mandatory ? ' Required.' : ''
  return [`\`${option.flags}\``, `${option.description}${choices}.${preset}${required}`]
}

/** Indented lines are commands. */
const fenced = (text) =>
  text.replace(/((?:^ {2}.*(?:\n|$))+)/gm, (block) => `\n\`\`\`sh\n${block.trimEnd()}\n\`\`\`\n`)

function describeCommand(command) {
  const details = commandDetails(command)
  const options = command.createHelp().visibleOptions(command)
  const own = options.filter((option) => !isCommon(option))
  const shared = details?.usesTemporal ? ' Takes the options for Temporal.' : ''
  return [
    `### ${command.name()}`,
    '',
    `${command.summary().replace(/^./, (letter) => letter.toUpperCase())}.`,
    '',
    '```sh',
    `crossfade ${command.name()} ${command.usage()}`,
    '```',
    '',
    ...(details?.description ? [fenced(details.description), ''] : []),
    ...(details ? ['```sh', ...details.examples.map(({ run, does }) => `${run} # ${does}`), '```', ''] : []),
    ...(own.length > 0 ? [...table(['option', 'does'], own.map(optionRow)), ''] : []),
    ...(shared ? [shared.trim(), ''] : []),
  ]
}

export async function renderReference() {
  const program = createProgram(silent, () => undefined)
  const commands = program.createHelp().visibleCommands(program)
  const shared = (heading) =>
    commands
      .flatMap((command) => command.createHelp().visibleOptions(command))
      .filter(
        (option, i, all) =>
          option.helpGroupHeading === heading && all.findIndex(({ long }) => long === option.long) === i,
      )
  const groups = [...new Set(commands.map((command) => command.helpGroup()))]
  const text = [
    '# The command line',
    '',
    'Made from the commands by `npm run docs:cli`; `crossfade help COMMAND` shows the same. Data go to stdout, everything else to stderr.',
    '',
    ...groups.flatMap((group) => [
      `## ${group.replace(/:$/, '')}`,
      '',
      ...commands.filter((command) => command.helpGroup() === group).flatMap(describeCommand),
    ]),
    '## Options of every command',
    '',
    ...table(['option', 'does'], shared('Everywhere:').map(optionRow)),
    '',
    '## Options for Temporal',
    '',
    ...table(['option', 'does'], shared('Temporal:').map(optionRow)),
    '',
    '## Exit codes',
    '',
    ...table(
      ['code', 'meaning'],
      exitCodeMeanings.map(([code, meaning]) => [String(code), meaning]),
    ),
    '',
    'With `--json` stdout carries one JSON object with `ok`; where it is false, `error` has `kind`, `code`, `message`, `mend` and `docs`.',
    '',
    '## Environment',
    '',
    'A flag wins over it, it wins over a file.',
    '',
    ...table(
      ['variable', 'holds'],
      environment.map(([name, does]) => [`\`${name}\``, does]),
    ),
    '',
  ].join('\n')
  return format(text, { ...(await resolveConfig(target)), parser: 'markdown' })
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const text = await renderReference()
  const isCurrent = (() => {
    try {
      return readFileSync(target, 'utf8') === text
    } catch {
      return false
    }
  })()
  if (!isCurrent) writeFileSync(target, text)
  process.stderr.write(`docs-cli: ${isCurrent ? 'is current' : `wrote ${target}`}\n`)
}
