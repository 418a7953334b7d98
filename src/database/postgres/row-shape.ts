import type { TableName } from '../../core/link.ts'
import type { Scope } from '../dialect.ts'
import type { Transaction } from '../database.ts'
import { quoteIdentifier, quoteTable } from './identifiers.ts'

/** The columns of a table, in order, as a trigger has to know them. */
export type RowShape = readonly {
  readonly name: string
  /** The expression of a generated column. */
  readonly generated: string | undefined
  /** A default that gives the same value again within a statement: no sequence, no random number. */
  readonly fallback: string | undefined
}[]

export async function rowShape(tx: Transaction, table: TableName): Promise<RowShape> {
  const volatile =
    `EXISTS (SELECT FROM regexp_matches(d.adbin::text, ':(?:funcid|opfuncid) (\\d+)', 'g') AS f(parts) ` +
    `JOIN pg_proc p ON p.oid = f.parts[1]::oid WHERE p.provolatile = 'v')`
  const result = await tx.query(
    `SELECT a.attname, a.attgenerated <> '' AS generated, pg_get_expr(d.adbin, d.adrelid) AS expression, ${volatile} AS volatile ` +
      `FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum ` +
      `WHERE a.attrelid = to_regclass($1) AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum`,
    [quoteTable(table)],
  )
  return result.rows.map((row) => {
    const expression = row['expression'] ?? undefined
    const isGenerated = row['generated'] === 't'
    return {
      name: row['attname'] ?? '',
      generated: isGenerated ? expression : undefined,
      fallback: isGenerated || row['volatile'] === 't' ? undefined : expression,
    }
  })
}

/**
 * The columns of a table that expressions over one row of it read, by the server's own account: it notes them for a view, which is
 * made and taken back here.
 */
export async function readsOf(
  tx: Transaction,
  scope: Scope,
  table: TableName,
  expressions: readonly string[],
): Promise<string[]> {
  if (expressions.length === 0) return []
  const view = quoteTable({ schema: scope.schema, name: 'reads' })
  const columns = expressions
    .map((expression, i) => `${expression} AS ${quoteIdentifier(`c${i}`)}`)
    .join(', ')
  await tx.query('SAVEPOINT crossfade_reads')
  try {
    await tx.query(`CREATE VIEW ${view} AS SELECT ${columns} FROM ${quoteTable(table)} AS _crossfade_t`)
    const result = await tx.query(
      `SELECT DISTINCT a.attnum, a.attname FROM pg_rewrite r JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid ` +
        `JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid ` +
        `WHERE r.ev_class = to_regclass($1) AND d.refclassid = 'pg_class'::regclass AND d.refobjid = to_regclass($2) AND d.refobjsubid > 0 ORDER BY 1`,
      [view, quoteTable(table)],
    )
    return result.rows.map((row) => row['attname'] ?? '')
  } finally {
    await tx.query('ROLLBACK TO SAVEPOINT crossfade_reads')
  }
}
