import { chooseOrder, type TableLayout } from '../../core/copy-order.ts'
import type { TableName } from '../../core/link.ts'
import type { Dialect, Key, KeyRange, SyncGroup, TableFile } from '../dialect.ts'
import type { Transaction } from '../database.ts'
import { quoteTable } from './identifiers.ts'

/**
 * Places in a table's file (`ctid`), for tables whose key does not follow the file: by the index of the key, each row would be the
 * read of another page (docs/decisions/0015).
 */

/**
 * A place where else a key stands. It has one part more than a key, so that a worker that knows of no places fails on it instead of
 * taking it for a key.
 */
export const placeAt = (ctid: string, { keyTypes }: Pick<SyncGroup, 'keyTypes'>): Key => [
  ...keyTypes.map(() => ''),
  ctid,
]

export const placeIn = (key: Key): string => key.at(-1) ?? ''

export const pageOf = (place: Key | undefined): number => Number(/\d+/.exec(placeIn(place ?? []))?.[0] ?? 0)

interface Heap extends TableLayout {
  readonly file: string
}

async function heapOf(
  tx: Transaction,
  table: TableName,
  [firstColumn]: readonly string[],
): Promise<Heap | undefined> {
  const [row] = (
    await tx.query(
      `SELECT pg_relation_size(c.oid) / current_setting('block_size')::bigint AS pages, pg_relation_filenode(c.oid) AS file, ` +
        `(SELECT correlation FROM pg_stats WHERE schemaname = $2 AND tablename = $3 AND attname = $4 AND NOT inherited) AS correlation, ` +
        `(SELECT setting FROM pg_settings WHERE name = 'shared_buffers') AS cache, ` +
        `CASE WHEN current_setting('server_version_num')::int < 140000 THEN 'the server cannot scan by place (PostgreSQL 14 can)' ` +
        `WHEN c.relkind <> 'r' THEN 'it has several files' ` +
        `WHEN EXISTS (SELECT FROM pg_inherits WHERE inhparent = c.oid) THEN 'it has several files' ` +
        `WHEN (SELECT amname FROM pg_am WHERE oid = c.relam) <> 'heap' THEN 'its rows lie in no heap' END AS obstacle ` +
        `FROM pg_class c WHERE c.oid = to_regclass($1)`,
      [quoteTable(table), table.schema, table.name, firstColumn ?? ''],
    )
  ).rows
  return (
    row && {
      pages: Number(row['pages']),
      file: row['file'] ?? '',
      correlation: row['correlation'] === null ? undefined : Number(row['correlation']),
      cachePages: Number(row['cache']),
      obstacle: row['obstacle'] ?? undefined,
    }
  )
}

export const orderOf: Dialect['ranges']['orderOf'] = async (tx, table, key, wanted) =>
  chooseOrder((await heapOf(tx, table, key)) ?? noHeap, wanted)

const noHeap = { pages: 0, cachePages: 0, correlation: undefined, obstacle: 'there is no such table' }

/** Where places can be used: the file as it is now, and how many pages it has. */
export async function fileOf(
  tx: Transaction,
  table: TableName,
  rows: number,
): Promise<{ readonly file: TableFile; readonly pages: number } | undefined> {
  const heap = await heapOf(tx, table, [])
  if (heap === undefined || heap.obstacle !== undefined || heap.pages === 0) return undefined
  return { file: { id: heap.file, rowsPerPage: rows / heap.pages }, pages: heap.pages }
}

/**
 * VACUUM FULL, CLUSTER, pg_repack and an ALTER TABLE that rewrites put rows elsewhere, and no trigger fires. Each of them gives the table
 * another file, under ACCESS EXCLUSIVE: with our lock, what we read here is true until we commit.
 */
export async function stands(tx: Transaction, group: SyncGroup, { file }: KeyRange): Promise<boolean> {
  const [watched] = group.watched
  if (file === undefined || watched === undefined) return true
  const table = quoteTable(watched.table)
  await tx.query(`LOCK TABLE ONLY ${table} IN ACCESS SHARE MODE`)
  const [row] = (await tx.query('SELECT pg_relation_filenode(to_regclass($1)) AS file', [table])).rows
  return row?.['file'] === file.id
}
