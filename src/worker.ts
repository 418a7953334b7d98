import { existsSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { setTimeout as delay } from 'node:timers/promises'
import { loadClientConnectConfig } from '@temporalio/envconfig'
import {
  bundleWorkflowCode,
  NativeConnection,
  Runtime,
  Worker,
  type LogLevel,
  type Logger,
  type WorkflowBundle,
} from '@temporalio/worker'
import { pino, type Logger as Pino } from 'pino'
import { createActivities } from './activities/index.ts'
import { openDatabase, type Database } from './database/index.ts'
import { CrossfadeError } from './errors/index.ts'
import { createMeasure, type OnMetric } from './telemetry/measure.ts'
import { defaultTaskQueue, flagQueueOf } from './workflows/messages.ts'
import { searchAttributeNames } from './workflows/search-attributes.ts'

export interface WorkerOptions {
  /** Default: `CROSSFADE_TASK_QUEUE`, else `crossfade`. */
  readonly taskQueue?: string
  /** Default: as Temporal's own tools find it (`TEMPORAL_ADDRESS`, profiles of `temporal.toml`, …). */
  readonly address?: string
  readonly namespace?: string
  /** A bundle made before (`crossfade-db/dist/workflow-bundle.js`); without one the sources are bundled in about 3 s. */
  readonly workflowBundlePath?: string
  /** Activities at once; each uses one database connection at a time. Default 16. */
  readonly maxActivities?: number
  /** URLs by database name, instead of the environment's. */
  readonly databaseUrls?: Readonly<Record<string, string>>
  readonly log?: Pino
  /** Called with each measurement (docs/reference/metrics.md), whether or not OpenTelemetry has it too. */
  readonly onMetric?: OnMetric
}

export interface CrossfadeWorker {
  /** Resolves when the worker has ended after {@link stop}. */
  readonly ended: Promise<void>
  /** Ends in good order: running activities keep their place and go on in another worker. */
  stop(): Promise<void>
}

/** A worker whose process died is noticed by workflows that it had cached after this, instead of 10 s. */
const stickyTimeout = '2s'
const shutdownGrace = '2s'
const firstConnectTries = 60

/**
 * Starts a worker: it runs the workflow's code and the activities of every migration on its task queue. Any number of workers
 * may share a queue.
 * @throws `TEMPORAL.UNREACHABLE`, `TEMPORAL.SEARCH_ATTRIBUTES`
 */
export async function createWorker(options: WorkerOptions = {}): Promise<CrossfadeWorker> {
  const log = options.log ?? pino({ level: process.env['CROSSFADE_LOG_LEVEL'] ?? 'info' })
  installRuntime(log)
  const { connection, namespace } = await connect(options, log)
  await registerSearchAttributes(connection, namespace)

  const databases = new Map<string, Promise<Database>>()
  const maxActivities = options.maxActivities ?? 16
  const open = (name: string): Promise<Database> => {
    const known = databases.get(name)
    if (known) return known
    const url = options.databaseUrls?.[name]
    // Room for flags and progress beside the activities, so that an abort never queues for a connection.
    const opened = openDatabase(name, {
      ...(url === undefined ? {} : { url }),
      maxConnections: maxActivities + 4,
      applicationName: 'crossfade worker',
    })
    databases.set(name, opened)
    return opened
  }
  const taskQueue = options.taskQueue ?? process.env['CROSSFADE_TASK_QUEUE'] ?? defaultTaskQueue
  const activities = createActivities({ openDatabase: open, measure: await createMeasure(options.onMetric) })
  const common = {
    connection,
    namespace,
    maxHeartbeatThrottleInterval: '1s',
    shutdownGraceTime: shutdownGrace,
    shutdownForceTime: '30s',
  } as const
  const workers = [
    await Worker.create({
      ...common,
      taskQueue,
      workflowBundle: await workflowBundle(options, log),
      activities,
      maxConcurrentActivityTaskExecutions: maxActivities,
      // The server serves who has asked for longest: with the usual ten requests the first worker would be given all lanes.
      maxConcurrentActivityTaskPolls: 2,
      stickyQueueScheduleToStartTimeout: stickyTimeout,
    }),
    await Worker.create({
      ...common,
      taskQueue: flagQueueOf(taskQueue),
      activities: { setFlags: activities.setFlags, returnTraffic: activities.returnTraffic },
      // One request: a process that stands still is handed one write at most. Slots there are as many as anybody could want.
      maxConcurrentActivityTaskPolls: 1,
    }),
  ]
  const ended = runTogether(workers).finally(async () => {
    for (const database of databases.values())
      await database.then((opened) => opened.close()).catch(() => undefined)
    await connection.close()
  })
  return {
    ended,
    async stop() {
      shutDown(workers)
      await ended
    },
  }
}

/** None runs without the others. @throws what the first of them fails with, after all have ended. */
async function runTogether(workers: readonly Worker[]): Promise<void> {
  const runs = workers.map((worker) => worker.run().finally(() => shutDown(workers)))
  await Promise.allSettled(runs)
  await Promise.all(runs)
}

function shutDown(workers: readonly Worker[]): void {
  for (const worker of workers) if (worker.getState() === 'RUNNING') worker.shutdown()
}

/** A bundle that was made before: given, named by the environment, or beside the compiled code; else made from the sources. */
async function workflowBundle(
  options: WorkerOptions,
  log: Pino,
): Promise<WorkflowBundle | { codePath: string }> {
  const built = fileURLToPath(new URL('./workflow-bundle.js', import.meta.url))
  const codePath =
    options.workflowBundlePath ??
    process.env['CROSSFADE_WORKFLOW_BUNDLE'] ??
    (existsSync(built) ? built : undefined)
  if (codePath !== undefined) return { codePath }
  return bundleWorkflows(log)
}

/** Bundles the workflow's code from where this file is: sources in development, `dist` when installed. */
export async function bundleWorkflows(log?: Pino): Promise<WorkflowBundle> {
  const extension = import.meta.url.endsWith('.ts') ? 'ts' : 'js'
  const pathOf = (name: string): string =>
    fileURLToPath(new URL(`./workflows/${name}.${extension}`, import.meta.url))
  return bundleWorkflowCode({
    workflowsPath: pathOf('index'),
    payloadConverterPath: pathOf('payload-converter'),
    logger: toTemporalLogger(log ?? pino({ level: 'silent' })),
  })
}

async function connect(
  options: WorkerOptions,
  log: Pino,
): Promise<{ connection: NativeConnection; namespace: string }> {
  const config = loadClientConnectConfig()
  const namespace = options.namespace ?? config.namespace ?? 'default'
  const connectionOptions = {
    ...config.connectionOptions,
    ...(options.address === undefined ? {} : { address: options.address }),
  }
  for (let attempt = 1; ; attempt++)
    try {
      return { connection: await NativeConnection.connect(connectionOptions), namespace }
    } catch (error) {
      if (attempt >= firstConnectTries)
        throw new CrossfadeError({
          kind: 'unavailable',
          code: 'TEMPORAL.UNREACHABLE',
          message: `No Temporal server answers at ${connectionOptions.address ?? '127.0.0.1:7233'}.`,
          mend: 'Start one with `crossfade dev`, or set TEMPORAL_ADDRESS.',
          cause: error,
        })
      if (attempt === 1) log.warn({ address: connectionOptions.address }, 'waiting for the Temporal server')
      await delay(1000)
    }
}

/** An attribute that is not registered would keep every workflow task failing, so the worker sees to them first. */
async function registerSearchAttributes(connection: NativeConnection, namespace: string): Promise<void> {
  const keyword = 2 // IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD
  try {
    const { customAttributes } = await connection.operatorService.listSearchAttributes({ namespace })
    const missing = searchAttributeNames.filter((name) => !(name in (customAttributes ?? {})))
    if (missing.length === 0) return
    await connection.operatorService.addSearchAttributes({
      namespace,
      searchAttributes: Object.fromEntries(missing.map((name) => [name, keyword])),
    })
  } catch (error) {
    if (/already exist/i.test(error instanceof Error ? error.message : '')) return
    throw new CrossfadeError({
      kind: 'refused',
      code: 'TEMPORAL.SEARCH_ATTRIBUTES',
      message: `The search attributes ${searchAttributeNames.join(', ')} could not be registered in the namespace ${namespace}.`,
      mend: `Register them as Keyword: temporal operator search-attribute create ${searchAttributeNames.map((name) => `--name ${name} --type Keyword`).join(' ')}`,
      cause: error,
    })
  }
}

let isInstalled = false

function installRuntime(log: Pino): void {
  if (isInstalled) return
  isInstalled = true
  try {
    Runtime.install({
      logger: toTemporalLogger(log),
      telemetryOptions: { logging: { forward: {}, filter: { core: 'WARN', other: 'WARN' } } },
    })
  } catch {
    // The host process has installed its own runtime already: its logger is the one to use.
  }
}

function toTemporalLogger(log: Pino): Logger {
  const write = (level: LogLevel, message: string, meta?: Record<string | symbol, unknown>): void => {
    const { error, ...rest } = meta ?? {}
    const name = level.toLowerCase() as 'trace' | 'debug' | 'info' | 'warn' | 'error'
    log[name]({ ...rest, ...(error === undefined ? {} : { err: error }) }, message)
  }
  return {
    log: write,
    trace: (message, meta) => write('TRACE', message, meta),
    debug: (message, meta) => write('DEBUG', message, meta),
    info: (message, meta) => write('INFO', message, meta),
    warn: (message, meta) => write('WARN', message, meta),
    error: (message, meta) => write('ERROR', message, meta),
  }
}

/** The worker as a process: runs until SIGTERM or SIGINT, then ends in good order. */
export async function runWorkerProcess(options: WorkerOptions = {}): Promise<void> {
  const log = options.log ?? pino({ level: process.env['CROSSFADE_LOG_LEVEL'] ?? 'info' })
  const worker = await createWorker({ ...options, log })
  const stop = (signal: string): void => {
    log.info({ signal }, 'ending: running work keeps its place')
    void worker.stop()
  }
  process.once('SIGTERM', stop)
  process.once('SIGINT', stop)
  log.info({ pid: process.pid }, 'worker is running')
  await worker.ended
  log.info('worker has ended')
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await runWorkerProcess()
