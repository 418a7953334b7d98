import { randomUUID } from 'node:crypto'
import { loadavg } from 'node:os'
import { describe, expect, test, type TestContext } from 'vitest'
import type { MigrationHandle } from '../../src/client.ts'
import type { DefinitionInput } from '../../src/index.ts'
import { Application, readFlags } from '../support/application.ts'
import { inventory } from '../support/inventory.ts'
import { itemsToGoods } from '../support/items-to-goods.ts'
import { startService } from '../support/migration.ts'
import { approve, observe, untilDetail, untilGate, type Observer } from '../support/migrations.ts'
import {
  postgresVersions,
  withDatabase,
  type PostgresVersion,
  type TestDatabase,
} from '../support/postgres.ts'
import { eventually } from '../support/wait.ts'

/**
 * Danger: "there is no way back". A migration is aborted in every phase while an application works: its traffic is back within a
 * second, nothing that it wrote is lost, no statement of it fails, and the catalogue is what it was.
 */

const rows = 2_000
/** From the call of abort; more where the machine has other things to do. */
const withinMs = (): number => 1_000 * Math.max(1, (loadavg()[0] ?? 0) / 2)

const definition = (name: string, mode: 'flags' | 'swap'): DefinitionInput => ({
  ...itemsToGoods,
  name,
  expand: {
    tables: [
      { ...itemsToGoods.expand.tables[0], checks: [{ name: 'goods_price', expression: 'price >= 0' }] },
    ],
    sql: [
      {
        name: 'a-view',
        up: 'CREATE VIEW cheap_goods AS SELECT * FROM goods WHERE price < 10',
        down: 'DROP VIEW IF EXISTS cheap_goods',
      },
    ],
  },
  cutover: {
    mode,
    ramp: [
      { percent: 50, hold: '1h' },
      { percent: 100, hold: '1h' },
    ],
  },
  retire: { soak: '1h' },
  contract: { observe: '1h' },
  backfill: { maxConcurrency: 2, batchSize: 500, rateLimitMs: 0 },
})

/** What an exchange of names takes along, there and back. */
const pointingAtItems = `
  CREATE TABLE stock (item int CONSTRAINT stock_item REFERENCES items ON DELETE CASCADE, n int);
  INSERT INTO stock SELECT id, 1 FROM items;
  CREATE VIEW labels WITH (security_barrier) AS SELECT name FROM items; GRANT SELECT ON labels TO PUBLIC;
  CREATE VIEW short_labels AS SELECT name FROM labels WHERE length(name) < 9;
  CREATE PUBLICATION sold FOR TABLE items (id, name)`

interface Scene {
  readonly database: TestDatabase
  readonly handle: MigrationHandle
  readonly observer: Observer
  readonly schema: string
  readonly application: Application
  readonly before: string[]
}

async function begin(
  t: TestContext,
  version: PostgresVersion,
  mode: 'flags' | 'swap',
  change: (definition: DefinitionInput) => DefinitionInput = (same) => same,
): Promise<Scene> {
  const database = await withDatabase(t, version)
  await database.pool.query(`
    CREATE TABLE items (id int PRIMARY KEY, name text NOT NULL, price int NOT NULL);
    CREATE INDEX items_name ON items (name);
    COMMENT ON TABLE items IS 'what we sell';
    GRANT SELECT ON items TO PUBLIC;
    INSERT INTO items SELECT i, 'name ' || i, i % 100 FROM generate_series(1, ${rows}) i`)
  if (mode === 'swap') await database.pool.query(pointingAtItems)
  const before = await inventory(database)
  const { client, address } = await startService(t, database)
  const name = `abort-${randomUUID().slice(0, 8)}`
  const application = new Application(t, database, { name, mode, rows })
  application.start()
  const handle = await client.start(change(definition(name, mode)))
  return {
    database,
    handle,
    observer: await observe(t, address),
    schema: `"_crossfade_${name}"`,
    application,
    before,
  }
}

/** Aborts, and measures from another session how long the new side was in use after the call. */
async function abort({ database, handle, schema, application }: Scene, cleanUp = true): Promise<number> {
  await eventually(() => application.hasJustLooked, {
    intervalMs: 5,
    what: 'the application to look at the flags',
  })
  const startedAt = performance.now()
  const answered = handle.abort({ by: 'the test', reason: 'to see the way back', cleanUp })
  await eventually(
    async () => {
      const known = await readFlags(database, schema)
      const swapped = await database.pool.query(
        `SELECT FROM pg_attribute WHERE attrelid = 'items'::regclass AND attname = 'price' AND atttypid = 'numeric'::regtype`,
      )
      return swapped.rowCount === 0 && (!known || (known.primary === 'old' && known.readPercent === 0))
    },
    { intervalMs: 5, timeoutMs: 30_000, what: 'traffic to be on the old side' },
  )
  const tookMs = performance.now() - startedAt
  expect(await answered).toBe('traffic returns to the old side')
  return tookMs
}

async function expectAsBefore({ database, handle, application, before }: Scene): Promise<void> {
  const { outcome, status } = await handle.result()
  expect({ outcome, primary: status.primary, readPercent: status.readPercent }).toEqual({
    outcome: 'aborted',
    primary: 'old',
    readPercent: 0,
  })
  await application.stop()
  expect(application.failures).toEqual([])
  expect(await inventory(database)).toEqual(before)
  expect(before.filter((line) => line.includes('_crossfade'))).toEqual([])
  await expectAllWritten(database, 'items', application)
}

async function expectAllWritten(
  database: TestDatabase,
  table: string,
  { written }: Application,
): Promise<void> {
  expect(written.size).toBeGreaterThan(0)
  const { rows: lost } = await database.pool.query(
    `SELECT id, price::text AS has, wants FROM unnest($1::int[], $2::int[]) AS w(id, wants) LEFT JOIN ${table} USING (id) WHERE price IS DISTINCT FROM wants LIMIT 10`,
    [[...written.keys()], [...written.values()]],
  )
  expect(lost).toEqual([])
  expect((await database.pool.query(`SELECT count(*)::int AS n FROM ${table}`)).rows).toEqual([{ n: rows }])
}

/** The application has written after this: what it knows of the flags, it has acted on. */
async function untilWritten({ application }: Scene, side: 'old' | 'new'): Promise<void> {
  await eventually(() => application.primary === side, { what: `the application to write the ${side} side` })
  application.written.clear()
  await eventually(() => application.written.size > 20, { what: 'the application to write' })
}

const slow = (input: DefinitionInput): DefinitionInput => ({
  ...input,
  backfill: { maxConcurrency: 2, batchSize: 20, maxBatchSize: 20, rateLimitMs: 100 },
})

/** Where it is aborted, and how it gets there. */
const moments: readonly {
  readonly name: string
  readonly mode: 'flags' | 'swap'
  readonly change?: (definition: DefinitionInput) => DefinitionInput
  readonly arrive: (scene: Scene) => Promise<void>
}[] = [
  {
    name: 'at the gate of expand',
    mode: 'flags',
    arrive: async ({ handle }) => void (await untilGate(handle, 'expand')),
  },
  {
    name: 'as soon as both sides are written',
    mode: 'flags',
    arrive: async ({ handle, observer }) => {
      await approve(handle, 'expand')
      await observer.untilPhase(handle, 'dual-write')
    },
  },
  {
    name: 'in the middle of the backfill',
    mode: 'flags',
    change: slow,
    arrive: async ({ handle, database }) => {
      await approve(handle, 'expand')
      await eventually(
        async () =>
          ((await database.pool.query<{ n: number }>(`SELECT count(*)::int AS n FROM goods`)).rows[0]?.n ??
            0) > 100,
      )
    },
  },
  {
    name: 'in a verification that waits for a refused row',
    mode: 'flags',
    arrive: async ({ handle, database, observer }) => {
      // The new side's CHECK refuses it: it stays in the change log, and the comparison cannot settle.
      await database.pool.query(`INSERT INTO items VALUES (${rows + 1}, 'refused', -1)`)
      await approve(handle, 'expand')
      await observer.untilPhase(handle, 'verify')
      await database.pool.query(`DELETE FROM items WHERE id = ${rows + 1}`)
    },
  },
  {
    name: 'at the gate of cutover',
    mode: 'flags',
    arrive: async ({ handle }) => {
      await approve(handle, 'expand')
      await untilGate(handle, 'cutover')
    },
  },
  {
    name: 'in the ramp at 50 %',
    mode: 'flags',
    arrive: async ({ handle, application }) => {
      await approve(handle, 'expand')
      await approve(handle, 'cutover')
      await untilDetail(handle, 'reads at 50 %', ({ readPercent }) => readPercent === 50)
      await eventually(() => application.reads === 'new', { what: 'the application to read the new side' })
    },
  },
  {
    name: 'in the soak, when the new side is primary',
    mode: 'flags',
    change: (input) => ({ ...input, cutover: { ramp: [{ percent: 100, hold: '100ms' }] } }),
    arrive: async (scene) => {
      for (const gate of ['expand', 'cutover', 'retire'] as const) await approve(scene.handle, gate)
      await untilDetail(
        scene.handle,
        'the soak',
        ({ hold, primary }) => primary === 'new' && hold !== undefined,
      )
      await untilWritten(scene, 'new')
    },
  },
  {
    name: 'after the swap of names',
    mode: 'swap',
    arrive: async (scene) => {
      for (const gate of ['expand', 'cutover'] as const) await approve(scene.handle, gate)
      await untilGate(scene.handle, 'retire')
      await untilWritten(scene, 'new')
    },
  },
]

describe.each(postgresVersions())('PostgreSQL %s', (version) => {
  for (const { name, mode, change, arrive } of moments)
    test(`aborted ${name}`, async (t) => {
      const scene = await begin(t, version, mode, change)
      await arrive(scene)
      const tookMs = await abort(scene)
      process.stderr.write(
        `PostgreSQL ${version}: traffic was back ${Math.round(tookMs)} ms after abort ${name}\n`,
      )
      expect(tookMs).toBeLessThan(withinMs())
      await expectAsBefore(scene)
    })

  test('aborted without clean-up says what is kept, and keeps it', async (t) => {
    const scene = await begin(t, version, 'flags')
    await approve(scene.handle, 'expand')
    await untilGate(scene.handle, 'cutover')
    await abort(scene, false)
    expect((await scene.handle.result()).outcome).toBe('aborted')
    expect((await scene.handle.audit()).map(({ what }) => what).join('\n')).toMatch(
      /what is new and the schema _crossfade_abort-\w+ are kept/,
    )
    await scene.application.stop()
    expect(scene.application.failures).toEqual([])
    const now = await inventory(scene.database)
    expect(now.some((line) => line.includes('goods'))).toBe(true)
    expect(now.filter((line) => line.startsWith('trigger'))).toEqual([]) // nothing works on
    await expectAllWritten(scene.database, 'items', scene.application)
  })

  test('aborted while writes to the old side are being stopped, it stays where every write is', async (t) => {
    const scene = await begin(t, version, 'flags', (input) => ({
      ...input,
      cutover: { ramp: [{ percent: 100, hold: '100ms' }] },
      retire: { soak: '1s' },
    }))
    const { database, handle } = scene
    for (const gate of ['expand', 'cutover', 'retire'] as const) await approve(handle, gate)
    await untilWritten(scene, 'new')
    const holder = await database.pool.connect()
    try {
      // The trigger that would note stray writers cannot be installed; those that keep the old side in step are gone by then.
      await holder.query('BEGIN; LOCK TABLE items IN ROW EXCLUSIVE MODE')
      await eventually(
        async () =>
          (
            await database.pool.query(
              `SELECT FROM pg_trigger WHERE tgrelid = 'goods'::regclass AND NOT tgisinternal`,
            )
          ).rowCount === 0,
        { timeoutMs: 30_000, what: 'the old side to be left behind' },
      )
      await untilWritten(scene, 'new')
      await handle.abort({ by: 'the test' })
    } finally {
      await holder.query('ROLLBACK')
      holder.release()
    }
    const { outcome, status } = await handle.result()
    await scene.application.stop()
    expect(outcome).toBe('aborted')
    expect(scene.application.failures).toEqual([])
    await expectAllWritten(database, status.primary === 'new' ? 'goods' : 'items', scene.application)
  })

  test('aborted in the contract, traffic stays on the new side', async (t) => {
    const scene = await begin(t, version, 'flags', (input) => ({
      ...input,
      cutover: { ramp: [{ percent: 100, hold: '100ms' }] },
      retire: { soak: '3s' },
      contract: { observe: '100ms', soak: '1h' },
    }))
    for (const gate of ['expand', 'cutover', 'retire'] as const) await approve(scene.handle, gate)
    await untilGate(scene.handle, 'contract')
    await untilWritten(scene, 'new')
    expect(await scene.handle.abort({ by: 'the test' })).toMatch(/stays on the new side/)
    const { outcome, status } = await scene.handle.result()
    expect({ outcome, primary: status.primary, readPercent: status.readPercent }).toEqual({
      outcome: 'aborted',
      primary: 'new',
      readPercent: 100,
    })
    expect(await readFlags(scene.database, scene.schema)).toEqual({ primary: 'new', readPercent: 100 })
    await scene.application.stop()
    expect(scene.application.failures).toEqual([])
    await expectAllWritten(scene.database, 'goods', scene.application)
  })

  test('paused, configured and resumed in every phase that works or waits', async (t) => {
    const { handle, database, application } = await begin(t, version, 'flags', (input) => ({
      ...slow(input),
      cutover: {
        ramp: [
          { percent: 50, hold: '500ms' },
          { percent: 100, hold: '500ms' },
        ],
      },
      retire: { soak: '3s' },
      contract: { observe: '500ms', soak: '500ms' },
    }))
    const by = 'the test'
    const copied = async (): Promise<number> =>
      (await database.pool.query<{ n: number }>('SELECT count(*)::int AS n FROM goods')).rows[0]?.n ?? 0
    /** Pauses, sees that nothing works but the sync, and resumes. */
    const paused = async (): Promise<void> => {
      await handle.pause({ by })
      await eventually(
        async () =>
          (await handle.status()).activities.every(({ type }) =>
            ['applyChanges', 'sampleParity'].includes(type),
          ),
        { timeoutMs: 30_000, what: 'all work to stop' },
      )
      const phase = (await handle.status()).phase
      application.written.clear()
      await eventually(() => application.written.size > 20, { what: 'the application to go on' })
      expect((await handle.status()).phase).toBe(phase)
      await handle.resume({ by })
    }

    await untilGate(handle, 'expand')
    await paused()
    await approve(handle, 'expand')
    await eventually(async () => (await copied()) > 100)
    await paused()
    const slowly = await copied()
    expect(slowly).toBeLessThan(rows)
    await handle.configure({ by, batchSize: 500, maxBatchSize: 500, rateLimitMs: 0, profile: 'fast' })
    await untilGate(handle, 'cutover')
    await paused()
    await approve(handle, 'cutover')
    await untilDetail(handle, 'the ramp', ({ readPercent }) => readPercent > 0)
    await paused()
    await untilGate(handle, 'retire')
    await approve(handle, 'retire')
    await untilDetail(handle, 'the soak', ({ primary }) => primary === 'new')
    await paused()
    await untilGate(handle, 'contract')
    await paused()
    await application.stop()
    await approve(handle, 'contract')
    expect((await handle.result()).outcome).toBe('done')
    expect(application.failures).toEqual([])
    await expectAllWritten(database, 'goods', application)
  })

  test('aborts by itself when it has worked for longer than it may', async (t) => {
    const scene = await begin(t, version, 'flags', (input) => ({
      ...slow(input),
      safety: { maxRuntimeMinutes: 0.02 },
    }))
    await approve(scene.handle, 'expand')
    await scene.handle.result()
    const status = await scene.handle.status()
    expect(status.detail?.abort).toMatchObject({
      by: 'crossfade',
      reason: expect.stringContaining('maxRuntimeMinutes'),
    })
    await expectAsBefore(scene)
  })
})
