import type { ColumnSource, Link, LinkPart, TableName } from '../../core/link.ts'
import type { Key, KeyRange, ResolvedLink } from '../dialect.ts'
import { quoteIdentifier, quoteList, quoteTable } from './identifiers.ts'
import { placeIn } from './places.ts'

/**
 * The SQL of a link: which rows it makes. The definition's expressions stand in a SELECT over one table only, so that bare
 * column names mean what their author meant, and whatever we add is qualified by names that start with _crossfade.
 */

/**
 * A condition over a table's own key columns; where it needs values, it names parameters or variables. `orders` are collations
 * to compare with where they are not the columns' own.
 */
export type KeyCondition = (columns: readonly string[], orders?: readonly (string | undefined)[]) => string

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

/**
 * Keys of a range; a row comparison, so that a composite key's index serves it. Parameters start at `$first`. Of a range of places it
 * is the same over `ctid`, whatever the columns are: a condition on the table that the places are of, and on no other.
 */
export function keyBetween(
  range: KeyRange,
  types: readonly string[],
  first = 1,
): { condition: KeyCondition; values: Key[number][] } {
  if (range.file) return placesBetween(range, first)
  const values: string[] = []
  const bound = (key: Key): string => {
    const parameters = key.map((value, i) => `$${first + values.push(value) - 1}::${types[i]}`)
    return parameters.length === 1 ? (parameters[0] ?? '') : `(${parameters.join(', ')})`
  }
  const low = range.after && bound(range.after)
  const high = range.upTo && bound(range.upTo)
  return {
    values,
    condition: (columns, orders = []) => {
      const ordered = columns.map(
        (column, i) => quoteIdentifier(column) + (orders[i] === undefined ? '' : ` COLLATE ${orders[i]}`),
      )
      const key = ordered.length === 1 ? ordered[0] : `(${ordered.join(', ')})`
      const bounds = [low && `${key} > ${low}`, high && `${key} <= ${high}`].filter(Boolean)
      return bounds.length === 0 ? 'true' : bounds.join(' AND ')
    },
  }
}

function placesBetween({ after, upTo }: KeyRange, first: number): ReturnType<typeof keyBetween> {
  const place = (key: Key | undefined): Key | undefined => key && [placeIn(key)]
  const { condition, values } = keyBetween({ after: place(after), upTo: place(upTo) }, ['tid'], first)
  return { condition: () => condition(['ctid']), values }
}

/** Row-major keys as one text array a key column, for `unnest` and `= ANY`. */
export function keyArrays(
  keys: readonly Key[],
  types: readonly string[],
): { arrays: string[]; values: string[][] } {
  return {
    arrays: types.map((type, i) => `$${i + 1}::${type}[]`),
    values: types.map((_, i) => keys.map((key) => key[i] ?? '')),
  }
}

export const keyTexts = (columns: readonly string[], qualifier = ''): string =>
  columns
    .map((column, i) => `${qualifier}${quoteIdentifier(column)}::text AS _crossfade_k${i + 1}`)
    .join(', ')

/** The key of a row that selected `_crossfade_k1`, `_crossfade_k2`, … */
export const rowKey = (row: Record<string, string | null>, width: number): Key =>
  Array.from({ length: width }, (_, i) => row[`_crossfade_k${i + 1}`] ?? '')

/** A table under the name that its expressions know it by. */
export const namedTable = ({ table, as }: { readonly table: TableName; readonly as?: string }): string =>
  as === undefined ? quoteTable(table) : `${quoteTable(table)} AS ${quoteIdentifier(as)}`

const columnSql = (column: ColumnSource): string =>
  'column' in column ? quoteIdentifier(column.column) : `(${column.expression})`

/** The rows of one part that exist for the link and satisfy `condition`, with `_crossfade_k1…` and the part's target columns. */
function partRows(part: LinkPart, condition: KeyCondition, keyOrders: ResolvedLink['keyOrders']): string {
  // The target's collation, so that both sides can be compared at all and the target's index serves the comparison.
  const ordered = (column: string, i: number): string =>
    quoteIdentifier(column) + (keyOrders[i] === undefined ? '' : ` COLLATE ${keyOrders[i].target}`)
  const keys = part.key.map((column, i) => `${ordered(column, i)} AS _crossfade_k${i + 1}`)
  const columns = part.columns.map((column) => `${columnSql(column)} AS ${quoteIdentifier(column.to)}`)
  const where = [part.where === undefined ? undefined : `(${part.where})`, condition(part.key)]
    .filter(Boolean)
    .join(' AND ')
  return `SELECT ${[...keys, ...columns].join(', ')} FROM ${namedTable(part)} WHERE ${where}`
}

/** The rows that the target should have, as a sub-select with `_crossfade_k1…` and the target's columns by name. */
export function linkRows({ link, keyOrders }: ResolvedLink, condition: KeyCondition): string {
  const [driving, ...joined] = link.parts
  if (joined.length === 0) return partRows(driving, condition, keyOrders)
  const keys = driving.key.map((_, i) => `_crossfade_p0._crossfade_k${i + 1}`)
  const columns = link.parts.flatMap((part, p) =>
    part.columns.map((column) => `_crossfade_p${p}.${quoteIdentifier(column.to)}`),
  )
  const joins = joined.map((part, p) => {
    const on = driving.key.map(
      (_, i) => `_crossfade_p${p + 1}._crossfade_k${i + 1} = _crossfade_p0._crossfade_k${i + 1}`,
    )
    return `LEFT JOIN (${partRows(part, condition, keyOrders)}) AS _crossfade_p${p + 1} ON ${on.join(' AND ')}`
  })
  return `SELECT ${[...keys, ...columns].join(', ')} FROM (${partRows(driving, condition, keyOrders)}) AS _crossfade_p0 ${joins.join(' ')}`
}

/** True where the driving table has a row for the key held in `qualifier._crossfade_k1…`. */
export function sourceExists(link: Link, qualifier: string): string {
  const [driving] = link.parts
  const equal = driving.key.map(
    (column, i) => `${quoteIdentifier(column)} = ${qualifier}._crossfade_k${i + 1}`,
  )
  const where = [...(driving.where === undefined ? [] : [`(${driving.where})`]), ...equal].join(' AND ')
  return `EXISTS (SELECT FROM ${namedTable(driving)} WHERE ${where})`
}

export const targetColumns = (link: Link): string[] =>
  link.parts.flatMap((part) => part.columns.map((column) => column.to))

/** The keys of a range among the target's rows: in the order of the source, where the range was cut. */
export const onTarget = ({ link, keyOrders }: ResolvedLink, condition: KeyCondition): string =>
  condition(
    link.target.key,
    keyOrders.map((order) => order?.source),
  )

/** `INSERT INTO target (…) SELECT …` without its conflict rule. Explicit keys also go into GENERATED ALWAYS identities. */
export function insertRows(
  resolved: ResolvedLink,
  condition: KeyCondition,
  extraCondition = '',
  isSorted = false,
): string {
  const { link } = resolved
  const columns = targetColumns(link)
  const selected = [
    ...link.target.key.map((_, i) => `_crossfade_s._crossfade_k${i + 1}`),
    ...columns.map((column) => `_crossfade_s.${quoteIdentifier(column)}`),
  ]
  const order = isSorted
    ? ` ORDER BY ${quoteList(link.target.key.map((_, i) => `_crossfade_k${i + 1}`))}`
    : ''
  return (
    `INSERT INTO ${quoteTable(link.target.table)} AS _crossfade_t (${quoteList([...link.target.key, ...columns])}) OVERRIDING SYSTEM VALUE ` +
    `SELECT ${selected.join(', ')} FROM (${linkRows(resolved, condition)}${order}) AS _crossfade_s ${extraCondition}`
  )
}

/** Updates the target rows that stand and differ, or undefined where the link fills nothing but the key. */
export function updateRows(resolved: ResolvedLink, condition: KeyCondition): string | undefined {
  const update = updateStatement(resolved, condition)
  return update && `${update} AND (${rowsDiffer(resolved, '_crossfade_t', '_crossfade_s')})`
}

function updateStatement(resolved: ResolvedLink, condition: KeyCondition): string | undefined {
  const { link } = resolved
  const columns = targetColumns(link)
  if (columns.length === 0) return undefined
  const assignments = columns.map(
    (column) => `${quoteIdentifier(column)} = _crossfade_s.${quoteIdentifier(column)}`,
  )
  const equal = link.target.key.map(
    (column, i) => `_crossfade_t.${quoteIdentifier(column)} = _crossfade_s._crossfade_k${i + 1}`,
  )
  return (
    `UPDATE ${quoteTable(link.target.table)} AS _crossfade_t SET ${assignments.join(', ')} ` +
    `FROM (${linkRows(resolved, condition)}) AS _crossfade_s WHERE ${[...equal, ...inScope(resolved, '_crossfade_s')].join(' AND ')}`
  )
}

/**
 * Writes every target row of the keys that has a source row, in one statement: updates those that stand, inserts the others.
 * It writes (and so locks) what stands even where it is equal already: an applier that has read an older source row and is
 * about to write it must meet this statement on the target row, or it would win. Whoever inserts a row between this statement's
 * snapshot and its INSERT makes the INSERT fail, never pass silently. So does a row outside of the link's scope.
 */
export function writeRows(resolved: ResolvedLink, condition: KeyCondition): string {
  const { key } = resolved.link.target
  const names = key.map((_, i) => `_crossfade_k${i + 1}`)
  const update = updateStatement(resolved, condition)
  const standing =
    update === undefined
      ? `SELECT ${key.map((column, i) => `${quoteIdentifier(column)} AS ${names[i]}`).join(', ')} FROM ${namedTable(resolved.link.target)} WHERE ${[condition(key), ...scopeOfLink(resolved)].join(' AND ')} FOR NO KEY UPDATE`
      : `${update} RETURNING ${key.map((column, i) => `_crossfade_t.${quoteIdentifier(column)} AS ${names[i]}`).join(', ')}`
  const equal = names.map((name) => `_crossfade_w.${name} = _crossfade_s.${name}`).join(' AND ')
  const absent = `WHERE NOT EXISTS (SELECT FROM _crossfade_written AS _crossfade_w WHERE ${equal})`
  return `WITH _crossfade_written AS (${standing}) ${insertRows(resolved, condition, absent)}`
}

/**
 * Types whose equality is equality of the value's bytes (of text: with the collation "C"). Not among them: what says that 1.1 is
 * 1.10 (numeric), -0 is 0 (float), 24 hours are a day (interval), or has no equality at all (json).
 */
const equalAsBytes =
  /^(smallint|integer|bigint|boolean|uuid|date|bytea|(timestamp|time)(\(\d+\))? without time zone|timestamp(\(\d+\))? with time zone)$/

/**
 * Whether the filled columns of two rows differ; `false` where there are none. Values are compared as images, so that types
 * without equality (json, xml) work and what an operator calls equal but is not the same (citext case, numeric scale) counts as
 * different (docs/decisions/0011). Where a type's own operator says the same as the images do, it is asked: no row is built then.
 * https://www.postgresql.org/docs/18/functions-comparisons.html#COMPOSITE-TYPE-COMPARISON
 */
export function rowsDiffer({ link, targetTypes }: ResolvedLink, a: string, b: string): string {
  const of =
    (qualifier: string) =>
    (column: string): string =>
      `${qualifier}.${quoteIdentifier(column)}`
  return valuesDiffer(targetColumns(link), targetTypes, of(a), of(b))
}

/** The same of any values for the columns: `a` and `b` are SQL by the column's name. */
export function valuesDiffer(
  columns: readonly string[],
  types: ResolvedLink['targetTypes'],
  a: (column: string) => string,
  b: (column: string) => string,
): string {
  const images: string[] = []
  const conditions: string[] = []
  for (const column of columns) {
    const type = comparedAs(types[column] ?? 'text')
    const of = (value: typeof a): string => `${value(column)}::${type}`
    if (equalAsBytes.test(type)) conditions.push(`${of(a)} IS DISTINCT FROM ${of(b)}`)
    else if (/(^|::)(text|character varying)$/.test(type))
      conditions.push(`${of(a)} COLLATE "C" IS DISTINCT FROM ${of(b)} COLLATE "C"`)
    else images.push(column)
  }
  if (images.length > 0) conditions.push(`${imageOf(images, types, a)} *<> ${imageOf(images, types, b)}`)
  return conditions.join(' OR ') || 'false'
}

/** Columns as one value. Two bare ROW() would be compared column by column, with an operator that a column's type need not have. */
export const imageOf = (
  columns: readonly string[],
  types: ResolvedLink['targetTypes'],
  value: (column: string) => string,
): string =>
  `ROW(${columns.map((column) => `${value(column)}::${comparedAs(types[column] ?? 'text')}`).join(', ')})::record`

/**
 * The cast, or casts, of a value to its column's type before it is compared. An INSERT or UPDATE casts by assignment, which
 * refuses what is too long; a written cast would cut it silently, and the cut value would then look equal. So lengths are taken
 * off the type. https://www.postgresql.org/docs/18/sql-expressions.html#SQL-SYNTAX-TYPE-CASTS
 */
function comparedAs(type: string): string {
  // char(n) pads, and the padding is no value; the text of a bpchar comes without it.
  if (/^(character|bpchar)(\(\d+\))?$/.test(type)) return 'bpchar::text'
  if (/^(character|bpchar)(\(\d+\))?\[\]$/.test(type)) return 'bpchar[]::text[]'
  if (/^bit(\(\d+\))?$/.test(type)) return 'bit varying'
  return type.replace(/^(character varying|bit varying)\(\d+\)/, '$1')
}

/** Deletes the target rows of the keys in `arrays` for which the source has none, in this same statement. */
export function deleteGone(resolved: ResolvedLink, arrays: readonly string[]): string {
  const { link } = resolved
  const names = link.target.key.map((_, i) => `_crossfade_k${i + 1}`)
  const equal = link.target.key.map(
    (column, i) => `_crossfade_t.${quoteIdentifier(column)} = _crossfade_u.${names[i]}`,
  )
  return (
    `DELETE FROM ${quoteTable(link.target.table)} AS _crossfade_t USING unnest(${arrays.join(', ')}) AS _crossfade_u(${names.join(', ')}) ` +
    `WHERE ${[...equal, ...inScope(resolved, '_crossfade_u')].join(' AND ')} AND NOT ${sourceExists(link, '_crossfade_u')}`
  )
}

/**
 * Which rows of the target's table are the link's, as a condition on that table under its own name; nothing where all are. A row
 * that our writes took out of the filter stays the link's; another one outside of it is not touched, whatever its key is.
 */
export function scopeOfLink({ link, outside }: ResolvedLink): string[] {
  const { scope, key, as, table } = link.target
  if (scope === undefined) return []
  if (outside === undefined) return [`(${scope})`]
  const own = quoteIdentifier(as ?? table.name)
  const equal = key.map((column, i) => `_crossfade_o.k${i + 1} = ${own}.${quoteIdentifier(column)}`)
  return [
    `((${scope}) OR EXISTS (SELECT FROM ${quoteTable(outside)} AS _crossfade_o WHERE ${equal.join(' AND ')}))`,
  ]
}

/** The same of the row with the key in `keys._crossfade_k1…`, where bare names would be ambiguous otherwise. */
function inScope(resolved: ResolvedLink, keys: string): string[] {
  const { target } = resolved.link
  const equal = target.key.map((column, i) => `${quoteIdentifier(column)} = ${keys}._crossfade_k${i + 1}`)
  return scopeOfLink(resolved).map(
    (scope) => `EXISTS (SELECT FROM ${namedTable(target)} WHERE ${[scope, ...equal].join(' AND ')})`,
  )
}

/** Notes the rows that a write has just taken out of the filter. Nothing where there is no filter. */
export function noteOutside(resolved: ResolvedLink, condition: KeyCondition): string[] {
  const { link, outside } = resolved
  const { target } = link
  if (outside === undefined) return []
  const keys = target.key.map((column, i) => `${quoteIdentifier(column)} AS _crossfade_k${i + 1}`)
  return scopeOfLink(resolved).map(
    (scope) =>
      `INSERT INTO ${quoteTable(outside)} SELECT _crossfade_u.* FROM (SELECT ${keys.join(', ')} FROM ${namedTable(target)} ` +
      `WHERE ${condition(target.key)} AND ${scope} IS NOT TRUE) AS _crossfade_u WHERE ${sourceExists(link, '_crossfade_u')} ON CONFLICT DO NOTHING`,
  )
}

/** Fails where a row outside of the link has a key that the link has to write, as the unique index says it. */
export function refuseForeign(resolved: ResolvedLink, condition: KeyCondition): string[] {
  const { target } = resolved.link
  const equal = target.key.map(
    (column, i) => `${quoteIdentifier(column)} = _crossfade_s._crossfade_k${i + 1}`,
  )
  return scopeOfLink(resolved).map((scope) =>
    insertRows(
      resolved,
      condition,
      `WHERE EXISTS (SELECT FROM ${namedTable(target)} WHERE ${[...equal, scope].join(' AND ')} IS NOT TRUE)`,
    ),
  )
}
