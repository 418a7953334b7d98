import { resolve } from 'node:path'
import { Option } from 'commander'
import type { CommandSpec, Context, TemporalOptions } from '../command.ts'
import type { LocalTemporal } from '../local-service.ts'
import { renderJson } from '../output/json.ts'
import { renderFields } from '../output/table.ts'
import { locateService } from '../service.ts'
import { toClientOptions } from '../temporal.ts'

interface DevOptions extends TemporalOptions {
  readonly dir: string
  readonly worker: boolean
}

export const dev: CommandSpec<DevOptions> = {
  name: 'dev',
  summary: 'run a local Temporal, its UI and a worker, until Ctrl-C',
  description:
    'Uses the Temporal server that answers already at TEMPORAL_ADDRESS or 127.0.0.1:7233; else it starts one that keeps everything in ' +
    '.crossfade/temporal.db, so that migrations go on after a restart. Ctrl-C stops what it has started, and nothing else.',
  examples: [
    { run: 'crossfade dev', does: 'Temporal, UI and worker in one terminal' },
    { run: 'crossfade dev --no-worker', does: 'when the worker runs in a debugger' },
  ],
  options: [
    new Option('--dir <folder>', 'where the local server keeps its file').default('.crossfade'),
    new Option('--no-worker', 'start no worker'),
  ],
  usesTemporal: true,
  async run(context, options) {
    const stopped = firstSignal(context)
    const service = await locateService(options)
    const { findOrStartTemporal } = await import('../local-service.ts')
    context.streams.note('Looking for a Temporal server …')
    const temporal = await findOrStartTemporal(service.address, resolve(options.dir))
    try {
      const worker = options.worker
        ? await startWorker(context, { ...options, address: temporal.address })
        : undefined
      announce(context, temporal, {
        hasWorker: worker !== undefined,
        taskQueue: service.taskQueue.value,
        namespace: service.namespace.value,
      })
      // A worker that ends by itself has failed; its error is ours.
      await Promise.race([stopped, ...(worker ? [worker.ended] : [])])
      context.streams.note('Stopping: running work keeps its place.')
      await worker?.stop()
    } finally {
      await temporal.started?.stop()
    }
    context.streams.note('Stopped.')
    return undefined
  },
}

async function startWorker(
  { streams }: Context,
  options: TemporalOptions,
): Promise<{ ended: Promise<void>; stop(): Promise<void> }> {
  const { createWorker } = await import('../../worker.ts')
  const { pino } = await import('pino')
  const level = process.env['CROSSFADE_LOG_LEVEL'] ?? 'warn'
  const log = pino({ level }, { write: (line) => streams.note(readableLine(line)) })
  return createWorker({ ...toClientOptions(options), log })
}

/** A line of the worker's log for people: `worker: Activity failed (plan, attempt 3): the reason`. */
function readableLine(line: string): string {
  try {
    const { msg, activityType, attempt, err } = JSON.parse(line) as Record<string, unknown> & {
      err?: { message?: string }
    }
    const about = activityType === undefined ? '' : ` (${String(activityType)}, attempt ${String(attempt)})`
    return `worker: ${String(msg)}${about}${err?.message === undefined ? '' : `: ${err.message}`}`
  } catch {
    return `worker: ${line.trimEnd()}`
  }
}

function announce(
  { streams, json }: Context,
  { address, uiUrl, started }: LocalTemporal,
  { hasWorker, taskQueue, namespace }: { hasWorker: boolean; taskQueue: string; namespace: string },
): void {
  const databases = Object.keys(process.env).filter((name) => /^CROSSFADE_DATABASE_(\w+_)?URL$/.test(name))
  const workflows = uiUrl === undefined ? undefined : `${uiUrl}/namespaces/${namespace}/workflows`
  if (json) {
    streams.out(
      renderJson({
        address,
        ui: workflows,
        started: started !== undefined,
        worker: hasWorker,
        taskQueue,
        databases,
      }),
    )
    return
  }
  const isUsual = address === '127.0.0.1:7233'
  for (const line of renderFields([
    ['Temporal', `${address}${started ? ', kept in a file' : ', was running already'}`],
    ['UI', workflows ?? 'none found'],
    ['Worker', hasWorker ? `on the task queue "${taskQueue}"` : 'none (--no-worker)'],
    [
      'Databases',
      databases.length > 0
        ? databases.join(', ')
        : 'none yet: set CROSSFADE_DATABASE_URL and start dev again',
    ],
  ]))
    streams.out(line)
  streams.note(
    `${streams.noteStyle('cyan', '→')} In another terminal: ${isUsual ? '' : `TEMPORAL_ADDRESS=${address} `}crossfade run --wait`,
  )
  streams.note('Ctrl-C stops it.')
}

/** Resolves at the first Ctrl-C or SIGTERM; the second one leaves at once, and the servers end with this process. */
function firstSignal({ streams }: Context): Promise<void> {
  return new Promise((resolved) => {
    let count = 0
    const alive = setInterval(() => undefined, 60_000) // nothing else keeps a process without a worker alive
    for (const signal of ['SIGINT', 'SIGTERM'] as const)
      process.on(signal, () => {
        count += 1
        if (count > 1) process.exit(signal === 'SIGINT' ? 130 : 143)
        streams.note('')
        clearInterval(alive)
        resolved()
      })
  })
}
