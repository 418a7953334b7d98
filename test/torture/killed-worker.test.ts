import { randomUUID } from 'node:crypto'
import { loadavg } from 'node:os'
import { setTimeout as delay } from 'node:timers/promises'
import { describe, expect, inject, test, type TestContext } from 'vitest'
import { connectCrossfade, type MigrationHandle } from '../../src/client.ts'
import type { DefinitionInput } from '../../src/index.ts'
import { itemsToGoods } from '../support/items-to-goods.ts'
import { Ledger } from '../support/ledger.ts'
import { required } from '../support/migration.ts'
import { approve, chance, isLong, observe, untilGate, type Observer } from '../support/migrations.ts'
import {
  postgresVersions,
  withDatabase,
  type PostgresVersion,
  type TestDatabase,
} from '../support/postgres.ts'
import { eventually } from '../support/wait.ts'
import { Fleet, type WorkerProcess } from '../support/worker-process.ts'

/**
 * Danger: "a killed worker repeats or skips rows". Workers are processes here, and they are killed, frozen and asked to end: in
 * the middle of chunks, and around every phase. What must hold: every row is copied exactly once, to the row, and another worker
 * goes on soon.
 */

const rows = isLong ? 1_000_000 : 100_000
/** Heartbeat time-out, and two seconds for everything else; more where the machine has other things to do. */
const takeOverMs = (): number => 5_000 + 2_000 * Math.max(1, loadavg()[0] ?? 0)
/** What a frozen worker holds is taken from it after 10 s (src/database/postgres/session.ts). */
const standstillMs = 10_000

const definition = (name: string): DefinitionInput => ({
  ...itemsToGoods,
  name,
  cutover: { mode: 'swap' },
  retire: { soak: '1s' },
  contract: { observe: '1s', soak: '100ms' },
  // One lane, and chunks that are long enough to be caught in the middle.
  backfill: { profile: 'fast', maxConcurrency: 1, batchSize: 1000, maxBatchSize: 1000, rateLimitMs: 30 },
})

interface Torture {
  readonly database: TestDatabase
  readonly handle: MigrationHandle
  readonly fleet: Fleet
  readonly observer: Observer
  readonly ledger: Ledger
  /** Rows that chunks have passed over and written, as the checkpoints have it. */
  ranges(): Promise<{ done: number; written: number; isComplete: boolean }>
}

async function begin(
  t: TestContext,
  version: PostgresVersion,
  options: { readonly continueAfterEvents?: number } = {},
): Promise<Torture> {
  const database = await withDatabase(t, version)
  const ledger = await Ledger.open(t, database, 'items', rows)
  const address = required(inject('temporalAddress'), 'the Temporal server')
  const taskQueue = `killed-${randomUUID()}`
  const fleet = await Fleet.start(t, { address, taskQueue, databaseUrl: database.url })
  const client = await connectCrossfade({ address, taskQueue })
  t.onTestFinished(() => client.close())
  const observer = await observe(t, address)
  const name = `killed-${randomUUID().slice(0, 8)}`
  const handle = await client.start(definition(name), options)
  return {
    database,
    handle,
    fleet,
    observer,
    ledger,
    async ranges() {
      const result = await database.pool.query<{ done: number; written: number; isComplete: boolean }>(
        `SELECT sum(rows_done)::int AS done, sum(rows_written)::int AS written, bool_and(done) AS "isComplete"
           FROM "_crossfade_${name}".ranges WHERE purpose = 'backfill'`,
      )
      return required(result.rows[0], 'the ranges')
    },
  }
}

/** The lock that a chunk holds from its beginning to its end: src/database/postgres/ranges.ts. */
const chunkLockClass = 0x63726673

interface MidChunk {
  readonly worker: WorkerProcess
  /** The worker's own, in which the chunk is. */
  readonly session: number
}

/** The chunk that is under way now, if there is one. A lane may go to another worker at any time: only the session says who has it. */
async function chunkNow(
  { database, fleet }: Torture,
  state?: 'idle in transaction',
): Promise<MidChunk | undefined> {
  const { rows: found } = await database.pool.query<{ pid: number; application: string }>(
    `SELECT l.pid, a.application_name AS application FROM pg_locks l JOIN pg_stat_activity a USING (pid)
      WHERE locktype = 'advisory' AND classid = ${chunkLockClass} AND granted AND a.datname = current_database()
        AND a.query NOT LIKE 'COMMIT%' AND (a.state = $1 OR $1 IS NULL)`,
    [state],
  )
  const [chunk] = found
  const worker = fleet.workers.find(({ application }) => application === chunk?.application)
  return chunk && worker && { worker, session: chunk.pid }
}

/** Waits until a chunk is under way. */
async function untilMidChunk(torture: Torture): Promise<MidChunk> {
  return eventually(() => chunkNow(torture), {
    timeoutMs: 60_000,
    intervalMs: 1,
    what: 'a chunk to be under way',
  })
}

const isInTransaction = async ({ database }: Torture, session: number): Promise<boolean> =>
  (
    await database.pool.query('SELECT FROM pg_stat_activity WHERE pid = $1 AND xact_start IS NOT NULL', [
      session,
    ])
  ).rowCount === 1

/** Stops a worker where it holds a transaction open, and its range with it. */
async function freezeMidChunk(torture: Torture): Promise<MidChunk> {
  return eventually(
    async () => {
      const { worker } = await untilMidChunk(torture)
      worker.freeze()
      // What it had sent already the server still does: only a session that waits for its next word is held by it.
      const chunk = await chunkNow(torture, 'idle in transaction')
      if (chunk?.worker === worker) return chunk
      worker.thaw()
      return undefined
    },
    { timeoutMs: 60_000, intervalMs: 7, what: 'a worker to be frozen in a chunk' },
  )
}

/** From `since`, until rows are copied again: counted from what is there when the lost worker's transaction has ended. */
async function untilProgress(torture: Torture, session: number, since: number): Promise<number> {
  await eventually(async () => !(await isInTransaction(torture, session)), {
    timeoutMs: 30_000,
    intervalMs: 5,
    what: 'the transaction of the lost worker to end',
  })
  const { done } = await torture.ranges()
  await eventually(async () => (await torture.ranges()).done > done, {
    timeoutMs: 30_000,
    what: 'another worker to copy rows',
  })
  return performance.now() - since
}

/** Everything that the application was told is done is there, on the side that is left, and nothing else is. */
async function expectExact({ handle, ledger, database }: Torture): Promise<void> {
  const { outcome, status } = await handle.result()
  expect(status.trouble).toBeUndefined()
  expect(outcome).toBe('done')
  await ledger.stop()
  expect(await ledger.differences(database, 'items')).toEqual([])
  const { rows: types } = await database.pool.query(
    `SELECT format_type(atttypid, atttypmod) AS type FROM pg_attribute WHERE attrelid = 'items'::regclass AND attnum > 0 ORDER BY attnum`,
  )
  expect(types.map((row: { type: string }) => row.type)).toEqual(['bigint', 'text', 'numeric'])
}

describe.each(postgresVersions())('PostgreSQL %s', (version) => {
  test('killed, ended and frozen in the middle of chunks, and every row is copied once', async (t) => {
    const torture = await begin(t, version)
    const { fleet, handle, observer, ledger } = torture
    await approve(handle, 'expand')
    await observer.untilPhase(handle, 'dual-write')
    ledger.start() // from here on what it writes reaches the new side by itself: chunks write what was there before
    for (let i = 0; i < (isLong ? 5 : 1); i++) {
      const { worker, session } = await untilMidChunk(torture)
      const killedAt = performance.now()
      await fleet.kill(worker)
      const tookMs = await untilProgress(torture, session, killedAt)
      process.stderr.write(`PostgreSQL ${version}: rows again ${Math.round(tookMs)} ms after SIGKILL\n`)
      expect(tookMs).toBeLessThan(takeOverMs())
      await fleet.complete()
    }

    // A worker that stands still has a connection that lives, so nothing but the server's own clock takes its locks away.
    const frozen = await freezeMidChunk(torture)
    await eventually(
      async () =>
        !(await isInTransaction(torture, frozen.session)) &&
        (await handle.status()).activities.some(
          ({ type, attempt }) => type === 'backfillSlice' && attempt > 1,
        ),
      { timeoutMs: standstillMs + takeOverMs(), what: 'the frozen worker to be given up' },
    )
    // It goes on where it was, as an attempt that is out of date.
    frozen.worker.thaw()
    await untilProgress(torture, frozen.session, performance.now())

    const ended = await untilMidChunk(torture)
    const endedAt = performance.now()
    const { done } = await torture.ranges()
    const ending = fleet.end(ended.worker)
    await eventually(
      async () =>
        (await torture.ranges()).done > done &&
        (await torture.observer.running(torture.handle)).some(
          (running) => running.type === 'backfillSlice' && running.worker !== ended.worker.identity,
        ),
      { timeoutMs: 30_000, what: 'another worker to have the lane' },
    )
    const handedOverMs = performance.now() - endedAt
    process.stderr.write(`PostgreSQL ${version}: handed over ${Math.round(handedOverMs)} ms after SIGTERM\n`)
    expect(handedOverMs).toBeLessThan(takeOverMs())
    expect((await ending).exitCode).toBe(0)

    await untilGate(handle, 'cutover')
    const copied = await torture.ranges()
    expect(copied).toMatchObject({ written: rows, isComplete: true })
    // Ids are numbers without gaps, but for what the application writes behind them: each range before that passed over exactly as
    // many rows as it has ids.
    const { rows: ranges } = await torture.database.pool.query<{ done: number; ids: number }>(
      `SELECT rows_done::int AS done, upper_key[1]::int - coalesce(lower_key[1]::int, 0) AS ids
         FROM "_crossfade_${handle.name}".ranges WHERE purpose = 'backfill' AND upper_key[1]::int <= ${rows}`,
    )
    expect(ranges.length).toBeGreaterThan(0)
    expect(ranges.map(({ done }) => done)).toEqual(ranges.map(({ ids }) => ids))
    for (const gate of ['cutover', 'retire', 'contract'] as const) await approve(handle, gate)
    await expectExact(torture)
  })

  test('killed around every phase, and every row is there once', async (t) => {
    const { between } = chance(t)
    const torture = await begin(t, version, { continueAfterEvents: 150 })
    const { fleet, observer, handle, ledger } = torture
    ledger.start()
    const moments: readonly (readonly [string, () => Promise<void>, number])[] = [
      ['the start', () => Promise.resolve(), 300],
      ['the approval of expand', () => approve(handle, 'expand'), 300],
      ['backfill', () => observer.untilPhase(handle, 'backfill'), 1500],
      ['verify', () => observer.untilPhase(handle, 'verify'), 300],
      ['the approval of cutover', () => approve(handle, 'cutover'), 300],
      ['the approval of retire', () => approve(handle, 'retire'), 1500],
      ['the approval of contract', () => approve(handle, 'contract'), 1500],
    ]
    // The short form kills at four of them, and every run at others.
    const chosen = new Set(moments.keys())
    while (!isLong && chosen.size > 4) chosen.delete(between(0, moments.length - 1))
    for (const [i, [moment, arrive, within]] of moments.entries()) {
      if (chosen.has(i)) await fleet.complete()
      await arrive()
      if (!chosen.has(i)) continue
      const afterMs = between(0, within)
      const which = between(0, 4)
      process.stderr.write(
        `PostgreSQL ${version}: ${which === 4 ? 'both workers' : 'a worker'} killed ${afterMs} ms after ${moment}\n`,
      )
      await delay(afterMs) // the moment is the seed's choice
      const victims = fleet.workers.filter((_, n) => which === 4 || n === which % 2)
      await Promise.all(victims.map((worker) => fleet.kill(worker)))
    }
    await expectExact(torture)
    expect(fleet.kills).toBeGreaterThanOrEqual(chosen.size)
  })
})
