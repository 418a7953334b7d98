import { describe, expect, test, type TestContext } from 'vitest'
import { resolveGroups } from '../../../src/copy/groups.ts'
import type { SyncGroup } from '../../../src/database/index.ts'
import { followPartitions } from '../../../src/sync/capture.ts'
import { movePrimary } from '../../../src/ddl/move-primary.ts'
import { swapNames } from '../../../src/ddl/swap.ts'
import type { DefinitionInput } from '../../../src/definition/index.ts'
import { resolveMigration } from '../../../src/definition/index.ts'
import { makePlan } from '../../../src/plan/make-plan.ts'
import { applyRound } from '../../../src/sync/apply-changes.ts'
import { verifyLane } from '../../../src/verify/verify-lane.ts'
import { paceOf, planRanges, toKeys, watch, withBothSides, type BothSides } from '../../support/both-sides.ts'
import { postgresVersions, type PostgresVersion } from '../../support/postgres.ts'
import { randomFrom } from '../../support/seeded.ts'
import { eventually } from '../../support/wait.ts'

/** Orders drive; their customers (a row each, or none) and their lines (many) are read beside them. */
const schema = `
  CREATE TABLE customers (id int PRIMARY KEY, name text NOT NULL, blocked boolean NOT NULL DEFAULT false);
  CREATE TABLE orders (id bigint PRIMARY KEY, customer int, note text);
  CREATE INDEX ON orders (customer);
  CREATE TABLE lines (order_id bigint, n int, amount numeric NOT NULL, PRIMARY KEY (order_id, n));
  INSERT INTO customers SELECT i, 'c' || i, i % 7 = 0 FROM generate_series(1, 50) i;
  INSERT INTO orders SELECT i, CASE WHEN i % 11 > 0 THEN i % 55 END, 'o' || i FROM generate_series(1, 1000) i;
  INSERT INTO lines SELECT i, n, i + n FROM generate_series(1, 1000) i, generate_series(1, 3) n WHERE (i + n) % 5 > 0;
  CREATE TABLE views (id bigint PRIMARY KEY, customer text, total numeric, note text)`

const mapping = {
  source: 'orders',
  target: 'views',
  key: { id: 'id' },
  dependsOn: [
    { table: 'customers', on: { id: 'customer' } },
    { table: 'lines', on: { order_id: 'id' } },
  ],
  columns: {
    customer: '(SELECT name FROM customers c WHERE c.id = orders.customer)',
    total: '(SELECT sum(amount) FROM lines WHERE order_id = orders.id)',
    note: true,
  },
  where: 'NOT EXISTS (SELECT FROM customers c WHERE c.id = orders.customer AND blocked)',
  reverse: { columns: { note: true } },
} satisfies DefinitionInput['mappings'][number]

const prepare = (t: TestContext, version: PostgresVersion): Promise<BothSides> =>
  withBothSides(t, version, schema, { mappings: [mapping] })

const differences = (m: BothSides): Promise<unknown[]> =>
  m.differences(
    `SELECT o.id, c.name AS customer, (SELECT sum(amount) FROM lines WHERE order_id = o.id) AS total, note
     FROM orders o LEFT JOIN customers c ON c.id = o.customer WHERE c.blocked IS NOT true`,
    'SELECT * FROM views',
  )

describe.each(postgresVersions())('several sources of one target on PostgreSQL %s', (version) => {
  test('a change of each is followed: values, links, rows that enter and leave', async (t) => {
    const m = await prepare(t, version)
    await m.backfill()
    expect(await differences(m)).toEqual([])
    for (const write of [
      `UPDATE customers SET name = name || '!' WHERE id < 10`,
      `UPDATE customers SET blocked = NOT blocked WHERE id IN (1, 7, 14, 20)`,
      `UPDATE customers SET id = id + 1000 WHERE id IN (2, 3)`, // its orders lose it: the old link value
      `UPDATE customers SET id = 52 WHERE id = 4`, // and others win it: the new one
      `DELETE FROM customers WHERE id IN (5, 7)`,
      `INSERT INTO customers VALUES (51, 'new', false), (53, 'blocked', true)`,
      `INSERT INTO lines SELECT id, 9, 100 FROM orders WHERE id % 3 = 0`,
      `UPDATE lines SET order_id = order_id + 1 WHERE n = 9`,
      `DELETE FROM lines WHERE n = 2; UPDATE lines SET amount = amount * 2 WHERE order_id < 50`,
      `UPDATE orders SET customer = 8 WHERE id BETWEEN 100 AND 120; DELETE FROM orders WHERE id < 20`,
      `UPDATE orders SET id = id + 5000 WHERE id BETWEEN 200 AND 230`,
      `INSERT INTO orders SELECT 2000 + i, 52, 'late' FROM generate_series(1, 300) i`, // more than inlineRows
      `BEGIN ISOLATION LEVEL SERIALIZABLE; UPDATE customers SET name = 's' WHERE id = 8; COMMIT`,
      `TRUNCATE lines`,
      `TRUNCATE customers; INSERT INTO customers SELECT i, 'again', i % 2 = 0 FROM generate_series(1, 30) i`,
    ]) {
      await m.sql(write)
      await m.drain()
      expect(await differences(m), write).toEqual([])
    }
  })

  test('whichever commits last is copied: an order and its customer, the one open while the other commits', async (t) => {
    const m = await prepare(t, version)
    await m.backfill()
    const [a, b] = [await m.session(), await m.session()]
    const order = `INSERT INTO orders VALUES (3000, 10, 'race')`
    const moved = `UPDATE orders SET customer = 10 WHERE id = 301`
    const customer = `UPDATE customers SET name = name || '?' WHERE id = 10`
    for (const [first, second] of [
      [order, customer],
      [customer, moved],
      [moved.replace('10', '12'), customer.replace('10', '12')],
      [`UPDATE customers SET blocked = true WHERE id = 12`, `UPDATE orders SET note = 'seen' WHERE id = 301`],
      [`DELETE FROM customers WHERE id = 10`, `INSERT INTO orders VALUES (3001, 10, 'orphan')`],
    ] as const) {
      await a.query('BEGIN')
      await a.query(first)
      await b.query(second)
      await m.drain()
      await a.query('COMMIT')
      await m.drain()
      expect(await differences(m), `${first}, meanwhile ${second}`).toEqual([])
    }
  })

  test('a chunk that has read before the change is overtaken by it', async (t) => {
    const m = await prepare(t, version)
    const [link] = m.forward.links
    await m.sql(`INSERT INTO customers VALUES (60, 'a', false), (61, 'b', false);
      INSERT INTO orders VALUES (4000, 60, 'x'), (4001, 60, 'y'), (4002, 61, 'z')`)
    await m.drain()
    await m.sql(`DELETE FROM views`)
    const { database, scope } = m.place
    let round: Promise<unknown> | undefined
    await database.transaction(async (tx) => {
      await database.dialect.ranges.markChunkRunning(tx, scope)
      await database.dialect.copy.insertMissing(tx, link, { after: undefined, upTo: undefined }, 'fail')
      await m.sql(
        `UPDATE customers SET name = 'overtaken' WHERE id = 60; UPDATE customers SET blocked = true WHERE id = 61`,
      )
      await m.sql(`DELETE FROM lines WHERE order_id = 1`)
      round = applyRound(m.place, m.forward)
      await eventually(() => m.value(`SELECT pid FROM pg_locks WHERE NOT granted LIMIT 1`))
    })
    await round
    await m.drain()
    expect(await differences(m)).toEqual([])
    expect(await m.value(`SELECT count(*)::int FROM views WHERE customer = 'overtaken'`)).toBeGreaterThan(0)
  })

  test('writers of all three tables, two appliers and lanes: nothing is left behind', async (t) => {
    const m = await prepare(t, version)
    const seed = Date.now() % 1_000_000
    const random = randomFrom(seed)
    const one = (n: number): number => 1 + Math.floor(random() * n)
    const writes = [
      () => `UPDATE customers SET name = 'n${one(99)}' WHERE id = ${one(50)}`,
      () => `UPDATE customers SET blocked = NOT blocked WHERE id = ${one(50)}`,
      () => `UPDATE orders SET customer = ${one(55)} WHERE id = ${one(1000)}`,
      () => `DELETE FROM orders WHERE id = ${one(1000)}`,
      () => `INSERT INTO orders VALUES (${one(1200)}, ${one(55)}, 'w') ON CONFLICT DO NOTHING`,
      () => `UPDATE lines SET amount = amount + 1 WHERE order_id = ${one(1000)}`,
      () => `DELETE FROM customers WHERE id = ${one(50)}`,
      () => `INSERT INTO customers VALUES (${one(50)}, 'back') ON CONFLICT DO NOTHING`,
    ]
    const until = performance.now() + 4000
    const writer = async (): Promise<void> => {
      const session = await m.session()
      while (performance.now() < until) {
        const statements = Array.from({ length: one(2) }, () => writes[one(writes.length) - 1]?.() ?? '')
        // Deadlocks of the application with itself are its own.
        await session
          .query(`BEGIN; ${statements.join('; ')}; ${random() < 0.9 ? 'COMMIT' : 'ROLLBACK'}`)
          .catch(() => session.query('ROLLBACK'))
      }
    }
    const applier = async (): Promise<void> => {
      while (performance.now() < until) await applyRound(m.place, m.forward)
    }
    await Promise.all([
      writer(),
      writer(),
      writer(),
      applier(),
      applier(),
      m.backfill({ batchSize: 60, lanes: 2 }),
    ])
    await m.drain()
    expect(await differences(m), `seed ${seed}`).toEqual([])
  })

  test('verification reads the same, and waits for what a change of another table touches', async (t) => {
    const m = await prepare(t, version)
    await m.backfill()
    const { database, scope } = m.place
    const pending = (key: number): Promise<unknown[]> =>
      database.transaction((tx) =>
        database.dialect.changeLog
          .pendingKeys(tx, scope, m.forward, toKeys(key, key + 1))
          .then((k) => [...k]),
      )
    await m.sql(`UPDATE customers SET name = 'pending' WHERE id = 8`)
    expect(await pending(8)).toEqual([['8']])
    await m.drain()
    expect(await pending(8)).toEqual([])
    await m.sql(`TRUNCATE lines`)
    expect(await pending(8)).toEqual([['8'], ['9']])
    await m.drain()
    await m.sql(`UPDATE views SET customer = 'wrong', total = 1 WHERE id = 8; DELETE FROM views WHERE id = 9`)
    await planRanges(m.place, m.groups.forward, 'verify', 2)
    const result = await verifyLane(m.place, m.groups.forward, 0, paceOf(), { repair: true })
    expect(result).toMatchObject({ mismatched: 2, repaired: 2 })
    await m.drain()
    expect(await differences(m)).toEqual([])
  })

  test('a table may depend on itself', async (t) => {
    const m = await withBothSides(
      t,
      version,
      `CREATE TABLE staff (id int PRIMARY KEY, name text, boss int); CREATE INDEX ON staff (boss);
       CREATE TABLE people (id int PRIMARY KEY, name text, boss text);
       INSERT INTO staff SELECT i, 'n' || i, nullif(i / 10, 0) FROM generate_series(1, 300) i`,
      {
        mappings: [
          {
            source: 'staff',
            target: 'people',
            key: { id: 'id' },
            dependsOn: [{ table: 'staff', on: { id: 'boss' } }],
            columns: { name: true, boss: '(SELECT b.name FROM staff b WHERE b.id = staff.boss)' },
            reverse: { columns: { name: true } },
          },
        ],
      },
    )
    await m.backfill()
    for (const write of [
      `UPDATE staff SET name = name || '!' WHERE id IN (1, 2, 15)`,
      `DELETE FROM staff WHERE id IN (3, 12)`,
      `UPDATE staff SET id = id + 1000 WHERE id = 4; UPDATE staff SET id = 3 WHERE id = 5`,
      `UPDATE staff SET boss = id, name = 'own boss' WHERE id = 6`,
      `TRUNCATE staff; INSERT INTO staff VALUES (1, 'a', 2), (2, 'b', 1)`,
    ]) {
      await m.sql(write)
      await m.drain()
      expect(
        await m.differences(
          'SELECT s.id, s.name, b.name AS boss FROM staff s LEFT JOIN staff b ON b.id = s.boss',
          'SELECT * FROM people',
        ),
        write,
      ).toEqual([])
    }
  })

  test('a partitioned table that is read is followed in each partition, and in those that come', async (t) => {
    const m = await withBothSides(
      t,
      version,
      `CREATE TABLE prices (region text, item int, price numeric, PRIMARY KEY (region, item)) PARTITION BY LIST (region);
       CREATE TABLE prices_eu PARTITION OF prices FOR VALUES IN ('eu'); INSERT INTO prices SELECT 'eu', i, i FROM generate_series(1, 50) i;
       CREATE TABLE sales (id int PRIMARY KEY, region text, item int); CREATE INDEX ON sales (item, region);
       INSERT INTO sales SELECT i, CASE WHEN i % 2 = 0 THEN 'eu' ELSE 'us' END, i % 60 FROM generate_series(1, 300) i;
       CREATE TABLE sums (id int PRIMARY KEY, price numeric)`,
      {
        mappings: [
          {
            source: 'sales',
            target: 'sums',
            key: { id: 'id' },
            dependsOn: [{ table: 'prices', on: { region: 'region', item: 'item' } }],
            columns: {
              price: '(SELECT price FROM prices p WHERE p.region = sales.region AND p.item = sales.item)',
            },
            reverse: false,
          },
        ],
      },
    )
    await m.backfill()
    const { database, scope } = m.place
    const differ = async (): Promise<unknown[]> => {
      const groups = await database.transaction((tx) =>
        resolveGroups(tx, database.dialect, scope, m.migration),
      )
      const [forward] = groups.forward as [SyncGroup]
      await followPartitions(m.place, [forward])
      await m.drain(forward)
      return m.differences(
        'SELECT s.id, p.price FROM sales s LEFT JOIN prices p USING (region, item)',
        'SELECT * FROM sums',
      )
    }
    for (const write of [
      `UPDATE prices_eu SET price = 0 WHERE item < 10`,
      `CREATE TABLE prices_us (LIKE prices INCLUDING ALL); INSERT INTO prices_us SELECT 'us', i, i * 2 FROM generate_series(1, 40) i; ALTER TABLE prices ATTACH PARTITION prices_us FOR VALUES IN ('us')`,
      `UPDATE prices SET region = 'us' WHERE item BETWEEN 45 AND 50; DELETE FROM prices_us WHERE item < 5`,
      `TRUNCATE prices_us`,
    ]) {
      await m.sql(write)
      expect(await differ(), write).toEqual([])
    }
  })

  for (const mode of ['flags', 'swap'] as const)
    test(`${mode}: a change that is open is waited for, then copied`, async (t) => {
      const m = await withBothSides(t, version, schema, {
        mappings: [{ ...mapping, where: undefined }],
        cutover: { mode },
      })
      await m.backfill()
      const session = await m.session()
      await session.query(`BEGIN; UPDATE customers SET name = 'last' WHERE id = 8`)
      const { database, scope } = m.place
      const moved =
        mode === 'flags'
          ? movePrimary(m.place, m.migration, m.groups, 'new', watch)
          : database.transaction((tx) => swapNames(m.place, tx, m.migration, 'to-new'), {
              lockTimeoutMs: 5000,
              applying: scope.migration,
            })
      await eventually(() => m.value(`SELECT pid FROM pg_locks WHERE NOT granted LIMIT 1`))
      await session.query('COMMIT')
      await moved
      const target = mode === 'flags' ? 'views' : 'orders'
      expect(await m.value(`SELECT count(*)::int FROM ${target} WHERE customer = 'last'`)).toBeGreaterThan(0)
      if (mode === 'flags') {
        // From now on the new side's rows are its own.
        await m.sql(`UPDATE ${target} SET note = 'newer' WHERE id = 8`)
        await m.sql(`UPDATE customers SET name = 'later' WHERE id = 8; TRUNCATE lines`)
        await m.drain()
        expect(
          await m.sql(`SELECT customer, note, total IS NULL AS emptied FROM ${target} WHERE id = 8`),
        ).toEqual([{ customer: 'last', note: 'newer', emptied: false }])
        await m.sql(`UPDATE customers SET name = 'left behind' WHERE id = 8`)
        await database.transaction((tx) =>
          database.dialect.triggers.install(tx, scope, m.forward, 'watch', m.migration.sync),
        )
        // What others own is no stray write to the old side.
        expect(await m.sql(`SELECT FROM pg_trigger WHERE tgrelid = 'lines'::regclass`)).toEqual([])
        const state = await database.transaction((tx) =>
          database.dialect.changeLog.state(tx, scope, m.forward),
        )
        expect(state.pending).toBe(0)
      }
      if (mode === 'swap') {
        expect(
          await m.value(`SELECT count(*)::int FROM pg_trigger WHERE tgrelid = 'customers'::regclass`),
        ).toBe(0)
        // From now on its rows are its own under this name, too; what of them the old table has goes back to it.
        const { reverse } = await database.transaction((tx) =>
          resolveGroups(tx, database.dialect, scope, m.migration),
        )
        await m.sql(`UPDATE customers SET name = 'later' WHERE id = 8; TRUNCATE lines`)
        await m.sql(
          `UPDATE orders SET note = 'newer' WHERE id = 8; DELETE FROM orders WHERE id = 9; INSERT INTO orders VALUES (5000, 'none', 7, 'own')`,
        )
        await m.drain(reverse[0])
        expect(
          await m.sql(
            `SELECT id, customer, note, total IS NULL AS emptied FROM orders WHERE id IN (8, 9, 5000) ORDER BY id`,
          ),
        ).toEqual([
          { id: '8', customer: 'last', note: 'newer', emptied: false },
          { id: '5000', customer: 'none', note: 'own', emptied: false },
        ])
        const old = database.dialect.ddl.retiredName({ schema: 'public', name: 'orders' })
        expect(
          await m.sql(`SELECT id, customer, note FROM "${old}" WHERE id IN (8, 9, 5000) ORDER BY id`),
        ).toEqual([
          { id: '8', customer: 8, note: 'newer' },
          { id: '5000', customer: null, note: 'own' },
        ])
      }
    })
})

describe.each(postgresVersions())('what the plan says of several sources on PostgreSQL %s', (version) => {
  test('names, columns, indexes, types, and tables that nothing follows', async (t) => {
    const m = await prepare(t, version)
    const findings = async (change: Partial<DefinitionInput['mappings'][number]>): Promise<string[]> => {
      const migration = resolveMigration({
        name: 'other',
        kind: 'table',
        mappings: [{ ...mapping, where: undefined, ...change }],
      })
      const plan = await makePlan(m.place, migration)
      return plan.findings
        .filter(({ severity }) => severity === 'refusal')
        .map(({ rule, mend }) => `${rule}: ${mend}`)
    }
    const note = { columns: { note: true } } as const
    expect(await findings({})).toEqual([])
    expect(
      await findings({ dependsOn: [{ table: 'clients', on: { id: 'customer' } }], ...note }),
    ).toContainEqual(expect.stringMatching(/^depends-on-missing: Correct mappings/))
    expect(
      await findings({ dependsOn: [{ table: 'customers', on: { no: 'customer' } }], ...note }),
    ).toContainEqual(
      'depends-on-column-missing: Correct mappings[].dependsOn[].on; the table has id, name, blocked.',
    )
    expect(
      await findings({ dependsOn: [{ table: 'customers', on: { id: 'buyer' } }], ...note }),
    ).toContainEqual(
      'depends-on-column-missing: Correct mappings[].dependsOn[].on; the table has id, customer, note.',
    )
    expect(await findings({ dependsOn: [{ table: 'customers', on: { name: 'note' } }], ...note })).toEqual([
      'depends-on-not-indexed: CREATE INDEX CONCURRENTLY ON "public"."customers" ("name");',
      'depends-on-not-indexed: CREATE INDEX CONCURRENTLY ON "public"."orders" ("note");',
    ])
    expect(
      await findings({ dependsOn: [{ table: 'customers', on: { id: 'note' } }], ...note }),
    ).toContainEqual('mapping-refused: Correct the expressions of this mapping.')
    const customers = { table: 'customers', on: { id: 'customer' } }
    const unfollowed = await findings({ dependsOn: [customers] })
    expect(unfollowed).toEqual([expect.stringMatching(/^reads-unfollowed: Add \{ table: 'public.lines'/)])
    expect(await findings({ dependsOn: [customers, { table: 'lines', constant: true }] })).toEqual([])
    await m.sql(`CREATE VIEW clients AS SELECT * FROM customers`)
    expect(
      await findings({ dependsOn: [{ table: 'clients', on: { id: 'customer' } }], ...note }),
    ).toContainEqual(expect.stringMatching(/^source-kind: .*mappings\[\]\.dependsOn/))
  })
})
