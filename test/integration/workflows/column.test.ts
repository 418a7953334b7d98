import { randomUUID } from 'node:crypto'
import { describe, expect, test } from 'vitest'
import type { DefinitionInput } from '../../../src/index.ts'
import type { MigrationHandle } from '../../../src/client.ts'
import { openDatabase } from '../../../src/database/index.ts'
import { startService } from '../../support/migration.ts'
import { approve, untilDetail, untilGate } from '../../support/migrations.ts'
import { postgresVersions, withDatabase, type TestDatabase } from '../../support/postgres.ts'

const definition = (name: string, more: Partial<DefinitionInput> = {}): DefinitionInput => ({
  name,
  kind: 'column',
  mappings: [
    {
      source: 'users',
      key: { id: 'id' },
      columns: {
        first: "split_part(name, ' ', 1)",
        last: "split_part(name, ' ', 2)",
        settings: "jsonb_build_object('raw', settings_text)",
      },
      reverse: { columns: { name: "first || ' ' || last", settings_text: "settings ->> 'raw'" } },
    },
  ],
  expand: {
    columns: [
      { table: 'users', name: 'first', type: 'text', notNull: true, replaces: 'name' },
      { table: 'users', name: 'last', type: 'text', notNull: true, default: "'Doe'", replaces: 'name' },
      { table: 'users', name: 'settings', type: 'jsonb', replaces: 'settings_text' },
    ],
    columnIndexes: [{ table: 'users', name: 'users_last', on: '(last)' }],
  },
  cutover: {
    ramp: [{ percent: 100, hold: '100ms' }],
    queries: [{ name: 'by last', sql: "SELECT * FROM users WHERE last = 'l5'", index: 'users_last' }],
  },
  retire: { soak: '1s' },
  contract: { observe: '1s', soak: '100ms' },
  backfill: { profile: 'fast' },
  safety: { requireApproval: false },
  ...more,
})

const schema = `CREATE TABLE users (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text CONSTRAINT has_name NOT NULL DEFAULT 'no name',
    settings_text varchar(100), CONSTRAINT name_length CHECK (length(name) < 100));
  CREATE INDEX users_name ON users (name);
  INSERT INTO users (name, settings_text) SELECT 'f' || i || ' l' || i, nullif(i % 3, 0)::text FROM generate_series(1, 20000) i; ANALYZE users`

const insertOld = `INSERT INTO users (name, settings_text) SELECT 'Ada Lovelace', 'x'; UPDATE users SET name = 'Alan Turing' WHERE id = 7`
const insertNew = `INSERT INTO users (first, last, settings) SELECT 'Grace', 'Hopper', '{"raw": "y"}'; UPDATE users SET last = 'King' WHERE id = 8`

async function inventory(database: TestDatabase): Promise<string[]> {
  const opened = await openDatabase('default', { url: database.url, maxConnections: 1 })
  try {
    return await opened.transaction((tx) => opened.dialect.catalog.inventory(tx))
  } finally {
    await opened.close()
  }
}

describe.each(postgresVersions())('kind column on PostgreSQL %s', (version) => {
  test('lives through every phase, and only the new columns are left', async (t) => {
    const database = await withDatabase(t, version)
    await database.pool.query(schema)
    const { client } = await startService(t, database)
    const handle = await client.start(definition(`column-${randomUUID().slice(0, 8)}`))
    const { outcome } = await untilDetail(handle, 'its end', (detail) => detail.outcome !== 'running')
    expect(outcome).toBe('done')
    const columns = await database.pool.query(
      `SELECT attname, attnotnull, pg_get_expr(adbin, adrelid) AS fallback FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
       WHERE attrelid = 'users'::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum`,
    )
    expect(columns.rows).toEqual([
      { attname: 'id', attnotnull: true, fallback: null },
      { attname: 'first', attnotnull: true, fallback: null },
      { attname: 'last', attnotnull: true, fallback: "'Doe'::text" },
      { attname: 'settings', attnotnull: false, fallback: null },
    ])
    const rows = await database.pool.query(
      `SELECT count(*)::int AS n FROM users WHERE first = 'f' || id AND last = 'l' || id AND settings = jsonb_build_object('raw', nullif(id % 3, 0)::text)`,
    )
    expect(rows.rows).toEqual([{ n: 20000 }])
    const left = await database.pool.query(
      `SELECT tgname AS name FROM pg_trigger WHERE tgrelid = 'users'::regclass UNION SELECT conname FROM pg_constraint WHERE conrelid = 'users'::regclass AND contype = 'c'`,
    )
    expect(left.rows).toEqual([])
  })

  type Step = (handle: MigrationHandle, database: TestDatabase) => Promise<unknown>
  const untilCutover: Step = async (handle, database) => {
    await approve(handle, 'expand')
    await untilGate(handle, 'cutover')
    await database.pool.query(insertOld)
    await database.pool.query(insertNew)
  }
  const untilRetire: Step = async (handle, database) => {
    await untilCutover(handle, database)
    await approve(handle, 'cutover')
    await untilGate(handle, 'retire')
  }
  const untilSoak: Step = async (handle, database) => {
    await untilRetire(handle, database)
    await approve(handle, 'retire')
    await untilDetail(handle, 'the soak', ({ phase, hold }) => phase === 'retire' && hold !== undefined)
    await database.pool.query(insertNew)
  }

  test.for([
    ['the backfill', untilCutover],
    ['the ramp', untilRetire],
    ['the new side became primary', untilSoak],
  ] as [string, Step][])(
    'goes back after %s with the catalogue as before and nothing lost',
    async ([, until], t) => {
      const database = await withDatabase(t, version)
      await database.pool.query(schema)
      const before = await inventory(database)
      const { client } = await startService(t, database)
      const handle = await client.start(
        definition(`back-${randomUUID().slice(0, 8)}`, {
          safety: { requireApproval: true },
          retire: { soak: '1h' },
        }),
      )
      await until(handle, database)
      await handle.abort({ by: 'the test', cleanUp: true })
      const { outcome } = await untilDetail(handle, 'its end', (detail) => detail.outcome !== 'running')
      expect(outcome).toBe('aborted')
      expect(await inventory(database)).toEqual(before)
      const names = await database.pool.query(
        `SELECT name, settings_text, count(*)::int AS n FROM users WHERE id > 20000 OR id IN (7, 8) GROUP BY 1, 2 ORDER BY 1`,
      )
      expect(
        names.rows.map(({ name, settings_text }: Record<string, string>) => `${name} ${settings_text}`),
      ).toEqual(['Ada Lovelace x', 'Alan Turing 1', 'Grace Hopper y', 'f8 King 2'])
    },
  )

  const counters = (name: string, more: Partial<DefinitionInput> = {}): DefinitionInput => ({
    name,
    kind: 'column',
    mappings: [
      {
        source: 'counters',
        key: { id: 'id' },
        columns: { n2: 'n::bigint', id2: 'id::bigint' },
        reverse: { columns: { n: 'n2::int', id: 'id2::int' } },
      },
    ],
    expand: {
      columns: ['n', 'id'].map((old) => ({
        table: 'counters',
        name: `${old}2`,
        type: 'bigint',
        notNull: true,
        replaces: old,
      })),
    },
    cutover: { mode: 'swap' },
    retire: { soak: '1s' },
    contract: { observe: '1s', soak: '100ms' },
    backfill: { profile: 'fast' },
    safety: { requireApproval: false },
    ...more,
  })
  const counterTable = `CREATE TABLE counters (id serial PRIMARY KEY, n int NOT NULL DEFAULT 0 CHECK (n >= 0), note text); CREATE INDEX counters_n ON counters (n);
    INSERT INTO counters (n) SELECT 0 FROM generate_series(1, 5000); ANALYZE counters;
    CREATE TABLE notes (counter int NOT NULL REFERENCES counters ON DELETE CASCADE)`

  /** Adds one to a row again and again under the one name that it knows. @returns how often, when it is stopped */
  function count(database: TestDatabase): () => Promise<number> {
    let isOver = false
    const counting = (async () => {
      let done = 0
      for (; !isOver; done++) {
        await database.pool.query('UPDATE counters SET n = n + 1 WHERE id = $1', [1 + (done % 5000)])
        // A child of a row that is there, and of one that is new.
        await database.pool.query(
          'WITH made AS (INSERT INTO counters DEFAULT VALUES RETURNING id) INSERT INTO notes SELECT $1::int UNION ALL SELECT id FROM made',
          [1 + (done % 5000)],
        )
      }
      return done
    })()
    counting.catch(() => undefined)
    return () => {
      isOver = true
      return counting
    }
  }
  const total = async (database: TestDatabase): Promise<number> =>
    Number(
      (await database.pool.query<{ n: string }>('SELECT sum(n) AS n FROM counters WHERE id <= 5000')).rows[0]
        ?.n,
    )

  const rowsOf = async (database: TestDatabase): Promise<unknown> =>
    (
      await database.pool.query(
        'SELECT (SELECT count(*)::int FROM counters) AS counters, (SELECT count(*)::int FROM notes JOIN counters ON id = counter) AS notes',
      )
    ).rows[0]

  test('exchanges the names of columns under an application that never notices', async (t) => {
    const database = await withDatabase(t, version)
    await database.pool.query(counterTable)
    const { client } = await startService(t, database)
    const stop = count(database)
    const handle = await client.start(counters(`swap-${randomUUID().slice(0, 8)}`))
    const { outcome } = await untilDetail(handle, 'its end', (detail) => detail.outcome !== 'running')
    expect(outcome).toBe('done')
    const done = await stop()
    expect(await total(database)).toBe(done)
    expect(await rowsOf(database)).toEqual({ counters: 5000 + done, notes: 2 * done })
    await database.pool.query(
      `SELECT setval('counters_id_seq', 3000000000); INSERT INTO counters DEFAULT VALUES`,
    )
    const columns = await database.pool.query(
      `SELECT attname, format_type(atttypid, NULL) AS type, attnotnull FROM pg_attribute WHERE attrelid = 'counters'::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum`,
    )
    expect(columns.rows).toEqual([
      { attname: 'note', type: 'text', attnotnull: false },
      { attname: 'n', type: 'bigint', attnotnull: true },
      { attname: 'id', type: 'bigint', attnotnull: true },
    ])
    const indexes = await database.pool.query(
      `SELECT pg_get_indexdef(indexrelid) AS d FROM pg_index WHERE indrelid = 'counters'::regclass ORDER BY 1`,
    )
    expect(indexes.rows).toEqual([
      { d: 'CREATE INDEX counters_n ON public.counters USING btree (n)' },
      { d: 'CREATE UNIQUE INDEX counters_pkey ON public.counters USING btree (id)' },
    ])
    const constraints = await database.pool.query(
      `SELECT conname || ' ' || pg_get_constraintdef(oid) || ' ' || convalidated AS d FROM pg_constraint WHERE conrelid IN ('counters'::regclass, 'notes'::regclass) AND contype <> 'n' ORDER BY 1`,
    )
    expect(constraints.rows).toEqual([
      { d: 'counters_n_check CHECK ((n >= 0)) true' },
      { d: 'counters_pkey PRIMARY KEY (id) true' },
      { d: 'notes_counter_fkey FOREIGN KEY (counter) REFERENCES counters(id) ON DELETE CASCADE true' },
    ])
  })

  test('exchanges them back, with the catalogue as before and nothing lost', async (t) => {
    const database = await withDatabase(t, version)
    await database.pool.query(counterTable)
    const before = await inventory(database)
    const { client } = await startService(t, database)
    const stop = count(database)
    const handle = await client.start(
      counters(`unswap-${randomUUID().slice(0, 8)}`, { retire: { soak: '1h' } }),
    )
    await untilDetail(handle, 'the soak', ({ phase, hold }) => phase === 'retire' && hold !== undefined)
    await handle.abort({ by: 'the test', cleanUp: true })
    const { outcome } = await untilDetail(handle, 'its end', (detail) => detail.outcome !== 'running')
    expect(outcome).toBe('aborted')
    const done = await stop()
    expect(await total(database)).toBe(done)
    expect(await rowsOf(database)).toEqual({ counters: 5000 + done, notes: 2 * done })
    expect(await inventory(database)).toEqual(before)
  })
})
