import { expect, describe, test } from 'vitest'
import { checkDatabase, type Check } from '../../../src/cli/checks.ts'
import { openDatabase } from '../../../src/database/index.ts'
import { openSession } from '../../support/both-sides.ts'
import { postgresVersions, withDatabase } from '../../support/postgres.ts'
import { eventually } from '../../support/wait.ts'

/** The doctor's line on transactions, of those that are older than 0.3 s. */
async function doctorSays(url: string): Promise<Check | undefined> {
  process.env['CROSSFADE_DATABASE_URL'] = url
  return (await checkDatabase('default', [], 0.3)).find(({ name }) => name.startsWith('Long transactions'))
}

describe.each(postgresVersions())('what a person should know of on PostgreSQL %s', (version) => {
  test('a transaction that was forgotten is found, whatever it holds, prepared or not; one of another database is not', async (t) => {
    const here = await withDatabase(t, version)
    const elsewhere = await withDatabase(t, version)
    const database = await openDatabase('default', { url: here.url, maxConnections: 2 })
    const sessions = await Promise.all([
      openSession(here.url, 'forgotten'),
      openSession(elsewhere.url, 'of others'),
    ])
    t.onTestFinished(async () => {
      await Promise.all(sessions.map((session) => session.close()))
      await database.close()
    })
    const longer = (seconds: number): Promise<string[]> =>
      database.transaction(async (tx) => {
        const found = await database.dialect.catalog.longTransactions(tx, seconds)
        return [
          ...found.sessions.map(({ application, state }) => `${application}: ${state}`),
          ...found.prepared.map(({ name, user }) => `prepared ${name} of ${user}`),
        ]
      })
    for (const [place, { pool }] of [here, elsewhere].entries())
      await pool.query(`BEGIN; CREATE TABLE half (id int); PREPARE TRANSACTION '${here.name}_${place}'`)
    for (const session of sessions) await session.query('BEGIN; SELECT 1')
    expect(await longer(60)).toEqual([])
    const all = ['forgotten: idle in transaction', `prepared ${here.name}_0 of postgres`]
    expect(
      await eventually(async () => {
        const found = await longer(0.3)
        return found.length > 1 && found
      }),
    ).toEqual(all)
    expect(await doctorSays(here.url)).toMatchObject({
      state: 'failed',
      found: expect.stringMatching(
        new RegExp(
          `^pid ${sessions[0]?.pid} of postgres \\(forgotten\\), idle in transaction, \\d+ s; prepared transaction ${here.name}_0 of postgres, \\d+ s$`,
        ),
      ) as string,
      mend: expect.stringContaining(`SELECT pg_terminate_backend(${sessions[0]?.pid});`) as string,
    })
    // A role that may not see others is told so, not that there is nothing.
    const role = `blind_${here.name}`
    await here.pool.query(`CREATE ROLE ${role}`)
    const blind = await openDatabase('default', {
      url: `${here.url}?options=${encodeURIComponent(`-c role=${role}`)}`,
      maxConnections: 1,
    })
    const seen = await blind.transaction((tx) => blind.dialect.catalog.longTransactions(tx, 0.3))
    expect(seen.sessions).toEqual([])
    expect(seen.unseen).toEqual([
      expect.stringMatching(/^[1-9]\d* sessions cannot be seen \(grant pg_monitor/) as string,
    ])
    await blind.close()
    await here.pool.query(`DROP ROLE ${role}`)
    await sessions[0]?.query('ROLLBACK')
    expect(await longer(0.3)).toEqual(all.slice(1))
    expect((await doctorSays(here.url))?.mend).toContain(`ROLLBACK PREPARED '${here.name}_0';`)
    await here.pool.query(`ROLLBACK PREPARED '${here.name}_0'`)
    await elsewhere.pool.query(`ROLLBACK PREPARED '${here.name}_1'`)
    expect(await longer(0.3)).toEqual([])
    expect(await doctorSays(here.url)).toMatchObject({ state: 'passed' })
  })

  test('privileges are said with what is granted and what is not', async (t) => {
    const { pool, url, name } = await withDatabase(t, version)
    const role = `least_${name}`
    await pool.query(
      `CREATE ROLE ${role}; CREATE ROLE "the ""owner""_${name}"; CREATE TABLE users (id int); ALTER TABLE users OWNER TO "the ""owner""_${name}";
       CREATE TABLE lookups (id int); GRANT CREATE ON DATABASE ${name} TO ${role}`,
    )
    t.onTestFinished(() =>
      pool
        .query(
          `DROP TABLE users; DROP OWNED BY ${role}; DROP ROLE ${role}; DROP ROLE "the ""owner""_${name}"`,
        )
        .then(() => undefined),
    )
    const database = await openDatabase('default', {
      url: `${url}?options=${encodeURIComponent(`-c role=${role}`)}`,
      maxConnections: 1,
    })
    t.onTestFinished(() => database.close())
    const table = (of: string): { schema: string; name: string } => ({ schema: 'public', name: of })
    const privileges = (): Promise<[string, boolean][]> =>
      database.transaction(async (tx) =>
        (
          await database.dialect.catalog.privileges(tx, [table('users'), table('people')], [table('lookups')])
        ).map(({ grant, isGranted }) => [grant.replaceAll(name, 'X'), isGranted]),
      )
    expect(await privileges()).toEqual([
      ['GRANT CREATE ON DATABASE "X" TO "least_X" /* our schema */', true],
      ['GRANT CREATE ON SCHEMA "public" TO "least_X" /* new tables and renames */', false],
      ['GRANT "the ""owner""_X" TO "least_X" /* the owner of public.users: triggers and renames */', false],
      ['GRANT SELECT ON "public"."lookups" TO "least_X" /* read beside a source */', false],
    ])
    for (const [grant] of await privileges()) await pool.query(grant.replaceAll('X', name))
    expect((await privileges()).map(([, isGranted]) => isGranted)).toEqual([true, true, true, true])
  })
  test('sessions that pass by triggers are named with the statement that ends it, as it is run', async (t) => {
    const { pool, url, name } = await withDatabase(t, version)
    const role = `"it's ""replica""_${name}"`
    await pool.query(`CREATE ROLE ${role}`)
    t.onTestFinished(() => pool.query(`DROP ROLE ${role}`).then(() => undefined))
    const database = await openDatabase('default', { url, maxConnections: 1 })
    t.onTestFinished(() => database.close())
    const mends = (): Promise<string[]> =>
      database.transaction(async (tx) =>
        (await database.dialect.catalog.captureHazards(tx, []))
          .filter(({ what }) => what.includes(name))
          .map(({ mend }) => mend.replace('Is that meant? ', '')),
      )
    for (const whose of [`DATABASE "${name}"`, `ROLE ${role}`, `ROLE ${role} IN DATABASE "${name}"`])
      await pool.query(`ALTER ${whose} SET session_replication_role = replica`)
    expect(await mends()).toHaveLength(3)
    for (const mend of await mends()) await pool.query(mend)
    expect(await mends()).toEqual([])
  })
})
