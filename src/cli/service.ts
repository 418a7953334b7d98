import { connect } from 'node:net'
import type { Connection } from '@temporalio/client'
import { CrossfadeError } from '../errors/index.ts'
import type { TemporalOptions } from './command.ts'

/** Where a value came from, for `doctor`. */
export interface Sourced {
  readonly value: string
  readonly from: string
}

/** The Temporal service behind the migrations: what `doctor` and `dev` look at, beside any single migration. */
export interface TemporalService {
  readonly address: Sourced
  readonly namespace: Sourced
  readonly taskQueue: Sourced
}

const defaultAddress = '127.0.0.1:7233'

export async function locateService(
  options: TemporalOptions,
  environment: NodeJS.ProcessEnv = process.env,
): Promise<TemporalService> {
  const { loadClientConnectConfig } = await import('@temporalio/envconfig')
  const { defaultTaskQueue } = await import('../workflows/messages.ts')
  const config = loadClientConnectConfig()
  const choose = (
    flag: string | undefined,
    flagName: string,
    variable: string,
    filed: string | undefined,
    fallback: string,
  ): Sourced => {
    if (flag !== undefined) return { value: flag, from: flagName }
    const set = environment[variable]
    if (set) return { value: set, from: variable }
    if (filed !== undefined) return { value: filed, from: 'a profile of temporal.toml' }
    return { value: fallback, from: 'default' }
  }
  return {
    address: choose(
      options.address,
      '--address',
      'TEMPORAL_ADDRESS',
      config.connectionOptions.address,
      defaultAddress,
    ),
    namespace: choose(options.namespace, '--namespace', 'TEMPORAL_NAMESPACE', config.namespace, 'default'),
    taskQueue: choose(options.taskQueue, '--task-queue', 'CROSSFADE_TASK_QUEUE', undefined, defaultTaskQueue),
  }
}

/** True where something listens at `host:port`. */
export async function isListening(address: string, timeoutMs = 300): Promise<boolean> {
  const [, host = '', port = '7233'] = /^\[?(.*?)\]?(?::(\d+))?$/.exec(address) ?? []
  return new Promise((resolve) => {
    const socket = connect({ host, port: Number(port), timeout: timeoutMs })
    const end = (is: boolean) => (): void => {
      socket.destroy()
      resolve(is)
    }
    socket.once('connect', end(true)).once('timeout', end(false)).once('error', end(false))
  })
}

/** Runs `fn` with a connection. @throws `TEMPORAL.UNREACHABLE` */
export async function withConnection<T>(
  { address }: TemporalService,
  fn: (connection: Connection) => Promise<T>,
): Promise<T> {
  const { Connection } = await import('@temporalio/client')
  const { loadClientConnectConfig } = await import('@temporalio/envconfig')
  const connection = await Connection.connect({
    ...loadClientConnectConfig().connectionOptions,
    address: address.value,
    connectTimeout: '3s',
  }).catch((error: unknown) => {
    throw new CrossfadeError({
      kind: 'unavailable',
      code: 'TEMPORAL.UNREACHABLE',
      message: `No Temporal server answers at ${address.value}.`,
      mend: 'Start one with `crossfade dev`, or set TEMPORAL_ADDRESS.',
      cause: error,
    })
  })
  try {
    return await connection.withDeadline(Date.now() + 5000, () => fn(connection))
  } finally {
    await connection.close()
  }
}

const keyword = 2 // IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD
const workflowTasks = 1 // TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW

export async function missingSearchAttributes(connection: Connection, namespace: string): Promise<string[]> {
  const { searchAttributeNames } = await import('../workflows/search-attributes.ts')
  const { customAttributes } = await connection.operatorService.listSearchAttributes({ namespace })
  return searchAttributeNames.filter((name) => !(name in (customAttributes ?? {})))
}

export async function registerSearchAttributes(
  connection: Connection,
  namespace: string,
  names: readonly string[],
): Promise<void> {
  await connection.operatorService.addSearchAttributes({
    namespace,
    searchAttributes: Object.fromEntries(names.map((name) => [name, keyword])),
  })
}

/** Workers that asked this task queue for work within the last minutes; a worker that ended is still listed for a while. */
export async function pollersOf(
  connection: Connection,
  namespace: string,
  taskQueue: string,
): Promise<string[]> {
  const { pollers } = await connection.workflowService.describeTaskQueue({
    namespace,
    taskQueue: { name: taskQueue },
    taskQueueType: workflowTasks,
  })
  return (pollers ?? []).map((poller) => poller.identity ?? '?')
}
