import assert from 'node:assert/strict'
import { setTimeout as delay } from 'node:timers/promises'
import { Client, Connection, type WorkflowHandle } from '@temporalio/client'
import pg from 'pg'
import { connectCrossfade } from '../src/client.ts'
import { startServers } from '../src/demo/servers.ts'
import { createCrew, type Crew } from '../src/demo/workers.ts'
import { workflowIdOf } from '../src/workflows/messages.ts'
import { createItems, itemsMigration, type Bench } from './support.ts'

/** One lane that takes about this many chunks, each with a rest: long enough for several slices, and to be caught in the middle. */
const chunks = 800
const rateLimitMs = 40

/** A commit that the dead worker had sent may still arrive within this time. */
const echoMs = 250

interface Place {
  readonly rowsDone: number
  readonly isDone: boolean
  /** The last checkpoint, in milliseconds since the epoch. */
  readonly at: number
}

async function readPlace(pool: pg.Pool, name: string): Promise<Place> {
  const ranges = `"_crossfade_${name}".ranges`
  const { rows: found } = await pool.query<{ exists: boolean }>(
    'SELECT to_regclass($1) IS NOT NULL AS exists',
    [ranges],
  )
  if (!found[0]?.exists) return { rowsDone: 0, isDone: false, at: 0 }
  const { rows } = await pool.query<{ done: string; at: string; isDone: boolean | null }>(
    `SELECT coalesce(sum(rows_done), 0) AS done, coalesce(extract(epoch FROM max(updated_at)) * 1000, 0) AS at, bool_and(done) AS "isDone" FROM ${ranges} WHERE purpose = 'backfill'`,
  )
  return { rowsDone: Number(rows[0]?.done), isDone: rows[0]?.isDone ?? false, at: Number(rows[0]?.at) }
}

async function untilPlace(pool: pg.Pool, name: string, isThere: (place: Place) => boolean): Promise<Place> {
  for (let place = await readPlace(pool, name); ; place = await readPlace(pool, name)) {
    if (isThere(place)) return place
    await delay(20)
  }
}

type Events = NonNullable<Awaited<ReturnType<WorkflowHandle['fetchHistory']>>['events']>

/** Of all the time of the only lane, what went between its slices: from the end of one to the beginning of the next. */
async function temporalShare(address: string, name: string): Promise<number> {
  const connection = await Connection.connect({ address })
  try {
    const handle = new Client({ connection }).workflow.getHandle(workflowIdOf(name))
    for (;;) {
      const share = shareIn((await handle.fetchHistory()).events ?? [])
      if (share !== undefined) return share
      await delay(100)
    }
  } finally {
    await connection.close()
  }
}

/** Undefined while a slice runs. */
function shareIn(events: Events): number | undefined {
  const time = (event: Events[number] | undefined): number =>
    Number(event?.eventTime?.seconds ?? 0) * 1000 + Number(event?.eventTime?.nanos ?? 0) / 1e6
  const byId = new Map(events.map((event) => [Number(event.eventId), event]))
  const open = new Set(
    events
      .filter((event) => event.activityTaskScheduledEventAttributes?.activityType?.name === 'backfillSlice')
      .map((event) => Number(event.eventId)),
  )
  let between = 0
  let working = 0
  let endedAt: number | undefined
  for (const event of events) {
    const { scheduledEventId, startedEventId } = event.activityTaskCompletedEventAttributes ?? {}
    if (!open.delete(Number(scheduledEventId))) continue
    const started = byId.get(Number(startedEventId))
    working += time(event) - time(started)
    between += time(started) - (endedAt ?? time(byId.get(Number(scheduledEventId))))
    endedAt = time(event)
  }
  return open.size > 0 || working === 0 ? undefined : between / (between + working)
}

/**
 * Each run copies twice. First undisturbed: what Temporal costs. Then the worker that runs the only lane is killed in the middle, and
 * another one stands by, as in a fleet.
 */
export const resume: Bench = {
  summary: 'time until the first new chunk after a worker was killed, work repeated, and what Temporal costs',
  rows: 1_000_000,
  runs: 3,
  async run({ rows, runs, say }) {
    say('starting PostgreSQL, Temporal and the workers')
    const servers = await startServers()
    const pool = new pg.Pool({ connectionString: servers.postgres.url, application_name: 'bench' })
    pool.on('error', () => undefined)
    const crossfade = await connectCrossfade({ address: servers.temporal.address })
    const samples = {
      resumedMs: [] as number[],
      chunkRows: [] as number[],
      repeatedRows: [] as number[],
      temporalShare: [] as number[],
    }
    const chunkRows = Math.max(100, Math.ceil(rows / chunks))
    const backfill = {
      profile: 'fast',
      maxConcurrency: 1,
      batchSize: chunkRows,
      maxBatchSize: chunkRows,
      rateLimitMs,
    } as const

    /** Copies all rows with one worker; `disturb` is called after the first chunk. */
    const copyAll = async (
      name: string,
      { disturb, measure }: { disturb?: (crew: Crew) => Promise<void>; measure: () => Promise<void> },
    ): Promise<void> => {
      const crew = await createCrew(servers, name)
      try {
        await pool.query('DROP TABLE IF EXISTS items, items_new')
        await createItems(pool, rows)
        await crew.start()
        const handle = await crossfade.start(
          itemsMigration(backfill, { name, safety: { requireApproval: false } }),
        )
        await untilPlace(pool, name, ({ rowsDone }) => rowsDone > 0)
        await disturb?.(crew)
        const { rowsDone } = await untilPlace(pool, name, ({ isDone }) => isDone)
        assert.equal(rowsDone, rows, 'every row is counted once')
        await measure()
        await handle.abort({ by: 'bench', reason: 'measured' })
        await handle.result().catch(() => undefined)
      } finally {
        await crew.close()
      }
    }

    try {
      for (let run = 1; run <= runs; run++) {
        say(`run ${run} of ${runs}, undisturbed`)
        const quiet = `bench-${run}-quiet`
        await copyAll(quiet, {
          measure: async () =>
            void samples.temporalShare.push(await temporalShare(servers.temporal.address, quiet)),
        })
        say(`run ${run} of ${runs}, with a worker killed`)
        const name = `bench-${run}`
        await copyAll(name, {
          disturb: async (crew) => {
            await crew.start()
            await untilPlace(pool, name, ({ rowsDone }) => rowsDone > rows / 2)
            const killedAt = Date.now()
            const { activities } = await crew.killOneRunning('backfillSlice')
            assert.equal(activities, 1, 'the worker that was killed ran the lane')
            const resumed = await untilPlace(pool, name, ({ at }) => at > killedAt + echoMs)
            samples.resumedMs.push(resumed.at - killedAt)
          },
          measure: async () => {
            samples.repeatedRows.push((await insertedRows(pool)) - rows)
            samples.chunkRows.push(chunkRows)
          },
        })
      }
    } finally {
      await crossfade.close()
      await pool.end()
      await servers.stop()
    }
    return { samples, ratios: { temporalShare: Math.max(...samples.temporalShare) } }
  },
}

/**
 * Rows that were written to the target, those of transactions that never committed too. A session that is idle tells of its last ones
 * after 10 s (PGSTAT_IDLE_INTERVAL).
 */
async function insertedRows(pool: pg.Pool): Promise<number> {
  await delay(11_000)
  const { rows } = await pool.query<{ n: string }>(
    `SELECT n_tup_ins AS n FROM pg_stat_user_tables WHERE relid = 'items_new'::regclass`,
  )
  return Number(rows[0]?.n)
}
