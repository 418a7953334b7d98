import { createHash } from 'node:crypto'
import type { TableName } from '../../core/link.ts'
import { CrossfadeError } from '../../errors/index.ts'

/** The only place where a name becomes SQL. https://www.postgresql.org/docs/18/sql-syntax-lexical.html#SQL-SYNTAX-IDENTIFIERS */
export function quoteIdentifier(name: string): string {
  if (name.length === 0 || name.includes('\0') || Buffer.byteLength(name) > 63)
    throw new CrossfadeError({
      kind: 'input',
      code: 'DATABASE.INVALID_IDENTIFIER',
      message: `${JSON.stringify(name)} cannot name anything in PostgreSQL.`,
      mend: 'Use 1 to 63 bytes without a NUL character.',
    })
  return `"${name.replaceAll('"', '""')}"`
}

export function quoteTable(table: TableName): string {
  return `${quoteIdentifier(table.schema)}.${quoteIdentifier(table.name)}`
}

/** A string constant, for the few places that take no parameter (DDL, function bodies). */
export function quoteLiteral(text: string): string {
  const quoted = `'${text.replaceAll("'", "''")}'`
  return text.includes('\\') ? `E${quoted.replaceAll('\\', '\\\\')}` : quoted
}

/**
 * The tables that hold a table's rows, as a sub-select of their oids: its leaves where it is partitioned, else itself, for which
 * pg_partition_tree returns nothing. `oid` is SQL. https://www.postgresql.org/docs/18/functions-info.html#FUNCTIONS-INFO-PARTITION
 */
export const leavesOf = (oid: string): string =>
  `(SELECT oid FROM pg_class WHERE oid = ${oid} AND relkind <> 'p' UNION SELECT relid::oid FROM pg_partition_tree(${oid}) WHERE isleaf)`

export const quoteList = (names: readonly string[]): string => names.map(quoteIdentifier).join(', ')

/** `name` if it fits into 63 bytes, else its start and a hash of all of it: never two names that truncation makes one. */
export function fitIdentifier(name: string): string {
  if (Buffer.byteLength(name) <= 63) return name
  const hash = createHash('sha256').update(name).digest('hex').slice(0, 8)
  const characters = [...name]
  while (Buffer.byteLength(characters.join('')) > 54) characters.pop()
  return `${characters.join('')}_${hash}`
}
