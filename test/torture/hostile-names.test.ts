import { randomUUID } from 'node:crypto'
import { describe, expect, test } from 'vitest'
import type { DefinitionInput } from '../../src/index.ts'
import { startService } from '../support/migration.ts'
import { approve, isLong, untilGate } from '../support/migrations.ts'
import { postgresVersions, withDatabase } from '../support/postgres.ts'

/**
 * Danger: "hostile identifiers and values". Every name that a definition gives, and every value that a row holds, tries to be SQL, through
 * a whole life with writers; what it would do is seen on a table that must not change.
 */

const attack = `"); DROP TABLE canary; --`
const names = {
  schema: `My."Schema" '; --`,
  source: `select ${attack}`,
  target: `%s $1 \\' {${'ü'.repeat(20)}}`,
  key: `order' OR '1'='1`,
  text: `na"me`,
  target_text: `$$; DROP TABLE canary; $$`,
  number: `E'\\\\'`,
  target_key: `KEY`,
  target_number: `NULL::int); --`,
  index: `idx'"; DROP TABLE canary; --`,
  check: `check"'$1`,
}

const quoted = (name: string): string => `"${name.replaceAll('"', '""')}"`
const q = Object.fromEntries(Object.entries(names).map(([key, name]) => [key, quoted(name)])) as typeof names

const values = [
  `'); DROP TABLE canary; --`,
  `$1`,
  `\\'; DROP TABLE canary; --`,
  `{"a": "b", c}`,
  `%s %I %L`,
  `\\x00`,
  `NULL`,
  `"`,
  `\u202e\u0001€𝄞`,
]

const definition = (name: string, mode: 'flags' | 'swap'): DefinitionInput => ({
  name,
  kind: 'table',
  mappings: [
    {
      source: { schema: names.schema, name: names.source },
      target: { schema: names.schema, name: names.target },
      key: { [names.key]: names.target_key },
      columns: { [names.target_text]: q.text, [names.target_number]: `${q.number}::bigint` },
      reverse: { columns: { [names.text]: q.target_text, [names.number]: `${q.target_number}::int` } },
    },
  ],
  expand: {
    tables: [
      {
        table: { schema: names.schema, name: names.target },
        columns: {
          [names.target_key]: 'text NOT NULL',
          [names.target_text]: 'text',
          [names.target_number]: 'bigint',
        },
        primaryKey: [names.target_key],
        indexes: [{ name: names.index, on: `(${q.target_text})` }],
        checks: [{ name: names.check, expression: `${q.target_number} >= 0` }],
      },
    ],
  },
  cutover: { mode, ramp: [{ percent: 100, hold: '100ms' }] },
  retire: { soak: '300ms' },
  contract: { observe: '1s', soak: '100ms' },
})

describe.each(postgresVersions())('PostgreSQL %s', (version) => {
  const modes = isLong
    ? (['flags', 'swap'] as const)
    : version === '18'
      ? (['swap'] as const)
      : (['flags'] as const)
  for (const mode of modes)
    test(`names and values that are SQL stay what they are, cutover by ${mode}`, async (t) => {
      const database = await withDatabase(t, version)
      const { pool } = database
      const table = `${q.schema}.${q.source}`
      await pool.query(`
        CREATE TABLE canary (id int PRIMARY KEY); INSERT INTO canary VALUES (1);
        CREATE SCHEMA ${q.schema};
        CREATE TABLE ${table} (${q.key} text PRIMARY KEY, ${q.text} text, ${q.number} int);`)
      for (const [i, key] of values.entries())
        for (const [j, text] of values.entries())
          await pool.query(`INSERT INTO ${table} VALUES ($1, $2, $3)`, [`${key}${j}`, text, i * 10 + j])
      const { client } = await startService(t, database)
      const handle = await client.start(definition(`hostile-${randomUUID().slice(0, 8)}`, mode))
      await approve(handle, 'expand')
      await untilGate(handle, 'cutover')
      // Through the triggers, each kind of change, with keys and values of all sorts.
      for (const [i, key] of values.entries()) {
        await pool.query(`UPDATE ${table} SET ${q.text} = $2 WHERE ${q.key} = $1`, [
          `${key}1`,
          `changed ${attack}`,
        ])
        await pool.query(`UPDATE ${table} SET ${q.key} = $2 WHERE ${q.key} = $1`, [`${key}2`, `${key} moved`])
        await pool.query(`DELETE FROM ${table} WHERE ${q.key} = $1`, [`${key}3`])
        await pool.query(`INSERT INTO ${table} VALUES ($1, $2, $3)`, [`${key} new`, key, i])
      }
      const { rows: wanted } = await pool.query(
        `SELECT ${q.key} AS key, ${q.text} AS text, ${q.number} AS number FROM ${table} ORDER BY ${q.key} COLLATE "C"`,
      )
      for (const gate of ['cutover', 'retire', 'contract'] as const) await approve(handle, gate)
      const { outcome, status } = await handle.result()
      expect({ outcome, mismatched: status.verify.mismatched }).toEqual({ outcome: 'done', mismatched: 0 })
      const kept = mode === 'swap' ? table : `${q.schema}.${q.target}`
      const { rows: found } = await pool.query(
        `SELECT ${q.target_key} AS key, ${q.target_text} AS text, ${q.target_number}::int AS number FROM ${kept} ORDER BY ${q.target_key} COLLATE "C"`,
      )
      expect(found).toEqual(wanted)
      expect(found).toHaveLength(values.length * values.length)
      expect((await pool.query('SELECT id FROM canary')).rows).toEqual([{ id: 1 }])
    })
})
