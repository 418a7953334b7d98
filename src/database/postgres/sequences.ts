import type { Dialect } from '../dialect.ts'
import { quoteIdentifier, quoteLiteral, quoteTable } from './identifiers.ts'

/**
 * Whoever inserts into the target from now on must get numbers that no row has and that no session of the source's side still
 * holds in its cache. A sequence's last_value counts what was handed out, cached values included, so the target's sequence goes
 * behind the source's. setval is not undone by a rollback, and only ever goes on: safe to run twice.
 * https://www.postgresql.org/docs/18/sql-createsequence.html ("CACHE"), https://www.postgresql.org/docs/18/functions-sequence.html
 */
export const advanceSequences: Dialect['ddl']['advanceSequences'] = async (tx, { link }) => {
  const [driving] = link.parts
  const { table, key } = link.target
  const sequences = await tx.query(
    `SELECT a.attname AS name, format('%I.%I', n.nspname, c.relname) AS sequence, s.seqincrement > 0 AS rises ` +
      `FROM pg_attribute a JOIN pg_depend d ON d.refobjid = a.attrelid AND d.refobjsubid = a.attnum AND d.classid = 'pg_class'::regclass AND d.deptype IN ('a', 'i') ` +
      `JOIN pg_sequence s ON s.seqrelid = d.objid JOIN pg_class c ON c.oid = s.seqrelid JOIN pg_namespace n ON n.oid = c.relnamespace ` +
      `WHERE a.attrelid = to_regclass($1) AND (a.attname = ANY ($2::text[]) OR EXISTS (SELECT FROM pg_index i WHERE i.indrelid = a.attrelid AND i.indisvalid AND i.indkey[0] = a.attnum))`,
    [quoteTable(table), key],
  )
  for (const row of sequences.rows) {
    const sequence = row['sequence'] ?? ''
    const column = row['name'] ?? ''
    const rises = row['rises'] === 't'
    const source = driving.key[key.indexOf(column)]
    const last = (of: string): string => `(SELECT last_value FROM ${of})`
    const candidates = [
      last(sequence),
      `(SELECT ${rises ? 'max' : 'min'}(${quoteIdentifier(column)})::bigint FROM ${quoteTable(table)})`,
      ...(source === undefined ? [] : (await sequenceOf(tx, driving.table, source)).map(last)),
    ]
    await tx.query(
      `SELECT setval(${quoteLiteral(sequence)}, ${rises ? 'greatest' : 'least'}(${candidates.join(', ')}))`,
    )
  }
}

/** The sequence that a column takes its default from, owned or not: none or one. */
async function sequenceOf(
  tx: Parameters<Dialect['ddl']['advanceSequences']>[0],
  table: Parameters<typeof quoteTable>[0],
  column: string,
): Promise<string[]> {
  const result = await tx.query(
    `SELECT DISTINCT format('%I.%I', n.nspname, c.relname) AS name FROM pg_attribute a ` +
      `LEFT JOIN pg_attrdef f ON f.adrelid = a.attrelid AND f.adnum = a.attnum ` +
      `JOIN pg_depend d ON (d.classid = 'pg_class'::regclass AND d.refobjid = a.attrelid AND d.refobjsubid = a.attnum) OR (d.classid = 'pg_attrdef'::regclass AND d.objid = f.oid) ` +
      `JOIN pg_class c ON c.relkind = 'S' AND c.oid = CASE WHEN d.classid = 'pg_class'::regclass THEN d.objid ELSE d.refobjid END JOIN pg_namespace n ON n.oid = c.relnamespace ` +
      `WHERE a.attrelid = to_regclass($1) AND a.attname = $2`,
    [quoteTable(table), column],
  )
  return result.rows.map((row) => row['name'] ?? '')
}
