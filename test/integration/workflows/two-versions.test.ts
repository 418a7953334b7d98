import { randomUUID } from 'node:crypto'
import { rmSync } from 'node:fs'
import { dirname } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { bundleWorkflowCode, NativeConnection, Worker, type WorkflowBundle } from '@temporalio/worker'
import { Client, Connection } from '@temporalio/client'
import { beforeAll, describe, expect, inject, test, type TestContext } from 'vitest'
import { createActivities } from '../../../src/activities/index.ts'
import { connectCrossfade } from '../../../src/client.ts'
import { openDatabase, type Database } from '../../../src/database/index.ts'
import type { DefinitionInput } from '../../../src/index.ts'
import { failedTasks } from '../../support/failed-tasks.ts'
import { keptCode } from '../../replay/keep-code.ts'
import { itemsToGoods } from '../../support/items-to-goods.ts'
import { Ledger } from '../../support/ledger.ts'
import { required } from '../../support/migration.ts'
import { approve, isLong, untilDetail } from '../../support/migrations.ts'
import { postgresVersions, withDatabase, type TestDatabase } from '../../support/postgres.ts'
import { flagQueueOf } from '../../../src/workflows/messages.ts'
import { installRuntime } from '../../support/workflow-environment.ts'

/**
 * A deploy: workers of the last version and of this one share a task queue for a while. Neither keeps a workflow in its memory here, so
 * that whoever is free goes on with what the other one has done: every task is a replay, and every activity may be anybody's. What the last
 * version has opened both go on with. What this one has opened waits until a worker of this one is back, and nothing else comes of it.
 */

const released = '0.1.0'
const nonDeterministic = 24 // WORKFLOW_TASK_FAILED_CAUSE_NON_DETERMINISTIC_ERROR
const quiet = (): void => undefined
const logger = { log: quiet, trace: quiet, debug: quiet, info: quiet, warn: quiet, error: quiet }

interface Version {
  readonly workflows: WorkflowBundle | { codePath: string }
  readonly createActivities: typeof createActivities
  readonly openDatabase: typeof openDatabase
}

const versions: Partial<Record<'last' | 'this', Version>> = {}

beforeAll(async () => {
  installRuntime()
  const { workflows, activities } = keptCode(released)
  try {
    const payloadConverterPath = fileURLToPath(
      new URL('../../../src/workflows/payload-converter.ts', import.meta.url),
    )
    versions.last = {
      ...((await import(pathToFileURL(activities).href)) as Omit<Version, 'workflows'>),
      workflows: await bundleWorkflowCode({ workflowsPath: workflows, payloadConverterPath, logger }),
    }
  } finally {
    rmSync(dirname(workflows), { recursive: true })
  }
  versions.this = {
    workflows: { codePath: required(inject('workflowBundlePath'), 'the workflow bundle') },
    createActivities,
    openDatabase,
  }
})

const definition = (name: string, mode: 'flags' | 'swap'): DefinitionInput => ({
  ...itemsToGoods,
  name,
  cutover: { mode, ramp: [{ percent: 100, hold: '100ms' }] },
  retire: { soak: '500ms' },
  contract: { observe: '1s', soak: '100ms' },
  backfill: { maxConcurrency: 2, batchSize: 200, maxBatchSize: 200, rateLimitMs: 20 },
})

/** Runs until the test ends, or it is stopped. Its identity in histories is its name. */
async function startWorker(
  t: TestContext,
  name: 'last' | 'this',
  taskQueue: string,
  { url }: TestDatabase,
  { remembers = false } = {},
): Promise<() => Promise<void>> {
  const version = required(versions[name], `the ${name} version`)
  const connection = await NativeConnection.connect({
    address: required(inject('temporalAddress'), 'the Temporal server'),
  })
  let database: Promise<Database> | undefined
  const activities = version.createActivities({
    openDatabase: (wanted) => (database ??= version.openDatabase(wanted, { url, maxConnections: 12 })),
  })
  const common = {
    connection,
    identity: name,
    activities,
    maxConcurrentActivityTaskPolls: 2,
    maxHeartbeatThrottleInterval: '1s',
    shutdownGraceTime: '1s',
  } as const
  const workers = [
    await Worker.create({
      ...common,
      taskQueue,
      workflowBundle: version.workflows,
      ...(remembers ? {} : { maxCachedWorkflows: 0 }),
    }),
    ...(name === 'this' ? [await Worker.create({ ...common, taskQueue: flagQueueOf(taskQueue) })] : []),
  ]
  const running = Promise.all(workers.map((worker) => worker.run()))
  const stop = async (): Promise<void> => {
    for (const worker of workers) if (worker.getState() === 'RUNNING') worker.shutdown()
    await running
  }
  t.onTestFinished(async () => {
    await stop()
    await (await database)?.close()
    await connection.close()
  })
  return stop
}

/** Who has done how much: tasks of the workflow, and activities. */
async function sharesOf(
  t: TestContext,
  workflowId: string,
): Promise<{ tasks: Record<string, number>; activities: Record<string, number>; failed: string[] }> {
  const connection = await Connection.connect({ address: inject('temporalAddress') ?? '' })
  t.onTestFinished(() => connection.close())
  const history = await new Client({ connection }).workflow.getHandle(workflowId).fetchHistory()
  const events = history.events ?? []
  const count = (identities: (string | null | undefined)[]): Record<string, number> =>
    Object.fromEntries(
      ['last', 'this'].map((name) => [name, identities.filter((other) => other === name).length]),
    )
  return {
    tasks: count(events.map((event) => event.workflowTaskCompletedEventAttributes?.identity)),
    activities: count(events.map((event) => event.activityTaskStartedEventAttributes?.identity)),
    failed: failedTasks(history).map(
      ({ workflowTaskFailedEventAttributes: failed }) =>
        `${failed?.identity ?? ''}: ${failed?.cause === nonDeterministic ? 'another order' : String(failed?.cause)}`,
    ),
  }
}

describe.each(postgresVersions())('PostgreSQL %s', (version) => {
  const cases = [
    { mode: 'flags', opener: 'last' },
    { mode: 'swap', opener: 'this' },
    { mode: 'flags', opener: 'this' },
    { mode: 'swap', opener: 'last' },
  ] as const
  const wanted = isLong ? cases : [required(cases[version === '18' ? 0 : 1], 'a case')]
  for (const { mode, opener } of wanted)
    test(`of two versions, the ${opener} one has opened it, cutover by ${mode}`, async (t) => {
      const database = await withDatabase(t, version)
      const ledger = await Ledger.open(t, database, 'items', 3_000)
      const taskQueue = `versions-${randomUUID()}`
      const client = await connectCrossfade({
        address: required(inject('temporalAddress'), 'the Temporal server'),
        taskQueue,
      })
      t.onTestFinished(() => client.close())
      const stop = await startWorker(t, opener, taskQueue, database)
      const handle = await client.start(definition(`versions-${randomUUID().slice(0, 8)}`, mode))
      await untilDetail(handle, 'its first gate', ({ gate }) => gate?.gate === 'expand')
      ledger.start()
      const by = 'the test'
      if (opener === 'last') {
        await startWorker(t, 'this', taskQueue, database)
        await approve(handle, 'expand')
      } else {
        // A deploy that is taken back, and made again.
        const { detail } = await handle.status()
        await stop()
        await startWorker(t, 'last', taskQueue, database)
        const answer = await handle.approve({ gate: 'expand', by, token: detail?.gate?.token ?? '' })
        expect(answer).toMatch(/^sent; no worker answered yet/)
        await startWorker(t, 'this', taskQueue, database, { remembers: true })
      }
      await untilDetail(handle, 'the backfill', ({ phase }) => phase === 'backfill')
      await handle.pause({ by })
      await handle.configure({ by, batchSize: 300 })
      await handle.resume({ by })
      await approve(handle, 'cutover')
      await approve(handle, 'retire')
      if (mode === 'flags') await ledger.stop() // its table has not long to live
      await approve(handle, 'contract')
      const { outcome, status } = await handle.result()
      await ledger.stop()
      expect({ outcome, mismatched: status.verify.mismatched }).toEqual({ outcome: 'done', mismatched: 0 })
      expect(await ledger.differences(database, mode === 'swap' ? 'items' : 'goods')).toEqual([])
      const { tasks, activities, failed } = await sharesOf(t, handle.workflowId)
      process.stderr.write(
        `PostgreSQL ${version}, ${mode}, opened by ${opener}: tasks ${JSON.stringify(tasks)}, failed ${failed.length}, activities ${JSON.stringify(activities)}\n`,
      )
      for (const name of ['last', 'this']) expect(activities[name]).toBeGreaterThan(3)
      expect(tasks['this']).toBeGreaterThan(3)
      if (opener === 'last') {
        expect(tasks['last']).toBeGreaterThan(3)
        expect(failed).toEqual([])
      } else {
        expect(tasks['last']).toBe(0)
        expect([...new Set(failed)]).toEqual(['last: another order'])
      }
    })
})
