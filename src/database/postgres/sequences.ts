import type { TableName } from '../../core/link.ts'
import type { Transaction } from '../database.ts'
import type { Dialect } from '../dialect.ts'
import { quoteIdentifier, quoteLiteral, quoteTable } from './identifiers.ts'

/**
 * Whoever inserts into the target from now on must get numbers that no row has and that no session of the source's side still
 * holds in its cache. A sequence's last_value counts what was handed out, cached values included, so the target's sequence goes
 * behind the source's. setval is not undone by a rollback, and here it only ever goes on: safe to run twice.
 * https://www.postgresql.org/docs/18/sql-createsequence.html ("CACHE"), https://www.postgresql.org/docs/18/functions-sequence.html
 */
export const advanceSequences: Dialect['ddl']['advanceSequences'] = async (tx, { link }) => {
  if (link.inRow) return
  const [driving] = link.parts
  const { table, key } = link.target
  const ofSource = await sequencesOf(tx, driving.table)
  for (const { column, sequence, rises, isIndexed } of await sequencesOf(tx, table)) {
    const from = driving.key[key.indexOf(column)]
    const handedOut = ofSource.filter((other) => other.column === from).map((other) => other.sequence)
    // Without an index the highest number would be looked for in the whole table, while writers wait.
    const highest = `(SELECT ${rises ? 'max' : 'min'}(${quoteIdentifier(column)})::bigint FROM ${quoteTable(table)})`
    const candidates = [
      ...[sequence, ...handedOut].map((each) => `(SELECT last_value FROM ${each})`),
      ...(isIndexed ? [highest] : []),
    ]
    await tx.query(
      `SELECT setval(${quoteLiteral(sequence)}, ${rises ? 'greatest' : 'least'}(${candidates.join(', ')}))`,
    )
  }
}

interface ColumnSequence {
  readonly column: string
  /** As it is written in SQL. */
  readonly sequence: string
  readonly rises: boolean
  /** The column comes first in an index. */
  readonly isIndexed: boolean
}

/** The sequences that a table's columns take their values from: identities, serials, and defaults that name one. */
async function sequencesOf(tx: Transaction, table: TableName): Promise<ColumnSequence[]> {
  const result = await tx.query(
    `WITH used AS (` +
      `SELECT refobjsubid AS attnum, objid AS sequence FROM pg_depend WHERE classid = 'pg_class'::regclass AND refclassid = 'pg_class'::regclass AND refobjid = to_regclass($1) AND refobjsubid > 0 ` +
      `UNION SELECT f.adnum, d.refobjid FROM pg_attrdef f JOIN pg_depend d ON d.classid = 'pg_attrdef'::regclass AND d.objid = f.oid AND d.refclassid = 'pg_class'::regclass WHERE f.adrelid = to_regclass($1)) ` +
      `SELECT a.attname AS name, format('%I.%I', n.nspname, c.relname) AS sequence, s.seqincrement > 0 AS rises, ` +
      `EXISTS (SELECT FROM pg_index i WHERE i.indrelid = a.attrelid AND i.indisvalid AND i.indkey[0] = a.attnum AND i.indpred IS NULL) AS indexed ` +
      `FROM used JOIN pg_sequence s ON s.seqrelid = used.sequence JOIN pg_class c ON c.oid = s.seqrelid JOIN pg_namespace n ON n.oid = c.relnamespace ` +
      `JOIN pg_attribute a ON a.attrelid = to_regclass($1) AND a.attnum = used.attnum ORDER BY a.attnum, 2`,
    [quoteTable(table)],
  )
  return result.rows.map((row) => ({
    column: row['name'] ?? '',
    sequence: row['sequence'] ?? '',
    rises: row['rises'] === 't',
    isIndexed: row['indexed'] === 't',
  }))
}

/**
 * A serial's sequence goes with the table that owns it, and keeps the table from being dropped while the new table takes its numbers
 * from it: it is given to the column that uses it, or to nobody where owner or schema do not allow that.
 */
export async function handOnSequences(tx: Transaction, table: TableName): Promise<void> {
  const result = await tx.query(
    `SELECT DISTINCT ON (s.oid) format('%I.%I', n.nspname, s.relname) AS name, format('%I.%I.%I', m.nspname, c.relname, a.attname) AS user, ` +
      `s.relowner = c.relowner AND s.relnamespace = c.relnamespace AS fits FROM pg_depend o JOIN pg_class s ON s.oid = o.objid AND s.relkind = 'S' JOIN pg_namespace n ON n.oid = s.relnamespace ` +
      `JOIN pg_depend d ON d.classid = 'pg_attrdef'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid = s.oid JOIN pg_attrdef f ON f.oid = d.objid AND f.adrelid <> o.refobjid ` +
      `JOIN pg_class c ON c.oid = f.adrelid JOIN pg_namespace m ON m.oid = c.relnamespace JOIN pg_attribute a ON a.attrelid = f.adrelid AND a.attnum = f.adnum ` +
      `WHERE o.classid = 'pg_class'::regclass AND o.refclassid = 'pg_class'::regclass AND o.refobjid = to_regclass($1) AND o.deptype = 'a' ORDER BY s.oid, fits DESC, 2`,
    [quoteTable(table)],
  )
  for (const row of result.rows)
    await tx.query(`ALTER SEQUENCE ${row['name']} OWNED BY ${row['fits'] === 't' ? row['user'] : 'NONE'}`)
}
