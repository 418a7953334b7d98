import type { TableName } from '../../core/link.ts'
import type { Transaction } from '../database.ts'
import type { Dialect, Key, ResolvedLink } from '../dialect.ts'
import { equalKeys, lockTargets, numbered } from './copy.ts'
import { quoteIdentifier, quoteTable } from './identifiers.ts'
import { keyArrays, keyIn, linkRows, targetColumns } from './projection.ts'

/**
 * Rows that exchange the values of a unique index. It is asked with every row that is written, not at the end of a statement, so none
 * of them can be written first. https://www.postgresql.org/docs/18/ddl-constraints.html#DDL-CONSTRAINTS-UNIQUE-CONSTRAINTS
 */

/** What an index asks of: as it is written over the table's own names, and the column where it is one. */
interface Part {
  readonly value: string
  readonly collation: string | null
  readonly column: string | null
  readonly type: string | null
  /** Of a string type; null where it has no limit. */
  readonly length: number | null
  readonly nullable: boolean | null
}

interface UniqueIndex {
  readonly parts: readonly Part[]
  readonly predicate: string | undefined
  readonly isNullEqual: boolean
}

/** A place in the list of keys that is to get what the row of another place has; undefined where that is another's row. */
interface Wish {
  readonly place: number
  readonly holder: number | undefined
}

export const setAside: Dialect['copy']['setAside'] = async (tx, group, keys) => {
  const looked: { resolved: ResolvedLink; index: UniqueIndex; wishes: Wish[] }[] = []
  for (const resolved of group.links) {
    const { target, inRow } = resolved.link
    if (inRow) continue
    const indexes = await uniqueIndexes(tx, target.table, target.key)
    if (indexes.length === 0) continue
    const columns = await columnsOf(tx, target.table)
    // Before the wishes are read: from here on nobody else changes what these rows hold.
    const { standing } = await lockTargets(tx, resolved, keys, [...keys.keys()], 'wait')
    for (const index of indexes) {
      const isOurs = (place: number | undefined): boolean => place !== undefined && standing.includes(place)
      const mayMove = parked(resolved, index) !== undefined
      const wishes = (await readWishes(tx, resolved, index, columns, keys)).map(({ place, holder }) => ({
        place,
        holder: mayMove && isOurs(holder) ? holder : undefined,
      }))
      looked.push({ resolved, index, wishes })
    }
  }
  const held = unfulfilled(looked.flatMap(({ wishes }) => wishes))
  for (const { resolved, index, wishes } of looked) {
    const places = wishes.flatMap(({ place, holder }) =>
      holder === undefined || held.has(place) ? [] : holder,
    )
    if (places.length > 0)
      await park(
        tx,
        resolved,
        index,
        [...new Set(places)].map((n) => keys[n] ?? []),
      )
  }
  return keys.filter((_, n) => held.has(n))
}

/** Whoever wants what another's row has waits for it, and whoever wants what one who waits has, too. */
function unfulfilled(wishes: readonly Wish[]): Set<number> {
  const held = new Set<number>()
  const wanted = new Map<number, number[]>()
  const waiting: number[] = []
  for (const { place, holder } of wishes)
    if (holder === undefined) waiting.push(place)
    else wanted.set(holder, [...(wanted.get(holder) ?? []), place])
  for (let place = waiting.pop(); place !== undefined; place = waiting.pop()) {
    if (held.has(place)) continue
    held.add(place)
    waiting.push(...(wanted.get(place) ?? []))
  }
  return held
}

/** Those that could stand in the way: not the one over the key alone. */
async function uniqueIndexes(
  tx: Transaction,
  table: TableName,
  key: readonly string[],
): Promise<UniqueIndex[]> {
  const { rows } = await tx.query(
    `SELECT pg_get_expr(i.indpred, i.indrelid) AS predicate, coalesce((to_jsonb(i)->>'indnullsnotdistinct')::boolean, false) AS is_null_equal, ` +
      `(SELECT json_agg(json_build_object('value', pg_get_indexdef(i.indexrelid, n, false), 'column', a.attname, 'type', format_type(a.atttypid, -1), 'length', CASE WHEN a.atttypid IN (1042, 1043) THEN nullif(a.atttypmod, -1) - 4 END, 'nullable', NOT a.attnotnull, ` +
      `'collation', CASE WHEN o.oid IS NOT NULL THEN format('%I.%I', s.nspname, o.collname) END) ORDER BY n) FROM generate_series(1, i.indnkeyatts) n ` +
      `LEFT JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[n - 1] AND a.attnum > 0 ` +
      `LEFT JOIN pg_collation o ON o.oid = i.indcollation[n - 1] LEFT JOIN pg_namespace s ON s.oid = o.collnamespace) AS parts ` +
      `FROM pg_index i WHERE i.indrelid = to_regclass($1) AND i.indisunique AND i.indimmediate AND i.indisready ORDER BY i.indexrelid`,
    [quoteTable(table)],
  )
  return rows
    .map((row) => ({
      parts: JSON.parse(row['parts'] ?? '[]') as Part[],
      predicate: row['predicate'] ?? undefined,
      isNullEqual: row['is_null_equal'] === 't',
    }))
    .filter(({ parts }) => parts.some(({ column }) => column === null || !key.includes(column)))
}

async function columnsOf(tx: Transaction, table: TableName): Promise<string[]> {
  const { rows } = await tx.query(
    `SELECT attname FROM pg_attribute WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped`,
    [quoteTable(table)],
  )
  return rows.map((row) => row['attname'] ?? '')
}

/**
 * Who is to get what which row has now, and who is to get the same as another one. The rows to come have the values of the link, the
 * key, and of the other columns what stands.
 */
async function readWishes(
  tx: Transaction,
  resolved: ResolvedLink,
  { parts, predicate, isNullEqual }: UniqueIndex,
  columns: readonly string[],
  keys: readonly Key[],
): Promise<Wish[]> {
  const { link, targetTypes } = resolved
  const { key, table } = link.target
  const { arrays, values } = keyArrays(keys, resolved.keyTypes)
  const list = numbered(resolved, arrays)
  const keyed = key.map((_, i) => `_crossfade_k${i + 1}`)
  const filled = targetColumns(link)
  const toCome = columns.map((column) => {
    const name = quoteIdentifier(column)
    const at = key.indexOf(column)
    if (at >= 0) return `_crossfade_u.${keyed[at]}::${targetTypes[column]} AS ${name}`
    return filled.includes(column)
      ? `_crossfade_s.${name}::${targetTypes[column]} AS ${name}`
      : `_crossfade_t.${name}`
  })
  const standing = key.map(
    (column, i) => `_crossfade_t.${quoteIdentifier(column)} = _crossfade_u.${keyed[i]}`,
  )
  const made =
    `SELECT _crossfade_n, ${keyed.map((name) => `_crossfade_u.${name}`).join(', ')}, ${toCome.join(', ')} FROM ${list} ` +
    `JOIN (${linkRows(resolved, keyIn(arrays))}) AS _crossfade_s ON ${equalKeys(resolved, '_crossfade_s', '_crossfade_u')} ` +
    `LEFT JOIN ${quoteTable(table)} AS _crossfade_t ON ${standing.join(' AND ')}`
  const asked = parts.map(({ value }, i) => `${value} AS _crossfade_v${i + 1}`).join(', ')
  const where = predicate === undefined ? '' : ` WHERE ${predicate}`
  const held =
    `SELECT ${key.map((column, i) => `${quoteIdentifier(column)} AS ${keyed[i]}`).join(', ')}, ${asked} ` +
    `FROM ${quoteTable(table)}${where}`
  const same = (a: string, b: string): string =>
    parts
      .map(({ collation }, i) => {
        const [left, right] = [`${a}._crossfade_v${i + 1}`, `${b}._crossfade_v${i + 1}`]
        return `${left} ${isNullEqual ? 'IS NOT DISTINCT FROM' : '='} ${right}${collation === null ? '' : ` COLLATE ${collation}`}`
      })
      .join(' AND ')
  const { rows } = await tx.query(
    `WITH _crossfade_w AS (SELECT _crossfade_n, ${keyed.join(', ')}, ${asked} FROM (${made}) AS _crossfade_m${where}) ` +
      `SELECT _crossfade_w._crossfade_n AS place, _crossfade_u._crossfade_n AS holder FROM _crossfade_w JOIN (${held}) AS _crossfade_h ON ${same('_crossfade_h', '_crossfade_w')} ` +
      `LEFT JOIN ${list} ON ${equalKeys(resolved, '_crossfade_u', '_crossfade_h')} WHERE NOT (${equalKeys(resolved, '_crossfade_w', '_crossfade_h')}) ` +
      `UNION ALL SELECT a._crossfade_n, NULL FROM _crossfade_w AS a JOIN _crossfade_w AS b ON ${same('a', 'b')} AND a._crossfade_n <> b._crossfade_n`,
    values,
  )
  return rows.map(({ place, holder }) => ({
    place: Number(place) - 1,
    holder: holder === null || holder === undefined ? undefined : Number(holder) - 1,
  }))
}

/** Values of which there are always more, below all that are there or by chance. `n` numbers the rows from 1. */
const spares: readonly (readonly [type: RegExp, spare: (lowest: string, length: number | null) => string])[] =
  [
    [
      /^(smallint|integer|bigint|numeric|real|double precision|date)$/,
      (lowest) => `${lowest} - _crossfade_n`,
    ],
    [/^timestamp/, (lowest) => `${lowest} - _crossfade_n * interval '1 day'`],
    [/^uuid$/, () => 'gen_random_uuid()'],
    [
      /^(text|character varying|bpchar|citext)$/,
      (_, length) => `left(replace(gen_random_uuid()::text, '-', ''), ${length ?? 32})`,
    ],
    [/^bytea$/, () => 'uuid_send(gen_random_uuid())'],
  ]

/** A column of the index that copying writes again, and what it holds until then; undefined where there is none. */
function parked(
  { link }: ResolvedLink,
  { parts, isNullEqual }: UniqueIndex,
): { readonly column: string; readonly value: string } | undefined {
  const filled = targetColumns(link)
  const mine = parts.flatMap(({ column, type, length, nullable }) =>
    column !== null && type !== null && filled.includes(column) ? [{ column, type, length, nullable }] : [],
  )
  const empty = isNullEqual ? undefined : mine.find(({ nullable }) => nullable)
  if (empty) return { column: empty.column, value: 'NULL' }
  for (const { column, type, length } of mine) {
    const lowest = `(SELECT min(${quoteIdentifier(column)}) FROM ${quoteTable(link.target.table)})`
    const spare = spares.find(([types]) => types.test(type))?.[1]
    if (spare) return { column, value: `(${spare(lowest, length)})::${type}` }
  }
  return undefined
}

async function park(
  tx: Transaction,
  resolved: ResolvedLink,
  index: UniqueIndex,
  keys: readonly Key[],
): Promise<void> {
  const place = parked(resolved, index)
  if (place === undefined) return
  const { key, table } = resolved.link.target
  const { arrays, values } = keyArrays(keys, resolved.keyTypes)
  const equal = key.map(
    (column, i) => `_crossfade_t.${quoteIdentifier(column)} = _crossfade_u._crossfade_k${i + 1}`,
  )
  await tx.query(
    `UPDATE ${quoteTable(table)} AS _crossfade_t SET ${quoteIdentifier(place.column)} = ${place.value} ` +
      `FROM ${numbered(resolved, arrays)} WHERE ${equal.join(' AND ')}`,
    values,
  )
}
