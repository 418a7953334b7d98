import { describe, expect, test } from 'vitest'
import { withBothSides, type SmallDefinition } from '../../support/both-sides.ts'
import { postgresVersions } from '../../support/postgres.ts'

const split: SmallDefinition = {
  mappings: [
    {
      source: 'users',
      target: 'people',
      key: { id: 'id' },
      columns: { full_name: 'name' },
      reverse: { columns: { name: 'full_name' } },
    },
    {
      source: 'users',
      target: 'contacts',
      key: { id: 'person_id' },
      columns: { email: true },
      reverse: { columns: { email: true } },
    },
  ],
}

const schema = `
  CREATE TABLE users (id bigint PRIMARY KEY, name text NOT NULL, email text NOT NULL);
  CREATE TABLE people (id bigint PRIMARY KEY, full_name text NOT NULL) WITH (autovacuum_enabled = off);
  CREATE TABLE contacts (person_id bigint PRIMARY KEY, email text NOT NULL) WITH (autovacuum_enabled = off);
  INSERT INTO users SELECT i, 'user ' || i, i || '@example.com' FROM generate_series(1, 20000) i;
  ANALYZE users;`

describe.each(postgresVersions())('sync by trigger on PostgreSQL %s', (version) => {
  test('a session that first wrote while the new side was empty never scans it later', async (t) => {
    const m = await withBothSides(t, version, schema, split)
    const application = await m.session()
    const writeAll = async (id: number): Promise<void> => {
      await application.query(`INSERT INTO users VALUES ($1, 'new', 'new@example.com')`, [id])
      await application.query(`UPDATE users SET name = name || '.' WHERE id = ANY ($1)`, [[id, 5, 6, 7]])
      await application.query('DELETE FROM users WHERE id = $1', [id])
    }
    await writeAll(30_001) // plans every statement of the triggers
    await m.backfill()

    await application.query('BEGIN')
    const before = await scans(application)
    await writeAll(30_002)
    const after = await scans(application)
    await application.query('COMMIT')
    expect(Object.keys(after)).toEqual(['contacts', 'people', 'users'])
    expect(after).toEqual(before)
  })
})

interface Queries {
  query(sql: string): Promise<{ rows: Record<string, unknown>[] }>
}

/** Whole-table scans of this transaction so far, by table. */
async function scans(session: Queries): Promise<Record<string, number>> {
  const { rows } = await session.query(
    `SELECT relname AS name, seq_scan::int AS scans FROM pg_stat_xact_user_tables WHERE relname IN ('users', 'people', 'contacts') ORDER BY 1`,
  )
  return Object.fromEntries(rows.map((row) => [String(row['name']), Number(row['scans'])]))
}
