import { randomUUID } from 'node:crypto'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import pg from 'pg'
import { describe, expect, inject, test, type TestContext } from 'vitest'
import { connectCrossfade, type MigrationHandle } from '../../src/client.ts'
import { freePort } from '../../src/dev/free-port.ts'
import { startTemporalServer, type TemporalServer } from '../../src/dev/temporal-server.ts'
import type { DefinitionInput } from '../../src/index.ts'
import { Ledger } from '../support/ledger.ts'
import { required } from '../support/migration.ts'
import { approve, isLong, untilDetail, untilGate } from '../support/migrations.ts'
import { ownPostgres, postgresVersions, withDatabase } from '../support/postgres.ts'
import { eventually } from '../support/wait.ts'
import { Fleet, startWorkerProcess } from '../support/worker-process.ts'

/**
 * Servers of the test's own are killed with SIGKILL and started again: Temporal's, and the database under the migration. What must
 * hold: nobody has to do anything, and in the end both the counts and the contents are exact.
 */

const rows = isLong ? 500_000 : 40_000

const definition = (name: string): DefinitionInput => ({
  name,
  kind: 'table',
  mappings: [
    {
      source: 'items',
      target: 'goods',
      key: { id: 'item_id' },
      columns: { name: true, cents: 'price * 100::bigint' },
      reverse: { columns: { name: true, price: '(cents / 100)::int' } },
    },
  ],
  expand: {
    tables: [
      {
        table: 'goods',
        columns: { item_id: 'bigint NOT NULL', name: 'text NOT NULL', cents: 'bigint NOT NULL' },
        primaryKey: ['item_id'],
        indexes: [{ name: 'goods_name', on: '(name)' }],
      },
    ],
  },
  cutover: {
    ramp: [
      { percent: 10, hold: '3s' },
      { percent: 100, hold: '100ms' },
    ],
    queries: [{ name: 'by name', sql: "SELECT * FROM goods WHERE name = 'name 7'", index: 'goods_name' }],
  },
  retire: { soak: '1s' },
  contract: { observe: '1s', soak: '100ms' },
  backfill: { profile: 'fast', maxConcurrency: 2, batchSize: 500, maxBatchSize: 500, rateLimitMs: 40 },
})

/** Rows in the new table: how far the copying is, whatever became of workers and servers. */
async function copied(url: string): Promise<number> {
  return withClient(url, async (client) => {
    const { rows: found } = await client.query<{ n: number }>('SELECT count(*)::int AS n FROM goods')
    return found[0]?.n ?? 0
  })
}

async function withClient<T>(url: string, work: (client: pg.Client) => Promise<T>): Promise<T> {
  const client = new pg.Client({ connectionString: url, application_name: 'test' })
  client.on('error', () => undefined)
  try {
    await client.connect()
    return await work(client)
  } finally {
    await client.end().catch(() => undefined)
  }
}

async function untilCopied(url: string, least: number): Promise<void> {
  await eventually(async () => (await copied(url)) >= least, {
    timeoutMs: 120_000,
    what: `${least} rows to be copied`,
  })
}

/** The new side is the only one, and it has exactly what was acknowledged. */
async function expectExact(handle: MigrationHandle, url: string, ledger: Ledger): Promise<void> {
  const pool = new pg.Pool({ connectionString: url, max: 1 })
  try {
    expect(
      await ledger.differences({ pool }, '(SELECT item_id AS id, name, cents / 100 AS price FROM goods)'),
    ).toEqual([])
    const { rows: left } = await pool.query(
      `SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' ORDER BY 1`,
    )
    expect(left).toEqual([{ relname: 'goods' }])
  } finally {
    await pool.end()
  }
  const { outcome, status } = await handle.result()
  expect(outcome).toBe('done')
  expect(status.verify.mismatched).toBe(0)
}

async function ownTemporal(
  t: TestContext,
): Promise<{ start: () => Promise<TemporalServer>; address: string }> {
  const folder = mkdtempSync(join(tmpdir(), 'crossfade-torture-'))
  const port = await freePort()
  let server: TemporalServer | undefined
  t.onTestFinished(async () => {
    await server?.kill()
    rmSync(folder, { recursive: true, force: true })
  })
  return {
    address: `127.0.0.1:${port}`,
    start: async () =>
      (server = await startTemporalServer({
        port,
        uiPort: false,
        dbFilename: join(folder, 'temporal.db'),
        searchAttributes: {
          CrossfadePhase: 'Keyword',
          CrossfadeWaitingFor: 'Keyword',
          CrossfadeDatabase: 'Keyword',
        },
      })),
  }
}

describe.each(postgresVersions())('PostgreSQL %s', (version) => {
  test('Temporal’s server is killed in the backfill and in the ramp', async (t) => {
    const database = await withDatabase(t, version)
    const ledger = await Ledger.open(t, database, 'items', rows)
    const temporal = await ownTemporal(t)
    let server = await temporal.start()
    const taskQueue = `servers-${randomUUID()}`
    await Fleet.start(t, { address: temporal.address, taskQueue, databaseUrl: database.url }, 1)
    const client = await connectCrossfade({ address: temporal.address, taskQueue })
    t.onTestFinished(() => client.close())
    const handle = await client.start(definition(`servers-${randomUUID().slice(0, 8)}`))
    ledger.start()

    await approve(handle, 'expand')
    await untilCopied(database.url, 1000)
    await server.kill()
    const before = await copied(database.url)
    server = await temporal.start()
    await untilCopied(database.url, before + 1)

    await approve(handle, 'cutover')
    await untilDetail(handle, 'reads at 10 %', ({ readPercent }) => readPercent === 10)
    await server.kill()
    server = await temporal.start()

    await approve(handle, 'retire')
    await ledger.stop() // its table has only days to live
    await approve(handle, 'contract')
    await handle.result()
    await expectExact(handle, database.url, ledger)
  })

  test('the database is killed in the backfill, in an index build and in the ramp', async (t) => {
    const server = await ownPostgres(t, version)
    const { url } = server
    const ledger = await Ledger.open(t, { url }, 'items', rows)
    const address = required(inject('temporalAddress'), 'the Temporal server')
    const taskQueue = `servers-${randomUUID()}`
    await Fleet.start(t, { address, taskQueue, databaseUrl: url }, 1)
    const client = await connectCrossfade({ address, taskQueue })
    t.onTestFinished(() => client.close())
    const handle = await client.start(definition(`servers-${randomUUID().slice(0, 8)}`))
    const crash = async (): Promise<void> => {
      await ledger.interrupt(async () => {
        await server.kill()
        await server.restart()
      })
    }
    ledger.start()

    await approve(handle, 'expand')
    await untilCopied(url, 1000)
    await crash()

    // An index build waits for everybody who has written to the table: so it is caught in the middle.
    const holder = new pg.Client({ connectionString: url, application_name: 'holder' })
    holder.on('error', () => undefined)
    await holder.connect()
    await holder.query('BEGIN; LOCK TABLE goods IN ROW EXCLUSIVE MODE')
    await eventually(
      () =>
        withClient(url, async (other) => {
          const { rowCount } = await other.query(
            `SELECT FROM pg_index WHERE indexrelid = to_regclass('goods_name') AND NOT indisvalid`,
          )
          return rowCount === 1
        }),
      { timeoutMs: 120_000, what: 'the index build to be under way' },
    )
    await crash()
    await holder.end().catch(() => undefined)

    await approve(handle, 'cutover')
    await untilDetail(handle, 'reads at 10 %', ({ readPercent }) => readPercent === 10)
    await crash()

    await approve(handle, 'retire')
    await ledger.stop()
    await approve(handle, 'contract')
    await handle.result()
    await expectExact(handle, url, ledger)
  })

  test('a worker that is there before its servers waits for them', async (t) => {
    const server = await ownPostgres(t, version)
    const { url } = server
    await Ledger.open(t, { url }, 'items', 100)
    await server.kill()
    const temporal = await ownTemporal(t)
    const taskQueue = `servers-${randomUUID()}`
    const worker = startWorkerProcess(t, { address: temporal.address, taskQueue, databaseUrl: url })
    await eventually(() => worker.log().includes('waiting for the Temporal server'), {
      timeoutMs: 60_000,
      what: 'the worker to say that it waits',
    })
    await temporal.start()
    await worker.ready()

    const client = await connectCrossfade({ address: temporal.address, taskQueue })
    t.onTestFinished(() => client.close())
    const handle = await client.start(definition(`servers-${randomUUID().slice(0, 8)}`))
    await eventually(
      async () =>
        (await handle.status()).activities.some(({ type, attempt }) => type === 'plan' && attempt > 1),
      { timeoutMs: 60_000, what: 'the plan to have met no database' },
    )
    await server.restart()
    await untilGate(handle, 'expand')
    await handle.abort({ by: 'the test' })
    expect((await handle.result()).outcome).toBe('aborted')
  })
})
