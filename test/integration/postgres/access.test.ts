import { expect, describe, test, type TestContext } from 'vitest'
import { assertCarried } from '../../../src/ddl/carried.ts'
import { makePlan } from '../../../src/plan/make-plan.ts'
import { isCrossfadeError } from '../../../src/errors/index.ts'
import { openSession, withBothSides, type BothSides, type SmallDefinition } from '../../support/both-sides.ts'
import { postgresVersions, withDatabase, type PostgresVersion } from '../../support/postgres.ts'

/** Roles of their own for one test; they go after the database that it makes next. */
async function makeRoles(
  t: TestContext,
  version: PostgresVersion,
): Promise<Record<'owner' | 'reader' | 'writer', string>> {
  const { name, url } = await withDatabase(t, version)
  const roles = { owner: `owner_${name}`, reader: `reader_${name}`, writer: `writer_${name}` }
  const run = async (sql: string): Promise<void> => {
    const session = await openSession(url, 'roles')
    await session.query(sql)
    await session.close()
  }
  const all = Object.values(roles).join(', ')
  await run(
    Object.values(roles)
      .map((role) => `CREATE ROLE ${role}`)
      .join('; '),
  )
  t.onTestFinished(() => run(`DROP ROLE ${all}`))
  return roles
}

const definition: SmallDefinition = {
  mappings: [
    {
      source: 'users',
      target: 'people',
      key: { id: 'id' },
      columns: { tenant: true, mail: 'email', first: `split_part(name, ' ', 1)` },
      reverse: false,
    },
  ],
  expand: {
    tables: [
      {
        table: 'people',
        columns: { id: 'bigserial', tenant: 'text NOT NULL', mail: 'text NOT NULL', first: 'text' },
        primaryKey: ['id'],
        indexes: [{ name: 'people_mail', on: '(mail)', unique: true }],
      },
    ],
  },
}

async function prepare(
  t: TestContext,
  version: PostgresVersion,
): Promise<BothSides & { roles: Awaited<ReturnType<typeof makeRoles>> }> {
  const roles = await makeRoles(t, version)
  const { owner, reader, writer } = roles
  const m = await withBothSides(
    t,
    version,
    `CREATE TABLE users (id serial PRIMARY KEY, tenant text NOT NULL, email text NOT NULL, name text NOT NULL);
     CREATE UNIQUE INDEX users_email ON users (email);
     ALTER TABLE users OWNER TO ${owner};
     ALTER DEFAULT PRIVILEGES GRANT SELECT, INSERT ON TABLES TO ${reader};
     GRANT SELECT ON users TO ${writer} WITH GRANT OPTION; GRANT INSERT, UPDATE (email, tenant), SELECT (name) ON users TO ${writer};
     GRANT SELECT (tenant) ON users TO PUBLIC; GRANT USAGE ON SEQUENCE users_id_seq TO ${writer};
     CREATE POLICY own_rows ON users AS RESTRICTIVE FOR UPDATE TO ${writer}, ${reader} USING (tenant = current_user) WITH CHECK (tenant <> '');
     CREATE POLICY all_rows ON users USING (true);
     ALTER TABLE users ENABLE ROW LEVEL SECURITY; ALTER TABLE users FORCE ROW LEVEL SECURITY;
     ALTER TABLE users REPLICA IDENTITY USING INDEX users_email`,
    definition,
  )
  return { ...m, roles }
}

const gate = (m: BothSides): Promise<void> =>
  m.database.transaction((tx) => assertCarried(m.place, tx, m.migration), { readOnly: true })

const privileges = (m: BothSides, table: string): Promise<Record<string, unknown>[]> =>
  m.sql(
    `SELECT coalesce(attname, '') AS column, a.grantee::regrole::text AS grantee, privilege_type AS privilege, is_grantable AS option ` +
      `FROM (SELECT NULL AS attname, relacl AS acl FROM pg_class WHERE oid = $1::regclass UNION ALL SELECT attname, attacl FROM pg_attribute WHERE attrelid = $1::regclass) AS o, aclexplode(acl) a ORDER BY 1, 2, 3`,
    [table],
  )

describe.each(postgresVersions())('access on PostgreSQL %s', (version) => {
  test('a new table has the owner, grants, policies and replica identity of the old one, and no more', async (t) => {
    const m = await prepare(t, version)
    const renamed: Record<string, string> = { email: 'mail' }
    const expected = (await privileges(m, 'users'))
      .filter(({ column }) => column !== 'name') // there is no such column any more
      .map((line) => ({ ...line, column: renamed[String(line['column'])] ?? line['column'] }))
    const byText = (lines: unknown[]): string[] => lines.map((line) => JSON.stringify(line)).sort()
    expect(byText(await privileges(m, 'people'))).toEqual(byText(expected))
    const table = (name: string): Promise<Record<string, unknown>[]> =>
      m.sql(
        `SELECT relowner::regrole::text AS owner, relrowsecurity, relforcerowsecurity, relreplident FROM pg_class WHERE oid = $1::regclass`,
        [name],
      )
    expect(await table('people')).toEqual(await table('users'))
    expect(
      await m.value(
        `SELECT indexrelid::regclass::text FROM pg_index WHERE indrelid = 'people'::regclass AND indisreplident`,
      ),
    ).toBe('people_mail')
    const policies = (name: string): Promise<Record<string, unknown>[]> =>
      m.sql(
        'SELECT policyname, permissive, roles::text, cmd, qual, with_check FROM pg_policies WHERE tablename = $1 ORDER BY 1',
        [name],
      )
    expect(await policies('people')).toEqual(await policies('users'))
    expect(await policies('people')).toHaveLength(2)
    expect(
      await m.value(`SELECT has_sequence_privilege($1, 'people_id_seq', 'USAGE')`, [m.roles.writer]),
    ).toBe(true)
    await gate(m)
  })

  test('what is lacking at the gate is named with the statement that mends it', async (t) => {
    const m = await prepare(t, version)
    const { owner, reader, writer } = m.roles
    await m.sql(
      `ALTER TABLE people OWNER TO CURRENT_USER; REVOKE SELECT ON people FROM ${writer} CASCADE; REVOKE UPDATE (mail) ON people FROM ${writer};
       REVOKE USAGE ON SEQUENCE people_id_seq FROM ${writer}; DROP POLICY own_rows ON people; ALTER TABLE people DISABLE ROW LEVEL SECURITY;
       ALTER TABLE people REPLICA IDENTITY DEFAULT`,
    )
    const refused: unknown = await gate(m).then(
      () => undefined,
      (error: unknown) => error,
    )
    if (!isCrossfadeError(refused)) throw new Error('The gate was open.')
    expect(refused).toMatchObject({
      code: 'CUTOVER.NOT_CARRIED',
      kind: 'refused',
      details: {
        lacking: [
          { what: `public.people: the owner ${owner}`, mend: `ALTER TABLE public.people OWNER TO ${owner};` },
          {
            what: `public.people: SELECT on public.people for ${writer} with grant option`,
            mend: `GRANT SELECT ON public.people TO ${writer} WITH GRANT OPTION;`,
          },
          {
            what: `public.people: UPDATE (mail) on public.people for ${writer}`,
            mend: `GRANT UPDATE (mail) ON public.people TO ${writer};`,
          },
          {
            what: `public.people: USAGE on SEQUENCE public.people_id_seq for ${writer}`,
            mend: `GRANT USAGE ON SEQUENCE public.people_id_seq TO ${writer};`,
          },
          {
            what: 'public.people: policy own_rows',
            mend: `CREATE POLICY own_rows ON public.people AS RESTRICTIVE FOR UPDATE TO ${[reader, writer].join(', ')} USING ((tenant = CURRENT_USER)) WITH CHECK ((tenant <> ''::text));`,
          },
          {
            what: 'public.people: row-level security',
            mend: 'ALTER TABLE public.people ENABLE ROW LEVEL SECURITY;',
          },
          {
            what: 'public.people: replica identity USING INDEX people_mail',
            mend: 'ALTER TABLE public.people REPLICA IDENTITY USING INDEX people_mail;',
          },
        ],
      },
    })
    for (const { mend } of refused.details['lacking'] as { mend: string }[]) await m.sql(mend)
    await gate(m)
  })

  test('a policy that names a column which is gone is left to a person, and the rest is carried', async (t) => {
    const m = await withBothSides(
      t,
      version,
      `CREATE TABLE users (id int PRIMARY KEY, tenant text NOT NULL, email text NOT NULL, name text NOT NULL);
       CREATE POLICY by_name ON users FOR SELECT USING (name = current_user); CREATE POLICY by_tenant ON users FOR SELECT USING (tenant = current_user);
       ALTER TABLE users ENABLE ROW LEVEL SECURITY`,
      definition,
    )
    await expect(gate(m)).rejects.toMatchObject({
      code: 'CUTOVER.NOT_CARRIED',
      message: 'The new side lacks what the old one has: public.people: policy by_name.',
      mend: expect.stringContaining(
        'CREATE POLICY by_name ON public.people AS PERMISSIVE FOR SELECT TO PUBLIC USING (…);',
      ) as string,
    })
    await m.sql(`CREATE POLICY by_name ON people FOR SELECT USING (first = current_user)`)
    await gate(m)
  })
  test('what names a column that the new table has not is said by the plan, with what takes it away; statistics are copied', async (t) => {
    const m = await prepare(t, version)
    await m.sql(`CREATE POLICY named ON users USING (name <> ''); CREATE STATISTICS "o'f" (ndistinct, mcv) ON tenant, email FROM users;
      CREATE STATISTICS lost ON tenant, name FROM users; CREATE STATISTICS shaped ON lower(tenant), email FROM users`)
    const findings = async (definition = m.migration): Promise<string[][]> =>
      (await makePlan(m.place, definition)).findings
        .filter(({ rule }) => rule === 'access-lost')
        .map(({ severity, message, mend }) => [
          `${severity}: ${message.replaceAll(m.roles.writer, 'writer')}`,
          mend.replace(/^.* or take it away: /, ''),
        ])
    const of = (what: string): string =>
      `Of public.users, ${what}, which public.people has not, or not as it is.`
    const found = await findings()
    expect(found.map(([said]) => said)).toEqual([
      `warning: ${of('SELECT is granted on name to writer')}`,
      `refusal: ${of('policy named names name')}`,
      `warning: ${of('statistics lost are over name')}`,
      `warning: ${of('statistics shaped are over email, tenant')}`,
    ])
    const sql = [{ name: 'policy', up: 'SELECT 1' }]
    const withSql = { ...m.migration, expand: { ...m.migration.expand, sql } }
    expect((await findings(withSql))[1]?.[0]).toMatch(/^warning: /)
    await expect(gate(m)).rejects.toMatchObject({
      message: expect.stringMatching(/policy named; .*statistics "o'f"/) as string,
    })
    for (const [, mend = ''] of found) await m.sql(mend)
    expect(await findings()).toEqual([])
    await m.database.transaction(async (tx) => {
      const [missing] = (
        await m.database.dialect.access.missing(
          tx,
          { schema: 'public', name: 'users' },
          { schema: 'public', name: 'people' },
          [
            ['tenant', 'tenant'],
            ['email', 'mail'],
          ],
        )
      ).filter(({ what }) => what.startsWith('statistics'))
      await tx.query(missing?.mend ?? '')
    })
    expect(
      await m.sql(
        `SELECT stxname, stxkind::text AS kinds FROM pg_statistic_ext WHERE stxrelid = 'people'::regclass`,
      ),
    ).toEqual([{ stxname: "people_o'f", kinds: '{d,m}' }])
    await gate(m)
  })
})
