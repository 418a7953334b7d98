import { randomUUID } from 'node:crypto'
import type pg from 'pg'
import { describe, expect, inject, test, type TestContext } from 'vitest'
import { connectCrossfade, type MigrationHandle } from '../../src/client.ts'
import type { Phase } from '../../src/core/phases.ts'
import type { DefinitionInput } from '../../src/index.ts'
import { required } from '../support/migration.ts'
import { approve, isLong, observe, untilDetail, untilGate } from '../support/migrations.ts'
import { initialisePgbench, startPgbench, type Pgbench } from '../support/pgbench.ts'
import { postgresVersions, withDatabase, type TestDatabase } from '../support/postgres.ts'
import { eventually } from '../support/wait.ts'
import { Fleet } from '../support/worker-process.ts'

/**
 * pgbench keeps books that must balance: after every transaction the sums of accounts, branches, tellers and of the history are
 * equal. It runs while its largest table is moved from under it, and workers die meanwhile. Danger: "a write is
 * lost, two writers race, backfill overwrites a newer write".
 */

const scale = isLong ? 10 : 2
const accounts = scale * 100_000
/** Beside other tests; the swap of names, and the long form, meet pgbench at full speed. */
const tps = isLong ? undefined : 500
/** How much longer phases that only wait go on under load. */
const longer = isLong ? 5 : 1

/** One way of moving pgbench_accounts. */
interface Move {
  readonly definition: (name: string) => DefinitionInput
  /** Names of both sides' tables while both are kept, and how a row of each reads as aid, bid, balance and filler. */
  sides(app: App): { readonly old: string; readonly new: string }
}

/** What the application (pgbench) writes now. */
interface App {
  readonly side: 'old' | 'new'
}

const common = {
  kind: 'table',
  backfill: { profile: 'fast', maxConcurrency: 2, targetChunkMs: 100 },
  contract: { observe: 1000 * longer, soak: '100ms' },
} satisfies Partial<DefinitionInput>

/** Same names, other types, one column more: an application that does not know goes on with the new table. */
const swap: Move = {
  definition: (name) => ({
    ...common,
    name,
    mappings: [
      {
        source: 'pgbench_accounts',
        target: 'accounts_reshaped',
        key: { aid: 'aid' },
        columns: { bid: true, abalance: 'abalance::numeric', filler: 'filler::text' },
        reverse: { columns: { bid: true, abalance: 'abalance::int', filler: true } },
      },
    ],
    expand: {
      tables: [
        {
          table: 'accounts_reshaped',
          columns: {
            aid: 'bigint NOT NULL',
            bid: 'bigint',
            abalance: 'numeric',
            filler: 'text',
            opened_at: 'timestamptz NOT NULL DEFAULT now()',
          },
          primaryKey: ['aid'],
          indexes: [{ name: 'accounts_by_branch', on: '(bid)' }],
        },
      ],
    },
    retire: { soak: 1000 * longer },
    cutover: {
      mode: 'swap',
      queries: [{ name: 'by key', sql: 'SELECT * FROM accounts_reshaped WHERE aid = 1' }],
    },
  }),
  sides: ({ side }) =>
    side === 'old'
      ? {
          old: 'SELECT aid, bid, abalance, filler::text FROM pgbench_accounts',
          new: 'SELECT aid, bid, abalance, filler FROM accounts_reshaped',
        }
      : {
          old: 'SELECT aid, bid, abalance, filler::text FROM _crossfade_retired_pgbench_accounts',
          new: 'SELECT aid, bid, abalance, filler FROM pgbench_accounts',
        },
}

/** Other names for everything: the application has to be told. */
const flags: Move = {
  definition: (name) => ({
    ...common,
    name,
    mappings: [
      {
        source: 'pgbench_accounts',
        target: 'accounts_v2',
        key: { aid: 'account_id' },
        columns: { branch_id: 'bid', balance: 'abalance::bigint', note: 'filler::text' },
        reverse: { columns: { bid: 'branch_id::int', abalance: 'balance::int', filler: 'note' } },
      },
    ],
    expand: {
      tables: [
        {
          table: 'accounts_v2',
          columns: {
            account_id: 'bigint NOT NULL',
            branch_id: 'bigint',
            balance: 'bigint',
            note: 'text',
          },
          primaryKey: ['account_id'],
        },
      ],
    },
    cutover: {
      ramp: [
        { percent: 50, hold: 2000 * longer },
        { percent: 100, hold: '100ms' },
      ],
    },
    // Within it pgbench is stopped and started twice, and everything is compared.
    retire: { soak: 9_000 * longer },
  }),
  sides: () => ({
    old: 'SELECT aid, bid, abalance, filler::text FROM pgbench_accounts',
    new: 'SELECT account_id, branch_id, balance, note FROM accounts_v2',
  }),
}

/** TPC-B as pgbench has it, on the new table. */
const newScript = `
\\set aid random(1, 100000 * :scale)
\\set bid random(1, 1 * :scale)
\\set tid random(1, 10 * :scale)
\\set delta random(-5000, 5000)
BEGIN;
UPDATE accounts_v2 SET balance = balance + :delta WHERE account_id = :aid;
SELECT balance FROM accounts_v2 WHERE account_id = :aid;
UPDATE pgbench_tellers SET tbalance = tbalance + :delta WHERE tid = :tid;
UPDATE pgbench_branches SET bbalance = bbalance + :delta WHERE bid = :bid;
INSERT INTO pgbench_history (tid, bid, aid, delta, mtime) VALUES (:tid, :bid, :aid, :delta, CURRENT_TIMESTAMP);
END;
`

interface Books {
  readonly accounts: string
  readonly tellers: string
  readonly branches: string
  readonly history: string
}

/** Everything that the test looks at, from sessions of its own. */
class Auditor {
  readonly #database: TestDatabase
  readonly #schema: string
  readonly #move: Move

  constructor(database: TestDatabase, name: string, move: Move) {
    this.#database = database
    this.#schema = `"_crossfade_${name}"`
    this.#move = move
  }

  /** The books of the side that pgbench writes, at one instant. */
  async books(app: App): Promise<Books> {
    const table = this.#move === flags && app.side === 'new' ? 'accounts_v2' : 'pgbench_accounts'
    return this.#snapshot([table], async (client) => {
      const balance = table === 'accounts_v2' ? 'balance' : 'abalance'
      const { rows } = await client.query<Books>(
        `SELECT (SELECT sum(${balance}) FROM ${table})::text AS accounts, (SELECT sum(tbalance) FROM pgbench_tellers)::text AS tellers,
           (SELECT sum(bbalance) FROM pgbench_branches)::text AS branches, (SELECT coalesce(sum(delta), 0) FROM pgbench_history)::text AS history`,
      )
      return required(rows[0], 'the row of sums')
    })
  }

  /**
   * Keys that differ at one instant although no change log has them: there must never be one, whatever is under way. While the
   * backfill runs, a key that the new side does not have yet is no difference.
   */
  async unexplained(
    app: App,
    { complete }: { complete: boolean },
  ): Promise<{ unexplained: number; pending: number }> {
    const sides = this.#move.sides(app)
    return this.#snapshot([], async (client) => {
      const { rows } = await client.query<{ unexplained: number; pending: number }>(
        `WITH pending AS (SELECT k1 FROM ${this.#schema}.changes_f1 UNION SELECT k1 FROM ${this.#schema}.changes_r1)
         SELECT (SELECT count(*)::int FROM pending) AS pending, count(*)::int AS unexplained
           FROM (${sides.old}) AS o(aid, bid, balance, filler) FULL JOIN (${sides.new}) AS n(aid, bid, balance, filler) USING (aid)
          WHERE (o.balance IS DISTINCT FROM n.balance OR o.bid IS DISTINCT FROM n.bid OR o.filler IS DISTINCT FROM n.filler)
            AND ${complete ? 'true' : '(n.balance IS NOT NULL)'} AND NOT EXISTS (SELECT FROM pending WHERE k1 = aid)`,
      )
      return required(rows[0], 'the row of counts')
    })
  }

  async audit(phase: string, app: App, sides: 'one' | 'filling' | 'both'): Promise<void> {
    const books = await this.books(app)
    expect({ phase, ...books }).toEqual({
      phase,
      accounts: books.history,
      tellers: books.history,
      branches: books.history,
      history: books.history,
    })
    if (sides !== 'one') {
      const { unexplained } = await this.unexplained(app, { complete: sides === 'both' })
      expect({ phase, unexplained }).toEqual({ phase, unexplained: 0 })
    }
  }

  async primary(): Promise<string | undefined> {
    const { rows } = await this.#database.pool.query<{ side: string }>(
      `SELECT primary_side AS side FROM ${this.#schema}.state`,
    )
    return rows[0]?.side
  }

  /** With nobody writing: the change log runs empty, and then not one row differs. */
  async settled(app: App): Promise<void> {
    await eventually(async () => (await this.unexplained(app, { complete: true })).pending === 0, {
      timeoutMs: 30_000,
      what: 'the change log to be empty',
    })
    expect(await this.unexplained(app, { complete: true })).toEqual({ unexplained: 0, pending: 0 })
  }

  /** One instant for everything; the lock first, so that the name means the table of that instant. */
  async #snapshot<T>(tables: readonly string[], read: (client: pg.PoolClient) => Promise<T>): Promise<T> {
    const client = await this.#database.pool.connect()
    try {
      await client.query('BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY')
      for (const table of tables) await client.query(`LOCK TABLE ${table} IN ACCESS SHARE MODE`)
      return await read(client)
    } finally {
      await client.query('ROLLBACK')
      client.release()
    }
  }
}

/** Kills the worker that runs something now, as soon as something runs. */
async function killBusyWorker(
  fleet: Fleet,
  observer: Awaited<ReturnType<typeof observe>>,
  handle: MigrationHandle,
  activity?: string,
): Promise<void> {
  await fleet.complete()
  const worker = await eventually(
    async () =>
      (await observer.running(handle))
        .filter(({ type }) => activity === undefined || type === activity)
        .map(({ worker: identity }) => fleet.find(identity))
        .find((found) => found !== undefined),
    { timeoutMs: 30_000, intervalMs: 5, what: `a worker to run ${activity ?? 'something'}` },
  )
  await fleet.kill(worker)
}

async function begin(
  t: TestContext,
  database: TestDatabase,
  move: Move,
): Promise<{
  handle: MigrationHandle
  fleet: Fleet
  auditor: Auditor
  kill: (activity?: string) => Promise<void>
}> {
  const address = required(inject('temporalAddress'), 'the Temporal server')
  const taskQueue = `tpcb-${randomUUID()}`
  const fleet = await Fleet.start(t, { address, taskQueue, databaseUrl: database.url })
  const client = await connectCrossfade({ address, taskQueue })
  t.onTestFinished(() => client.close())
  const observer = await observe(t, address)
  const name = `tpcb-${randomUUID().slice(0, 8)}`
  const handle = await client.start(move.definition(name))
  return {
    handle,
    fleet,
    auditor: new Auditor(database, name, move),
    kill: (activity) => killBusyWorker(fleet, observer, handle, activity),
  }
}

async function untilFinished(handle: MigrationHandle, phase: Phase): Promise<void> {
  await untilDetail(handle, `the end of ${phase}`, ({ finishedPhases }) =>
    finishedPhases.some(({ name }) => name === phase),
  )
}

async function historyRows(database: TestDatabase): Promise<number> {
  const { rows } = await database.pool.query<{ n: number }>('SELECT count(*)::int AS n FROM pgbench_history')
  return rows[0]?.n ?? -1
}

async function stopCounted(bench: Pgbench): Promise<number> {
  const { transactions, failed } = await bench.stop()
  expect(failed).toBe(0)
  expect(transactions).toBeGreaterThan(0)
  return transactions
}

describe.each(postgresVersions())('PostgreSQL %s', (version) => {
  test('pgbench goes on through a swap of names, and its books balance at every boundary', async (t) => {
    const database = await withDatabase(t, version)
    await initialisePgbench(database, scale)
    let bench = startPgbench(t, database, { scale })
    const { handle, fleet, auditor, kill } = await begin(t, database, swap)
    const old: App = { side: 'old' }
    const fresh: App = { side: 'new' }
    let transactions = 0

    await untilGate(handle, 'expand')
    await auditor.audit('expand', old, 'one')
    await approve(handle, 'expand')
    await kill('backfillSlice')
    await auditor.audit('backfill', old, 'filling')
    await untilFinished(handle, 'backfill')
    await auditor.audit('verify', old, 'both')

    await untilGate(handle, 'cutover')
    await auditor.audit('cutover', old, 'both')
    await approve(handle, 'cutover')

    await untilGate(handle, 'retire')
    await auditor.audit('swapped', fresh, 'both')
    await kill('applyChanges')
    await auditor.audit('swapped, a worker killed', fresh, 'both')
    transactions += await stopCounted(bench)
    await auditor.settled(fresh)
    bench = startPgbench(t, database, { scale })
    await approve(handle, 'retire')

    await untilGate(handle, 'contract')
    await auditor.audit('contract', fresh, 'one')
    await approve(handle, 'contract')
    expect((await handle.result()).outcome).toBe('done')
    await auditor.audit('done', fresh, 'one')

    transactions += await stopCounted(bench)
    expect(await historyRows(database)).toBe(transactions)
    const { rows } = await database.pool.query(
      `SELECT count(*)::int AS accounts, count(opened_at)::int AS opened, pg_typeof(min(abalance))::text AS type FROM pgbench_accounts`,
    )
    expect(rows).toEqual([{ accounts, opened: accounts, type: 'numeric' }])
    expect(fleet.kills).toBe(2)
  })

  test('pgbench is moved by flags to a table with other names, and no transaction is missing', async (t) => {
    const database = await withDatabase(t, version)
    await initialisePgbench(database, scale)
    let bench = startPgbench(t, database, { scale, tps, protocol: 'prepared' })
    const { handle, fleet, auditor, kill } = await begin(t, database, flags)
    const old: App = { side: 'old' }
    const fresh: App = { side: 'new' }
    let transactions = 0

    await approve(handle, 'expand')
    await kill('backfillSlice')
    await auditor.audit('backfill', old, 'filling')
    await untilFinished(handle, 'backfill')
    await auditor.audit('verify', old, 'both')
    await approve(handle, 'cutover')
    await untilDetail(handle, 'reads at 50 %', ({ readPercent }) => readPercent >= 50)
    await auditor.audit('ramp', old, 'both')
    await kill('sampleParity')

    await untilGate(handle, 'retire')
    await auditor.audit('cutover', old, 'both')
    await approve(handle, 'retire')
    await eventually(async () => (await auditor.primary()) === 'new', {
      timeoutMs: 60_000,
      what: 'the new side to be primary',
    })
    transactions += await stopCounted(bench)
    await auditor.settled(fresh) // what was written to the old side until it knew
    bench = startPgbench(t, database, { scale, tps, protocol: 'prepared', script: newScript })
    await auditor.audit('retire', fresh, 'both')
    transactions += await stopCounted(bench)
    await auditor.settled(fresh)
    bench = startPgbench(t, database, { scale, tps, protocol: 'prepared', script: newScript })

    await untilGate(handle, 'contract')
    await auditor.audit('contract', fresh, 'one')
    await approve(handle, 'contract')
    expect((await handle.result()).outcome).toBe('done')
    await auditor.audit('done', fresh, 'one')

    transactions += await stopCounted(bench)
    expect(await historyRows(database)).toBe(transactions)
    const { rows } = await database.pool.query(
      `SELECT count(*)::int AS accounts, to_regclass('pgbench_accounts') AS old FROM accounts_v2`,
    )
    expect(rows).toEqual([{ accounts, old: null }])
    expect(fleet.kills).toBe(2)
  })
})
