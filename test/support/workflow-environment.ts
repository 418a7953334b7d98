import { randomUUID } from 'node:crypto'
import { afterEach, beforeEach, inject } from 'vitest'
import { DefaultLogger, Runtime, Worker } from '@temporalio/worker'
import { TestWorkflowEnvironment } from '@temporalio/testing'
import { TypedSearchAttributes } from '@temporalio/common'
import type { WorkflowHandle } from '@temporalio/client'
import type { AuditEntry, PlanSummary, StatusView } from '../../src/core/state.ts'
import {
  fingerprint,
  resolveMigration,
  type DefinitionInput,
  type Migration,
} from '../../src/definition/index.ts'
import * as messages from '../../src/workflows/messages.ts'
import type { MigrationInput, MigrationResult } from '../../src/workflows/migration.ts'
import {
  crossfadeDatabase,
  crossfadePhase,
  crossfadeWaitingFor,
  searchAttributeNames,
} from '../../src/workflows/search-attributes.ts'
import { createFakeActivities, createWorld, type Stop, type World } from './fake-activities.ts'
import { required } from './migration.ts'
import { eventually } from './wait.ts'

export type MessageName = 'approve' | 'abort' | 'pause' | 'resume' | 'configure'

/** A migration that runs on the time-skipping server. Its clock stands still unless `skip` or `result` lets it go. */
export interface Life {
  readonly name: string
  readonly migration: Migration
  readonly world: World
  readonly handle: WorkflowHandle<(input: MigrationInput) => Promise<MigrationResult>>
  status(): Promise<StatusView>
  plan(): Promise<PlanSummary | undefined>
  audit(): Promise<AuditEntry[]>
  /** All lines of the audit in one text. */
  story(): Promise<string>
  /** The Markdown that the UI shows as Current Details. */
  details(): Promise<string>
  signal(name: string, ...payload: unknown[]): Promise<void>
  update(name: MessageName, payload: unknown): Promise<string>
  approve(gate: string): Promise<string>
  /** Waits in real time until the status says so. */
  until(what: string, isSo: (status: StatusView) => boolean | Promise<boolean>): Promise<StatusView>
  /** Until it waits for the approval of this gate; time does not pass. */
  atGate(gate: string): Promise<StatusView>
  /** Lets time pass; it stands still while an activity runs. Only with the skipping clock. */
  skip(ms: number): Promise<void>
  /** Until an activity stands still there. Time does not pass: see `withoutHolds`. */
  reach(stop: Stop): Promise<void>
  /** Lets time pass until the end. */
  result(): Promise<MigrationResult>
  /** Every run of this migration, the newest first. */
  histories(): Promise<History[]>
}

export interface History {
  readonly runId: string
  readonly events: number
  /** As the server counted it when it began the last task. */
  readonly bytes: number
  readonly status: string
}

export interface WorkflowEnvironment {
  readonly environment: TestWorkflowEnvironment
  readonly taskQueue: string
  start(definition?: Partial<DefinitionInput>, options?: StartOptions): Promise<Life>
}

interface StartOptions {
  readonly continueAfterEvents?: number
  /** Sets up what happens before the first activity. */
  readonly world?: (world: World) => void
}

export const second = 1000
export const minute = 60 * second
export const hour = 60 * minute
export const day = 24 * hour

export const definition: Omit<DefinitionInput, 'name'> = {
  kind: 'table',
  mappings: [
    {
      source: 'users',
      target: 'people',
      key: { id: 'id' },
      columns: { full_name: "first || ' ' || last" },
      reverse: { columns: { first: "split_part(full_name, ' ', 1)", last: "split_part(full_name, ' ', 2)" } },
    },
  ],
}

export const withoutApproval = { safety: { requireApproval: false } }

/** Passes from start to end without any time passing. */
export const withoutHolds = {
  ...withoutApproval,
  cutover: { ramp: [{ percent: 100, hold: '0s' }] },
  retire: { soak: '0s' },
  contract: { observe: '0s', soak: '0s' },
}

let isInstalled = false

/** Once in a process: Temporal says nothing but its errors. */
export function installRuntime(): void {
  if (isInstalled) return
  isInstalled = true
  Runtime.install({
    // A slice that is put off would be a warning each time.
    logger: new DefaultLogger('ERROR'),
    telemetryOptions: { logging: { filter: { core: 'ERROR', other: 'ERROR' } } },
  })
}

/** One clock skips what nobody works in; the other is the real server's, for what the test server cannot do. */
export type Clock = 'skipping' | 'real'

/**
 * A worker for each test of the file, and with the skipping clock a server of its own: call it on top. They start in half a second,
 * and a shared server's clock would stand still for good after a test that ended in the middle of an activity.
 *
 * The test server (1.40) takes no workflow task that cancels an activity which has just ended; the real one does. What stops
 * running activities is tested with the real clock.
 */
export function workflowEnvironment(
  clock: Clock = 'skipping',
  { slots }: { readonly slots?: number } = {},
): WorkflowEnvironment {
  const taskQueue = `test-${randomUUID()}`
  const worlds = new Map<string, World>()
  const lives: Life[] = []
  let environment: TestWorkflowEnvironment | undefined
  let workers: Worker[] = []
  let running: Promise<unknown> | undefined

  beforeEach(async () => {
    installRuntime()
    environment = await (clock === 'skipping' ? createSkipping() : createReal())
    const activities = createFakeActivities((name) => {
      const world = worlds.get(name)
      if (!world) throw new Error(`There is no world for ${name}.`)
      return world
    })
    const common = {
      connection: environment.nativeConnection,
      activities,
      maxHeartbeatThrottleInterval: '50ms',
      shutdownGraceTime: 0,
      shutdownForceTime: '2s',
    } as const
    workers = [
      await Worker.create({
        ...common,
        taskQueue,
        workflowBundle: { codePath: required(inject('workflowBundlePath'), 'the workflow bundle') },
        stickyQueueScheduleToStartTimeout: '2s',
        ...(slots === undefined ? {} : { maxConcurrentActivityTaskExecutions: slots }),
      }),
      await Worker.create({ ...common, taskQueue: messages.flagQueueOf(taskQueue) }),
    ]
    running = Promise.all(workers.map((worker) => worker.run()))
  })

  afterEach(async () => {
    for (const { handle } of lives.splice(0))
      await handle.terminate('the test is over').catch(() => undefined)
    for (const worker of workers) if (worker.getState() === 'RUNNING') worker.shutdown()
    await running?.catch(() => undefined)
    await environment?.teardown()
    workers = []
    environment = running = undefined
    worlds.clear()
  })

  const current = (): TestWorkflowEnvironment => {
    if (!environment) throw new Error('The environment is made before the first test: use it within a test.')
    return environment
  }
  return {
    taskQueue,
    get environment() {
      return current()
    },
    async start(overrides = {}, { continueAfterEvents, world: setUp } = {}) {
      const migration = resolveMigration({
        ...definition,
        name: `m-${randomUUID().slice(0, 8)}`,
        ...overrides,
      })
      const world = createWorld()
      if (clock === 'real') world.companionSliceMs = 200
      setUp?.(world)
      worlds.set(migration.name, world)
      const input: MigrationInput = {
        migration,
        fingerprint: fingerprint(migration),
        ...(continueAfterEvents === undefined ? {} : { continueAfterEvents }),
      }
      await current().client.workflow.start(messages.workflowType, {
        workflowId: messages.workflowIdOf(migration.name),
        taskQueue,
        args: [input],
        typedSearchAttributes: new TypedSearchAttributes([
          { key: crossfadePhase, value: 'expand' },
          { key: crossfadeWaitingFor, value: 'nothing' },
          { key: crossfadeDatabase, value: migration.database },
        ]),
        memo: { fingerprint: input.fingerprint },
      })
      const life = liveWith(current(), migration, world)
      lives.push(life)
      return life
    },
  }
}

async function createSkipping(): Promise<TestWorkflowEnvironment> {
  const path = required(inject('temporalTestServer'), 'the time-skipping test server')
  const environment = await TestWorkflowEnvironment.createTimeSkipping({
    server: { executable: { type: 'existing-path', path } },
  })
  const keyword = 2 // INDEXED_VALUE_TYPE_KEYWORD
  await environment.connection.operatorService.addSearchAttributes({
    namespace: 'default',
    searchAttributes: Object.fromEntries(searchAttributeNames.map((name) => [name, keyword])),
  })
  return environment
}

function createReal(): Promise<TestWorkflowEnvironment> {
  const address = required(inject('temporalAddress'), 'the Temporal server')
  return TestWorkflowEnvironment.createFromExistingServer({ address })
}

/** Shorter than a test may take, and longer than any skip or life of them does. */
const longestWaitMs = 100_000

/**
 * A call that is still open when its test runs out of time is tried again by the client after the test has closed its channel, which
 * ends the whole run as an uncaught exception: such a call ends before, as an error of its test.
 */
function bound({ connection }: TestWorkflowEnvironment): <T>(call: () => Promise<T>) => Promise<T> {
  return (call) => connection.withDeadline(Date.now() + longestWaitMs, call)
}

function liveWith(environment: TestWorkflowEnvironment, migration: Migration, world: World): Life {
  const workflowId = messages.workflowIdOf(migration.name)
  const bounded = bound(environment)
  const { workflow } = environment.client
  const handle = workflow.getHandle<(input: MigrationInput) => Promise<MigrationResult>>(workflowId)
  const life: Life = {
    name: migration.name,
    migration,
    world,
    handle,
    status: () => bounded(() => handle.query(messages.status)),
    plan: () => bounded(() => handle.query(messages.plan)),
    audit: () => bounded(() => handle.query(messages.audit)),
    story: async () =>
      (await life.audit()).map(({ what, by }) => `${what}${by === undefined ? '' : ` (${by})`}`).join('\n'),
    async details() {
      const metadata = await bounded(() =>
        handle.query<{ currentDetails?: string }>('__temporal_workflow_metadata'),
      )
      return metadata.currentDetails ?? ''
    },
    signal: (name, ...payload) => bounded(() => handle.signal(name, ...payload)),
    update: (name, payload) =>
      bounded(() => handle.executeUpdate<string, [unknown]>(name, { args: [payload] })),
    approve: async (gate) => {
      const { token } = await life.status()
      return life.update('approve', {
        gate,
        by: 'Ann',
        ...(gate === 'expand' || gate === 'contract' ? { token } : {}),
      })
    },
    until: (what, isSo) =>
      eventually(
        async () => {
          const status = await life.status()
          return (await isSo(status)) && status
        },
        { what, timeoutMs: 20_000 },
      ),
    atGate: (gate) => life.until(`gate ${gate}`, ({ gate: open }) => open?.gate === gate),
    skip: (ms) => bounded(() => environment.sleep(ms)),
    reach: async (stop) => {
      await eventually(() => stop.isReached(), { what: 'the activity', timeoutMs: 30_000 })
    },
    result: () => bounded(() => handle.result()),
    async histories() {
      const found: History[] = []
      let runId: string | undefined = (await handle.describe()).runId
      while (runId !== undefined) {
        const { before, ...history } = await look(workflow.getHandle(workflowId, runId))
        found.push({ runId, ...history })
        runId = before
      }
      return found
    },
  }
  return life
}

async function look(run: WorkflowHandle): Promise<Omit<History, 'runId'> & { before: string | undefined }> {
  const events = (await run.fetchHistory()).events ?? []
  const before = events[0]?.workflowExecutionStartedEventAttributes?.continuedExecutionRunId
  const sizes = events.map((event) => Number(event.workflowTaskStartedEventAttributes?.historySizeBytes ?? 0))
  const bytes = Math.max(0, ...sizes)
  return {
    events: events.length,
    bytes,
    status: (await run.describe()).status.name,
    before: before || undefined,
  }
}
