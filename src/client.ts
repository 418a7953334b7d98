import { loadClientConnectConfig } from '@temporalio/envconfig'
import {
  Client,
  Connection,
  WorkflowFailedError,
  WorkflowNotFoundError,
  WorkflowUpdateFailedError,
  WorkflowUpdateRPCTimeoutOrCancelledError,
  type WorkflowExecutionDescription,
  type WorkflowExecutionInfo,
  type WorkflowHandle,
} from '@temporalio/client'
import { ApplicationFailure, TypedSearchAttributes } from '@temporalio/common'

import type {
  AbortRequest,
  Approval,
  ConfigureRequest,
  PauseRequest,
  ResumeRequest,
} from './core/messages.ts'
import type { AuditEntry, PlanSummary, StatusView } from './core/state.ts'
import { fingerprint, resolveMigration, type DefinitionInput, type Migration } from './definition/index.ts'
import { CrossfadeError, isCrossfadeError } from './errors/index.ts'
import * as messages from './workflows/messages.ts'
import type { MigrationInput, MigrationResult } from './workflows/migration.ts'
import { crossfadeDatabase, crossfadePhase, crossfadeWaitingFor } from './workflows/search-attributes.ts'

export interface ClientOptions {
  readonly address?: string
  readonly namespace?: string
  /** Default: `CROSSFADE_TASK_QUEUE`, else `crossfade`. */
  readonly taskQueue?: string
}

/** How a migration stands, whether or not a worker is there to answer. */
export interface MigrationStatus {
  readonly name: string
  readonly workflowId: string
  readonly runId: string
  /** As Temporal sees the workflow: RUNNING, COMPLETED, FAILED, TERMINATED, … */
  readonly execution: string
  readonly phase: string
  readonly waitingFor: string
  readonly database: string
  readonly startedAt: string
  readonly closedAt: string | undefined
  readonly historyEvents: number
  /** What the running activities said last: rows, rate, what throttles them. */
  readonly activities: readonly {
    readonly type: string
    readonly attempt: number
    readonly progress: unknown
    readonly failure: string | undefined
  }[]
  /** The workflow's own answer; undefined when no worker answered in time. */
  readonly detail: StatusView | undefined
}

export interface MigrationHandle {
  readonly name: string
  readonly workflowId: string
  status(options?: { readonly timeoutMs?: number }): Promise<MigrationStatus>
  plan(): Promise<PlanSummary | undefined>
  audit(): Promise<AuditEntry[]>
  /** Each resolves with the workflow's answer. @throws `TEMPORAL.REFUSED` with the reason when the message does not fit. */
  approve(approval: Approval): Promise<string>
  abort(request: AbortRequest): Promise<string>
  pause(request: PauseRequest): Promise<string>
  resume(request: ResumeRequest): Promise<string>
  configure(request: ConfigureRequest): Promise<string>
  /** The end of the migration, whatever it is. @throws `TEMPORAL.WORKFLOW_FAILED` */
  result(): Promise<MigrationResult>
}

export interface CrossfadeClient {
  /** Starts the migration, or returns the one of this name that runs already. @throws `DEFINITION.INVALID`, `DEFINITION.CHANGED` */
  start(
    definition: DefinitionInput | Migration,
    options?: { readonly continueAfterEvents?: number },
  ): Promise<MigrationHandle>
  get(name: string): MigrationHandle
  list(): Promise<MigrationStatus[]>
  close(): Promise<void>
}

const messageTimeoutMs = 10_000
const queryTimeoutMs = 1_500
const mostMessageTries = 5

/**
 * Connects to Temporal as its own tools do (`TEMPORAL_ADDRESS`, profiles, TLS, API keys).
 * @throws `TEMPORAL.UNREACHABLE`
 */
export async function connectCrossfade(options: ClientOptions = {}): Promise<CrossfadeClient> {
  const config = loadClientConnectConfig()
  const namespace = options.namespace ?? config.namespace ?? 'default'
  const address = options.address ?? config.connectionOptions.address ?? '127.0.0.1:7233'
  const connection = await Connection.connect({
    ...config.connectionOptions,
    address,
    connectTimeout: '3s',
  }).catch((error: unknown) => {
    throw new CrossfadeError({
      kind: 'unavailable',
      code: 'TEMPORAL.UNREACHABLE',
      message: `No Temporal server answers at ${address}.`,
      mend: 'Start one with `crossfade dev`, or set TEMPORAL_ADDRESS.',
      cause: error,
    })
  })
  const client = new Client({ connection, namespace })
  const taskQueue = options.taskQueue ?? process.env['CROSSFADE_TASK_QUEUE'] ?? messages.defaultTaskQueue
  return {
    start: (definition, startOptions) => start(client, taskQueue, definition, startOptions),
    get: (name) => toHandle(client, name),
    list: () => list(client),
    close: () => connection.close(),
  }
}

async function start(
  client: Client,
  taskQueue: string,
  definition: DefinitionInput | Migration,
  { continueAfterEvents }: { readonly continueAfterEvents?: number } = {},
): Promise<MigrationHandle> {
  const migration = resolveMigration(definition)
  const input: MigrationInput = {
    migration,
    fingerprint: fingerprint(migration),
    ...(continueAfterEvents === undefined ? {} : { continueAfterEvents }),
  }
  const handle = await client.workflow.start(messages.workflowType, {
    workflowId: messages.workflowIdOf(migration.name),
    taskQueue,
    args: [input],
    workflowIdConflictPolicy: 'USE_EXISTING',
    memo: { fingerprint: input.fingerprint, kind: migration.kind },
    staticSummary: `${migration.name}: ${migration.mappings.map(({ source, target }) => `${source.schema}.${source.name} → ${target.schema}.${target.name}`).join(', ')}`,
    typedSearchAttributes: new TypedSearchAttributes([
      { key: crossfadePhase, value: 'expand' },
      { key: crossfadeWaitingFor, value: 'nothing' },
      { key: crossfadeDatabase, value: migration.database },
    ]),
  })
  const running = (await handle.describe()).memo?.['fingerprint']
  if (running !== input.fingerprint)
    throw new CrossfadeError({
      kind: 'refused',
      code: 'DEFINITION.CHANGED',
      message: `${migration.name} runs already with another definition (${String(running).slice(0, 8)}; this one is ${input.fingerprint.slice(0, 8)}).`,
      mend: `Let it end, abort it with \`crossfade abort ${migration.name}\`, or give this definition another name.`,
    })
  return toHandle(client, migration.name)
}

function toHandle(client: Client, name: string): MigrationHandle {
  const workflowId = messages.workflowIdOf(name)
  const workflow = client.workflow.getHandle(workflowId)
  const send =
    <T>(update: { name: string }) =>
    (payload: T): Promise<string> =>
      known(name, async () => {
        for (let attempt = 1; ; attempt++)
          try {
            return await client.withDeadline(Date.now() + messageTimeoutMs, () =>
              workflow.executeUpdate<string, [T]>(update.name, { args: [payload] }),
            )
          } catch (error) {
            if (isRefusal(error)) throw refused(name, update.name, error)
            if (isTaskFailure(error) && attempt < mostMessageTries) continue
            if (!isUnanswered(error) && !isTaskFailure(error)) throw error
            // No worker is there to answer: the signal of the same name waits for one. A server takes 10 updates of a workflow before
            // it answers them; Temporal's client tries the others again until this deadline, and signals have no such limit.
            // https://docs.temporal.io/self-hosted-guide/defaults
            await workflow.signal(update.name, payload)
            return 'sent; no worker answered yet, it takes effect when one does'
          }
      })
  return {
    name,
    workflowId,
    status: (options) =>
      known(name, async () =>
        toStatus(
          await workflow.describe(),
          await ask(client, workflow, options?.timeoutMs ?? queryTimeoutMs),
        ),
      ),
    plan: () => known(name, () => workflow.query(messages.plan)),
    audit: () => known(name, () => workflow.query(messages.audit)),
    approve: send(messages.approveUpdate),
    abort: send(messages.abortUpdate),
    pause: send(messages.pauseUpdate),
    resume: send(messages.resumeUpdate),
    configure: send(messages.configureUpdate),
    result: () =>
      known(name, () =>
        result(name, workflow as WorkflowHandle<(input: MigrationInput) => Promise<MigrationResult>>),
      ),
  }
}

/** The query second and with a short deadline: describe answers without a worker, a query does not. */
async function ask(
  client: Client,
  workflow: WorkflowHandle,
  timeoutMs: number,
): Promise<StatusView | undefined> {
  return client
    .withDeadline(Date.now() + timeoutMs, () => workflow.query(messages.status))
    .catch(() => undefined)
}

async function list(client: Client): Promise<MigrationStatus[]> {
  const found: MigrationStatus[] = []
  for await (const workflow of client.workflow.list({ query: `WorkflowType = '${messages.workflowType}'` })) {
    if (found.some((other) => other.workflowId === workflow.workflowId)) continue // an earlier run of the same migration
    found.push(toStanding(workflow))
  }
  return found
}

function toStatus(described: WorkflowExecutionDescription, detail: StatusView | undefined): MigrationStatus {
  return {
    ...toStanding(described),
    activities: (described.raw.pendingActivities ?? []).map((activity) => ({
      type: activity.activityType?.name ?? '?',
      attempt: activity.attempt ?? 1,
      progress: decodeFirst(activity.heartbeatDetails),
      failure: activity.lastFailure?.message ?? undefined,
    })),
    detail,
  }
}

/** What Temporal itself knows of a workflow, without asking a worker. */
function toStanding(workflow: Omit<WorkflowExecutionInfo, 'raw'>): MigrationStatus {
  const { typedSearchAttributes } = workflow
  return {
    name: workflow.workflowId.replace(/^crossfade\//, ''),
    workflowId: workflow.workflowId,
    runId: workflow.runId,
    execution: workflow.status.name,
    phase: typedSearchAttributes.get(crossfadePhase) ?? '?',
    waitingFor: typedSearchAttributes.get(crossfadeWaitingFor) ?? '?',
    database: typedSearchAttributes.get(crossfadeDatabase) ?? '?',
    startedAt: workflow.startTime.toISOString(),
    closedAt: workflow.closeTime?.toISOString(),
    historyEvents: workflow.historyLength,
    activities: [],
    detail: undefined,
  }
}

interface RawPayloads {
  readonly payloads?: readonly { readonly data?: Uint8Array | null }[] | null
}

function decodeFirst(details: RawPayloads | null | undefined): unknown {
  const data = details?.payloads?.[0]?.data
  if (!data) return undefined
  try {
    return JSON.parse(Buffer.from(data).toString())
  } catch {
    return undefined
  }
}

async function result(
  name: string,
  workflow: WorkflowHandle<(input: MigrationInput) => Promise<MigrationResult>>,
): Promise<MigrationResult> {
  try {
    return await workflow.result()
  } catch (error) {
    if (!(error instanceof WorkflowFailedError)) throw error
    const cause = error.cause
    const [envelope] = cause instanceof ApplicationFailure ? ((cause.details ?? []) as unknown[]) : []
    if (isCrossfadeError(envelope)) throw new CrossfadeError(envelope)
    throw new CrossfadeError({
      kind: 'bug',
      code: 'TEMPORAL.WORKFLOW_FAILED',
      message: `The workflow of ${name} ended without a result: ${cause?.message ?? error.message}.`,
      mend: `See its history in the Temporal UI (${messages.workflowIdOf(name)}); start it again with \`crossfade run ${name}\`.`,
      cause: error,
    })
  }
}

async function known<T>(name: string, fn: () => Promise<T>): Promise<T> {
  try {
    return await fn()
  } catch (error) {
    if (!(error instanceof WorkflowNotFoundError)) throw error
    throw new CrossfadeError({
      kind: 'input',
      code: 'TEMPORAL.NO_SUCH_MIGRATION',
      message: /already completed/i.test(error.message)
        ? `The migration ${name} has ended.`
        : `There is no migration ${name}.`,
      mend: '`crossfade list` shows all; `crossfade run` starts one.',
      cause: error,
    })
  }
}

const isRefusal = (error: unknown): error is WorkflowUpdateFailedError =>
  error instanceof WorkflowUpdateFailedError

/** The workflow was about to begin a new history, or its worker could not go on: the update was not taken, and may be sent again. */
const isTaskFailure = (error: unknown): boolean =>
  /workflow task failure/i.test(String((error as { cause?: Error }).cause?.message))

/** At its end of the deadline a server may cut the call first, which then counts as cancelled. Nobody else cancels one. */
const isUnanswered = (error: unknown): boolean => error instanceof WorkflowUpdateRPCTimeoutOrCancelledError

function refused(name: string, message: string, error: WorkflowUpdateFailedError): CrossfadeError {
  return new CrossfadeError({
    kind: 'refused',
    code: 'TEMPORAL.REFUSED',
    message: `${name} refused ${message}: ${error.cause?.message ?? error.message}.`,
    mend: `\`crossfade status ${name}\` shows what it waits for.`,
    cause: error,
  })
}
