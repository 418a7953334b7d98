import assert from 'node:assert/strict'
import type { EventEmitter } from 'node:events'
import { setTimeout as delay } from 'node:timers/promises'
import pg from 'pg'
import { createCrossfade, type ClientOf, type Crossfade } from '../src/app/index.ts'
import { applyRound, readChangeLogs } from '../src/sync/apply-changes.ts'
import { writeSteadily } from './application.ts'
import {
  createItems,
  expand,
  itemsMigration,
  ratioOf,
  wearIn,
  withServer,
  type Bench,
  type Stage,
} from './support.ts'

const ratePerSec = 200
const longestWindowMs = 7_000
const connections = 16

/** An instance looks so often whether what it left to the appliers has arrived: until then it would ask in the next window, too. */
const forgetsMs = 600

const sql = {
  plain: 'UPDATE others SET amount = amount + 1, updated_at = now() WHERE id = $1',
  old: 'UPDATE items SET amount = amount + 1, updated_at = now() WHERE id = $1',
  new: 'UPDATE items_new SET amount_cents = amount_cents + 100, updated_at = now() WHERE id = $1',
}

/** What the critical path costs the application's own connections, counted from the server's messages. */
interface Counts {
  statements: number
  roundTrips: number
}

/** https://www.postgresql.org/docs/18/protocol-message-formats.html: CommandComplete ends a statement, ReadyForQuery a round trip. */
async function openCountedPool(url: string): Promise<{ pool: pg.Pool; counts: Counts }> {
  const counts = { statements: 0, roundTrips: 0 }
  const pool = new pg.Pool({ connectionString: url, max: connections, idleTimeoutMillis: 0 })
  pool.on('error', () => undefined)
  pool.on('connect', (client) => {
    const { connection } = client as unknown as { connection: EventEmitter }
    connection.on('commandComplete', () => (counts.statements += 1))
    connection.on('readyForQuery', () => (counts.roundTrips += 1))
  })
  // Who connects meanwhile would pay for it in its first times.
  await Promise.all(Array.from({ length: connections }, () => pool.query('SELECT pg_sleep(0.1)')))
  return { pool, counts }
}

type Write = (id: number) => Promise<unknown>

/** A table like `items` that no migration knows: what is written there beside the library must not be missing on the new side. */
async function createOthers(pool: pg.Pool): Promise<void> {
  await pool.query('CREATE TABLE others (LIKE items INCLUDING ALL)')
  await pool.query('INSERT INTO others SELECT * FROM items')
  await pool.query('VACUUM (ANALYZE) others')
}

/** A bench that loses a write measures nothing. */
async function assertEqual(pool: pg.Pool): Promise<void> {
  const { rows } = await pool.query<{ n: string }>(
    'SELECT count(*) AS n FROM items FULL JOIN items_new USING (id) WHERE amount_cents IS DISTINCT FROM (amount * 100)::bigint',
  )
  assert.equal(rows[0]?.n, '0', 'rows differ after dual writes')
}

/** What an application without Crossfade does: a transaction of its own. */
const plainly =
  (pool: pg.Pool): Write =>
  async (id) => {
    const client = await pool.connect()
    try {
      await client.query('BEGIN')
      await client.query(sql.plain, [id])
      await client.query('COMMIT')
    } finally {
      client.release()
    }
  }

const dually =
  (crossfade: Crossfade<ClientOf<pg.Pool>>): Write =>
  (id) =>
    crossfade.write({
      keys: [id],
      old: (client) => client.query(sql.old, [id]),
      new: (client) => client.query(sql.new, [id]),
    })

/** Writes on the other side follow from here on, or only their keys are captured. */
async function setFollowing(
  { place: { database, scope }, migration }: Stage,
  crossfade: Crossfade<ClientOf<pg.Pool>>,
  percent: number,
): Promise<void> {
  await database.transaction((tx) =>
    database.dialect.flags.set(tx, scope, { [`${migration.name}.new_schema_write`]: percent }),
  )
  await crossfade.flags.refresh()
}

/** Nothing of a window may be left to do in the next. */
async function settle({ place, groups: { forward } }: Stage): Promise<void> {
  while ((await readChangeLogs(place, forward)).some(({ pending }) => pending > 0))
    for (const group of forward) await applyRound(place, group)
  await delay(forgetsMs)
}

export const dualWrite: Bench = {
  summary: `what a dual write costs the application beside a plain one, ${ratePerSec} transactions a second`,
  rows: 200_000,
  runs: 5,
  run: ({ rows, runs, say }) =>
    withServer(async (admin, url) => {
      say(`making ${rows} rows`)
      await createItems(admin, rows)
      await createOthers(admin)
      await wearIn(admin, rows)
      const stage = await expand(
        url,
        itemsMigration({ profile: 'fast' }, { sync: { method: 'application' } }),
      )
      await stage.copy()
      const { pool, counts } = await openCountedPool(url)
      const crossfade = await createCrossfade({
        migration: stage.migration.name,
        database: pool,
        reads: { shadowRatio: 0 },
      })
      const samples = {
        plainStatements: [] as number[],
        dualStatements: [] as number[],
        plainRoundTrips: [] as number[],
        dualRoundTrips: [] as number[],
        plainP50Ms: [] as number[],
        plainP99Ms: [] as number[],
        capturedP50Ms: [] as number[],
        capturedP99Ms: [] as number[],
        dualP50Ms: [] as number[],
        dualP99Ms: [] as number[],
      }
      const forMs = Math.min(longestWindowMs, Math.max(500, rows / 25))
      const measure = async (write: Write, ms = forMs): Promise<Counts & { p50: number; p99: number }> => {
        await settle(stage)
        Object.assign(counts, { statements: 0, roundTrips: 0 })
        let writes = 0
        const times = await writeSteadily(ratePerSec, AbortSignal.timeout(ms), () => {
          writes += 1
          return write(1 + Math.floor(Math.random() * rows))
        })
        return {
          statements: counts.statements / writes,
          roundTrips: counts.roundTrips / writes,
          p50: times.percentile(50),
          p99: times.percentile(99),
        }
      }
      try {
        say('warming up')
        await setFollowing(stage, crossfade, 100)
        for (const write of [plainly(pool), dually(crossfade)]) await measure(write, forMs / 2)
        for (let run = 1; run <= runs; run++) {
          say(`run ${run} of ${runs}`)
          const plain = await measure(plainly(pool))
          await setFollowing(stage, crossfade, 0)
          const captured = await measure(dually(crossfade))
          await setFollowing(stage, crossfade, 100)
          const dual = await measure(dually(crossfade))
          samples.plainStatements.push(plain.statements)
          samples.dualStatements.push(dual.statements)
          samples.plainRoundTrips.push(plain.roundTrips)
          samples.dualRoundTrips.push(dual.roundTrips)
          samples.plainP50Ms.push(plain.p50)
          samples.plainP99Ms.push(plain.p99)
          samples.capturedP50Ms.push(captured.p50)
          samples.capturedP99Ms.push(captured.p99)
          samples.dualP50Ms.push(dual.p50)
          samples.dualP99Ms.push(dual.p99)
        }
        await settle(stage)
        await assertEqual(admin)
      } finally {
        await crossfade.close()
        await pool.end()
        await stage.close()
      }
      return {
        samples,
        ratios: {
          capturedP50VsPlain: ratioOf(samples.capturedP50Ms, samples.plainP50Ms),
          capturedP99VsPlain: ratioOf(samples.capturedP99Ms, samples.plainP99Ms),
          p50VsPlain: ratioOf(samples.dualP50Ms, samples.plainP50Ms),
          p99VsPlain: ratioOf(samples.dualP99Ms, samples.plainP99Ms),
        },
      }
    }),
}
