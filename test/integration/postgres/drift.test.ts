import { describe, expect, test } from 'vitest'
import { openDatabase } from '../../../src/database/index.ts'
import { resolveMigration } from '../../../src/definition/index.ts'
import { makePlan } from '../../../src/plan/make-plan.ts'
import {
  keepColumns,
  keepFacts,
  oldSideDrift,
  planToken,
  tellFactDrift,
} from '../../../src/plan/schema-now.ts'
import { retireSteps } from '../../../src/ddl/columns.ts'
import { runStep } from '../../../src/ddl/run-step.ts'
import { expand, watch, withBothSides } from '../../support/both-sides.ts'
import { postgresVersions, withDatabase } from '../../support/postgres.ts'

const migration = resolveMigration({
  name: 'm',
  kind: 'table',
  mappings: [
    { source: 'users', target: 'people', key: { id: 'id' }, columns: { email: true }, reverse: false },
  ],
  expand: {
    tables: [{ table: 'people', columns: { id: 'bigint', email: 'text' }, primaryKey: ['id'] }],
  },
})

describe.each(postgresVersions())('drift on PostgreSQL %s', (version) => {
  test('names each changed column, and nothing for what does not change columns', async (t) => {
    const test = await withDatabase(t, version)
    await test.pool.query('CREATE TABLE users (id bigint PRIMARY KEY, email varchar(100))')
    const database = await openDatabase('default', { url: test.url, maxConnections: 4 })
    t.onTestFinished(() => database.close())
    const place = { database, scope: database.dialect.catalog.scope('m') }
    const { token } = (await makePlan(place, migration)).summary
    await expand(place, migration)
    // Without a kept description the change is found all the same, only not named.
    expect(await planToken(place, migration, token)).toMatchObject({ token, changes: [] })
    await database.transaction((tx) => keepColumns(tx, place, migration))

    await test.pool.query('CREATE INDEX ON users (email)')
    await test.pool.query('ANALYZE users')
    expect(await planToken(place, migration, token)).toMatchObject({ token, changes: [] })

    await test.pool.query('ALTER TABLE users ALTER email TYPE varchar(200), ADD note text')
    const drifted = await planToken(place, migration, token)
    expect(drifted.token).not.toBe(token)
    expect(drifted.changes.map((line) => line.replace(/^\S+: /, ''))).toEqual([
      'column email: character varying(100) → character varying(200)',
      'column note text is new',
    ])
    // Before the old side goes it is looked for once more, under whatever name the table has by then.
    await test.pool.query('ALTER TABLE users RENAME TO _crossfade_retired_users')
    expect(await oldSideDrift(place, migration)).toEqual([
      'public.users: column email: character varying(100) → character varying(200)',
      'public.users: column note text is new',
    ])
    await test.pool.query(
      'ALTER TABLE _crossfade_retired_users ALTER email TYPE varchar(100), DROP note; CREATE INDEX ON people (email)',
    )
    expect(await oldSideDrift(place, migration)).toEqual([])
  })

  test('of a table that stays, only the columns that go count at the contract, whatever they are called by then', async (t) => {
    const m = await withBothSides(
      t,
      version,
      `CREATE TABLE users (id bigint PRIMARY KEY, old_name text NOT NULL, old_mail text)`,
      {
        kind: 'column',
        mappings: [
          {
            source: 'users',
            target: 'users',
            key: { id: 'id' },
            columns: { name: 'old_name', mail: 'old_mail' },
            reverse: { columns: { old_name: 'name', old_mail: 'mail' } },
          },
        ],
        expand: {
          columns: [
            { table: 'users', name: 'name', type: 'text', replaces: ['old_name'] },
            { table: 'users', name: 'mail', type: 'text', replaces: ['old_mail'] },
          ],
        },
      },
    )
    await m.database.transaction((tx) => keepColumns(tx, m.place, m.migration))
    const [first] = retireSteps(m.database.dialect, m.migration)
    if (first) await runStep(m.place, first, [], watch) // and then its worker died
    await m.sql('ALTER TABLE users ADD note text')
    expect(await oldSideDrift(m.place, m.migration)).toEqual([])
    await m.sql('ALTER TABLE users ALTER old_mail SET NOT NULL')
    expect(await oldSideDrift(m.place, m.migration)).toEqual([
      'public.users: column old_mail: nullable → NOT NULL',
    ])
  })

  test('names what changed beside the columns, once, until somebody asks again', async (t) => {
    const test = await withDatabase(t, version)
    const sql = (text: string): Promise<unknown> => test.pool.query(text)
    await sql(`CREATE ROLE ${test.name}_other; GRANT ${test.name}_other TO CURRENT_USER;
      CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
      CREATE TABLE users (id bigint, email text DEFAULT 'a', boss bigint, PRIMARY KEY (id, email)) PARTITION BY RANGE (id);
      CREATE TABLE users_1 PARTITION OF users FOR VALUES FROM (0) TO (100); CREATE TABLE users_2 PARTITION OF users FOR VALUES FROM (100) TO (200);
      CREATE INDEX users_email ON users (email); CREATE INDEX users_boss ON users (boss);
      ALTER TABLE users ADD CONSTRAINT low CHECK (id < 1000);
      CREATE TRIGGER t BEFORE UPDATE ON users FOR EACH ROW EXECUTE FUNCTION touch()`)
    const database = await openDatabase('default', { url: test.url, maxConnections: 4 })
    t.onTestFinished(() => database.close())
    const place = { database, scope: database.dialect.catalog.scope('m') }
    await expand(place, migration)
    const tell = (by: string): Promise<string[]> => tellFactDrift(place, migration, by)
    await sql('DROP INDEX users_boss')
    expect(await tell('without a description')).toEqual([])
    await database.transaction((tx) => keepColumns(tx, place, migration))
    await database.transaction((tx) => keepFacts(tx, place, migration))
    const { token } = await planToken(place, migration, 'none')

    // Nothing of this counts: a partition that comes, the table's new name, statistics, our own triggers.
    await sql(
      `CREATE TABLE users_3 PARTITION OF users FOR VALUES FROM (200) TO (300); ANALYZE users; ALTER TABLE users RENAME TO people_before`,
    )
    expect(await tell('1')).toEqual([])
    await sql(`ALTER TABLE people_before RENAME TO users; DROP INDEX users_email; CREATE INDEX users_lower ON users (lower(email));
      ALTER TABLE users DROP CONSTRAINT low, ADD CONSTRAINT low CHECK (id < 2000), ALTER email SET DEFAULT 'b', ENABLE ROW LEVEL SECURITY;
      CREATE POLICY p ON users USING (id > 0); ALTER TABLE users DETACH PARTITION users_2; ALTER TABLE users DISABLE TRIGGER t;
      ALTER TABLE users OWNER TO ${test.name}_other`)
    const changes = await tell('2')
    expect(
      changes.map((line) => line.replace(/^public\.users: /, '').replaceAll(`${test.name}_`, '')),
    ).toEqual([
      'constraint low: CHECK ((id < 1000)) → CHECK ((id < 2000))',
      `default of email: 'a'::text → 'b'::text`,
      'index users_email is gone',
      expect.stringMatching(/^owner: .* → other$/),
      'partition users_2 is gone',
      'row-level security: off → on',
      expect.stringMatching(/^trigger t: .*touch\(\) → .*touch\(\) disabled$/),
      'index users_lower is new',
      'policy p is new',
    ])
    // The token stands: it is of the columns alone. A call that is repeated tells it again; another one accepts it.
    expect((await planToken(place, migration, token)).token).toBe(token)
    expect(await tell('2')).toEqual(changes)
    expect(await tell('3')).toEqual([])
    await sql('DROP INDEX users_lower')
    expect(await tell('4')).toEqual(['public.users: index users_lower is gone'])
  })
})
