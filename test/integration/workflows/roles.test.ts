import { randomUUID } from 'node:crypto'
import pg from 'pg'
import { describe, expect, test, type TestContext } from 'vitest'
import type { DefinitionInput } from '../../../src/index.ts'
import { startService } from '../../support/migration.ts'
import { startPgbouncer } from '../../support/pgbouncer.ts'
import {
  postgresVersions,
  withDatabase,
  type PostgresVersion,
  type TestDatabase,
} from '../../support/postgres.ts'

/**
 * As databases are run in earnest: the tables belong to a role that nobody logs in as, the application may only write rows, the
 * migration's role is a member of the owner and no superuser, and everybody comes through a transaction pooler.
 */
interface Site {
  readonly database: TestDatabase
  readonly owner: string
  readonly application: string
  readonly migrator: string
  /** Through the pooler. */
  url(user: string): string
}

async function prepare(t: TestContext, version: PostgresVersion): Promise<Site> {
  const id = randomUUID().slice(0, 8)
  const [owner, application, migrator] = [`owner_${id}`, `app_${id}`, `migrator_${id}`] as const
  const database = await withDatabase(t, version)
  await database.pool.query(`
    CREATE ROLE ${owner}; CREATE ROLE ${application} LOGIN; CREATE ROLE ${migrator} LOGIN; GRANT ${owner} TO ${migrator};
    GRANT CREATE ON DATABASE ${database.name} TO ${migrator}; GRANT USAGE, CREATE ON SCHEMA public TO ${owner}; GRANT USAGE ON SCHEMA public TO ${application};
    CREATE TABLE users (id int PRIMARY KEY, name text NOT NULL); ALTER TABLE users OWNER TO ${owner};
    GRANT SELECT, INSERT, UPDATE, DELETE ON users TO ${application};
    INSERT INTO users SELECT i, 'user ' || i FROM generate_series(1, 5000) i`)
  t.onTestFinished(async () => {
    const { rows } = await database.pool.query<{ name: string }>(
      `SELECT rolname AS name FROM pg_roles WHERE rolname IN ('${owner}', '${application}', '${migrator}')`,
    )
    for (const { name } of rows) await database.pool.query(`DROP OWNED BY ${name} CASCADE`)
    for (const { name } of rows) await database.pool.query(`DROP ROLE ${name}`)
  })
  const url = await startPgbouncer(t, database, [application, migrator])
  return { database, owner, application, migrator, url }
}

const definition = (name: string): DefinitionInput => ({
  name,
  kind: 'table',
  mappings: [
    {
      source: 'users',
      target: 'people',
      key: { id: 'id' },
      columns: { full_name: 'upper(name)' },
      reverse: { columns: { name: 'lower(full_name)' } },
    },
  ],
  expand: {
    tables: [
      {
        table: 'people',
        columns: { id: 'bigint NOT NULL', full_name: 'text NOT NULL' },
        primaryKey: ['id'],
        indexes: [{ name: 'people_name', on: '(full_name)' }],
      },
    ],
  },
  cutover: { ramp: [{ percent: 100, hold: '100ms' }] },
  retire: { soak: '500ms' },
  contract: { observe: '1s', soak: '100ms' },
  backfill: { profile: 'fast', batchSize: 200, maxBatchSize: 400 },
  safety: { requireApproval: false },
})

describe.each(postgresVersions())('PostgreSQL %s behind a transaction pooler', (version) => {
  test('a role that is no superuser lives through every phase beside an application that may only write rows', async (t) => {
    const { database, application, migrator, url } = await prepare(t, version)
    await database.pool.query(`UPDATE users SET name = lower(name)`)
    const { client } = await startService(t, { ...database, url: url(migrator) })
    const writer = new pg.Pool({ connectionString: url(application), max: 4 })
    let isWriting = true
    let written = 0
    const write = async (n: number): Promise<void> => {
      for (let i = 0; isWriting; i++) {
        const id = 6000 + n + 4 * i
        await writer.query(`INSERT INTO users VALUES ($1, $2)`, [id, `new ${id}`])
        await writer.query(`UPDATE users SET name = name || '!' WHERE id = $1`, [1 + ((n * 997 + i) % 5000)])
        await writer.query(`DELETE FROM users WHERE id = $1 AND id % 3 = 0`, [id])
        written += 3
      }
    }
    const handle = await client.start(definition(`roles-${randomUUID().slice(0, 8)}`))
    const writers = Promise.all([0, 1, 2, 3].map(write))
    // The application stops when the new side takes over, as a deployment of its next version would.
    let ended = false
    const result = handle.result().finally(() => (ended = true))
    while (!ended && (await handle.status()).detail?.primary !== 'new')
      await new Promise((resolve) => setTimeout(resolve, 20))
    isWriting = false
    await writers
    await writer.end()
    const { outcome, status } = await result
    expect(status.trouble).toBeUndefined()
    expect(outcome).toBe('done')
    expect(written).toBeGreaterThan(100)
    const people = await database.pool.query<{ n: number; new: number }>(
      `SELECT count(*)::int AS n, count(*) FILTER (WHERE full_name LIKE 'NEW%')::int AS new FROM people WHERE full_name = upper(full_name)`,
    )
    expect(people.rows[0]?.n).toBeGreaterThan(5000)
    expect(people.rows[0]?.new).toBe((people.rows[0]?.n ?? 0) - 5000)
  })
})
