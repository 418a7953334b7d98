import type { Dialect, Key, KeyRange, ResolvedLink, Scope, SyncGroup, TableFile } from '../dialect.ts'
import type { Row, Transaction } from '../database.ts'
import { leavesOf, quoteIdentifier, quoteList, quoteTable } from './identifiers.ts'
import { followRange, followSql } from './in-row.ts'
import { pageOf, placeAt } from './places.ts'
import { markChunkRunning, runningChunks } from './ranges.ts'
import {
  deleteGone,
  insertRows,
  keyArrays,
  keyBetween,
  keyIn,
  keyTexts,
  namedTable,
  noteOutside,
  onTarget,
  refuseForeign,
  rowKey,
  scopeOfLink,
  sourceExists,
  updateRows,
  type KeyCondition,
} from './projection.ts'

/**
 * The statements of the rules of copying (design, rules 3 and 4; the model in test/model explores their interleavings).
 * READ COMMITTED throughout: every statement has its own snapshot, and which statement reads what is the point.
 */

/**
 * Adds the rows of a range that the target does not have. No lock on source rows: an update that overtakes the reading
 * statement has written the target itself or left its key in the change log, and a delete always leaves its key there.
 * `fail` (anti-join and plain INSERT) is 15 to 25 % cheaper; after a clash with a writer the chunk runs again with `ignore`.
 */
export const insertMissing: Dialect['copy']['insertMissing'] = async (tx, resolved, range, conflicts) => {
  const { link } = resolved
  if (link.inRow) return followRange(tx, resolved, range)
  const { condition, values } = keyBetween(range, resolved.keyTypes)
  // Rows that come by place are sorted, so that neighbours in the target's index are looked for and added one after the other.
  const isSorted = range.file !== undefined
  if (conflicts === 'ignore') {
    const sql = `${insertRows(resolved, condition, '', isSorted)} ON CONFLICT (${quoteList(link.target.key)}) DO NOTHING`
    return (await tx.query(sql, values)).rowCount
  }
  const equal = link.target.key.map(
    (column, i) => `${quoteIdentifier(column)} = _crossfade_s._crossfade_k${i + 1}`,
  )
  // Of places nothing bounds the target's keys: row by row by its index, which OFFSET 0 insists on, or each chunk would read the whole target.
  const among = range.file
    ? `${equal.join(' AND ')} OFFSET 0`
    : [...equal, onTarget(resolved, condition)].join(' AND ')
  const missing = `WHERE NOT EXISTS (SELECT FROM ${quoteTable(link.target.table)} WHERE ${among})`
  return (await tx.query(insertRows(resolved, condition, missing, isSorted), values)).rowCount
}

/** The key is found by the index alone: no row before it is read. */
export const chunkEnd: Dialect['copy']['chunkEnd'] = async (tx, group, range, rows) => {
  if (range.file) return pagesEnd(tx, group, range, range.file, rows)
  return nthKey(tx, group, range, rows)
}

const nthKey: Dialect['copy']['chunkEnd'] = async (tx, group, range, rows) => {
  const [watched] = group.watched
  if (!watched) return undefined
  const { condition, values } = keyBetween(range, group.keyTypes)
  const order = stepOrder(range, watched.key)
  const sql =
    `SELECT ${stepPlace(range, watched.key)} FROM (SELECT ${order} FROM ${quoteTable(watched.table)} WHERE ${condition(watched.key)} ` +
    `ORDER BY ${order} OFFSET ${Math.floor(rows) - 1} LIMIT 1) AS _crossfade_c`
  const [row] = (await tx.query(sql, values)).rows
  return row && stepKey(range, group, row)
}

/** What a walk over a range is ordered by, and where it is: the key, or the place of the row. */
const stepOrder = ({ file }: KeyRange, key: readonly string[]): string => (file ? 'ctid' : quoteList(key))

const stepPlace = ({ file }: KeyRange, key: readonly string[]): string =>
  file ? 'ctid::text AS _crossfade_k1' : keyTexts(key)

const stepKey = ({ file }: KeyRange, group: SyncGroup, row: Row): Key =>
  file ? placeAt(row['_crossfade_k1'] ?? '', group) : rowKey(row, group.keyTypes.length)

/** Whole pages that hold about `rows` rows, which nobody has to count; where a page holds more than that, some of its rows. */
async function pagesEnd(
  tx: Transaction,
  group: SyncGroup,
  range: KeyRange,
  { rowsPerPage }: TableFile,
  rows: number,
): Promise<Key | undefined> {
  const first = pageOf(range.after)
  const pages = Math.floor(rows / Math.max(rowsPerPage, 1))
  const next = first + Math.max(1, pages)
  const end = next < pageOf(range.upTo) ? placeAt(`(${next},0)`, group) : undefined
  if (pages > 0) return end
  return (await nthKey(tx, group, { ...range, upTo: end ?? range.upTo }, rows)) ?? end
}

export const keysOf: Dialect['copy']['keysOf'] = async (tx, group, range) => {
  const [watched] = group.watched
  if (!watched) return []
  const { condition, values } = keyBetween(range, group.keyTypes)
  const sql = `SELECT ${keyTexts(watched.key)} FROM ${quoteTable(watched.table)} WHERE ${condition(watched.key)}`
  return (await tx.query(sql, values)).rows.map((row) => rowKey(row, watched.key.length))
}

export const countRows: Dialect['copy']['countRows'] = async (tx, group, range) => {
  const [watched] = group.watched
  if (!watched) return 0
  const { condition, values } = keyBetween(range, group.keyTypes)
  const sql = `SELECT count(*) AS rows FROM ${quoteTable(watched.table)} WHERE ${condition(watched.key)}`
  return Number((await tx.query(sql, values)).rows[0]?.['rows'] ?? 0)
}

/** A row without values out of line fits into a page: only beside one that is not empty can there be more to it. */
export const wideColumns: Dialect['copy']['wideColumns'] = async (tx, { watched: [watched] }) => {
  if (!watched) return []
  const { rows } = await tx.query(
    `SELECT attname FROM pg_attribute WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped AND attstorage <> 'p' ` +
      `AND EXISTS (SELECT FROM ${leavesOf('to_regclass($1)')} l JOIN pg_class c USING (oid) WHERE pg_relation_size(c.reltoastrelid) > 0) ORDER BY attnum`,
    [quoteTable(watched.table)],
  )
  return rows.map((row) => row['attname'] ?? '')
}

/** The size of a value that is stored out of line stands in the row: it is weighed without being read. */
export const heavyEnd: Dialect['copy']['heavyEnd'] = async (tx, group, range, columns, bytes) => {
  const [watched] = group.watched
  if (!watched) return undefined
  const { condition, values } = keyBetween(range, group.keyTypes)
  const order = stepOrder(range, watched.key)
  const weight = weightOf(columns)
  const [row] = (
    await tx.query(
      `SELECT ${stepPlace(range, watched.key)}, _crossfade_n FROM (SELECT ${order}, row_number() OVER _crossfade_w AS _crossfade_n, ` +
        `sum(${weight}) OVER _crossfade_w AS _crossfade_bytes FROM ${quoteTable(watched.table)} WHERE ${condition(watched.key)} ` +
        `WINDOW _crossfade_w AS (ORDER BY ${order} ROWS UNBOUNDED PRECEDING)) AS _crossfade_c ` +
        `WHERE _crossfade_bytes >= ${Math.floor(bytes)} ORDER BY ${order} LIMIT 1`,
      values,
    )
  ).rows
  return row && { end: stepKey(range, group, row), rows: Number(row['_crossfade_n']) }
}

const weightOf = (columns: readonly string[]): string =>
  columns.map((column) => `coalesce(pg_column_size(${quoteIdentifier(column)}), 0)`).join(' + ')

export const lightKeys: Dialect['copy']['lightKeys'] = async (tx, group, keys, columns, bytes) => {
  const [watched] = group.watched
  if (!watched) return keys.length
  const { arrays, values } = keyArrays(keys, group.keyTypes)
  const names = watched.key.map((_, i) => `_crossfade_k${i + 1}`)
  const equal = watched.key
    .map((column, i) => `_crossfade_t.${quoteIdentifier(column)} = _crossfade_u.${names[i]}`)
    .join(' AND ')
  const { rows } = await tx.query(
    `SELECT count(*) AS light FROM (SELECT sum((SELECT ${weightOf(columns)} FROM ${quoteTable(watched.table)} AS _crossfade_t WHERE ${equal})) OVER (ORDER BY _crossfade_n) AS _crossfade_bytes ` +
      `FROM unnest(${arrays.join(', ')}) WITH ORDINALITY AS _crossfade_u(${names.join(', ')}, _crossfade_n)) AS _crossfade_w WHERE coalesce(_crossfade_bytes, 0) < ${Math.floor(bytes)}`,
    values,
  )
  return Number(rows[0]?.['light'] ?? 0)
}

/**
 * Makes the target equal to what the source says now. Locks the *target* rows first, then reads the source in a later
 * statement (docs/decisions/0004): a writer of the source either wrote the target before our lock, and is then visible to our
 * reading; or its trigger meets our lock, gives up after maxWaitMs and leaves its key in the change log. No source row is
 * locked, so no statement of the application on the source ever waits for an applier.
 * @param locks `skip` leaves out rows that somebody holds; `wait` waits for them up to the transaction's lock timeout.
 */
export const copyKeys: Dialect['copy']['copyKeys'] = async (tx, scope, group, keys, locks) => {
  const gone = new Set<number>()
  const busy = new Set<number>()
  const chunks = new Set<string>()
  for (const resolved of group.links) {
    const result = await copyLinkKeys(tx, scope, resolved, keys, locks)
    for (const n of result.gone) gone.add(n)
    for (const n of result.busy) busy.add(n)
    for (const chunk of result.chunks) chunks.add(chunk)
  }
  const pick = (is: (n: number) => boolean): Key[] => keys.filter((_, n) => is(n))
  return {
    copied: pick((n) => !gone.has(n) && !busy.has(n)),
    gone: pick((n) => gone.has(n) && !busy.has(n)),
    busy: pick((n) => busy.has(n)),
    chunks: [...chunks],
  }
}

/**
 * Places in the list of wanted keys. The database says which of them a row has: the text of a key may differ between the sides
 * and from the text that was asked for (a numeric's scale, a collation that ignores case).
 */
type Places = readonly number[]

interface LinkResult {
  readonly gone: Places
  readonly busy: Places
  readonly chunks: readonly string[]
}

const without = (places: Places, ...others: readonly Places[]): Places => {
  const seen = new Set(others.flat())
  return places.filter((n) => !seen.has(n))
}

const at = (keys: readonly Key[], places: Places): Key[] => places.map((n) => keys[n] ?? [])

async function copyLinkKeys(
  tx: Transaction,
  scope: Scope,
  resolved: ResolvedLink,
  keys: readonly Key[],
  locks: 'skip' | 'wait',
): Promise<LinkResult> {
  const all = keys.map((_, n) => n)
  const { standing, absent, busy } = await lockTargets(tx, resolved, keys, all, locks)
  if (resolved.link.inRow) {
    // The row is both sides: where it is gone, so are both.
    const { arrays, values } = keyArrays(at(keys, standing), resolved.keyTypes)
    if (standing.length > 0) await tx.query(followSql(resolved, keyIn(arrays)), values)
    return { gone: [], busy, chunks: [] }
  }
  if (standing.length > 0) await updateStanding(tx, resolved, at(keys, standing))
  // From its snapshot to our commit, an INSERT from the source is what a chunk is: it may add a row that has gone meanwhile, and
  // another applier that looks at the key now must know of it.
  if (absent.length > 0) await markChunkRunning(tx, scope)
  const added = absent.length > 0 ? await insertAbsent(tx, resolved, keys, absent) : []
  const missing = without(all, busy, await placesWithSource(tx, resolved, keys))
  // Somebody inserted the same target row between our two looks: what it says is not what we read, so look again later.
  const overtaken = without(absent, added, missing)
  if (overtaken.length > 0) await runOnKeys(tx, resolved, at(keys, overtaken), refuseForeign)
  await runOnKeys(tx, resolved, keys, noteOutside)
  if (missing.length === 0) return { gone: [], busy: [...busy, ...overtaken], chunks: [] }

  // Rule 4. A chunk that read one of these rows before it went has been running since before the look above. Either it is
  // running still, and is named here for the second look; or it has committed, and the statements below see what it wrote.
  const chunks = await runningChunks(tx, scope)
  const targets = await lockTargets(tx, resolved, keys, missing, locks)
  if (targets.standing.length > 0) {
    const { arrays, values } = keyArrays(at(keys, targets.standing), resolved.keyTypes)
    await tx.query(deleteGone(resolved, arrays), values)
  }
  return { gone: without(missing, targets.busy), busy: [...busy, ...overtaken, ...targets.busy], chunks }
}

async function runOnKeys(
  tx: Transaction,
  resolved: ResolvedLink,
  keys: readonly Key[],
  statements: (resolved: ResolvedLink, condition: KeyCondition) => string[],
): Promise<void> {
  const { arrays, values } = keyArrays(keys, resolved.keyTypes)
  for (const statement of statements(resolved, keyIn(arrays))) await tx.query(statement, values)
}

const names = ({ keyTypes }: ResolvedLink): string[] => keyTypes.map((_, i) => `_crossfade_k${i + 1}`)

/** `_crossfade_u(_crossfade_k1, …, _crossfade_n)` of `keys`, numbered from 1. */
export const numbered = (resolved: ResolvedLink, arrays: readonly string[]): string =>
  `unnest(${arrays.join(', ')}) WITH ORDINALITY AS _crossfade_u(${[...names(resolved), '_crossfade_n'].join(', ')})`

export const equalKeys = (resolved: ResolvedLink, a: string, b: string): string =>
  names(resolved)
    .map((name) => `${a}.${name} = ${b}.${name}`)
    .join(' AND ')

/**
 * Which target rows stand and are ours now, which there are none of, and which somebody else holds. The lock comes before the
 * snapshot of every later statement: an application that re-inserts a source row whose target we are about to delete either
 * committed before that snapshot (EXISTS sees it), or waits for our lock. Without it, DELETE could wait for that application's
 * target row and then delete it, because EXISTS is not evaluated again after the wait.
 */
export async function lockTargets(
  tx: Transaction,
  resolved: ResolvedLink,
  keys: readonly Key[],
  places: Places,
  locks: 'skip' | 'wait',
): Promise<{ standing: Places; absent: Places; busy: Places }> {
  const { key } = resolved.link.target
  const { arrays, values } = keyArrays(at(keys, places), resolved.keyTypes)
  const columns = key.map((column, i) => `${quoteIdentifier(column)} AS _crossfade_k${i + 1}`).join(', ')
  const read = async (lock: string): Promise<Places> => {
    const wanted = [keyIn(arrays)(key), ...scopeOfLink(resolved)].join(' AND ')
    const rows = `SELECT ${columns} FROM ${namedTable(resolved.link.target)} WHERE ${wanted} ORDER BY ${quoteList(key)}${lock}`
    const sql = `SELECT _crossfade_n FROM (${rows}) AS _crossfade_t JOIN ${numbered(resolved, arrays)} ON ${equalKeys(resolved, '_crossfade_t', '_crossfade_u')}`
    return (await tx.query(sql, values)).rows.map((row) => places[Number(row['_crossfade_n']) - 1] ?? -1)
  }
  const standing = await read(locks === 'skip' ? ' FOR UPDATE SKIP LOCKED' : ' FOR UPDATE')
  const busy = standing.length === places.length ? [] : without(await read(''), standing)
  return { standing, busy, absent: without(places, standing, busy) }
}

async function updateStanding(tx: Transaction, resolved: ResolvedLink, keys: readonly Key[]): Promise<void> {
  const { arrays, values } = keyArrays(keys, resolved.keyTypes)
  const sql = updateRows(resolved, keyIn(arrays))
  if (sql !== undefined) await tx.query(sql, values)
}

async function insertAbsent(
  tx: Transaction,
  resolved: ResolvedLink,
  keys: readonly Key[],
  places: Places,
): Promise<Places> {
  const { key } = resolved.link.target
  const { arrays, values } = keyArrays(at(keys, places), resolved.keyTypes)
  const returned = key
    .map((column, i) => `_crossfade_t.${quoteIdentifier(column)} AS _crossfade_k${i + 1}`)
    .join(', ')
  const insert = `${insertRows(resolved, keyIn(arrays))} ON CONFLICT (${quoteList(key)}) DO NOTHING RETURNING ${returned}`
  const sql =
    `WITH _crossfade_a AS (${insert}) SELECT _crossfade_n FROM _crossfade_a JOIN ${numbered(resolved, arrays)} ` +
    `ON ${equalKeys(resolved, '_crossfade_a', '_crossfade_u')}`
  return (await tx.query(sql, values)).rows.map((row) => places[Number(row['_crossfade_n']) - 1] ?? -1)
}

async function placesWithSource(
  tx: Transaction,
  resolved: ResolvedLink,
  keys: readonly Key[],
): Promise<Places> {
  const { arrays, values } = keyArrays(keys, resolved.keyTypes)
  const sql = `SELECT _crossfade_n FROM ${numbered(resolved, arrays)} WHERE ${sourceExists(resolved.link, '_crossfade_u')}`
  return (await tx.query(sql, values)).rows.map((row) => Number(row['_crossfade_n']) - 1)
}

export const targetKeys: Dialect['copy']['targetKeys'] = async (tx, { link, keyTypes }, after, rows) => {
  const { key, table } = link.target
  const { condition, values } = keyBetween({ after, upTo: undefined }, keyTypes)
  const result = await tx.query(
    `SELECT ${keyTexts(key)} FROM ${quoteTable(table)} WHERE ${condition(key)} ORDER BY ${quoteList(key)} LIMIT ${Math.floor(rows)}`,
    values,
  )
  return result.rows.map((row) => rowKey(row, key.length))
}
