import { describe, expect, test, type TestContext } from 'vitest'
import { movePrimary } from '../../../src/ddl/move-primary.ts'
import { swapNames } from '../../../src/ddl/swap.ts'
import { checkDependents } from '../../../src/plan/checks.ts'
import { watch, withBothSides, type BothSides } from '../../support/both-sides.ts'
import { postgresVersions, type PostgresVersion } from '../../support/postgres.ts'

/** Sessions take 50 numbers at a time from the old side; the new side has an identity of its own, which has handed out nothing. */
const prepare = (
  t: TestContext,
  version: PostgresVersion,
  mode: 'swap' | 'flags',
  own = '',
): Promise<BothSides> =>
  withBothSides(
    t,
    version,
    `CREATE SEQUENCE users_seq CACHE 50; CREATE TABLE users (id int PRIMARY KEY DEFAULT nextval('users_seq'), name text);
     CREATE TABLE people (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text); ${own};
     INSERT INTO users (name) SELECT 'n' || i FROM generate_series(1, 120) i`,
    {
      mappings: [
        {
          source: 'users',
          target: 'people',
          key: { id: 'id' },
          columns: { name: true },
          reverse: { columns: { name: true } },
        },
      ],
      cutover: { mode },
    },
  )

const swap = (m: BothSides, direction: 'to-new' | 'to-old'): Promise<unknown> =>
  m.database.transaction((tx) => swapNames(m.place, tx, m.migration, direction), {
    lockTimeoutMs: 1000,
    applying: 'm',
  })

describe.each(postgresVersions())('sequences on PostgreSQL %s', (version) => {
  test('a swap there and back never hands out a number twice, cached ones included', async (t) => {
    const m = await prepare(t, version, 'swap')
    await m.backfill()
    const sessions = await Promise.all([m.session(), m.session(), m.session()])
    const insert = async (name: string): Promise<void> => {
      for (const session of sessions)
        for (let i = 0; i < 60; i++) await session.query('INSERT INTO users (name) VALUES ($1)', [name])
    }
    await insert('before')
    await swap(m, 'to-new')
    await insert('on the new side')
    await swap(m, 'to-old')
    await insert('on the old side again')
    await swap(m, 'to-new')
    await insert('and back')
    expect(await m.value('SELECT count(*)::int FROM users')).toBe(120 + 4 * 180)
    expect(await m.value('SELECT count(DISTINCT id)::int FROM users')).toBe(120 + 4 * 180)
  })

  test('the new primary of a move by flags begins behind what the old one handed out', async (t) => {
    const m = await prepare(t, version, 'flags')
    await m.backfill()
    const session = await m.session()
    await session.query(`INSERT INTO users (name) VALUES ('takes fifty')`)
    const handedOut = Number(await m.value('SELECT last_value FROM users_seq'))
    await movePrimary(m.place, m.migration, m.groups, 'new', watch)
    await session.query(`INSERT INTO people (name) VALUES ('new')`)
    expect(Number(await m.value(`SELECT id FROM people WHERE name = 'new'`))).toBe(handedOut + 1)
  })

  test('a sequence that falls goes on falling', async (t) => {
    const m = await prepare(
      t,
      version,
      'swap',
      'ALTER TABLE people ALTER id SET INCREMENT -1 SET MINVALUE -1000 SET MAXVALUE 1000000 SET START 1000000 RESTART',
    )
    await m.backfill()
    await swap(m, 'to-new')
    await m.sql(`INSERT INTO users (name) VALUES ('new')`)
    expect(await m.value(`SELECT id FROM users WHERE name = 'new'`)).toBe('0')
  })

  test('what points at the source is refused by the plan of a swap, and said in that of flags', async (t) => {
    const m = await prepare(t, version, 'swap')
    await m.sql(
      `CREATE TABLE orders (id int PRIMARY KEY, user_id int CONSTRAINT orders_user REFERENCES users); CREATE VIEW names AS SELECT name FROM users;
       CREATE MATERIALIZED VIEW kept AS SELECT count(*) FROM users; CREATE PUBLICATION p FOR TABLE users; ALTER TABLE users ADD boss int REFERENCES users`,
    )
    const found = await m.database.transaction((tx) =>
      m.database.dialect.catalog.describeTable(tx, { schema: 'public', name: 'users' }),
    )
    expect(found?.dependents).toEqual([
      'foreign key orders_user of orders',
      'materialized view kept',
      'publication p',
      'view names',
    ])
    expect(checkDependents(m.migration, [found])).toMatchObject([
      { rule: 'swap-dependents', severity: 'refusal' },
    ])
    const flags = { ...m.migration, cutover: { ...m.migration.cutover, mode: 'flags' as const } }
    expect(checkDependents(flags, [found])).toMatchObject([
      { rule: 'source-dependents', severity: 'warning' },
    ])
    await m.sql('DROP PUBLICATION p')
  })
})
