import { Argument, Command, InvalidArgumentError, Option } from 'commander'
import { parseDurationMs } from '../core/durations.ts'
import { exitCodes, type ExitCode } from './exit-codes.ts'
import { renderJson } from './output/json.ts'
import type { Streams } from './output/streams.ts'
import { wrap } from './output/table.ts'

/** What a command answers. */
export interface Result {
  /** Default 0. */
  readonly exitCode?: ExitCode
  /** What `--json` prints beside `ok`. */
  readonly data: object
  /** Whether `ok` is true in it. Default true. */
  readonly ok?: boolean
  /** The same for people. */
  readonly text: readonly string[]
  /** Commands that may come next, each with a few words; the command that changed something always has one. */
  readonly next?: readonly string[]
  /** The command has shown it already: only the exit code is left. */
  readonly isShown?: boolean
}

/** What every command works with. */
export interface Context {
  readonly streams: Streams
  readonly json: boolean
  /** True where a person may be asked. */
  readonly canAsk: boolean
  /** The whole tree, for what is made from it. */
  readonly program: Command
}

interface CommonOptions {
  readonly json?: boolean
  readonly trace?: boolean
  /** False with --no-input. */
  readonly input?: boolean
}

export interface TemporalOptions {
  readonly address?: string
  readonly namespace?: string
  readonly taskQueue?: string
}

interface Example {
  readonly run: string
  readonly does: string
}

export interface CommandSpec<Options> {
  readonly name: string
  /** One line: what it does. */
  readonly summary: string
  /** What else one must know. */
  readonly description?: string
  readonly examples: readonly [Example, Example, ...Example[]]
  readonly arguments?: readonly Argument[]
  readonly options?: readonly Option[]
  /** Whether it talks to Temporal. */
  readonly usesTemporal?: boolean
  /** Undefined: the command has said all there is to say by itself. */
  run(
    context: Context,
    options: Options & CommonOptions,
    args: readonly string[],
  ): Promise<Result | undefined>
}

type Details = Pick<CommandSpec<never>, 'summary' | 'description' | 'examples' | 'usesTemporal'>

const detailsOf = new WeakMap<Command, Details>()

/** What its specification says of a command, for the reference; undefined for commands without one (`help`). */
export const commandDetails = (command: Command): Details | undefined => detailsOf.get(command)

const temporalHeading = 'Temporal:'
const commonHeading = 'Everywhere:'

const option = (flags: string, description: string): Option => new Option(flags, description)

const temporalOptions = (): Option[] => [
  option(
    '--address <host:port>',
    'Temporal server (default: TEMPORAL_ADDRESS, a profile of temporal.toml, 127.0.0.1:7233)',
  ),
  option('--namespace <name>', 'Temporal namespace (default: TEMPORAL_NAMESPACE, the profile, default)'),
  option('--task-queue <name>', 'task queue of the workers (default: CROSSFADE_TASK_QUEUE, crossfade)'),
]

const commonOptions = (): Option[] => [
  option('--json', 'print one JSON object'),
  option('--no-input', 'never ask anything'),
  option('--trace', 'print the stack of an error'),
]

/** How a finished command leaves the tree: main.ts turns it into the exit code. */
export type Finish = (exitCode: ExitCode) => void

export function toCommand<Options extends object>(
  spec: CommandSpec<Options>,
  streams: Streams,
  finish: Finish,
): Command {
  const command = new Command(spec.name)
    .summary(spec.summary)
    .description(describe(spec))
    .allowExcessArguments(false)
  for (const argument of spec.arguments ?? []) command.addArgument(argument)
  for (const each of spec.options ?? []) command.addOption(each)
  if (spec.usesTemporal) {
    for (const each of temporalOptions()) command.addOption(each.helpGroup(temporalHeading))
  }
  for (const each of commonOptions()) command.addOption(each.helpGroup(commonHeading))
  command.helpOption('-h, --help', 'show this help')
  detailsOf.set(command, spec)
  command.addHelpText(
    'after',
    `
Reference: docs/reference/cli.md#${spec.name}`,
  )
  command.action(async (...given: unknown[]) => {
    const options = given.at(-2) as Options & CommonOptions
    const args = given
      .slice(0, -2)
      .flat()
      .filter((arg) => arg !== undefined) as string[]
    const json = options.json === true
    const context: Context = {
      streams,
      json,
      canAsk: streams.canAsk && options.input !== false && !json,
      program: command.parent ?? command,
    }
    const result = await spec.run(context, options, args)
    if (result === undefined) return
    if (result.isShown) return finish(result.exitCode ?? exitCodes.done)
    if (json)
      streams.out(
        renderJson(
          { ...result.data, ...(result.next ? { next: result.next } : {}) },
          { ok: result.ok ?? true },
        ),
      )
    else {
      for (const line of result.text) streams.out(line)
      for (const hint of result.next ?? []) streams.note(`${streams.noteStyle('cyan', '→')} ${hint}`)
    }
    finish(result.exitCode ?? exitCodes.done)
  })
  return command
}

/** What it does, what else one must know, and then examples: those are read first. */
function describe({ summary, description, examples }: Details): string {
  const width = Math.max(...examples.map(({ run }) => run.length))
  return [
    `${summary.replace(/^./, (letter) => letter.toUpperCase())}.`,
    ...(description === undefined ? [] : ['', description]),
    '',
    'Examples:',
    ...examples.map(({ run, does }) => `  ${run.padEnd(width)}  # ${does}`),
  ].join('\n')
}

/** For commander's help: lines that are indented are somebody's layout and stay as they are. */
export function wrapHelp(text: string, width: number): string {
  return text
    .split('\n')
    .flatMap((line) => (line.startsWith(' ') ? [line] : wrap(line, width)))
    .join('\n')
}

/** A duration as in a definition: 30s, 10m, 2h. */
export function parseDurationOption(text: string): number {
  const ms = /^\d+$/.test(text) ? undefined : parseDurationMs(text)
  if (ms === undefined)
    throw new InvalidArgumentError('Write a number with its unit: 500ms, 30s, 10m, 2h, 3d.')
  return ms
}

export function parseNumberOption(text: string): number {
  const number = Number(text)
  if (text.trim() === '' || !Number.isFinite(number)) throw new InvalidArgumentError('It must be a number.')
  return number
}

const namePattern = /^[a-z][a-z0-9_-]{0,39}$/

export function parseNameArgument(text: string): string {
  if (!namePattern.test(text))
    throw new InvalidArgumentError('A name is 1 to 40 of a–z, 0–9, - and _, and starts with a letter.')
  return text
}

/** The argument NAME of a migration. */
export const nameArgument = (description = 'the migration'): Argument =>
  new Argument('<name>', description).argParser(parseNameArgument)

export const optionalName = (description: string): Argument =>
  new Argument('[name]', description).argParser(parseNameArgument)
