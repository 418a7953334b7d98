import { describe, expect, test, type TestContext } from 'vitest'
import { resolveGroups } from '../../../src/copy/groups.ts'
import type { Comparison, SyncGroup } from '../../../src/database/index.ts'
import { applyRound } from '../../../src/sync/apply-changes.ts'
import { movePrimary } from '../../../src/ddl/move-primary.ts'
import { toKeys, watch, withBothSides, type BothSides } from '../../support/both-sides.ts'
import { postgresVersions, type PostgresVersion } from '../../support/postgres.ts'

/** Accounts that are not deleted move; the deleted ones stay where they are. */
const prepare = (t: TestContext, version: PostgresVersion): Promise<BothSides> =>
  withBothSides(
    t,
    version,
    `CREATE TABLE accounts (email text PRIMARY KEY, name text, deleted_at timestamptz);
     CREATE TABLE people (email text PRIMARY KEY, name text, deleted_at timestamptz);
     INSERT INTO accounts SELECT 'p' || i, 'n' || i, CASE WHEN i % 4 = 0 THEN now() END FROM generate_series(1, 400) i`,
    {
      mappings: [
        {
          source: 'accounts',
          target: 'people',
          key: { email: 'email' },
          columns: { name: true, deleted_at: true },
          where: 'accounts.deleted_at IS NULL',
          reverse: { columns: { name: true, deleted_at: true } },
        },
      ],
    },
  )

const differences = (m: BothSides): Promise<unknown[]> =>
  m.differences('SELECT * FROM accounts WHERE deleted_at IS NULL', 'SELECT * FROM people')

/** The new side leads, and the old one follows it; the group as it is found from then on. */
async function moved(m: BothSides): Promise<SyncGroup> {
  const { database, scope } = m.place
  const groups = await database.transaction((tx) => resolveGroups(tx, database.dialect, scope, m.migration))
  const [reverse] = groups.reverse
  if (!reverse) throw new Error('There is no way back.')
  await database.transaction((tx) =>
    database.dialect.triggers.install(tx, scope, reverse, 'copy', m.migration.sync),
  )
  await movePrimary(m.place, m.migration, groups, 'new', watch)
  return reverse
}

describe.each(postgresVersions())('filters on PostgreSQL %s', (version) => {
  test('a row enters and leaves the target with its answer, however the statement is captured', async (t) => {
    const m = await prepare(t, version)
    await m.backfill()
    for (const write of [
      `UPDATE accounts SET deleted_at = now() WHERE email IN ('p1', 'p2')`,
      `UPDATE accounts SET deleted_at = NULL, name = 'back' WHERE email IN ('p1', 'p4')`,
      `UPDATE accounts SET deleted_at = CASE WHEN deleted_at IS NULL THEN now() END`, // all of them, by key
      `UPDATE accounts SET email = 'moved', deleted_at = NULL WHERE email = 'p5'`,
      `INSERT INTO accounts VALUES ('never', 'n', now()), ('at once', 'n', NULL)`,
      `DELETE FROM accounts WHERE email IN ('p7', 'p8')`,
    ]) {
      await m.sql(write)
      await m.drain()
      expect(await differences(m), write).toEqual([])
    }
  })

  test('a row that leaves while a chunk has read it is gone in the end', async (t) => {
    const m = await prepare(t, version)
    const [link] = m.forward.links
    const { database, scope } = m.place
    await database.transaction(async (tx) => {
      await database.dialect.ranges.markChunkRunning(tx, scope)
      await database.dialect.copy.insertMissing(tx, link, { after: undefined, upTo: undefined }, 'fail')
      await m.sql(`UPDATE accounts SET deleted_at = now() WHERE email = 'p1'`)
      await m.sql(`UPDATE accounts SET deleted_at = NULL WHERE email = 'p4'`)
      await applyRound(m.place, m.forward)
    })
    await m.drain()
    expect(await differences(m)).toEqual([])
  })

  test('once the new side leads, a row may leave the filter there and stays in step', async (t) => {
    const m = await prepare(t, version)
    await m.backfill()
    const hidden = await m.sql(`SELECT * FROM accounts WHERE deleted_at IS NOT NULL ORDER BY email`)
    const reverse = await moved(m)
    const compared = (): Promise<Comparison> =>
      m.database.transaction((tx) =>
        m.database.dialect.compare.range(tx, reverse.links[0], { after: undefined, upTo: undefined }, 10),
      )
    const accounts = (): Promise<unknown[]> =>
      m.differences(
        'SELECT * FROM people',
        `SELECT * FROM accounts WHERE email IN (SELECT email FROM people) OR deleted_at IS NULL`,
      )
    for (const write of [
      `UPDATE people SET deleted_at = now() WHERE email IN ('p1', 'p2', 'p3')`,
      `UPDATE people SET name = 'still in step' WHERE email = 'p1'`,
      `UPDATE people SET deleted_at = NULL WHERE email = 'p2'`,
      `INSERT INTO people VALUES ('outside from the start', 'n', now())`,
      `UPDATE people SET name = 'all', deleted_at = now()`,
    ]) {
      await m.sql(write)
      await m.drain(reverse)
      expect(await accounts(), write).toEqual([])
      expect(await compared(), write).toMatchObject({ differences: 0 })
    }
    // What left the filter by our own writes is the new side's to delete; what was outside before is nobody's.
    await m.sql(`DELETE FROM people WHERE email IN ('p1', 'p2', 'p5'); TRUNCATE people`)
    await m.drain(reverse)
    expect(await m.sql(`SELECT * FROM accounts ORDER BY email`)).toEqual(hidden)
  })

  test('a row outside of the filter is never overwritten from the new side', async (t) => {
    const m = await prepare(t, version)
    await m.backfill()
    const reverse = await moved(m)
    const before = await m.sql(`SELECT * FROM accounts WHERE email = 'p4'`)
    await m.sql(`INSERT INTO people VALUES ('p4', 'another person'), ('q', 'new')`)
    await m.sql(`UPDATE people SET email = 'p8' WHERE email = 'p1'`)
    await applyRound(m.place, reverse)
    await applyRound(m.place, reverse)
    expect(await m.sql(`SELECT * FROM accounts WHERE email = 'p4'`)).toEqual(before)
    expect(await m.value(`SELECT name FROM accounts WHERE email = 'p8'`)).toBe('n8')
    expect(await m.value(`SELECT name FROM accounts WHERE email = 'q'`)).toBe('new')
    expect((await m.log(reverse)).filter(({ reason }) => reason !== null)).toEqual(
      toKeys('p4', 'p8').map(
        ([key]) =>
          expect.objectContaining({ key, reason: 'SQLSTATE 23505, constraint accounts_pkey' }) as unknown,
      ),
    )
    // The new side gives way.
    await m.sql(
      `UPDATE people SET email = 'p4 too' WHERE email = 'p4'; DELETE FROM people WHERE email = 'p8'`,
    )
    await m.drain(reverse)
    expect(await m.sql(`SELECT * FROM accounts WHERE email = 'p4'`)).toEqual(before)
    expect(await m.value(`SELECT name FROM accounts WHERE email = 'p4 too'`)).toBe('another person')
    expect(await m.value(`SELECT name FROM accounts WHERE email = 'p8'`)).toBe('n8')
  })
})
