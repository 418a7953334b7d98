import type { ColumnSource, Pair } from '../../core/link.ts'
import type { Dialect, ResolvedLink } from '../dialect.ts'
import type { Transaction } from '../database.ts'
import { quoteIdentifier, quoteTable } from './identifiers.ts'
import { imageOf, keyBetween, valuesDiffer, type KeyCondition } from './projection.ts'

/**
 * The SQL of a link within one row: columns of a table computed from other columns of it. Always one UPDATE whose expressions
 * stand over the row that it writes: after it waited for another writer, PostgreSQL evaluates them over that writer's version.
 * A join with a second reading of the table would write what the row said before.
 * https://www.postgresql.org/docs/18/transaction-iso.html#XACT-READ-COMMITTED
 */

/** The row that bare column names of the expressions mean. */
const self = '_crossfade_t'

export const pairsOf = ({ link }: ResolvedLink): readonly Pair[] => link.inRow ?? []

/** What a link fills of a pair: new columns forward, old ones back. */
export function filledOf({ link }: ResolvedLink, pair: Pair): ColumnSource[] {
  const names = link.direction === 'forward' ? pair.new : pair.old
  return link.parts[0].columns.filter((column) => names.includes(column.to))
}

export const expressionOf = (column: ColumnSource): string =>
  'column' in column ? quoteIdentifier(column.column) : `(${column.expression})`

/** What the definition calls a column that has this name now. */
export const definedName = ({ row }: ResolvedLink, present: string): string =>
  Object.entries(row?.names.renamed ?? {}).find(([, now]) => now === present)?.[0] ?? present

/** The expression over the row that is written: its columns under the names that the definition knows. */
function ownExpression(resolved: ResolvedLink, column: ColumnSource): string {
  const { columns = [] } = resolved.row?.names ?? {}
  if (columns.length === 0) return expressionOf(column)
  const fields = columns.map(
    (name) => `${self}.${quoteIdentifier(name)} AS ${quoteIdentifier(definedName(resolved, name))}`,
  )
  return `(SELECT ${expressionOf(column)} FROM (SELECT ${fields.join(', ')}) AS _crossfade_row)`
}

const held = (column: string): string => `${self}.${quoteIdentifier(column)}`

/** True where `value`, by default what the row holds, is not what the link computes for the pair. */
export function differs(
  resolved: ResolvedLink,
  pair: Pair,
  value = held,
  expression = (column: ColumnSource): string => ownExpression(resolved, column),
): string {
  const columns = filledOf(resolved, pair)
  const computed = new Map(columns.map((column) => [column.to, expression(column)]))
  const names = columns.map((column) => column.to)
  return `(${valuesDiffer(names, resolved.targetTypes, value, (name) => computed.get(name) ?? 'NULL')})`
}

/** What a side of a pair holds, as a text of a fixed size. */
export const digestOf = (resolved: ResolvedLink, pair: Pair, value = held): string =>
  `md5((${imageOf(
    filledOf(resolved, pair).map((column) => column.to),
    resolved.targetTypes,
    value,
  )})::text)`

export const isAuthoredFunction = (resolved: ResolvedLink): string =>
  quoteTable({ schema: resolved.row?.schema ?? '', name: `is_authored_${resolved.row?.id}` })

/**
 * True where the new columns of the pair hold what the application wrote itself. Columns that are all NULL were never written, so
 * that a backfill asks for rows that somebody has touched already, and for no others. The function is volatile: it looks anew
 * when the UPDATE has waited for the transaction that wrote the row.
 */
function isAuthored(resolved: ResolvedLink, pair: Pair): string {
  const columns = filledOf(resolved, pair)
  const keys = resolved.link.target.key.map((column) => `${self}.${quoteIdentifier(column)}`)
  const place = pairsOf(resolved).indexOf(pair)
  return `NOT (${columns.map((column) => `${held(column.to)} IS NULL`).join(' AND ')}) AND ${isAuthoredFunction(resolved)}(${[...keys, place, digestOf(resolved, pair)].join(', ')})`
}

/**
 * Whether the link has something to write for the pair. Forward: what differs, and was not written by the application itself.
 * Back: what differs, unless the new side is just what the old one says: then nobody wrote the new side, and a mapping that
 * does not give the same old values back must not change them.
 */
function mustWrite(resolved: ResolvedLink, pair: Pair): string {
  const other = resolved.row?.other
  if (resolved.link.direction === 'forward')
    return `${differs(resolved, pair)} AND NOT (${isAuthored(resolved, pair)})`
  // In this order: the second expression may not be able to read what the first has written.
  return other
    ? `CASE WHEN ${differs(resolved, pair)} THEN ${differs(other, pair)} ELSE false END`
    : differs(resolved, pair)
}

const filledPairs = (resolved: ResolvedLink): Pair[] =>
  pairsOf(resolved).filter((pair) => filledOf(resolved, pair).length > 0)

/** Brings the rows of `condition` in step, and writes no row that is in step already. */
export function followSql(resolved: ResolvedLink, condition: KeyCondition): string {
  const { table, key } = resolved.link.target
  const written = (pair: Pair): ColumnSource[] =>
    filledOf(resolved, pair).filter((column) => !resolved.row?.fixed.includes(column.to))
  const pairs = filledPairs(resolved).filter((pair) => written(pair).length > 0)
  if (pairs.length === 0)
    return `SELECT FROM ${quoteTable(table)} AS ${self} WHERE ${condition(key)} AND false`
  const assignments = pairs.flatMap((pair) =>
    written(pair).map((column) => {
      const value =
        pairs.length === 1
          ? ownExpression(resolved, column)
          : `CASE WHEN ${mustWrite(resolved, pair)} THEN ${ownExpression(resolved, column)} ELSE ${held(column.to)} END`
      return `${quoteIdentifier(column.to)} = ${value}`
    }),
  )
  const writes = pairs.map((pair) => `(${mustWrite(resolved, pair)})`).join(' OR ')
  return `UPDATE ${quoteTable(table)} AS ${self} SET ${assignments.join(', ')} WHERE ${condition(key)} AND (${writes})`
}

export const followRange = async (
  tx: Transaction,
  resolved: ResolvedLink,
  range: Parameters<Dialect['copy']['insertMissing']>[2],
): Promise<number> => {
  const { condition, values } = keyBetween(range, resolved.keyTypes)
  return (await tx.query(followSql(resolved, condition), values)).rowCount
}

/** How many rows there are, and the keys of those where one side is not what the other says, in their own order. */
export function inRowComparison(resolved: ResolvedLink, condition: KeyCondition, limit: number): string {
  const { table, key } = resolved.link.target
  const isForward = resolved.link.direction === 'forward'
  const wrong = filledPairs(resolved).map((pair) =>
    isForward ? `(${mustWrite(resolved, pair)})` : differs(resolved, pair),
  )
  const keys = key.map((column) => `${self}.${quoteIdentifier(column)}`)
  const texts = keys.map((name) => `${name}::text`).join(', ')
  return (
    `SELECT compared, coalesce(cardinality(keys), 0) AS differences, to_json(keys[1:${Math.floor(limit)}]) AS keys FROM (` +
    `SELECT count(*) AS compared, array_agg(json_build_array(${texts}) ORDER BY ${keys.join(', ')}) FILTER (WHERE ${wrong.join(' OR ')}) AS keys ` +
    `FROM ${quoteTable(table)} AS ${self} WHERE ${condition(key)}) AS _crossfade_j`
  )
}

/** The server plans it with all its types, and runs nothing. */
export const explainFollow = async (tx: Transaction, resolved: ResolvedLink): Promise<void> => {
  await tx.query(`EXPLAIN ${followSql(resolved, () => 'true')}`)
}

/** Before the new columns stand only their expressions can be planned. */
export const evaluationSql = ({ link }: ResolvedLink): string =>
  `SELECT ${link.parts[0].columns.map(expressionOf).join(', ')} FROM ${quoteTable(link.target.table)} AS ${self}`
