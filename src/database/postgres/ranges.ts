import type { TableName } from '../../core/link.ts'
import type {
  Dialect,
  Key,
  KeyRange,
  RangePurpose,
  RangeState,
  Scope,
  SyncGroup,
  TableFile,
} from '../dialect.ts'
import type { Row, Transaction } from '../database.ts'
import { CrossfadeError } from '../../errors/index.ts'
import { leavesOf, quoteIdentifier, quoteList, quoteTable } from './identifiers.ts'
import { ourTable } from './objects.ts'
import { fileOf, orderOf, placeAt } from './places.ts'
import { keyTexts, rowKey } from './projection.ts'

export { orderOf, stands } from './places.ts'

const samplesPerRange = 200
const pagesPerRange = 20

/** For a partition that was never analysed beside others that were: the ranges only have to be about equal. */
const rowsOfUnknownPage = 50

/**
 * The advisory lock that every chunk holds, shared, from before its reading snapshot until it ends. Whoever looks at a key and
 * finds no source row reads from pg_locks which chunks may have read the row before it went.
 * https://www.postgresql.org/docs/18/view-pg-locks.html: objsubid 2 is the two-integer form, classid and objid its parts.
 */
const chunkLockClass = 0x63726673 // "crfs"

const chunkLockKey = (scope: Scope): string => `hashtext('${scope.schema.replaceAll("'", "''")}')`

export const markChunkRunning: Dialect['ranges']['markChunkRunning'] = async (tx, scope) => {
  await tx.query(`SELECT ${takeChunkLock(scope)}`)
}

export const takeChunkLock = (scope: Scope): string =>
  `pg_advisory_xact_lock_shared(${chunkLockClass}, ${chunkLockKey(scope)})`

/** Virtual transaction ids of the chunks of other sessions that run now: never used twice while the server lives. */
export const selectRunningChunks = (scope: Scope): string =>
  `SELECT virtualtransaction FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 2 AND pid <> pg_backend_pid() ` +
  `AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) ` +
  `AND classid::bigint = ${chunkLockClass} AND objid::bigint = (${chunkLockKey(scope)}::bigint & 4294967295)`

export async function runningChunks(tx: Transaction, scope: Scope): Promise<string[]> {
  const result = await tx.query(selectRunningChunks(scope))
  return result.rows.map((row) => row['virtualtransaction'] ?? '')
}

export const reset: Dialect['ranges']['reset'] = async (tx, scope, purpose) => {
  await tx.query(`DELETE FROM ${ourTable(scope, 'ranges')} WHERE purpose = $1`, [purpose])
}

/**
 * Cuts the table into ranges of about the same number of rows. By key, whatever the distribution of its keys: the bounds are quantiles
 * of a page sample, in the order of the key's own index. The first is open. The last is open for a comparison, which must find target
 * rows that no source row has; a backfill ends where the table ends now, because later rows are captured: one that followed the
 * inserts of a busy application might never end. For the same reason, by place it ends with the last page that there is now.
 */
export const plan: Dialect['ranges']['plan'] = async (tx, scope, group, purpose, ranges, wanted) => {
  const [watched] = group.watched
  if (!watched) return
  const size = await sizeOf(tx, watched.table)
  const cuts = Math.max(1, Math.min(ranges, Math.ceil(size.rows / 1000)))
  if (purpose === 'backfill' && canGoByPlace(group) && (await hasFileColumn(tx, scope))) {
    const { order } = await orderOf(tx, watched.table, watched.key, wanted)
    const heap = order === 'physical' ? await fileOf(tx, watched.table, size.rows) : undefined
    if (heap) return insertRanges(tx, scope, group, purpose, cutPages(group, heap, cuts), size.rows)
  }
  return planKeys(tx, scope, group, purpose, cuts, size)
}

/** Of a row that is joined from several tables, places say only which rows of the first are read. */
const canGoByPlace = ({ links }: SyncGroup): boolean => links.every(({ link }) => link.parts.length === 1)

/** A migration that an older version has expanded goes by key. */
const hasFileColumn = async (tx: Transaction, scope: Scope): Promise<boolean> =>
  (
    await tx.query(
      `SELECT FROM pg_attribute WHERE attrelid = to_regclass($1) AND attname = 'file_id' AND NOT attisdropped`,
      [ourTable(scope, 'ranges')],
    )
  ).rowCount > 0

interface TableSize {
  readonly rows: number
  readonly pages: number
}

async function sizeOf(tx: Transaction, name: TableName): Promise<TableSize> {
  const table = quoteTable(name)
  const estimate = await tx.query(
    `SELECT sum(CASE WHEN c.reltuples < 0 THEN ${rowsOfUnknownPage} * s.pages ELSE c.reltuples END)::bigint AS rows, max(c.reltuples) >= 0 AS known, sum(s.pages)::bigint AS pages ` +
      `FROM ${leavesOf('to_regclass($1)')} l JOIN pg_class c USING (oid), ` +
      `LATERAL (SELECT pg_relation_size(c.oid) / current_setting('block_size')::bigint AS pages) AS s`,
    [table],
  )
  const pages = Number(estimate.rows[0]?.['pages'] ?? 0)
  const estimated = estimate.rows[0]?.['known'] === 't' ? Number(estimate.rows[0]['rows']) : 0
  // Never analysed, or small enough to be exact for nothing.
  const rows =
    estimated <= 0 || pages < 1000
      ? Number((await tx.query(`SELECT count(*) AS n FROM ${table}`)).rows[0]?.['n'] ?? 0)
      : estimated
  return { rows, pages }
}

function cutPages(
  group: SyncGroup,
  { file, pages }: { readonly file: TableFile; readonly pages: number },
  wanted: number,
): KeyRange[] {
  const cuts = Math.min(wanted, pages)
  const place = (n: number): Key => placeAt(`(${Math.round((n * pages) / cuts)},0)`, group)
  return Array.from({ length: cuts }, (_, n) => ({ after: place(n), upTo: place(n + 1), file }))
}

async function planKeys(
  tx: Transaction,
  scope: Scope,
  group: SyncGroup,
  purpose: RangePurpose,
  wanted: number,
  { rows, pages }: TableSize,
): Promise<void> {
  const [watched] = group.watched
  if (!watched) return
  // Rows of one page stand close together in the key as well, so the sample needs enough pages, not only enough rows.
  const percent =
    pages < 1000
      ? 100
      : Math.min(
          100,
          Math.max((100 * wanted * samplesPerRange) / rows, (100 * wanted * pagesPerRange) / pages),
        )
  const key = quoteList(watched.key)
  const bounds =
    wanted === 1
      ? []
      : (
          await tx.query(
            `SELECT ${keyTexts(watched.key)} FROM (SELECT ${key}, row_number() OVER (ORDER BY ${key}) AS _crossfade_n, count(*) OVER () AS _crossfade_c ` +
              `FROM ${quoteTable(watched.table)} TABLESAMPLE SYSTEM (${percent.toFixed(6)})) AS _crossfade_s ` +
              `WHERE _crossfade_n < _crossfade_c AND _crossfade_n % greatest(1, _crossfade_c / ${wanted}) = 0 ORDER BY _crossfade_n LIMIT ${wanted - 1}`,
          )
        ).rows.map((row) => rowKey(row, watched.key.length))
  const last = purpose === 'backfill' ? await lastKey(tx, watched) : undefined
  const isEmpty = purpose === 'backfill' && last === undefined
  const cuts = [...bounds, undefined].map((upTo, i) => ({ after: bounds[i - 1], upTo: upTo ?? last }))
  await insertRanges(tx, scope, group, purpose, cuts, rows, isEmpty)
}

/** Behind those that are there, if any. */
async function insertRanges(
  tx: Transaction,
  scope: Scope,
  group: SyncGroup,
  purpose: RangePurpose,
  cuts: readonly KeyRange[],
  rows: number,
  isEmpty = false,
): Promise<void> {
  const ranges = ourTable(scope, 'ranges')
  const each = Math.ceil(rows / cuts.length)
  for (const { after, upTo, file } of cuts) {
    const values = [purpose, group.id, after ?? null, upTo ?? null, each, isEmpty]
    await tx.query(
      `INSERT INTO ${ranges} (purpose, group_id, id, lower_key, upper_key, rows_estimated, done${file ? ', file_id, rows_per_page' : ''}) ` +
        `SELECT $1, $2, coalesce(max(id) + 1, 0), $3, $4, $5, $6${file ? ', $7, $8' : ''} FROM ${ranges} WHERE purpose = $1 AND group_id = $2`,
      file ? [...values, file.id, file.rowsPerPage] : values,
    )
  }
}

/**
 * The ranges of places count as done, so that every lane leaves them; what their chunks wrote stays. Whoever is in the middle of such a
 * chunk holds its range, and holds the table as it was: its rows are copied before ours are counted.
 */
export const planAnew: Dialect['ranges']['planAnew'] = async (tx, scope, group, purpose) => {
  const ranges = ourTable(scope, 'ranges')
  const held = await tx.query(
    `SELECT id FROM ${ranges} WHERE purpose = $1 AND group_id = $2 ORDER BY id FOR UPDATE`,
    [purpose, group.id],
  )
  const left = await tx.query(
    `UPDATE ${ranges} SET done = true, rows_done = 0, rows_estimated = 0, file_id = NULL WHERE purpose = $1 AND group_id = $2 AND file_id IS NOT NULL`,
    [purpose, group.id],
  )
  if (left.rowCount > 0) await plan(tx, scope, group, purpose, held.rowCount, 'key')
}

async function lastKey(
  tx: Transaction,
  { table, key }: SyncGroup['watched'][number],
): Promise<Key | undefined> {
  const order = key.map((column) => `${quoteIdentifier(column)} DESC`).join(', ')
  const [row] = (
    await tx.query(`SELECT ${keyTexts(key)} FROM ${quoteTable(table)} ORDER BY ${order} LIMIT 1`)
  ).rows
  return row && rowKey(row, key.length)
}

export const claim: Dialect['ranges']['claim'] = async (tx, scope, groupId, purpose, lane) => {
  const ranges = ourTable(scope, 'ranges')
  const take = async (which: string): Promise<RangeState | undefined> => {
    const result = await tx.query(
      `UPDATE ${ranges} AS r SET lane = $3, fence = fence + 1 WHERE (purpose, group_id, id) = (` +
        `SELECT purpose, group_id, id FROM ${ranges} WHERE purpose = $1 AND group_id = $2 AND NOT done AND ${which}) ` +
        `RETURNING id, to_json(lower_key) AS lower_key, to_json(upper_key) AS upper_key, to_json(cursor_key) AS cursor_key, fence, rows_done, ` +
        `to_jsonb(r) ->> 'file_id' AS file_id, to_jsonb(r) ->> 'rows_per_page' AS rows_per_page`,
      [purpose, groupId, lane],
    )
    const [row] = result.rows
    return row && toRangeState(row)
  }
  // Its own range may be held by the last chunk of an older attempt: that is waited for, or the lane would end without it.
  return (
    (await take('lane = $3 ORDER BY id LIMIT 1 FOR UPDATE')) ??
    (await take('lane IS NULL ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED'))
  )
}

const toKey = (json: string | null | undefined): Key | undefined =>
  json === null || json === undefined ? undefined : (JSON.parse(json) as Key)

function toRangeState(row: Row): RangeState {
  const file = row['file_id']
  const range: KeyRange = {
    after: toKey(row['lower_key']),
    upTo: toKey(row['upper_key']),
    ...(file && { file: { id: file, rowsPerPage: Number(row['rows_per_page']) } }),
  }
  return {
    id: Number(row['id']),
    range,
    cursor: toKey(row['cursor_key']),
    fence: Number(row['fence']),
    rowsDone: Number(row['rows_done']),
  }
}

export const release: Dialect['ranges']['release'] = async (tx, scope, purpose, fromLane) => {
  await tx.query(
    `UPDATE ${ourTable(scope, 'ranges')} SET lane = NULL, fence = fence + 1 WHERE purpose = $1 AND NOT done AND lane >= $2`,
    [purpose, fromLane],
  )
}

export const hasRange: Dialect['ranges']['hasRange'] = async (tx, scope, purpose, lane) => {
  const sql = `SELECT FROM ${ourTable(scope, 'ranges')} WHERE purpose = $1 AND lane IS NOT DISTINCT FROM $2::int AND NOT done`
  return (await tx.query(sql, [purpose, lane])).rowCount > 0
}

export const leave: Dialect['ranges']['leave'] = async (tx, scope, purpose, lane, steady) => {
  const ranges = ourTable(scope, 'ranges')
  const own = `purpose = $1 AND lane = $2 AND NOT done`
  if (!(await hasRange(tx, scope, purpose, lane))) return true
  const heir = await tx.query(
    `SELECT FROM ${ranges} WHERE purpose = $1 AND lane < $3 AND NOT done AND group_id = (SELECT group_id FROM ${ranges} WHERE ${own}) ` +
      `ORDER BY id LIMIT 1 FOR UPDATE`,
    [purpose, lane, steady],
  )
  if (heir.rowCount === 0) return false
  await tx.query(`UPDATE ${ranges} SET lane = NULL, fence = fence + 1 WHERE ${own}`, [purpose, lane])
  return true
}

export const lock: Dialect['ranges']['lock'] = async (tx, scope, groupId, purpose, state) => {
  const result = await tx.query(
    `SELECT fence, to_json(cursor_key) AS cursor_key FROM ${ourTable(scope, 'ranges')} WHERE purpose = $1 AND group_id = $2 AND id = $3 FOR UPDATE`,
    [purpose, groupId, state.id],
  )
  const [row] = result.rows
  if (row && Number(row['fence']) === state.fence) return
  throw new CrossfadeError({
    kind: 'unavailable',
    code: 'BACKFILL.FENCED',
    message: `Range ${state.id} of ${groupId} was taken over by a later attempt (fence ${row?.['fence'] ?? 'gone'}, ours ${state.fence}).`,
    mend: 'Nothing to do: the later attempt goes on from the last checkpoint.',
  })
}

export const advance: Dialect['ranges']['advance'] = async (tx, scope, groupId, purpose, id, step) => {
  // The end of a range is acted on outside of the database, so it must be durable, and with it all WAL before it.
  if (step.done) await tx.query('SET LOCAL synchronous_commit = on')
  await tx.query(
    `UPDATE ${ourTable(scope, 'ranges')} SET cursor_key = coalesce($4::text[], cursor_key), rows_done = rows_done + $5, rows_written = rows_written + $6, ` +
      `done = $7, updated_at = clock_timestamp() WHERE purpose = $1 AND group_id = $2 AND id = $3`,
    [purpose, groupId, id, step.cursor ?? null, step.rows, step.written, step.done],
  )
}

export const totals: Dialect['ranges']['totals'] = async (tx, scope, purpose) => {
  const result = await tx.query(
    `SELECT count(*) AS ranges, count(*) FILTER (WHERE done) AS ranges_done, coalesce(sum(rows_done), 0) AS rows_done, ` +
      `coalesce(sum(rows_written), 0) AS rows_written, coalesce(sum(rows_estimated), 0) AS rows_estimated ` +
      `FROM ${ourTable(scope, 'ranges')} WHERE purpose = $1`,
    [purpose],
  )
  const row = result.rows[0] ?? {}
  const number = (name: string): number => Number(row[name] ?? 0)
  return {
    ranges: number('ranges'),
    rangesDone: number('ranges_done'),
    rowsDone: number('rows_done'),
    rowsWritten: number('rows_written'),
    rowsEstimated: number('rows_estimated'),
  }
}
