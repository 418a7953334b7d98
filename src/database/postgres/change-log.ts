import type { ChangeLogEntry, Dialect, SyncGroup } from '../dialect.ts'
import type { Row } from '../database.ts'
import { resolveDependencies, touchedByLinks, waitingLinks } from './dependencies.ts'
import { keyNames, ourTable } from './objects.ts'
import { quoteList } from './identifiers.ts'
import { rowKey } from './projection.ts'
import { selectRunningChunks } from './ranges.ts'

export { resolveDependencies }

const kindCodes = { copy: 'c', 'look-again': 'l' } as const
const kindOf = (code: string | null | undefined): ChangeLogEntry['kind'] =>
  code === 'l' ? 'look-again' : 'copy'

const keyTexts = (group: SyncGroup): string =>
  keyNames(group.keyTypes.length)
    .map((name) => `${name}::text AS _crossfade_${name}`)
    .join(', ')

/**
 * Consumed by deletion, never by position: identity order is not commit order, and an entry that becomes visible late is still
 * found. `fresh` takes entries that were never refused; `retried` those whose delay is over.
 * Which chunks run is asked in the statement that takes, whose snapshot comes first: an entry that it sees waits for chunks that
 * have begun before it, and is not taken while one of them is still there. Asked in a statement before, a chunk that begins between
 * the two is not known, and the second look that waits for it comes while it runs (the model's mutation `runningReadFirst`).
 */
export const take: Dialect['changeLog']['take'] = async (tx, scope, group, limit, attempts) => {
  const log = ourTable(scope, `changes_${group.id}`)
  const result = await tx.query(
    `DELETE FROM ${log} WHERE id IN (SELECT id FROM ${log} WHERE kind <> 't' AND attempts ${attempts === 'fresh' ? '= 0' : '> 0'} AND due_at <= clock_timestamp() ` +
      `AND (look_after IS NULL OR NOT look_after && ARRAY(${selectRunningChunks(scope)})) ORDER BY id LIMIT ${Math.floor(limit)} FOR UPDATE SKIP LOCKED) ` +
      `RETURNING id, kind, attempts, ${keyTexts(group)}`,
  )
  return result.rows.map((row) => toEntry(row, group))
}

const toEntry = (row: Row, group: SyncGroup): ChangeLogEntry => ({
  id: row['id'] ?? '',
  kind: kindOf(row['kind']),
  attempts: Number(row['attempts']),
  key: rowKey(row, group.keyTypes.length),
})

/** A reason begins as `describeRejection` writes it. */
export const tangled: Dialect['changeLog']['tangled'] = async (tx, scope, group, limit, from) => {
  const log = ourTable(scope, `changes_${group.id}`)
  const { rows } = await tx.query(
    `SELECT id, kind, attempts, ${keyTexts(group)} FROM ${log} WHERE kind <> 't' AND reason LIKE 'SQLSTATE 23505%' ` +
      `AND (look_after IS NULL OR NOT look_after && ARRAY(${selectRunningChunks(scope)})) ` +
      `ORDER BY id ${from === 'first' ? 'ASC' : 'DESC'} LIMIT ${Math.floor(limit)} FOR UPDATE SKIP LOCKED`,
  )
  return rows.map((row) => toEntry(row, group))
}

export const put: Dialect['changeLog']['put'] = async (tx, scope, group, entries) => {
  if (entries.length === 0) return
  const names = keyNames(group.keyTypes.length)
  const arrays = group.keyTypes.map((_, i) => `$${i + 5}::text[]`)
  const keys = names.map((name, i) => `u.${name}::${group.keyTypes[i]}`)
  await tx.query(
    `INSERT INTO ${ourTable(scope, `changes_${group.id}`)} (kind, attempts, due_at, reason, look_after, ${quoteList(names)}) ` +
      `SELECT u.kind::"char", u.attempts, CASE WHEN u.delay > 0 THEN clock_timestamp() + u.delay * interval '1 ms' ELSE '-infinity' END, u.reason, ` +
      `${entries.some((entry) => entry.lookAfter) ? '$' + (5 + names.length) : 'NULL'}::text[], ${keys.join(', ')} ` +
      `FROM unnest($1::text[], $2::int[], $3::float8[], $4::text[], ${arrays.join(', ')}) AS u(kind, attempts, delay, reason, ${names.join(', ')})`,
    [
      entries.map((entry) => kindCodes[entry.kind]),
      entries.map((entry) => entry.attempts ?? 0),
      entries.map((entry) => entry.delayMs ?? 0),
      entries.map((entry) => entry.reason ?? null),
      ...names.map((_, i) => entries.map((entry) => entry.key[i] ?? null)),
      ...(entries.some((entry) => entry.lookAfter)
        ? [entries.find((entry) => entry.lookAfter)?.lookAfter]
        : []),
    ],
  )
}

export const state: Dialect['changeLog']['state'] = async (tx, scope, group) => {
  const log = ourTable(scope, `changes_${group.id}`)
  const waiting = waitingLinks(scope, group).map(
    (links) => ` UNION ALL SELECT NULL, logged_at FROM (${links}) AS _crossfade_l`,
  )
  const result = await tx.query(
    `SELECT count(*) AS pending, count(*) FILTER (WHERE reason IS NOT NULL) AS stuck, ` +
      `coalesce(extract(epoch FROM clock_timestamp() - min(logged_at)), 0) AS age, ` +
      `(SELECT reason FROM ${log} WHERE reason IS NOT NULL ORDER BY id LIMIT 1) AS reason ` +
      `FROM (SELECT reason, logged_at FROM ${log}${waiting.join('')}) AS _crossfade_w`,
  )
  const row = result.rows[0] ?? {}
  return {
    pending: Number(row['pending'] ?? 0),
    stuck: Number(row['stuck'] ?? 0),
    oldestAgeSec: Number(row['age'] ?? 0),
    reason: row['reason'] ?? undefined,
  }
}

export const pendingKeys: Dialect['changeLog']['pendingKeys'] = async (tx, scope, group, keys) => {
  if (keys.length === 0) return []
  const names = keyNames(group.keyTypes.length)
  const log = ourTable(scope, `changes_${group.id}`)
  const arrays = group.keyTypes.map((type, i) => `$${i + 1}::${type}[]`)
  const equal = names.map((name) => `l.${name} = u.${name}`).join(' AND ')
  const touched = [
    `EXISTS (SELECT FROM ${log} l WHERE ${equal})`,
    `EXISTS (SELECT FROM ${log} WHERE kind = 't')`,
    ...touchedByLinks(scope, group, 'u'),
  ]
  const result = await tx.query(
    `SELECT u.n FROM unnest(${arrays.join(', ')}) WITH ORDINALITY AS u(${names.join(', ')}, n) ` +
      `WHERE ${touched.join(' OR ')}`,
    names.map((_, i) => keys.map((key) => key[i] ?? null)),
  )
  return result.rows.map((row) => keys[Number(row['n']) - 1] ?? [])
}

export const truncations: Dialect['changeLog']['truncations'] = async (tx, scope, group) =>
  (
    await tx.query(`SELECT id FROM ${ourTable(scope, `changes_${group.id}`)} WHERE kind = 't' ORDER BY id`)
  ).rows.map((row) => row['id'] ?? '')

export const remove: Dialect['changeLog']['remove'] = async (tx, scope, group, ids) => {
  await tx.query(`DELETE FROM ${ourTable(scope, `changes_${group.id}`)} WHERE id = ANY ($1::bigint[])`, [ids])
}
