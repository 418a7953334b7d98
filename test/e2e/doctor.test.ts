import { expect, inject, test } from 'vitest'
import { createCli, createServiceCli, startCliWorker } from '../support/cli.ts'
import { withDatabase } from '../support/postgres.ts'

interface Answer {
  readonly checks: readonly {
    readonly name: string
    readonly state: string
    readonly found: string
    readonly mend?: string
  }[]
  readonly values: Readonly<Record<string, { readonly value: string; readonly from: string }>>
}

const states = ({ checks }: Answer): Record<string, string> =>
  Object.fromEntries(checks.map(({ name, state }) => [name, state]))

test('with everything in place every check passes, and each value says where it came from', async (t) => {
  const database = await withDatabase(t)
  await database.pool.query(
    'CREATE TABLE users (id bigint PRIMARY KEY, name text, email text, phone text, created_at timestamptz)',
  )
  const cli = createServiceCli(t, database)
  await cli.run('init', 'people')
  await startCliWorker(t, cli)
  const { exitCode, answer } = await cli.json('doctor')
  const found = answer as unknown as Answer
  expect(Object.entries(states(found)).filter(([, state]) => state !== 'passed')).toEqual([])
  expect(exitCode).toBe(0)
  expect(found.checks.find(({ name }) => name === 'Privileges')?.found).toMatch(
    /^enough; the least is GRANT CREATE ON DATABASE "\w+" TO "postgres" \/\* our schema \*\/; GRANT CREATE ON SCHEMA "public"/,
  )
  expect(found.values['Temporal address']).toEqual({
    value: inject('temporalAddress'),
    from: 'TEMPORAL_ADDRESS',
  })
  expect(found.values['config file']?.from).toBe('the current folder')
  expect(found.values['namespace']).toEqual({ value: 'default', from: 'default' })
  const { stdout } = await cli.run('doctor', '--task-queue', 'nobody-asks-here')
  expect(stdout).toMatch(/^ {2}PASSED {3}Temporal /m)
  expect(stdout).toMatch(/^ {2}FAILED {3}Workers .*"nobody-asks-here"/m)
  expect(stdout).toMatch(/^ +→ crossfade worker$/m)
})

test('with nothing in place each finding has its mend, no password is shown, and it exits with 5', async (t) => {
  const cli = createCli(t, {
    TEMPORAL_ADDRESS: '127.0.0.1:1',
    CROSSFADE_DATABASE_URL: 'postgres://me:s3cr3t@127.0.0.1:1/app',
  })
  const { stdout, stderr, exitCode } = await cli.run('doctor')
  expect(exitCode).toBe(5)
  expect(stdout + stderr).not.toContain('s3cr3t')
  expect(stdout).toContain('postgres://me:***@127.0.0.1:1/app')
  const found = (await cli.json('doctor')).answer as unknown as Answer
  expect(states(found)).toMatchObject({
    Node: 'passed',
    'Config file': 'skipped',
    Temporal: 'failed',
    Workers: 'skipped',
    Database: 'failed',
  })
  for (const { state, mend } of found.checks) expect(mend !== undefined, state).toBe(state === 'failed')
})

test('a missing privilege is named with the statement that grants it', async (t) => {
  const database = await withDatabase(t)
  await database.pool.query('CREATE TABLE users (id bigint PRIMARY KEY)')
  const role = `weak_${database.name}`
  await database.pool.query(`CREATE ROLE ${role} LOGIN`)
  t.onTestFinished(() =>
    database.pool.query(`DROP OWNED BY ${role}; DROP ROLE ${role}`).then(() => undefined),
  )
  const cli = createServiceCli(t, database, {
    CROSSFADE_DATABASE_URL: database.url.replace('postgres@', `${role}@`),
  })
  await cli.run('init', 'people')
  const found = (await cli.json('doctor')).answer as unknown as Answer
  const privileges = found.checks.find(({ name }) => name === 'Privileges')
  expect(privileges?.state).toBe('failed')
  expect(privileges?.mend).toContain(
    `GRANT CREATE ON DATABASE "${database.name}" TO "${role}" /* our schema */;`,
  )
  expect(privileges?.mend).toContain(`GRANT "postgres" TO "${role}" /* the owner of public.users`)
  // What it says can be run as it is, and is enough.
  await database.pool.query(privileges?.mend ?? '')
  const again = (await cli.json('doctor')).answer as unknown as Answer
  expect(states(again)['Privileges']).toBe('passed')
})

test('what writes past triggers, a transaction that was forgotten, and a login that is refused are named', async (t) => {
  const database = await withDatabase(t)
  await database.pool.query(`CREATE TABLE users (id bigint PRIMARY KEY);
    CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
    CREATE TRIGGER audit AFTER INSERT ON users FOR EACH STATEMENT EXECUTE FUNCTION nothing();
    ALTER TABLE users DISABLE TRIGGER audit;
    ALTER DATABASE ${database.name} SET session_replication_role = replica;
    CREATE SUBSCRIPTION feed CONNECTION 'dbname=nowhere' PUBLICATION p WITH (connect = false)`)
  t.onTestFinished(() =>
    database.pool
      .query('ALTER SUBSCRIPTION feed SET (slot_name = NONE); DROP SUBSCRIPTION feed')
      .then(() => undefined),
  )
  await database.pool.query(
    `SET LOCAL allow_system_table_mods = on; INSERT INTO pg_subscription_rel (srsubid, srrelid, srsubstate) SELECT oid, 'users'::regclass, 'r' FROM pg_subscription WHERE subname = 'feed'`,
  )
  const cli = createServiceCli(t, database)
  await cli.run('init', 'people')
  const found = (await cli.json('doctor')).answer as unknown as Answer
  const capture = found.checks.find(({ name }) => name === 'Capture')
  expect(capture?.found).toBe(
    'subscription feed writes public.users without firing statement triggers; trigger audit on public.users is disabled; ' +
      `sessions of database ${database.name} begin with session_replication_role = replica: our triggers fire there, your own and foreign keys do not`,
  )
  expect(capture?.mend).toContain('Migrate on the publisher')

  const stranger = createServiceCli(t, database, {
    CROSSFADE_DATABASE_URL: database.url.replace('postgres@', 'nobody_of_this_name@'),
  })
  await stranger.run('init', 'people')
  const refused = ((await stranger.json('doctor')).answer as unknown as Answer).checks.find(
    ({ name }) => name === 'Database',
  )
  expect(refused?.found).toContain('the server lets nobody in by this URL')
  expect(refused?.mend).toContain('Correct user, password or database')
})
