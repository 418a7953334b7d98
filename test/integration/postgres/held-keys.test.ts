import { describe, expect, test, type TestContext } from 'vitest'
import { completeTargets } from '../../../src/ddl/complete.ts'
import { applyRound } from '../../../src/sync/apply-changes.ts'
import { drainWithin, notDrained } from '../../../src/sync/drain.ts'
import { watch, withBothSides, type BothSides } from '../../support/both-sides.ts'
import { postgresVersions, type PostgresVersion } from '../../support/postgres.ts'

/** A new side with constraints of its own, which rows can only satisfy in an order that copying does not have. */

const both = 'SELECT id, place, boss FROM'

const prepare = (
  t: TestContext,
  version: PostgresVersion,
  {
    indexes = [],
    sql = [],
  }: { indexes?: { name: string; on: string; unique: boolean }[]; sql?: { name: string; up: string }[] },
): Promise<BothSides> =>
  withBothSides(
    t,
    version,
    `CREATE TABLE users (id int PRIMARY KEY, place int NOT NULL UNIQUE DEFERRABLE, boss int REFERENCES users);
     INSERT INTO users SELECT i, i, CASE WHEN i < 200 THEN i + 1 END FROM generate_series(1, 200) i`,
    {
      mappings: [
        {
          source: 'users',
          target: 'people',
          key: { id: 'id' },
          columns: { place: true, boss: true },
          reverse: false,
        },
      ],
      expand: {
        indexes: 'before-backfill',
        tables: [
          {
            table: 'people',
            columns: { id: 'int', place: 'int NOT NULL', boss: 'int' },
            primaryKey: ['id'],
            indexes,
            foreignKeys: [
              { name: 'people_boss', columns: ['boss'], references: { table: 'people', columns: ['id'] } },
            ],
          },
        ],
        sql,
      },
    },
  )

describe.each(postgresVersions())('keys that are held on PostgreSQL %s', (version) => {
  /** What the new side says of its own, which no source has, and what points at its rows: both stay where rows are set aside. */
  const own = [
    {
      name: 'own',
      up: `ALTER TABLE people ADD note text NOT NULL DEFAULT ''; CREATE TABLE notes (person int REFERENCES people ON DELETE CASCADE)`,
    },
  ]
  const shared = [{ name: 'people_place', on: '(place)', unique: true }]

  test('rows that exchange a unique value pass together, in rings, in long rows and with rows that come and go', async (t) => {
    const m = await prepare(t, version, {
      indexes: [
        ...shared,
        { name: 'people_both', on: '((place + 0), boss) WHERE place > -1000000', unique: true },
      ],
      sql: own,
    })
    await m.backfill()
    await m.sql(`UPDATE people SET note = 'of ' || id; INSERT INTO notes SELECT id FROM people`)
    for (const change of [
      'UPDATE users SET place = 3 - place WHERE id IN (1, 2)',
      'UPDATE users SET place = (place + 50) % 100 + 1 WHERE id BETWEEN 1 AND 100',
      'UPDATE users SET place = place + 1',
      'UPDATE users SET place = place - 1',
      'BEGIN; SET CONSTRAINTS ALL DEFERRED; INSERT INTO users SELECT 301, place FROM users WHERE id = 150; UPDATE users SET place = 777 WHERE id = 150; COMMIT',
      // Both leave only their keys, so that the row that comes is met before the one that goes.
      `BEGIN; SET CONSTRAINTS ALL DEFERRED; UPDATE users SET boss = NULL WHERE boss = 180; UPDATE users SET place = (SELECT place FROM users WHERE id = 180) WHERE id = 170; DELETE FROM users WHERE id = 180; COMMIT`,
    ])
      await m.sql(change)
    await applyRound(m.place, m.forward)
    await m.drain()
    expect(await m.differences(`${both} users`, `${both} people`)).toEqual([])
    expect(await m.log()).toEqual([])
    // No row was made anew for it.
    expect(await m.value(`SELECT count(*)::int FROM people WHERE note <> 'of ' || id AND id <= 200`)).toBe(0)
    expect(await m.value('SELECT count(*)::int FROM notes')).toBe(199)
    // In the transaction that has the tables to itself, too.
    await m.sql('UPDATE users SET place = 3 - place WHERE place IN (1, 2)')
    expect(await m.log()).toHaveLength(2)
    await m.database.transaction((tx) => drainWithin(m.place, tx, m.forward), {
      applying: m.place.scope.migration,
    })
    expect(await m.differences(`${both} users`, `${both} people`)).toEqual([])
  })

  test('strings are set aside within the length that their column has', async (t) => {
    const unique = (column: string): string => `CONSTRAINT users_${column} UNIQUE (${column}) DEFERRABLE`
    const m = await withBothSides(
      t,
      version,
      `CREATE TABLE users (id int PRIMARY KEY, code varchar(8) NOT NULL, mark char(4) NOT NULL, ${unique('code')}, ${unique('mark')});
       INSERT INTO users SELECT i, 'code ' || i, i FROM generate_series(1, 20) i`,
      {
        mappings: [
          {
            source: 'users',
            target: 'people',
            key: { id: 'id' },
            columns: { code: true, mark: true },
            reverse: false,
          },
        ],
        expand: {
          indexes: 'before-backfill',
          tables: [
            {
              table: 'people',
              columns: { id: 'int', code: 'varchar(8) NOT NULL', mark: 'char(4) NOT NULL' },
              primaryKey: ['id'],
              indexes: [
                { name: 'people_code', on: '(code)', unique: true },
                { name: 'people_mark', on: '(mark)', unique: true },
              ],
            },
          ],
        },
      },
    )
    await m.backfill()
    await m.sql(`UPDATE users SET code = 'code ' || (id % 20 + 1), mark = id % 20 + 1`)
    await applyRound(m.place, m.forward)
    await m.drain()
    const rows = (table: string): string => `SELECT id, code, mark FROM ${table}`
    expect(await m.differences(rows('users'), rows('people'))).toEqual([])
    expect(await m.log()).toEqual([])
  })

  test('a session that changes such rows meanwhile, and a reader, never see a value that nobody wrote', async (t) => {
    const m = await prepare(t, version, { indexes: shared })
    await m.backfill()
    const stop = new AbortController()
    const seen = new Set<string>()
    const reads = (async () => {
      while (!stop.signal.aborted)
        seen.add(
          String(
            await m.value('SELECT count(*) FILTER (WHERE place NOT BETWEEN 1 AND 200)::int FROM people'),
          ),
        )
    })()
    const applies = [1, 2].map(async () => {
      while (!stop.signal.aborted) await applyRound(m.place, m.forward)
    })
    for (let i = 0; i < 40; i++) await m.sql(`UPDATE users SET place = place % 20 + 1 WHERE place <= 20`)
    stop.abort()
    await Promise.all([reads, ...applies])
    await m.drain()
    expect(await m.differences(`${both} users`, `${both} people`)).toEqual([])
    expect([...seen]).toEqual(['0'])
  })

  test('what another row has is held with the reason, the others go on, and the mend that is named lets them pass', async (t) => {
    const m = await prepare(t, version, {
      indexes: shared,
      sql: [{ name: 'positive', up: 'ALTER TABLE people ADD CHECK (place > 0)' }],
    })
    await m.backfill()
    await m.sql('UPDATE users SET place = 3 - place WHERE id IN (1, 2)')
    await m.sql('UPDATE users SET place = 1000 WHERE id = 3')
    expect(await m.value('SELECT place FROM people WHERE id = 3')).toBe(1000)
    await applyRound(m.place, m.forward)
    const reason = 'SQLSTATE 23505, constraint people_place'
    expect((await m.log()).map(({ key, reason: why }) => ({ key, reason: why }))).toEqual([
      { key: '1', reason },
      { key: '2', reason },
    ])
    const state = await m.database.transaction((tx) =>
      m.database.dialect.changeLog.state(tx, m.place.scope, m.forward),
    )
    expect(state).toMatchObject({ pending: 2, stuck: 2, reason })
    expect(notDrained(m.forward, 2, reason).mend).toContain(
      'UPDATE one of them there to a value that no row has',
    )
    await m.sql('UPDATE people SET place = 5000 WHERE id = 1')
    await m.drain()
    expect(await m.differences(`${both} users`, `${both} people`)).toEqual([])
  })

  test('where the constraint of the new side is deferrable, they pass by themselves', async (t) => {
    const m = await prepare(t, version, {
      sql: [
        {
          name: 'unique-place',
          up: 'ALTER TABLE people ADD CONSTRAINT people_place UNIQUE (place) DEFERRABLE',
        },
      ],
    })
    await m.backfill()
    await m.sql('UPDATE users SET place = 3 - place WHERE id IN (1, 2)')
    expect(await m.log()).toEqual([])
    await m.sql(
      'BEGIN; SET CONSTRAINTS ALL DEFERRED; UPDATE users SET place = 4 WHERE id = 3; UPDATE users SET place = 3 WHERE id = 4; COMMIT',
    )
    // The application deferred the new side's constraint too, which must not fail its COMMIT: it was checked with each statement.
    expect((await m.log()).map(({ key }) => key)).toEqual(['3', '4'])
    await m.drain()
    expect(await m.differences(`${both} users`, `${both} people`)).toEqual([])
    await m.sql('UPDATE people SET place = 1000 WHERE id = 200') // as if somebody had written to the new side
    await m.sql('BEGIN; SET CONSTRAINTS ALL DEFERRED; UPDATE users SET place = 1000 WHERE id = 5; COMMIT')
    expect((await m.log()).map(({ key }) => key)).toEqual(['5'])
  })

  test('rows that somebody holds keep a round for no longer than a second, and are not counted as refused', async (t) => {
    const m = await prepare(t, version, {})
    await m.backfill()
    const holder = await m.session('holder')
    await holder.query('BEGIN; SELECT FROM people FOR UPDATE')
    await m.sql('UPDATE users SET place = place + 1000')
    for (let round = 0; round < 3; round++) {
      const begun = performance.now()
      await applyRound(m.place, m.forward)
      expect(performance.now() - begun).toBeLessThan(4_000)
    }
    const log = await m.log()
    expect(log).toHaveLength(200)
    expect(new Set(log.map(({ attempts, reason }) => `${attempts} ${reason}`))).toEqual(new Set(['1 null']))
    await holder.query('ROLLBACK')
    await m.drain()
    expect(await m.differences(`${both} users`, `${both} people`)).toEqual([])
  })

  test('rows that are heavy are copied by key in transactions that are not', async (t) => {
    const columns = { id: 'int', body: 'bytea' }
    const m = await withBothSides(
      t,
      version,
      `CREATE TABLE files (id int PRIMARY KEY, body bytea); ALTER TABLE files ALTER body SET STORAGE EXTERNAL;
       INSERT INTO files SELECT i, convert_to(repeat(i::text || ' ', 3000000), 'UTF8') FROM generate_series(1, 9) i`,
      {
        mappings: [
          { source: 'files', target: 'blobs', key: { id: 'id' }, columns: { body: true }, reverse: false },
        ],
        expand: { tables: [{ table: 'blobs', columns, primaryKey: ['id'] }] },
      },
    )
    await m.sql(`INSERT INTO _crossfade_m.changes_f1 (kind, k1) SELECT 'c', i FROM generate_series(1, 9) i`)
    await applyRound(m.place, m.forward)
    expect(await m.differences('TABLE files', 'TABLE blobs')).toEqual([])
    // Of 6 MB each, two are less than 16 MiB and three are more.
    expect(await m.sql('SELECT count(*)::int AS rows FROM blobs GROUP BY xmin ORDER BY 1 DESC')).toEqual(
      [2, 2, 2, 2, 1].map((rows) => ({ rows })),
    )
  })

  test('children are copied before their parents, and their key is proven when the change log holds none of them', async (t) => {
    const m = await prepare(t, version, {})
    // Each row's parent is the next one in the order of copying.
    expect(await m.backfill({ batchSize: 10 })).toEqual({ rows: 200, written: 200, refused: 0 })
    const holder = await m.session('holder')
    /** The trigger that would copy the parent gives way and leaves its key; then comes the child. */
    const childFirst = async (parent: number): Promise<void> => {
      await holder.query(`BEGIN; INSERT INTO people VALUES (${parent}, ${parent})`)
      await m.sql(`INSERT INTO users VALUES (${parent}, ${parent}, NULL)`)
      await holder.query('ROLLBACK')
      await m.sql(`INSERT INTO users VALUES (${parent + 1}, ${parent + 1}, ${parent})`)
    }
    await childFirst(500)
    expect((await m.log()).map(({ key }) => key)).toEqual(['500'])
    await completeTargets(m.place, m.migration, m.groups, watch)
    expect(await m.value(`SELECT convalidated FROM pg_constraint WHERE conname = 'people_boss'`)).toBe(true)
    expect(await m.log()).toEqual([])
    // From now on the child is refused until its parent is there.
    await childFirst(600)
    expect((await m.log()).map(({ key }) => key)).toEqual(['600', '601'])
    await m.drain()
    expect(await m.differences(`${both} users`, `${both} people`)).toEqual([])
  })
})
