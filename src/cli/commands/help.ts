import { Argument, Command } from 'commander'
import { CrossfadeError } from '../../errors/index.ts'
import { exitCodeMeanings } from '../exit-codes.ts'
import type { Streams } from '../output/streams.ts'
import { renderFields } from '../output/table.ts'

/** The environment that the command line and the worker read. A flag wins over it, it wins over a file. */
export const environment: readonly (readonly [string, string])[] = [
  ['CROSSFADE_CONFIG', 'the config file, where --config is not given'],
  ['CROSSFADE_DATABASE_URL', 'the URL of the database "default"; only ever read by plan, doctor and workers'],
  ['CROSSFADE_DATABASE_<NAME>_URL', 'the URL of the database <name>'],
  ['CROSSFADE_TASK_QUEUE', 'the task queue of the workers (default crossfade)'],
  ['CROSSFADE_BY', 'who approves, pauses, aborts (default: your user name)'],
  ['CROSSFADE_LOG_LEVEL', 'how much a worker logs: trace, debug, info, warn, error, silent'],
  ['CROSSFADE_TEMPORAL_CLI', "the path of Temporal's CLI, for `crossfade dev`"],
  ['CROSSFADE_WORKFLOW_BUNDLE', 'a workflow bundle that was built before, for workers'],
  ['TEMPORAL_ADDRESS, TEMPORAL_NAMESPACE', 'as every Temporal tool reads them'],
  ['TEMPORAL_PROFILE, TEMPORAL_CONFIG_FILE', 'a profile of temporal.toml'],
  ['TEMPORAL_API_KEY, TEMPORAL_TLS_…', 'how to get into a server that asks'],
  ['NO_COLOR, FORCE_COLOR', 'colours off, colours on'],
]

const topics: Readonly<Record<string, () => string[]>> = {
  'exit-codes': () => [
    'Exit codes are the same in every command:',
    '',
    ...renderFields(exitCodeMeanings.map(([code, meaning]) => [String(code).padStart(3), meaning])),
    '',
    'With --json the same is told by {"ok": …}: false always comes with an "error".',
  ],
  environment: () => [
    'Environment variables (a flag wins over them, they win over a file):',
    '',
    ...renderFields(environment),
  ],
}

/** `crossfade help`, `help COMMAND`, `help TOPIC`. */
export function addHelp(program: Command, streams: Streams): void {
  const help = new Command('help')
    .summary('show help about a command, exit-codes or environment')
    .addArgument(new Argument('[topic]', `a command, ${Object.keys(topics).join(' or ')}`))
    .copyInheritedSettings(program)
    .action((topic: string | undefined) => {
      if (topic === undefined) return program.outputHelp()
      const command = program.commands.find((each) => each.name() === topic)
      if (command) return command.outputHelp()
      const text = topics[topic]
      if (text) return text().forEach((line) => streams.out(line))
      throw new CrossfadeError({
        kind: 'input',
        code: 'CLI.UNKNOWN_TOPIC',
        message: `There is no help about "${topic}".`,
        mend: `There is help about every command (\`crossfade --help\` lists them) and about ${Object.keys(topics).join(', ')}.`,
      })
    })
  program.helpCommand(false)
  program.addCommand(help.helpGroup('Operate:'))
}
