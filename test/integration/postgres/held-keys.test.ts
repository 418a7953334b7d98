import { describe, expect, test, type TestContext } from 'vitest'
import { completeTargets } from '../../../src/ddl/complete.ts'
import { applyRound } from '../../../src/sync/apply-changes.ts'
import { notDrained } from '../../../src/sync/drain.ts'
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
  test('rows that exchange a unique value are held with the reason, the others go on, and the mend that is named lets them pass', async (t) => {
    const m = await prepare(t, version, { indexes: [{ name: 'people_place', on: '(place)', unique: true }] })
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
    expect(notDrained(m.forward, 2, reason).mend).toContain('UPDATE it to a value that no row has')
    await m.sql('UPDATE people SET place = -1 WHERE id = 1')
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
