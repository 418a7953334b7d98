import { randomUUID } from 'node:crypto'
import { inject, type TestContext } from 'vitest'
import { pino } from 'pino'
import { connectCrossfade, type CrossfadeClient } from '../../src/client.ts'
import { createWorker, type CrossfadeWorker, type WorkerOptions } from '../../src/worker.ts'
import type { TestDatabase } from './postgres.ts'

/** A worker and a client on a task queue of their own; both end with the test. */
export interface Service {
  readonly client: CrossfadeClient
  readonly worker: CrossfadeWorker
  readonly taskQueue: string
  readonly address: string
}

export function required<T>(value: T | null | undefined, what: string): T {
  if (value === null || value === undefined) throw new Error(`${what} is missing: run \`npm run setup\``)
  return value
}

export async function startService(
  t: Pick<TestContext, 'onTestFinished'>,
  database: TestDatabase,
  options: WorkerOptions = {},
): Promise<Service> {
  const address = required(inject('temporalAddress'), 'the Temporal server')
  const taskQueue = `test-${randomUUID()}`
  const worker = await createWorker({
    address,
    taskQueue,
    databaseUrls: { default: database.url },
    workflowBundlePath: required(inject('workflowBundlePath'), 'the workflow bundle'),
    log: pino({ level: process.env['CROSSFADE_LOG_LEVEL'] ?? 'silent' }),
    ...options,
  })
  const client = await connectCrossfade({ address, taskQueue })
  t.onTestFinished(async () => {
    await client.close()
    await worker.stop()
  })
  return { client, worker, taskQueue, address }
}
