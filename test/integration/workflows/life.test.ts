import { randomUUID } from 'node:crypto'
import { describe, expect, test } from 'vitest'
import type { DefinitionInput } from '../../../src/index.ts'
import { startService } from '../../support/migration.ts'
import { postgresVersions, withDatabase } from '../../support/postgres.ts'

const split = (name: string): DefinitionInput => ({
  name,
  kind: 'table',
  mappings: [
    {
      source: 'users',
      target: 'people',
      key: { id: 'id' },
      columns: { full_name: "first || ' ' || last", created_at: true },
      reverse: {
        columns: {
          first: "split_part(full_name, ' ', 1)",
          last: "split_part(full_name, ' ', 2)",
          created_at: true,
        },
      },
    },
    {
      source: 'users',
      target: 'contacts',
      key: { id: 'person_id' },
      columns: { email: 'lower(email)' },
      reverse: { columns: { email: true } },
    },
  ],
  expand: {
    tables: [
      {
        table: 'people',
        columns: { id: 'bigint NOT NULL', full_name: 'text NOT NULL', created_at: 'timestamptz NOT NULL' },
        primaryKey: ['id'],
        indexes: [{ name: 'people_name', on: '(full_name)' }],
      },
      {
        table: 'contacts',
        columns: { person_id: 'bigint NOT NULL', email: 'text NOT NULL' },
        primaryKey: ['person_id'],
        indexes: [{ name: 'contacts_email', on: '(email)', unique: true }],
        checks: [{ name: 'contacts_email_shape', expression: "email LIKE '%@%'" }],
        foreignKeys: [
          {
            name: 'contacts_person',
            columns: ['person_id'],
            references: { table: 'people', columns: ['id'] },
            onDelete: 'cascade',
          },
        ],
      },
    ],
  },
  cutover: {
    ramp: [
      { percent: 10, hold: '100ms' },
      { percent: 100, hold: '100ms' },
    ],
    queries: [
      {
        name: 'by email',
        sql: "SELECT * FROM contacts WHERE email = 'u5@example.com'",
        index: 'contacts_email',
      },
    ],
  },
  retire: { soak: '1s' },
  contract: { observe: '2s', soak: '100ms' },
  backfill: { profile: 'fast' },
  safety: { requireApproval: false },
})

describe.each(postgresVersions())('PostgreSQL %s', (version) => {
  test('a split lives through every phase, and only the new side is left', async (t) => {
    const database = await withDatabase(t, version)
    await database.pool.query(
      `CREATE TABLE users (id int PRIMARY KEY, first text NOT NULL, last text NOT NULL, email text NOT NULL, created_at timestamptz NOT NULL DEFAULT now())`,
    )
    await database.pool.query(
      `INSERT INTO users SELECT i, 'f' || i, 'l' || i, 'u' || i || '@example.com' FROM generate_series(1, 20000) i`,
    )
    await database.pool.query('ANALYZE users')
    const progress: number[] = []
    const { client } = await startService(t, database, {
      onMetric: (name, value) => {
        if (name === 'migration.backfill.progress') progress.push(value)
      },
    })
    const handle = await client.start(split(`split-${randomUUID().slice(0, 8)}`))
    const { outcome, status } = await handle.result()
    expect(status.trouble).toBeUndefined()
    expect(outcome).toBe('done')
    expect([progress[0], progress.at(-1)]).toEqual([0, 1])
    const tables = await database.pool.query(
      "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' ORDER BY 1",
    )
    expect(tables.rows.map((row: { relname: string }) => row.relname)).toEqual(['contacts', 'people'])
    expect(
      (await database.pool.query('SELECT count(*)::int AS n FROM people JOIN contacts ON person_id = id'))
        .rows,
    ).toEqual([{ n: 20000 }])
  })
})
