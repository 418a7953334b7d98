import { describe, expect, test, type TestContext } from 'vitest'
import { movePrimary } from '../../../src/ddl/move-primary.ts'
import { runStep } from '../../../src/ddl/run-step.ts'
import { swapNames } from '../../../src/ddl/swap.ts'
import { watch, withBothSides, type BothSides } from '../../support/both-sides.ts'
import { postgresVersions, type PostgresVersion } from '../../support/postgres.ts'
import { usersToPeople } from '../../support/users-to-people.ts'

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
    { ...usersToPeople, cutover: { mode } },
  )

const swap = (m: BothSides, direction: 'to-new' | 'to-old'): Promise<unknown> =>
  m.database.transaction((tx) => swapNames(m.place, tx, m.migration, direction), {
    lockTimeoutMs: 1000,
    applying: 'm',
  })

describe.each(postgresVersions())('sequences on PostgreSQL %s', (version) => {
  test.for([
    ['one by one', ''],
    ['thirty at a time', 'ALTER TABLE people ALTER id SET CACHE 30'],
  ] as const)(
    'a swap there and back to a side that hands out %s never hands out a number twice',
    async ([, own], t) => {
      const m = await prepare(t, version, 'swap', own)
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
    },
  )

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

  test('a sequence that the old table owns stays when it is dropped, with the column that uses it', async (t) => {
    const m = await withBothSides(
      t,
      version,
      `CREATE TABLE users (id serial PRIMARY KEY, seen serial, name text); INSERT INTO users (name) VALUES ('a'), ('b');
       CREATE TABLE people (id bigint PRIMARY KEY DEFAULT nextval('users_id_seq'), name text)`,
      {
        mappings: [
          { source: 'users', target: 'people', key: { id: 'id' }, columns: { name: true }, reverse: false },
        ],
      },
    )
    await m.backfill()
    await m.database.transaction((tx) => m.database.dialect.triggers.remove(tx, m.place.scope, m.forward))
    const drop = m.database.dialect.ddl.dropTable({ schema: 'public', name: 'users' })
    expect((await runStep(m.place, drop, [], watch)).did).toBe('applied')
    expect(await m.value(`SELECT pg_get_serial_sequence('people', 'id')`)).toBe('public.users_id_seq')
    expect(await m.value(`SELECT to_regclass('users_seen_seq')`)).toBe(null)
    expect(await m.value(`INSERT INTO people (name) VALUES ('c') RETURNING id`)).toBe('3')
  })
})
