import type { Mends } from '../mends.ts'
import { requireValues as requireValuesSteps } from './columns.ts'
import { fitIdentifier, quoteIdentifier, quoteList, quoteLiteral, quoteTable } from './identifiers.ts'

const lines = (statements: readonly string[]): string =>
  statements.map((statement) => `${statement};`).join(' ')

/**
 * An index of a partitioned table cannot be built concurrently; one that every partition has already is only put together.
 * https://www.postgresql.org/docs/18/ddl-partitioning.html#DDL-PARTITIONING-DECLARATIVE-MAINTENANCE
 */
export const index: Mends['index'] = ({ table, kind }, columns, { unique } = { unique: false }) => {
  const create = unique ? 'CREATE UNIQUE INDEX' : 'CREATE INDEX'
  const name = quoteTable(table)
  const on = `(${quoteList(columns)})`
  if (kind !== 'partitioned') return lines([`${create} CONCURRENTLY ON ${name} ${on}`])
  const ofEach = `format(${quoteLiteral(`${create} CONCURRENTLY ON %s ${on.replaceAll('%', '%%')}`)}, relid)`
  return `SELECT ${ofEach} FROM pg_partition_tree(${quoteLiteral(name)}) WHERE isleaf \\gexec ${create} ON ${name} ${on};`
}

export const requireValues: Mends['requireValues'] = (table, columns) =>
  lines(columns.flatMap((column) => requireValuesSteps(table, column).flatMap(({ sql }) => sql)))

/** They fire in the order of their names' bytes, and ours begins with `~`. */
export const runEarlier: Mends['runEarlier'] = (table, triggers) =>
  lines(
    triggers.map(
      (name) =>
        `ALTER TRIGGER ${quoteIdentifier(name)} ON ${quoteTable(table)} RENAME TO ${quoteIdentifier(fitIdentifier(`z${name}`))}`,
    ),
  )

export const leaveRoom: Mends['leaveRoom'] = (table) =>
  lines([`ALTER TABLE ${quoteTable(table)} SET (fillfactor = 90)`])

export const selectMissing: Mends['selectMissing'] = (table, column) =>
  lines([`SELECT * FROM ${quoteTable(table)} WHERE ${quoteIdentifier(column)} IS NULL`])
