import pg from 'pg'
import { afterAll, beforeAll, inject, type TestContext } from 'vitest'
import { startPostgres, type PostgresServer } from '../../src/dev/postgres-server.ts'
import type { ProvidedPostgres } from './global-setup.ts'
import { eventually } from './wait.ts'

export type PostgresVersion = ProvidedPostgres['version']

export interface TestDatabase {
  readonly version: PostgresVersion
  readonly name: string
  /** Superuser `postgres`, no password. */
  readonly url: string
  /** Closed when the test ends; what else the test connects, it must close itself. */
  readonly pool: pg.Pool
  readonly server: DatabaseServer
}

/** The server of all tests, or a test's own. */
export type DatabaseServer = Omit<ProvidedPostgres, 'pgbench'> & {
  readonly pgbench?: string | null | undefined
}

/**
 * The versions that this machine has, newest first: `describe.each(postgresVersions())('PostgreSQL %s', (version) => …)`.
 */
export function postgresVersions(): PostgresVersion[] {
  return [inject('postgres18'), inject('postgres15')].flatMap((server) => (server ? [server.version] : []))
}

/** The server of a version; fails where there is none. */
export function postgresServer(version: PostgresVersion = '18'): ProvidedPostgres {
  const server = version === '18' ? inject('postgres18') : inject('postgres15')
  if (!server) {
    throw new Error(
      `No PostgreSQL ${version} was started for this project: see "needs" in test/support/global-setup.ts.`,
    )
  }
  return server
}

/**
 * A server for one test, where others would notice what is done to it: it is killed, or has a standby that lags. What was acknowledged
 * must survive, so it has the settings of production, not those of other tests.
 */
export async function ownPostgres(
  t: Pick<TestContext, 'onTestFinished'>,
  version: PostgresVersion,
): Promise<PostgresServer> {
  const server = await startPostgres({ version, settings: { shared_buffers: '128MB' } })
  t.onTestFinished(() => server.stop('immediate'))
  return server
}

/**
 * A fresh, empty database for one test. When the test passes, it is dropped, and a connection that the test left open
 * makes the test fail; when the test fails, it stays until the servers stop, and its name is printed.
 */
export async function withDatabase(
  t: TestContext,
  on: PostgresVersion | PostgresServer = '18',
): Promise<TestDatabase> {
  const database = await createDatabase(typeof on === 'string' ? postgresServer(on) : on)
  t.onTestFinished(async ({ task }) => {
    await dispose(database, task.result?.state !== 'fail', task.name)
  })
  return database
}

/**
 * A fresh database for all tests of a file or `describe`: call it there, use the result within tests. Dropped at the end;
 * a connection left open fails the file.
 */
export function databaseForAll(version: PostgresVersion = '18'): { readonly current: TestDatabase } {
  let database: TestDatabase | undefined
  beforeAll(async () => {
    database = await createDatabase(postgresServer(version))
  })
  afterAll(async ({}, suite) => {
    if (database)
      await dispose(
        database,
        suite.tasks.every((task) => task.result?.state !== 'fail'),
        suite.name,
      )
  })
  return {
    get current() {
      if (!database) throw new Error('The database is made before the first test: use it within a test.')
      return database
    },
  }
}

let count = 0

async function createDatabase(server: DatabaseServer): Promise<TestDatabase> {
  count += 1
  const name = `test_${process.pid}_${count}_${Date.now().toString(36)}`
  await asAdministrator(server, (client) => client.query(`create database ${name}`))
  const url = server.url.replace(/\/postgres$/, `/${name}`)
  const pool = new pg.Pool({ connectionString: url, max: 20, application_name: 'test' })
  // Tests kill connections on purpose: an idle one that dies is no failure of the test.
  pool.on('error', () => undefined)
  return { version: server.version, name, url, pool, server }
}

async function dispose(database: TestDatabase, isClean: boolean, test: string): Promise<void> {
  await database.pool.end()
  if (!isClean) {
    process.stderr.write(`tests: the database of "${test}" was ${database.url}\n`)
    return
  }
  await asAdministrator(database.server, async (client) => {
    const others = async (): Promise<string[]> => {
      const { rows } = await client.query<{ line: string }>(
        `select format('%s (%s): %s', application_name, state, left(query, 120)) as line
           from pg_stat_activity where datname = $1 and backend_type in ('client backend', 'walsender')`,
        [database.name],
      )
      return rows.map((row) => row.line)
    }
    // A closed connection's backend needs a moment to go.
    const left = await eventually(async () => (await others()).length === 0, { timeoutMs: 3000 }).then(
      () => [],
      () => others(),
    )
    await client.query(
      `select pg_drop_replication_slot(slot_name) from pg_replication_slots where database = $1 and not active`,
      [database.name],
    )
    await client.query(`drop database ${database.name} with (force)`)
    if (left.length > 0) {
      throw new Error(
        `"${test}" left ${left.length} connection(s) to its database open:\n  ${left.join('\n  ')}`,
      )
    }
  })
}

async function asAdministrator<T>(
  server: DatabaseServer,
  act: (client: pg.Client) => Promise<T>,
): Promise<T> {
  const client = new pg.Client({ connectionString: server.url, application_name: 'test administrator' })
  await client.connect()
  try {
    return await act(client)
  } finally {
    await client.end()
  }
}
