import { readFileSync } from 'node:fs'
import { Command, type CommanderError } from 'commander'
import { CrossfadeError } from '../errors/index.ts'
import { toCommand, wrapHelp, type CommandSpec, type Finish } from './command.ts'
import { abort } from './commands/abort.ts'
import { approve } from './commands/approve.ts'
import { completion } from './commands/completion.ts'
import { configure } from './commands/configure.ts'
import { demo } from './commands/demo.ts'
import { dev } from './commands/dev.ts'
import { doctor } from './commands/doctor.ts'
import { flags } from './commands/flags.ts'
import { addHelp } from './commands/help.ts'
import { init, initMigration } from './commands/init.ts'
import { list } from './commands/list.ts'
import { names } from './commands/names.ts'
import { pause } from './commands/pause.ts'
import { plan } from './commands/plan.ts'
import { resume } from './commands/resume.ts'
import { run } from './commands/run.ts'
import { schema } from './commands/schema.ts'
import { status } from './commands/status.ts'
import { verify } from './commands/verify.ts'
import { worker } from './commands/worker.ts'
import type { Streams } from './output/streams.ts'

const groups: readonly (readonly [string, readonly CommandSpec<never>[]])[] = [
  ['Prepare:', [init, initMigration, doctor, plan, schema]],
  ['Migrate:', [run, status, list, approve, pause, resume, configure, verify, abort]],
  ['Operate:', [flags, worker, dev, demo, completion]],
]

/** Other tools' words for ours: answered with ours, never run. */
const otherWords: Readonly<Record<string, string>> = {
  start: 'run',
  migrate: 'run',
  up: 'run',
  apply: 'run',
  complete: 'approve',
  cutover: 'approve',
  contract: 'approve',
  rollback: 'abort',
  down: 'abort',
  cancel: 'abort',
  revert: 'abort',
  stop: 'pause',
  continue: 'resume',
  throttle: 'configure',
  lint: 'plan',
  validate: 'plan',
  diff: 'plan',
  ls: 'list',
  show: 'status',
}

function version(): string {
  const file = new URL('../../package.json', import.meta.url)
  return (JSON.parse(readFileSync(file, 'utf8')) as { version: string }).version
}

/** The whole command line. Building it loads nothing of Temporal and no driver: commands load what they need when they run. */
export function createProgram(streams: Streams, finish: Finish): Command {
  const program = new Command('crossfade')
    .description('Moves live tables from an old schema to a new one, with no downtime and no lost row.')
    .usage('<command> [options]')
    .version(version(), '-V, --version', 'print the version')
    .helpOption('-h, --help', 'show this help')
    .configureHelp({
      showGlobalOptions: false,
      subcommandTerm: (command) => command.name(),
      boxWrap: wrapHelp,
    })
    .addHelpText(
      'after',
      [
        '',
        'A first migration:',
        '  crossfade dev                 a local Temporal, its UI and a worker, in a terminal of its own',
        '  crossfade init people         writes migration.config.ts',
        '  crossfade plan                shows what would happen; changes nothing',
        '  crossfade run --wait          starts it and says what it waits for',
        '',
        '`crossfade help COMMAND` shows one command, `crossfade help exit-codes` what scripts read.',
      ].join('\n'),
    )
    .exitOverride()
  // Commander must write through the streams too; what it says about a mistake is said again in our own layout.
  const output = { writeOut: (text: string) => streams.out(text.trimEnd()), writeErr: () => undefined }
  program.configureOutput(output)
  const add = (command: Command): void => {
    command.copyInheritedSettings(program)
    program.addCommand(command)
  }
  for (const [heading, specs] of groups)
    for (const spec of specs) add(toCommand(spec, streams, finish).helpGroup(heading))
  const hidden = toCommand(names, streams, finish)
  hidden.copyInheritedSettings(program)
  program.addCommand(hidden, { hidden: true })
  addHelp(program, streams)
  return program
}

/** Runs `argv` (without node and the script). @throws CommanderError, and what the command throws */
export async function runProgram(program: Command, argv: readonly string[]): Promise<void> {
  const word = argv.find((arg) => !arg.startsWith('-'))
  // A wrong command is the mistake to tell about, not the options that came with it.
  const isUnknown = word !== undefined && !program.commands.some((command) => command.name() === word)
  if (argv.length === 0) program.outputHelp()
  else await program.parseAsync(isUnknown ? [word] : argv, { from: 'user' })
}

/** Commander's word about a wrong command line, as one of ours. */
export function toUsageError(error: CommanderError, argv: readonly string[]): CrossfadeError {
  const [, said = '', guess] =
    /^error: ([\s\S]*?)(?:\n\(Did you mean ([\s\S]*?)\?\))?$/.exec(error.message) ?? []
  const wrong = /unknown command '(.*)'/.exec(said)?.[1]
  const ours = wrong === undefined ? undefined : otherWords[wrong]
  const command = argv.find((arg) => !arg.startsWith('-'))
  const help =
    wrong !== undefined || command === undefined ? 'crossfade --help' : `crossfade ${command} --help`
  const meant = ours === undefined ? guess?.replace(/^one of /, '') : `crossfade ${ours}`
  return new CrossfadeError({
    kind: 'input',
    code: usageCodes[error.code] ?? 'CLI.USAGE',
    message: `${(said || error.message).replace(/^./, (letter) => letter.toUpperCase()).replace(/\.?$/, '.')}`,
    mend: `${meant === undefined ? '' : `Did you mean ${meant}? `}\`${help}\` shows what there is.`,
  })
}

const usageCodes: Readonly<Record<string, string>> = {
  'commander.unknownCommand': 'CLI.UNKNOWN_COMMAND',
  'commander.unknownOption': 'CLI.UNKNOWN_OPTION',
  'commander.excessArguments': 'CLI.EXCESS_ARGUMENT',
  'commander.missingArgument': 'CLI.MISSING_ARGUMENT',
  'commander.missingMandatoryOptionValue': 'CLI.MISSING_OPTION',
  'commander.optionMissingArgument': 'CLI.MISSING_VALUE',
  'commander.invalidArgument': 'CLI.INVALID_VALUE',
  'commander.conflictingOption': 'CLI.CONFLICTING_OPTIONS',
}
