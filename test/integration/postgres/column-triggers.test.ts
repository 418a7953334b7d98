import { describe, expect, test, type TestContext } from 'vitest'
import { captureFindings } from '../../../src/sync/capture.ts'
import { movePrimary } from '../../../src/ddl/move-primary.ts'
import {
  expand,
  watch,
  withBothSides,
  type BothSides,
  type SmallDefinition,
} from '../../support/both-sides.ts'
import { postgresVersions, type PostgresVersion } from '../../support/postgres.ts'

/** Two new columns for one old, and back. */
const names: SmallDefinition = {
  kind: 'column',
  mappings: [
    {
      source: 'users',
      key: { id: 'id' },
      columns: { first: "split_part(name, ' ', 1)", last: "nullif(split_part(name, ' ', 2), '')" },
      reverse: { columns: { name: "concat_ws(' ', first, last)" } },
    },
  ],
  expand: {
    columns: [
      { table: 'users', name: 'first', type: 'text', replaces: 'name' },
      { table: 'users', name: 'last', type: 'text', replaces: 'name' },
    ],
  },
}

const users = `CREATE TABLE users (id int PRIMARY KEY, name text NOT NULL, email text);
  INSERT INTO users SELECT i, 'f' || i || ' l' || i, 'e' || i FROM generate_series(1, 5) i`

const withNames = (t: TestContext, version: PostgresVersion, more = ''): Promise<BothSides> =>
  withBothSides(t, version, `${users}; ${more}`, names)

const row = async (m: BothSides, id = 1): Promise<unknown> =>
  (await m.sql('SELECT name, first, last FROM users WHERE id = $1', [id]))[0]

describe.each(postgresVersions())('sync within a row on PostgreSQL %s', (version) => {
  describe('follows the side that a statement changed', () => {
    test('the old one', async (t) => {
      const m = await withNames(t, version)
      await m.sql(
        `UPDATE users SET name = 'Ada Lovelace' WHERE id = 1; INSERT INTO users VALUES (9, 'Alan Turing')`,
      )
      expect(await row(m)).toEqual({ name: 'Ada Lovelace', first: 'Ada', last: 'Lovelace' })
      expect(await row(m, 9)).toEqual({ name: 'Alan Turing', first: 'Alan', last: 'Turing' })
    })

    test('the new one, on which NOT NULL of the old one does not fall', async (t) => {
      const m = await withNames(t, version)
      await m.sql(`UPDATE users SET first = 'Ada', last = 'King' WHERE id = 1`)
      await m.sql(`INSERT INTO users (id, first, last) VALUES (9, 'Alan', 'Turing')`)
      expect(await row(m)).toEqual({ name: 'Ada King', first: 'Ada', last: 'King' })
      expect(await row(m, 9)).toEqual({ name: 'Alan Turing', first: 'Alan', last: 'Turing' })
    })

    test('the new one in part, on a row that was not filled yet: the rest is not forgotten', async (t) => {
      const m = await withNames(t, version)
      await m.sql(`UPDATE users SET last = 'King' WHERE id = 1`)
      expect(await row(m)).toEqual({ name: 'f1 King', first: 'f1', last: 'King' })
      await m.sql(`UPDATE users SET last = NULL WHERE id = 1`)
      expect(await row(m)).toEqual({ name: 'f1', first: 'f1', last: null })
    })

    test('none, where an unrelated column changed: a value of the application stays', async (t) => {
      const m = await withNames(t, version)
      await m.sql(`UPDATE users SET first = 'Jean Luc', last = 'Picard' WHERE id = 1`)
      await m.sql(`UPDATE users SET email = 'new' WHERE id = 1`)
      expect(await row(m)).toEqual({ name: 'Jean Luc Picard', first: 'Jean Luc', last: 'Picard' })
      // Not yet filled, and not touched either: that is the backfill's.
      await m.sql(`UPDATE users SET email = 'new' WHERE id = 2`)
      expect(await row(m, 2)).toEqual({ name: 'f2 l2', first: null, last: null })
    })

    test('the primary one, where both changed', async (t) => {
      const m = await withNames(t, version)
      const both = `UPDATE users SET name = 'Old Side', first = 'New', last = 'Half' WHERE id = 1`
      await m.sql(both)
      expect(await row(m)).toEqual({ name: 'Old Side', first: 'Old', last: 'Side' })
      await movePrimary(m.place, m.migration, m.groups, 'new', watch)
      await m.sql(`UPDATE users SET name = 'x', first = 'y', last = 'z' WHERE id = 1; ${both}`)
      expect(await row(m)).toEqual({ name: 'New Half', first: 'New', last: 'Half' })
    })

    test('as given, where an INSERT gives both', async (t) => {
      const m = await withNames(t, version)
      await m.sql(`INSERT INTO users (id, name, first, last) VALUES (9, 'A B', 'A', 'C')`)
      expect(await row(m, 9)).toEqual({ name: 'A B', first: 'A', last: 'C' })
    })

    test('the new one, where the old one only has its default', async (t) => {
      const m = await withNames(t, version, `ALTER TABLE users ALTER name SET DEFAULT 'no name'`)
      await m.sql(
        `INSERT INTO users (id, first, last) VALUES (9, 'Alan', 'Turing'); INSERT INTO users (id) VALUES (10)`,
      )
      expect(await row(m, 9)).toEqual({ name: 'Alan Turing', first: 'Alan', last: 'Turing' })
      expect(await row(m, 10)).toEqual({ name: 'no name', first: 'no', last: 'name' })
    })

    test('the primary one, where an INSERT gives neither', async (t) => {
      const m = await withNames(t, version, `ALTER TABLE users ALTER name SET DEFAULT 'no name'`)
      await m.sql(`INSERT INTO users (id) VALUES (9)`)
      expect(await row(m, 9)).toEqual({ name: 'no name', first: 'no', last: 'name' })
      await movePrimary(m.place, m.migration, m.groups, 'new', watch)
      await m.sql(`INSERT INTO users (id) VALUES (10)`)
      expect(await row(m, 10)).toEqual({ name: 'no name', first: null, last: null })
    })

    test('each pair by itself', async (t) => {
      const m = await withBothSides(
        t,
        version,
        'CREATE TABLE t (id int PRIMARY KEY, a int, b int); INSERT INTO t VALUES (1, 1, 1), (2, 2, 2)',
        {
          kind: 'column',
          mappings: [
            {
              source: 't',
              key: { id: 'id' },
              columns: { a2: 'a * 10', b2: 'b * 10' },
              reverse: { columns: { a: 'a2 / 10', b: 'b2 / 10' } },
            },
          ],
          expand: {
            columns: [
              { table: 't', name: 'a2', type: 'bigint', replaces: 'a' },
              { table: 't', name: 'b2', type: 'bigint', replaces: ['b'] },
            ],
          },
        },
      )
      await m.sql('UPDATE t SET a = 5, b2 = 70 WHERE id = 1; INSERT INTO t (id, a, b2) VALUES (9, 3, 40)')
      await m.sql('UPDATE t SET b2 = 75 WHERE id = 2') // 7 * 10 does not say 75
      await m.backfill()
      expect(await m.sql('SELECT * FROM t ORDER BY id')).toEqual([
        { id: 1, a: 5, b: 7, a2: '50', b2: '70' },
        { id: 2, a: 2, b: 7, a2: '20', b2: '75' },
        { id: 9, a: 3, b: 4, a2: '30', b2: '40' },
      ])
    })
  })

  test('fires after the triggers of the table’s owner', async (t) => {
    const m = await withNames(
      t,
      version,
      `CREATE FUNCTION tidy() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN NEW.name := initcap(NEW.name); RETURN NEW; END$$;
       CREATE TRIGGER zz_tidy BEFORE INSERT OR UPDATE ON users FOR EACH ROW EXECUTE FUNCTION tidy()`,
    )
    await m.sql(`UPDATE users SET name = 'ada lovelace' WHERE id = 1`)
    expect(await row(m)).toEqual({ name: 'Ada Lovelace', first: 'Ada', last: 'Lovelace' })
  })

  test('is right with generated columns, GENERATED ALWAYS keys and names that mean something to PL/pgSQL', async (t) => {
    const m = await withBothSides(
      t,
      version,
      `CREATE TABLE t (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, "Found" int, "new" int, total int GENERATED ALWAYS AS ("Found" + "new") STORED);
       INSERT INTO t ("Found", "new") VALUES (1, 2), (3, 4)`,
      {
        kind: 'column',
        mappings: [
          {
            source: 't',
            key: { id: 'id' },
            columns: { "tw'ice": `total * 2 + "new" - "new"` },
            reverse: false,
          },
        ],
        expand: { columns: [{ table: 't', name: "tw'ice", type: 'int' }] },
      },
    )
    await m.sql(`INSERT INTO t ("Found", "new") VALUES (10, 20); UPDATE t SET "Found" = 5 WHERE id = 1`)
    await m.backfill()
    expect(await m.sql('SELECT total, "tw\'ice" AS twice FROM t ORDER BY id')).toEqual([
      { total: 7, twice: 14 },
      { total: 7, twice: 14 },
      { total: 30, twice: 60 },
    ])
    // Written by the application: an update of another column must not follow a total that did not change.
    await m.sql(
      `ALTER TABLE t ADD note text; UPDATE t SET "tw'ice" = 1 WHERE id = 2; UPDATE t SET note = 'x' WHERE id = 2`,
    )
    expect(await m.value('SELECT "tw\'ice" FROM t WHERE id = 2')).toBe(1)
  })

  test('fires for sessions that skip ordinary triggers, and says so when it does not', async (t) => {
    const m = await withNames(t, version)
    const replica = await m.session()
    await replica.query(
      `SET session_replication_role = replica; UPDATE users SET name = 'Ada Lovelace' WHERE id = 1`,
    )
    expect(await row(m)).toEqual({ name: 'Ada Lovelace', first: 'Ada', last: 'Lovelace' })
    const findings = (): Promise<string[]> =>
      m.database.transaction((tx) => captureFindings(m.place, tx, [m.forward, m.reverse]))
    expect(await findings()).toEqual([])
    await m.sql('ALTER TABLE users DISABLE TRIGGER "~_crossfade_m_f1_update"')
    expect(await findings()).toContain(
      'trigger ~_crossfade_m_f1_update on public.users is not enabled for every session',
    )
  })

  describe('an expression that raises', () => {
    const numbers: SmallDefinition = {
      kind: 'column',
      mappings: [
        {
          source: 't',
          key: { id: 'id' },
          columns: { n: 'code::int' },
          reverse: { columns: { code: `'code ' || (1000 / n)` } },
        },
      ],
      expand: { columns: [{ table: 't', name: 'n', type: 'smallint', replaces: 'code' }] },
    }
    const t0 = `CREATE TABLE t (id int PRIMARY KEY, code text); INSERT INTO t VALUES (1, '1'), (2, '2')`

    test('leaves the key in the change log, and the statement succeeds', async (t) => {
      const m = await withBothSides(t, version, t0, numbers)
      await m.sql(`UPDATE t SET code = 'one' WHERE id = 1; INSERT INTO t VALUES (3, '99999')`)
      expect(await m.sql('SELECT code, n FROM t WHERE id IN (1, 3) ORDER BY id')).toEqual([
        { code: 'one', n: null },
        { code: '99999', n: null },
      ])
      expect((await m.log()).map(({ key }) => key)).toEqual(['1', '3'])
      await m.sql(`UPDATE t SET code = '7' WHERE id IN (1, 3)`)
      await m.drain()
      expect(await m.sql('SELECT n FROM t WHERE id <> 2')).toEqual([{ n: 7 }, { n: 7 }])
    })

    test('also on the way back', async (t) => {
      const m = await withBothSides(t, version, t0, numbers)
      await m.sql(`UPDATE t SET n = 0 WHERE id = 1`)
      expect(await m.sql('SELECT code, n FROM t WHERE id = 1')).toEqual([{ code: '1', n: 0 }])
      expect((await m.log(m.reverse)).map(({ key }) => key)).toEqual(['1'])
      await m.sql(`UPDATE t SET n = 4 WHERE id = 1`)
      await m.drain(m.reverse)
      expect(await m.sql('SELECT code, n FROM t WHERE id = 1')).toEqual([{ code: 'code 250', n: 4 }])
    })

    test('is passed over by the backfill, which ends', async (t) => {
      const m = await withBothSides(
        t,
        version,
        `${t0}; INSERT INTO t SELECT i, CASE WHEN i % 100 = 0 THEN 'x' ELSE i::text END FROM generate_series(3, 1000) i`,
        numbers,
      )
      const { rows, written, refused } = await m.backfill()
      expect({ rows, written, refused }).toEqual({ rows: 1000, written: 990, refused: 10 })
      expect((await m.log()).map(({ key }) => key)).toEqual(
        Array.from({ length: 10 }, (_, i) => String(100 * (i + 1))),
      )
    })
  })

  describe('mappings that cannot be followed are refused before any trigger stands', () => {
    const attempt = (
      t: TestContext,
      columns: Record<string, string>,
      reverse: Record<string, string> | false,
      type = 'text',
    ): Promise<BothSides> =>
      withBothSides(t, version, users, {
        kind: 'column',
        mappings: [
          {
            source: 'users',
            key: { id: 'id' },
            columns,
            reverse: reverse === false ? false : { columns: reverse },
          },
        ],
        expand: {
          columns: Object.keys(columns).map((name, i) => ({
            table: 'users',
            name,
            type,
            ...(reverse === false ? {} : { replaces: i === 0 ? 'name' : 'email' }),
          })),
        },
      })

    test.for([
      ['a new column computed from a new one', { a: 'name', b: 'a' }, false, /read the new column a/],
      [
        'a way back that reads another pair',
        { a: 'name', b: 'email' },
        { name: 'a', email: 'a || b' },
        /reads a, which does not say/,
      ],
      ['a column that is not there', { a: 'nobody' }, false, /nobody/],
    ] as [string, Record<string, string>, Record<string, string> | false, RegExp][])(
      '%s',
      async ([, columns, reverse, message], t) => {
        await expect(attempt(t, columns, reverse)).rejects.toMatchObject({
          code: 'PLAN.MAPPING_REFUSED',
          message: expect.stringMatching(message) as string,
        })
      },
    )

    test('a type that does not take the value', async (t) => {
      await expect(attempt(t, { a: 'name' }, false, 'int')).rejects.toMatchObject({
        code: 'PLAN.MAPPING_REFUSED',
      })
    })
  })

  test('expand can be run twice', async (t) => {
    const m = await withNames(t, version)
    await expand(m.place, m.migration)
    await m.sql(`UPDATE users SET name = 'Ada Lovelace' WHERE id = 1`)
    expect(await row(m)).toEqual({ name: 'Ada Lovelace', first: 'Ada', last: 'Lovelace' })
  })
})
