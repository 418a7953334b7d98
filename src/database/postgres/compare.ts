import type { Comparison, Dialect, Key, ResolvedLink } from '../dialect.ts'
import type { Transaction } from '../database.ts'
import { inRowComparison } from './in-row.ts'
import { leavesOf, quoteIdentifier, quoteTable } from './identifiers.ts'
import {
  keyArrays,
  keyBetween,
  keyIn,
  keyTexts,
  linkRows,
  namedTable,
  onTarget,
  rowKey,
  rowsDiffer,
  scopeOfLink,
  type KeyCondition,
} from './projection.ts'

/**
 * Comparison inside the database: a full join of what the target should hold with what it holds, by key. No row leaves the
 * server; only the keys of those that differ do.
 */
function comparisonSql(resolved: ResolvedLink, condition: KeyCondition, limit: number): string {
  const { link } = resolved
  if (link.inRow) return inRowComparison(resolved, condition, limit)
  const columns = link.parts.flatMap((part) => part.columns.map((column) => column.to))
  const keys = link.target.key.map((column, i) => `${quoteIdentifier(column)} AS _crossfade_k${i + 1}`)
  const where = [onTarget(resolved, condition), ...scopeOfLink(resolved)].join(' AND ')
  const target = `SELECT ${[...keys, ...columns.map(quoteIdentifier)].join(', ')} FROM ${namedTable(link.target)} WHERE ${where}`
  const names = link.target.key.map((_, i) => `_crossfade_k${i + 1}`)
  const equal = names.map((name) => `_crossfade_s.${name} = _crossfade_t.${name}`).join(' AND ')
  const differs = [
    `_crossfade_s.${names[0]} IS NULL`,
    `_crossfade_t.${names[0]} IS NULL`,
    rowsDiffer(resolved, '_crossfade_s', '_crossfade_t'),
  ].join(' OR ')
  const key = names
    .map((name) => `coalesce(_crossfade_s.${name}::text, _crossfade_t.${name}::text)`)
    .join(', ')
  // In the order of the source, so that whoever gets only the first of them can go on behind the last.
  const places = names.map((name, i) => {
    const order = resolved.keyOrders[i]?.source
    return `coalesce(_crossfade_s.${name}, _crossfade_t.${name})${order === undefined ? '' : ` COLLATE ${order}`}`
  })
  // What differs is asked in one place, because PostgreSQL would evaluate it as often as it stands there.
  return (
    `SELECT compared, coalesce(cardinality(keys), 0) AS differences, to_json(keys[1:${Math.floor(limit)}]) AS keys FROM (` +
    `SELECT count(*) AS compared, array_agg(json_build_array(${key}) ORDER BY ${places.join(', ')}) FILTER (WHERE ${differs}) AS keys ` +
    `FROM (${linkRows(resolved, condition)}) AS _crossfade_s FULL JOIN (${target}) AS _crossfade_t ON ${equal}) AS _crossfade_j`
  )
}

async function compare(tx: Transaction, sql: string, values: readonly unknown[]): Promise<Comparison> {
  const row = (await tx.query(sql, values)).rows[0] ?? {}
  return {
    compared: Number(row['compared'] ?? 0),
    differences: Number(row['differences'] ?? 0),
    different: JSON.parse(row['keys'] ?? '[]') as Key[],
  }
}

export const range: Dialect['compare']['range'] = (tx, resolved, bounds, limit) => {
  const { condition, values } = keyBetween(bounds, resolved.keyTypes)
  return compare(tx, comparisonSql(resolved, condition, limit), values)
}

export const keys: Dialect['compare']['keys'] = async (tx, resolved, wanted) => {
  if (wanted.length === 0) return { compared: 0, differences: 0, different: [] }
  const { arrays, values } = keyArrays(wanted, resolved.keyTypes)
  return compare(tx, comparisonSql(resolved, keyIn(arrays), wanted.length), values)
}

export const sampleKeys: Dialect['compare']['sampleKeys'] = async (tx, resolved, side, rows) => {
  const { link } = resolved
  const drawn = side === 'source' ? link.parts[0] : link.target
  const { table, key } = drawn
  // Rows outside of the link are never compared: they would only thin the sample out.
  const where = side === 'source' ? link.parts[0].where : scopeOfLink(resolved)[0]
  const size = await tx.query(
    `SELECT greatest(sum(c.relpages), 1)::float8 AS pages FROM ${leavesOf('to_regclass($1)')} l JOIN pg_class c USING (oid)`,
    [quoteTable(table)],
  )
  const pages = Number(size.rows[0]?.['pages'] ?? 1)
  // A handful of random pages each time; small tables are read whole.
  const percent = pages < 20 ? 100 : Math.max(0.0001, Math.min(100, (100 * 5) / pages))
  const result = await tx.query(
    `SELECT ${keyTexts(key)} FROM ${namedTable(drawn)} TABLESAMPLE SYSTEM (${percent.toFixed(6)}) WHERE ${where === undefined ? 'true' : `(${where})`} ORDER BY random() LIMIT ${Math.floor(rows)}`,
  )
  return result.rows.map((row) => rowKey(row, key.length))
}
