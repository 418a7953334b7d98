import pg from 'pg'
import type { TestContext } from 'vitest'
import type { CopyOrder } from '../../src/core/copy-order.ts'
import { resolveGroups, type Groups } from '../../src/copy/groups.ts'
import type { Pace, Workplace } from '../../src/copy/workplace.ts'
import {
  openDatabase,
  type Database,
  type Key,
  type RangeState,
  type SyncGroup,
} from '../../src/database/index.ts'
import { captureSteps, foundationSteps } from '../../src/ddl/expand-steps.ts'
import { runStep } from '../../src/ddl/run-step.ts'
import type { PostgresServer } from '../../src/dev/postgres-server.ts'
import { resolveMigration, type DefinitionInput, type Migration } from '../../src/definition/index.ts'
import { runLane } from '../../src/backfill/run-lane.ts'
import { applyRound, readChangeLogs } from '../../src/sync/apply-changes.ts'
import { isLong } from './migrations.ts'
import { withDatabase, type PostgresVersion, type TestDatabase } from './postgres.ts'
import { eventually } from './wait.ts'

/** A session of the application: one connection of its own, so that transactions can be interleaved step by step. */
export interface Session {
  readonly pid: number
  query(sql: string, values?: unknown[]): Promise<pg.QueryResult<Record<string, unknown>>>
  close(): Promise<void>
}

export interface LogLine {
  readonly kind: string
  readonly key: string
  readonly attempts: number
  /** A second look, which waits for chunks. */
  readonly waits: boolean
  readonly reason: string | null
}

/** A database whose two sides exist and whose changes are captured: what expand leaves behind. */
export interface BothSides {
  readonly test: TestDatabase
  readonly database: Database
  readonly place: Workplace
  readonly migration: Migration
  readonly groups: Groups
  readonly forward: SyncGroup
  readonly reverse: SyncGroup
  sql(text: string, values?: unknown[]): Promise<Record<string, unknown>[]>
  /** The first column of the first row. */
  value(text: string, values?: unknown[]): Promise<unknown>
  session(application?: string): Promise<Session>
  /** Another pool of ours whose sessions start with these settings. */
  open(settings: Readonly<Record<string, string>>, applicationName?: string): Promise<Workplace>
  log(group?: SyncGroup): Promise<LogLine[]>
  /** Applies until nothing is pending. */
  drain(group?: SyncGroup): Promise<void>
  backfill(options?: BackfillOptions): Promise<{ rows: number; written: number; refused: number }>
  /** At most 20 rows that only one of two queries returns. */
  differences(left: string, right: string): Promise<Record<string, unknown>[]>
}

export const never = new AbortController().signal

/** A pace that reports to nobody and ends after `ms`. */
export const paceOf = <Progress>(ms = 60_000, signal: AbortSignal = never): Pace<Progress> => ({
  signal,
  until: Date.now() + ms,
  report: () => undefined,
})

export const watch = { signal: never, report: (): void => undefined }

export type SmallDefinition = Omit<DefinitionInput, 'name' | 'kind'> & Partial<Pick<DefinitionInput, 'kind'>>

/** Makes the tables of `schema`, then does what expand does for `definition`. */
export async function withBothSides(
  t: TestContext,
  on: PostgresVersion | PostgresServer,
  schema: string,
  definition: SmallDefinition,
): Promise<BothSides> {
  const test = await withDatabase(t, on)
  await test.pool.query(schema)
  const migration = resolveMigration({ name: 'm', kind: 'table', ...definition })
  const closing: (() => Promise<void>)[] = []
  // Registered after the database's own, so run before it.
  t.onTestFinished(async () => {
    for (const close of closing) await close()
  })
  const open: BothSides['open'] = async (settings, applicationName = 'crossfade') => {
    const options = Object.entries(settings).map(([name, value]) => `-c ${name}=${value}`)
    const url =
      options.length === 0 ? test.url : `${test.url}?options=${encodeURIComponent(options.join(' '))}`
    const opened = await openDatabase('default', { url, maxConnections: 12, applicationName })
    closing.push(() => opened.close())
    return { database: opened, scope: opened.dialect.catalog.scope(migration.name) }
  }
  const place = await open({})
  const { database } = place
  const groups = await expand(place, migration)
  const sql = async (text: string, values?: unknown[]): Promise<Record<string, unknown>[]> =>
    (await test.pool.query<Record<string, unknown>>(text, values)).rows
  const [forward, reverse] = [groups.forward[0], groups.reverse[0]] as [SyncGroup, SyncGroup]
  return {
    test,
    database,
    place,
    migration,
    groups,
    forward,
    reverse,
    sql,
    open,
    value: async (text, values) => Object.values((await sql(text, values))[0] ?? {})[0],
    session: async (application = 'application') => {
      const session = await openSession(test.url, application)
      closing.push(() => session.close())
      return session
    },
    log: async (group = forward) => {
      const key = group.keyTypes.map((_, i) => `k${i + 1}::text`).join(` || '|' || `)
      const log = `"${place.scope.schema}"."changes_${group.id}"`
      return (await sql(
        `SELECT kind::text, coalesce(${key}, '') AS key, attempts, look_after IS NOT NULL AS waits, reason FROM ${log} ORDER BY id`,
      )) as unknown as LogLine[]
    },
    drain: (group = forward) => drainLog(place, group),
    backfill: (options) => backfillAll(place, groups, migration, options),
    differences: (left, right) =>
      sql(
        `(SELECT '<' AS side, a::text AS row FROM (${left} EXCEPT ALL ${right}) a) UNION ALL ` +
          `(SELECT '>' AS side, b::text AS row FROM (${right} EXCEPT ALL ${left}) b) LIMIT 20`,
      ),
  }
}

/** All steps of expand, and the groups that they make. */
export async function expand(place: Workplace, migration: Migration): Promise<Groups> {
  const { database, scope } = place
  for (const step of foundationSteps(database.dialect, migration)) await runStep(place, step, [], watch)
  const groups = await database.transaction((tx) => resolveGroups(tx, database.dialect, scope, migration))
  for (const step of captureSteps(database.dialect, migration, groups)) await runStep(place, step, [], watch)
  return groups
}

export async function openSession(url: string, application: string): Promise<Session> {
  const client = new pg.Client({ connectionString: url, application_name: application })
  // Tests terminate sessions on purpose.
  client.on('error', () => undefined)
  await client.connect()
  let isOpen = true
  return {
    pid: (client as unknown as { processID: number }).processID,
    query: (sql, values) => client.query<Record<string, unknown>>(sql, values),
    close: async () => {
      if (!isOpen) return
      isOpen = false
      await client.end().catch(() => undefined)
    },
  }
}

export async function drainLog(place: Workplace, group: SyncGroup): Promise<void> {
  await eventually(
    async () => {
      await applyRound(place, group)
      return (await readChangeLogs(place, [group]))[0]?.pending === 0
    },
    { what: `the change log of ${group.id} to be empty`, timeoutMs: isLong ? 600_000 : 20_000 },
  )
}

export interface BackfillOptions {
  readonly lanes?: number
  readonly ranges?: number
  readonly batchSize?: number
  /** How long a lane may take. Default a minute. */
  readonly forMs?: number
  readonly order?: CopyOrder
}

export async function backfillAll(
  place: Workplace,
  groups: Groups,
  migration: Migration,
  {
    lanes = 1,
    ranges = 4,
    batchSize = migration.backfill.batchSize,
    forMs = 60_000,
    order,
  }: BackfillOptions = {},
): Promise<{ rows: number; written: number; refused: number }> {
  const { database, scope } = place
  await planRanges(place, groups.forward, 'backfill', ranges, order)
  const settings = { ...migration.backfill, batchSize, rateLimitMs: 0, profile: 'fast' as const }
  const free = (): Promise<undefined> => Promise.resolve(undefined)
  const results = await Promise.all(
    Array.from({ length: lanes }, (_, lane) =>
      runLane(place, groups.forward, lane, settings, free, paceOf(forMs)),
    ),
  )
  const totals = await database.transaction((tx) => database.dialect.ranges.totals(tx, scope, 'backfill'))
  if (!results.every((result) => result.done) || totals.rangesDone !== totals.ranges)
    throw new Error('A lane did not end.')
  const sum = (of: (result: (typeof results)[number]) => number): number =>
    results.reduce((total, result) => total + of(result), 0)
  return { rows: sum((r) => r.rows), written: sum((r) => r.written), refused: sum((r) => r.refused) }
}

export async function planRanges(
  { database, scope }: Workplace,
  groups: readonly SyncGroup[],
  purpose: 'backfill' | 'verify',
  count: number,
  order?: CopyOrder,
): Promise<void> {
  await database.transaction(async (tx) => {
    await database.dialect.ranges.reset(tx, scope, purpose)
    for (const group of groups) await database.dialect.ranges.plan(tx, scope, group, purpose, count, order)
  })
}

/** Claims a range for `lane`, as a lane does when it starts. */
export async function claimRange(
  { database, scope }: Workplace,
  group: SyncGroup,
  lane = 0,
): Promise<RangeState> {
  const state = await database.transaction((tx) =>
    database.dialect.ranges.claim(tx, scope, group.id, 'backfill', lane),
  )
  if (!state) throw new Error('There is no range.')
  return state
}

export const toKeys = (...keys: (string | number)[]): Key[] => keys.map((key) => [String(key)])
