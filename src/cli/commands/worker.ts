import { InvalidArgumentError, Option } from 'commander'
import { parseNumberOption, type CommandSpec, type TemporalOptions } from '../command.ts'
import { toClientOptions } from '../temporal.ts'

interface WorkerOptions extends TemporalOptions {
  readonly maxActivities?: number
}

function parseActivities(text: string): number {
  const number = parseNumberOption(text)
  if (!Number.isInteger(number) || number < 1)
    throw new InvalidArgumentError('It must be a whole number from 1.')
  return number
}

export const worker: CommandSpec<WorkerOptions> = {
  name: 'worker',
  summary: 'run a worker: it does the work of every migration on its task queue',
  description:
    'Needs the URLs of the databases in its environment. Its log is JSON lines on stdout. SIGTERM and Ctrl-C end it in good order: ' +
    'running work keeps its place and goes on in another worker.',
  examples: [
    {
      run: 'CROSSFADE_DATABASE_URL=postgres://… crossfade worker',
      does: 'one worker; run as many as you like',
    },
    {
      run: 'crossfade worker --task-queue crossfade-eu --max-activities 8',
      does: 'another queue, fewer lanes',
    },
  ],
  options: [
    new Option('--max-activities <n>', 'activities at once (default: 16)').argParser(parseActivities),
  ],
  usesTemporal: true,
  async run(_, options) {
    const { runWorkerProcess } = await import('../../worker.ts')
    const { maxActivities } = options
    await runWorkerProcess({
      ...toClientOptions(options),
      ...(maxActivities === undefined ? {} : { maxActivities }),
    })
    return undefined
  },
}
