import pg from 'pg'
import { resolveGroups, tablesOf, type Groups } from '../src/copy/groups.ts'
import type { Workplace } from '../src/copy/workplace.ts'
import { runFurtherLane } from '../src/backfill/run-further-lane.ts'
import { runLane } from '../src/backfill/run-lane.ts'
import { createBackfillThrottle } from '../src/backfill/throttle.ts'
import { laneCount, rangeCount, steadyLanes } from '../src/core/lanes.ts'
import { openDatabase } from '../src/database/index.ts'
import { captureSteps, completionSteps, foundationSteps } from '../src/ddl/expand-steps.ts'
import { runStep, undoStep } from '../src/ddl/run-step.ts'
import { resolveMigration, type DefinitionInput, type Migration } from '../src/definition/index.ts'
import { startPostgres } from '../src/dev/postgres-server.ts'

/** What a bench is asked for. */
export interface BenchOptions {
  readonly rows: number
  readonly runs: number
  /** Tells a person what goes on; never stdout. */
  say(text: string): void
}

/** Samples by name, one a run, and what is divided by what. Units are in the names. */
export interface BenchSamples {
  readonly samples: Readonly<Record<string, readonly number[]>>
  readonly ratios: Readonly<Record<string, number>>
}

export interface Bench {
  readonly summary: string
  readonly rows: number
  readonly runs: number
  run(options: BenchOptions): Promise<BenchSamples>
}

/** Durable, as a server is out of the box; sized so that no bench measures a checkpoint that another one left. */
const settings = {
  shared_buffers: '1GB',
  max_wal_size: '16GB',
  // A server that has run for a while writes into segments that it has used before; making new ones stalls every commit.
  min_wal_size: '4GB',
  checkpoint_timeout: '30min',
  maintenance_work_mem: '256MB',
  work_mem: '64MB',
  // A vacuum that starts in one run and not in the other is noise; each run analyses what it needs.
  autovacuum: 'off',
}

export async function withServer<T>(
  work: (pool: pg.Pool, url: string) => Promise<T>,
  other: Partial<typeof settings> = {},
): Promise<T> {
  const server = await startPostgres({ settings: { ...settings, ...other } })
  const pool = new pg.Pool({ connectionString: server.url, max: 32, application_name: 'bench' })
  pool.on('error', () => undefined)
  try {
    return await work(pool, server.url)
  } finally {
    await pool.end()
    await server.stop()
  }
}

/** `items`: about 250 B a row. `random` keys do not follow the file. */
export async function createItems(
  pool: pg.Pool,
  rows: number,
  keys: 'ascending' | 'random' = 'ascending',
): Promise<void> {
  await pool.query(
    `CREATE TABLE items (id bigint PRIMARY KEY, code text NOT NULL, amount numeric NOT NULL, note text NOT NULL, updated_at timestamptz NOT NULL)`,
  )
  await pool.query(
    `INSERT INTO items SELECT n, md5(n::text), n % 1000, repeat(md5((n + 1)::text), 5), now() FROM generate_series(1, $1::bigint) AS n${keys === 'random' ? ' ORDER BY hashint8(n)' : ''}`,
    [rows],
  )
  await pool.query('VACUUM (ANALYZE) items')
  await pool.query('CHECKPOINT')
}

/**
 * A server that has run for a while writes into WAL segments that it has used before (min_wal_size). One that is new fills each with
 * zeros first, and every commit waits for that: about once a second here, which alone would be the p99.
 * https://www.postgresql.org/docs/18/wal-configuration.html
 */
export async function wearIn(pool: pg.Pool, rows: number): Promise<void> {
  // 3 kB a row: more than the runs write.
  await pool.query(
    `SELECT count(pg_logical_emit_message(false, 'bench', repeat('x', 3000000))) FROM generate_series(1, $1::int / 1000)`,
    [rows],
  )
  await pool.query('CHECKPOINT')
}

const targetColumns = {
  id: 'bigint NOT NULL',
  code: 'text NOT NULL',
  amount_cents: 'bigint NOT NULL',
  note: 'text NOT NULL',
  updated_at: 'timestamptz NOT NULL',
}

/** The rows of the new side: the same expressions that the definition has. */
export const reshaped = `SELECT id, code, (amount * 100)::bigint AS amount_cents, note, updated_at FROM items`

export function itemsMigration(
  backfill: NonNullable<DefinitionInput['backfill']>,
  more: Partial<DefinitionInput> = {},
): Migration {
  const definition: DefinitionInput = {
    name: 'bench',
    kind: 'table',
    mappings: [
      {
        source: 'items',
        target: 'items_new',
        key: { id: 'id' },
        columns: { code: true, amount_cents: '(amount * 100)::bigint', note: true, updated_at: true },
        reverse: false,
      },
    ],
    expand: {
      tables: [
        {
          table: 'items_new',
          columns: targetColumns,
          primaryKey: ['id'],
          indexes: [{ name: 'items_new_code', on: '(code)' }],
        },
      ],
    },
    backfill,
    ...more,
  }
  return resolveMigration(definition)
}

/** An expanded migration, with nothing copied yet. */
export interface Stage {
  readonly place: Workplace
  readonly groups: Groups
  readonly migration: Migration
  /** The backfill's own lanes, as the activities run them, until nothing is left. @returns rows written */
  copy(signal?: AbortSignal): Promise<number>
  /** What the migration builds after the copy: here the secondary index, concurrently. */
  complete(): Promise<void>
  /** Takes back everything, the new table too. */
  close(): Promise<void>
}

const watch = { signal: new AbortController().signal, report: () => undefined }

export const expandItems = (
  url: string,
  profile: 'gentle' | 'fast',
  order?: Migration['backfill']['order'],
): Promise<Stage> => expand(url, itemsMigration({ profile, ...(order && { order }) }))

export async function expand(url: string, migration: Migration): Promise<Stage> {
  const database = await openDatabase('default', { url, maxConnections: 16 })
  const scope = database.dialect.catalog.scope(migration.name)
  const place = { database, scope }
  const foundation = foundationSteps(database.dialect, migration)
  for (const step of foundation) await runStep(place, step, [], watch)
  const groups = await database.transaction((tx) => resolveGroups(tx, database.dialect, scope, migration))
  const capture = captureSteps(database.dialect, migration, groups)
  for (const step of capture) await runStep(place, step, [], watch)
  const completion = completionSteps(database.dialect, migration)
  return {
    place,
    groups,
    migration,
    copy: (signal = watch.signal) => copyAll(place, groups, migration, signal),
    async complete() {
      for (const step of completion) await runStep(place, step, [], watch)
    },
    async close() {
      for (const step of [...foundation, ...capture, ...completion].reverse())
        await undoStep(place, step, [], watch)
      await database.close()
    },
  }
}

async function copyAll(
  place: Workplace,
  groups: Groups,
  migration: Migration,
  signal: AbortSignal,
): Promise<number> {
  const { database, scope } = place
  const { ranges } = database.dialect
  const { backfill } = migration
  const tables = Object.values(tablesOf(migration)).flat()
  const planned = await database.transaction(async (tx) => {
    // Undoing leaves our schema, and with it the ranges of the run before.
    await ranges.reset(tx, scope, 'backfill')
    for (const group of groups.forward)
      await ranges.plan(tx, scope, group, 'backfill', rangeCount(backfill.maxConcurrency), backfill.order)
    return ranges.totals(tx, scope, 'backfill')
  })
  const pace = { signal, until: Infinity, report: () => undefined }
  const lanes = Array.from({ length: laneCount(backfill, planned.ranges) }, (_, lane) =>
    (lane < steadyLanes ? runLane : runFurtherLane)(
      place,
      groups.forward,
      lane,
      backfill,
      createBackfillThrottle(place, backfill, tables, (name) => openDatabase(name)),
      pace,
    ),
  )
  return (await Promise.all(lanes)).reduce((sum, lane) => sum + lane.written, 0)
}

/** Seconds that `work` takes. */
export async function secondsOf(work: () => Promise<unknown>): Promise<number> {
  const startedAt = performance.now()
  await work()
  return (performance.now() - startedAt) / 1000
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b)
  const middle = Math.floor(sorted.length / 2)
  const upper = sorted[middle] ?? 0
  return sorted.length % 2 === 1 ? upper : ((sorted[middle - 1] ?? 0) + upper) / 2
}

/** The median of the ratios run by run: what is compared ran one after the other, so that a slow minute of the machine weighs on both. */
export const ratioOf = (ours: readonly number[], baseline: readonly number[]): number =>
  median(ours.map((value, run) => value / (baseline[run] ?? NaN)))
