import type { Dialect, Key, ResolvedLink, Scope } from '../dialect.ts'
import type { Transaction } from '../database.ts'
import { quoteIdentifier, quoteList, quoteTable } from './identifiers.ts'
import { runningChunks } from './ranges.ts'
import {
  deleteGone,
  insertRows,
  keyArrays,
  keyBetween,
  keyIn,
  keyTexts,
  rowKey,
  updateRows,
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
  const { condition, values } = keyBetween(range, resolved.keyTypes)
  if (conflicts === 'ignore') {
    const sql = `${insertRows(resolved, condition)} ON CONFLICT (${quoteList(link.target.key)}) DO NOTHING`
    return (await tx.query(sql, values)).rowCount
  }
  const equal = link.target.key.map((column, i) => `${quoteIdentifier(column)} = _crossfade_s._crossfade_k${i + 1}`)
  const missing = `WHERE NOT EXISTS (SELECT FROM ${quoteTable(link.target.table)} WHERE ${[...equal, condition(link.target.key)].join(' AND ')})`
  return (await tx.query(insertRows(resolved, condition, missing), values)).rowCount
}

export const chunkEnd: Dialect['copy']['chunkEnd'] = async (tx, group, range, rows) => {
  const [watched] = group.watched
  if (!watched) return { end: undefined, rows: 0 }
  const { condition, values } = keyBetween(range, group.keyTypes)
  const order = quoteList(watched.key)
  const descending = watched.key.map((column) => `${quoteIdentifier(column)} DESC`).join(', ')
  const result = await tx.query(
    `SELECT ${keyTexts(watched.key)}, count(*) OVER () AS _crossfade_rows FROM (` +
      `SELECT ${order} FROM ${quoteTable(watched.table)} WHERE ${condition(watched.key)} ORDER BY ${order} LIMIT ${Math.floor(rows)}` +
      `) AS _crossfade_c ORDER BY ${descending} LIMIT 1`,
    values,
  )
  const [row] = result.rows
  const found = Number(row?.['_crossfade_rows'] ?? 0)
  return { end: row && found >= rows ? rowKey(row, watched.key.length) : undefined, rows: found }
}

const id = (key: Key): string => JSON.stringify(key)

const without = (keys: readonly Key[], others: readonly Key[]): Key[] => {
  const seen = new Set(others.map(id))
  return keys.filter((key) => !seen.has(id(key)))
}

/**
 * Makes the target equal to what the source says now. Locks the *target* rows first, then reads the source in a later
 * statement (docs/decisions/0004): a writer of the source either wrote the target before our lock, and is then visible to our
 * reading; or its trigger meets our lock, gives up after maxWaitMs and leaves its key in the change log. No source row is
 * locked, so no statement of the application on the source ever waits for an applier.
 * @param locks `skip` leaves out rows that somebody holds; `wait` waits for them up to the transaction's lock timeout.
 */
export const copyKeys: Dialect['copy']['copyKeys'] = async (tx, scope, group, keys, locks) => {
  const gone: Key[] = []
  const busy: Key[] = []
  const chunks = new Set<string>()
  for (const resolved of group.links) {
    const result = await copyLinkKeys(tx, scope, resolved, keys, locks)
    gone.push(...result.gone)
    busy.push(...result.busy)
    for (const chunk of result.chunks) chunks.add(chunk)
  }
  return { copied: without(keys, [...gone, ...busy]), gone: without(unique(gone), busy), busy: unique(busy), chunks: [...chunks] }
}

const unique = (keys: readonly Key[]): Key[] => [...new Map(keys.map((key) => [id(key), key])).values()]

async function copyLinkKeys(
  tx: Transaction,
  scope: Scope,
  resolved: ResolvedLink,
  keys: readonly Key[],
  locks: 'skip' | 'wait',
): Promise<{ gone: Key[]; busy: Key[]; chunks: readonly string[] }> {
  const { standing, absent, busy } = await lockTargets(tx, resolved, keys, locks)
  if (standing.length > 0) await updateStanding(tx, resolved, standing)
  const added = absent.length > 0 ? await insertAbsent(tx, resolved, absent) : []
  const free = without(keys, busy)
  const missing = without(free, await keysWithSource(tx, resolved, free))
  // Somebody inserted the same target row between our two looks: what it says is not what we read, so look again later.
  const overtaken = without(without(absent, added), missing)
  if (missing.length === 0) return { gone: [], busy: [...busy, ...overtaken], chunks: [] }

  // Rule 4. A chunk that read one of these rows before it went has been running since before the look above. Either it is
  // running still, and is named here for the second look; or it has committed, and the statements below see what it wrote.
  const chunks = await runningChunks(tx, scope)
  const targets = await lockTargets(tx, resolved, missing, locks)
  if (targets.standing.length > 0) {
    const { arrays, values } = keyArrays(targets.standing, resolved.keyTypes)
    await tx.query(deleteGone(resolved, arrays), values)
  }
  return { gone: without(missing, targets.busy), busy: [...busy, ...overtaken, ...targets.busy], chunks }
}

/**
 * Which target rows stand and are ours now, which there are none of, and which somebody else holds. The lock comes before the
 * snapshot of every later statement: an application that re-inserts a source row whose target we are about to delete either
 * committed before that snapshot (EXISTS sees it), or waits for our lock. Without it, DELETE could wait for that application's
 * target row and then delete it, because EXISTS is not evaluated again after the wait.
 */
async function lockTargets(
  tx: Transaction,
  { link, keyTypes }: ResolvedLink,
  keys: readonly Key[],
  locks: 'skip' | 'wait',
): Promise<{ standing: Key[]; absent: Key[]; busy: Key[] }> {
  const { arrays, values } = keyArrays(keys, keyTypes)
  const { table, key } = link.target
  const read = async (lock: string): Promise<Key[]> => {
    const sql = `SELECT ${keyTexts(key)} FROM ${quoteTable(table)} WHERE ${keyIn(arrays)(key)} ORDER BY ${quoteList(key)}${lock}`
    return (await tx.query(sql, values)).rows.map((row) => rowKey(row, key.length))
  }
  const standing = await read(locks === 'skip' ? ' FOR UPDATE SKIP LOCKED' : ' FOR UPDATE')
  const busy = standing.length === keys.length ? [] : without(await read(''), standing)
  return { standing, busy, absent: without(keys, [...standing, ...busy]) }
}

async function updateStanding(tx: Transaction, resolved: ResolvedLink, keys: readonly Key[]): Promise<void> {
  const { arrays, values } = keyArrays(keys, resolved.keyTypes)
  const sql = updateRows(resolved, keyIn(arrays))
  if (sql !== undefined) await tx.query(sql, values)
}

async function insertAbsent(tx: Transaction, resolved: ResolvedLink, keys: readonly Key[]): Promise<Key[]> {
  const { key } = resolved.link.target
  const { arrays, values } = keyArrays(keys, resolved.keyTypes)
  const sql = `${insertRows(resolved, keyIn(arrays))} ON CONFLICT (${quoteList(key)}) DO NOTHING RETURNING ${keyTexts(key, '_crossfade_t.')}`
  return (await tx.query(sql, values)).rows.map((row) => rowKey(row, key.length))
}

async function keysWithSource(tx: Transaction, { link, keyTypes }: ResolvedLink, keys: readonly Key[]): Promise<Key[]> {
  const { arrays, values } = keyArrays(keys, keyTypes)
  const [driving] = link.parts
  const where = [...(driving.where === undefined ? [] : [`(${driving.where})`]), keyIn(arrays)(driving.key)].join(' AND ')
  const found = await tx.query(`SELECT ${keyTexts(driving.key)} FROM ${quoteTable(driving.table)} WHERE ${where}`, values)
  return found.rows.map((row) => rowKey(row, driving.key.length))
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
