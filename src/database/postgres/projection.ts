import type { ColumnSource, Link, LinkPart } from '../../core/link.ts'
import type { Key, KeyRange, ResolvedLink } from '../dialect.ts'
import { quoteIdentifier, quoteList, quoteTable } from './identifiers.ts'

/**
 * The SQL of a link: which rows it makes. The definition's expressions stand in a SELECT over one table only, so that bare
 * column names mean what their author meant, and whatever we add is qualified by names that start with _crossfade.
 */

/** A condition over a part's own columns; where it needs values, it names parameters or variables. */
export type KeyCondition = (columns: readonly string[]) => string

export const everything: KeyCondition = () => 'true'

/**
 * Keys out of arrays, one array a key column. One column: `= ANY`, an index scan whatever the plan thinks of the array's size.
 * `arrays` are SQL: `$1::bigint[]`, or a variable of a trigger function.
 */
export function keyIn(arrays: readonly string[]): KeyCondition {
  return (columns) => {
    if (columns.length === 1) return `${quoteIdentifier(columns[0] ?? '')} = ANY (${arrays[0]})`
    const names = columns.map((_, i) => `_crossfade_k${i + 1}`).join(', ')
    return `(${quoteList(columns)}) IN (SELECT ${names} FROM unnest(${arrays.join(', ')}) AS _crossfade_u(${names}))`
  }
}

/** Keys of a range; a row comparison, so that a composite key's index serves it. Parameters start at `$first`. */
export function keyBetween(range: KeyRange, types: readonly string[], first = 1): { condition: KeyCondition; values: Key[number][] } {
  const values: string[] = []
  const bound = (key: Key): string => {
    const parameters = key.map((value, i) => `$${first + values.push(value) - 1}::${types[i]}`)
    return parameters.length === 1 ? (parameters[0] ?? '') : `(${parameters.join(', ')})`
  }
  const low = range.after && bound(range.after)
  const high = range.upTo && bound(range.upTo)
  return {
    values,
    condition: (columns) => {
      const key = columns.length === 1 ? quoteIdentifier(columns[0] ?? '') : `(${quoteList(columns)})`
      const bounds = [low && `${key} > ${low}`, high && `${key} <= ${high}`].filter(Boolean)
      return bounds.length === 0 ? 'true' : bounds.join(' AND ')
    },
  }
}

/** Row-major keys as one text array a key column, for `unnest` and `= ANY`. */
export function keyArrays(keys: readonly Key[], types: readonly string[]): { arrays: string[]; values: string[][] } {
  return {
    arrays: types.map((type, i) => `$${i + 1}::${type}[]`),
    values: types.map((_, i) => keys.map((key) => key[i] ?? '')),
  }
}

export const keyTexts = (columns: readonly string[], qualifier = ''): string =>
  columns.map((column, i) => `${qualifier}${quoteIdentifier(column)}::text AS _crossfade_k${i + 1}`).join(', ')

/** The key of a row that selected `_crossfade_k1`, `_crossfade_k2`, … */
export const rowKey = (row: Record<string, string | null>, width: number): Key =>
  Array.from({ length: width }, (_, i) => row[`_crossfade_k${i + 1}`] ?? '')

export const columnSql = (column: ColumnSource): string =>
  'column' in column ? quoteIdentifier(column.column) : `(${column.expression})`

/** The rows of one part that exist for the link and satisfy `condition`, with `_crossfade_k1…` and the part's target columns. */
function partRows(part: LinkPart, condition: KeyCondition): string {
  const keys = part.key.map((column, i) => `${quoteIdentifier(column)} AS _crossfade_k${i + 1}`)
  const columns = part.columns.map((column) => `${columnSql(column)} AS ${quoteIdentifier(column.to)}`)
  const where = [part.where === undefined ? undefined : `(${part.where})`, condition(part.key)].filter(Boolean).join(' AND ')
  return `SELECT ${[...keys, ...columns].join(', ')} FROM ${quoteTable(part.table)} WHERE ${where}`
}

/** The rows that the target should have, as a sub-select with `_crossfade_k1…` and the target's columns by name. */
export function linkRows({ link }: ResolvedLink, condition: KeyCondition): string {
  const [driving, ...joined] = link.parts
  if (joined.length === 0) return partRows(driving, condition)
  const keys = driving.key.map((_, i) => `_crossfade_p0._crossfade_k${i + 1}`)
  const columns = link.parts.flatMap((part, p) => part.columns.map((column) => `_crossfade_p${p}.${quoteIdentifier(column.to)}`))
  const joins = joined.map((part, p) => {
    const on = driving.key.map((_, i) => `_crossfade_p${p + 1}._crossfade_k${i + 1} = _crossfade_p0._crossfade_k${i + 1}`)
    return `LEFT JOIN (${partRows(part, condition)}) AS _crossfade_p${p + 1} ON ${on.join(' AND ')}`
  })
  return `SELECT ${[...keys, ...columns].join(', ')} FROM (${partRows(driving, condition)}) AS _crossfade_p0 ${joins.join(' ')}`
}

/** True where the driving table has a row for the key held in `qualifier._crossfade_k1…`. */
export function sourceExists(link: Link, qualifier: string): string {
  const [driving] = link.parts
  const equal = driving.key.map((column, i) => `${quoteIdentifier(column)} = ${qualifier}._crossfade_k${i + 1}`)
  const where = [...(driving.where === undefined ? [] : [`(${driving.where})`]), ...equal].join(' AND ')
  return `EXISTS (SELECT FROM ${quoteTable(driving.table)} WHERE ${where})`
}

export const targetColumns = (link: Link): string[] => link.parts.flatMap((part) => part.columns.map((column) => column.to))

/** `INSERT INTO target (…) SELECT …` without its conflict rule. Explicit keys also go into GENERATED ALWAYS identities. */
export function insertRows(resolved: ResolvedLink, condition: KeyCondition, extraCondition = ''): string {
  const { link } = resolved
  const columns = targetColumns(link)
  const selected = [...link.target.key.map((_, i) => `_crossfade_s._crossfade_k${i + 1}`), ...columns.map((column) => `_crossfade_s.${quoteIdentifier(column)}`)]
  return (
    `INSERT INTO ${quoteTable(link.target.table)} AS _crossfade_t (${quoteList([...link.target.key, ...columns])}) OVERRIDING SYSTEM VALUE ` +
    `SELECT ${selected.join(', ')} FROM (${linkRows(resolved, condition)}) AS _crossfade_s ${extraCondition}`
  )
}

/**
 * Updates the target rows that stand and differ, or undefined where the link fills nothing but the key. Rows are compared as
 * images (`*<>`), so that types without equality (json, xml) work and what an operator calls equal but is not the same (citext
 * case, numeric scale) is copied too. https://www.postgresql.org/docs/18/functions-comparisons.html#COMPOSITE-TYPE-COMPARISON
 */
export function updateRows(resolved: ResolvedLink, condition: KeyCondition): string | undefined {
  const { link } = resolved
  const columns = targetColumns(link)
  if (columns.length === 0) return undefined
  const assignments = columns.map((column) => `${quoteIdentifier(column)} = _crossfade_s.${quoteIdentifier(column)}`)
  const equal = link.target.key.map((column, i) => `_crossfade_t.${quoteIdentifier(column)} = _crossfade_s._crossfade_k${i + 1}`)
  return (
    `UPDATE ${quoteTable(link.target.table)} AS _crossfade_t SET ${assignments.join(', ')} ` +
    `FROM (${linkRows(resolved, condition)}) AS _crossfade_s WHERE ${equal.join(' AND ')} ` +
    `AND ${rowImage(resolved, '_crossfade_t')} *<> ${rowImage(resolved, '_crossfade_s')}`
  )
}

/**
 * The filled columns of a row as one image. An INSERT or UPDATE casts to the column's type by assignment, which refuses what is
 * too long; a written cast would cut it silently, and the cut value would then look equal. So lengths are taken off the type.
 * https://www.postgresql.org/docs/18/sql-expressions.html#SQL-SYNTAX-TYPE-CASTS
 */
export function rowImage({ link, targetTypes }: ResolvedLink, qualifier: string): string {
  const columns = targetColumns(link).map((column) => comparable(`${qualifier}.${quoteIdentifier(column)}`, targetTypes[column] ?? 'text'))
  return `ROW(${columns.join(', ')})`
}

function comparable(value: string, type: string): string {
  if (/^(character|bpchar)(\(\d+\))?$/.test(type)) return `rtrim(${value}::text)` // char(n) pads: the padding is no value
  if (/^bit(\(\d+\))?$/.test(type)) return `${value}::bit varying`
  return `${value}::${type.replace(/^(character varying|bit varying)\(\d+\)/, '$1')}`
}

/** Deletes the target rows of the keys in `arrays` for which the source has none, in this same statement. */
export function deleteGone({ link }: ResolvedLink, arrays: readonly string[]): string {
  const names = link.target.key.map((_, i) => `_crossfade_k${i + 1}`)
  const equal = link.target.key.map((column, i) => `_crossfade_t.${quoteIdentifier(column)} = _crossfade_u.${names[i]}`)
  const scope = link.target.scope === undefined ? '' : ` AND ${inScope(link)}`
  return (
    `DELETE FROM ${quoteTable(link.target.table)} AS _crossfade_t USING unnest(${arrays.join(', ')}) AS _crossfade_u(${names.join(', ')}) ` +
    `WHERE ${equal.join(' AND ')}${scope} AND NOT ${sourceExists(link, '_crossfade_u')}`
  )
}

/** The link's scope, evaluated on a row of the target by its key, where bare names would be ambiguous otherwise. */
function inScope(link: Link): string {
  const equal = link.target.key.map((column, i) => `${quoteIdentifier(column)} = _crossfade_u._crossfade_k${i + 1}`)
  return `EXISTS (SELECT FROM ${quoteTable(link.target.table)} WHERE (${link.target.scope}) AND ${equal.join(' AND ')})`
}
