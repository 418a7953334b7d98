import { setTimeout as delay } from 'node:timers/promises'
import type pg from 'pg'
import { newColumns, newImage, newIsConsistent, oldColumns } from './customers.ts'

/**
 * The demo's own proof, in SQL of its own: it shares no code with what Crossfade compares, so that the two cannot be wrong together.
 */

export interface SidesCompared {
  readonly rows: number
  readonly mismatched: number
}

const newRows =
  `SELECT coalesce(p.id, c.person_id) AS id, p.version, ${newImage} AS image, ${newIsConsistent} AS is_consistent ` +
  `FROM people AS p FULL JOIN contact_points AS c ON c.person_id = p.id`
/** Column by column, which is quicker than by image, and another way to look. */
const bothRows =
  `SELECT coalesce(o.id, p.id, c.person_id) AS id, ` +
  `(${oldColumns}) IS DISTINCT FROM (${newColumns}) OR (${newIsConsistent}) IS NOT TRUE AS differs ` +
  `FROM customers AS o FULL JOIN people AS p ON p.id = o.id FULL JOIN contact_points AS c ON c.person_id = coalesce(p.id, o.id)`

/**
 * Every row of both sides, in one snapshot. The application writes on meanwhile, and what it wrote last may still be on its way to
 * the other side: a row counts as mismatched only if it stays different for `patienceMs`.
 */
export async function compareSides(pool: pg.Pool, patienceMs: number): Promise<SidesCompared> {
  const first = await inTransaction(pool, async (client) => {
    const { rows } = await client.query<{ rows: string; ids: string[] | null }>(
      `SELECT count(*) AS rows, array_agg(id) FILTER (WHERE differs) AS ids FROM (${bothRows}) AS both_sides`,
    )
    return { rows: Number(rows[0]?.rows ?? 0), ids: rows[0]?.ids ?? [] }
  })
  let { ids } = first
  const deadline = performance.now() + patienceMs
  while (ids.length > 0 && performance.now() < deadline) {
    await delay(100)
    const again = await pool.query<{ id: string }>(
      `SELECT id FROM unnest($1::bigint[]) AS k(id), LATERAL (SELECT (${oldColumns}) IS DISTINCT FROM (${newColumns}) ` +
        `OR (p.id IS NOT NULL OR c.person_id IS NOT NULL) AND (${newIsConsistent}) IS NOT TRUE AS differs FROM (SELECT) AS one ` +
        `LEFT JOIN customers AS o ON o.id = k.id LEFT JOIN people AS p ON p.id = k.id LEFT JOIN contact_points AS c ON c.person_id = k.id) AS again WHERE differs`,
      [ids],
    )
    ids = again.rows.map(({ id }) => id)
  }
  return { rows: first.rows, mismatched: ids.length }
}

export interface LedgerCompared {
  /** Rows of the new side and of the ledger, each key once. */
  readonly rows: number
  /** Acknowledged writes, and untouched rows of the beginning, that are not on the new side. */
  readonly lost: number
  /** Rows that are there, but do not say what they should; and rows that nobody wrote. */
  readonly mismatched: number
  /** Keys of which one write ended without an answer. */
  readonly uncertain: number
  /** Some of the keys behind `lost` and `mismatched`. */
  readonly examples: readonly string[]
}

/**
 * What must be there, against what is there: per key the last acknowledged write, or the row of the beginning where there was none.
 * A key with a write of unknown outcome may be at its last acknowledged version or later.
 */
const againstLedger = `
  WITH expected AS (
    SELECT l.id, CASE WHEN l.version > 0 THEN l.version ELSE coalesce(s.version, 0) END AS version, l.image, l.is_uncertain
    FROM demo.ledger AS l LEFT JOIN demo.seed AS s USING (id)
    UNION ALL
    SELECT s.id, s.version, s.image, false FROM demo.seed AS s WHERE NOT EXISTS (SELECT FROM demo.ledger AS l WHERE l.id = s.id)
  ), judged AS (
    SELECT id, coalesce(e.is_uncertain, false) AS is_uncertain,
      CASE
        WHEN e.id IS NULL THEN 'mismatched'
        WHEN e.is_uncertain THEN CASE WHEN n.id IS NOT NULL AND n.version < e.version THEN 'lost' WHEN n.id IS NOT NULL AND n.is_consistent IS NOT TRUE THEN 'mismatched' ELSE 'right' END
        WHEN e.image IS NULL THEN CASE WHEN n.id IS NULL THEN 'right' ELSE 'lost' END
        WHEN n.id IS NULL OR n.version IS NULL OR n.version < e.version THEN 'lost'
        WHEN n.image IS DISTINCT FROM e.image OR n.is_consistent IS NOT TRUE THEN 'mismatched'
        ELSE 'right'
      END AS verdict
    FROM expected AS e FULL JOIN (${newRows}) AS n USING (id)
  )
  SELECT count(*) AS rows, count(*) FILTER (WHERE verdict = 'lost') AS lost, count(*) FILTER (WHERE verdict = 'mismatched') AS mismatched,
    count(*) FILTER (WHERE is_uncertain) AS uncertain, (array_agg(verdict || ' ' || id) FILTER (WHERE verdict <> 'right'))[1:10] AS examples
  FROM judged`

export async function compareWithLedger(pool: pg.Pool): Promise<LedgerCompared> {
  return inTransaction(pool, async (client) => {
    const { rows } = await client.query<Record<string, string> & { examples: string[] | null }>(againstLedger)
    const number = (name: string): number => Number(rows[0]?.[name] ?? 0)
    return {
      rows: number('rows'),
      lost: number('lost'),
      mismatched: number('mismatched'),
      uncertain: number('uncertain'),
      examples: rows[0]?.examples ?? [],
    }
  })
}

/** On one core: the application needs the other one. */
async function inTransaction<T>(pool: pg.Pool, work: (client: pg.PoolClient) => Promise<T>): Promise<T> {
  const client = await pool.connect()
  try {
    await client.query(
      `BEGIN READ ONLY; SET LOCAL max_parallel_workers_per_gather = 0; SET LOCAL work_mem = '128MB'`,
    )
    return await work(client)
  } finally {
    await client.query('ROLLBACK').catch(() => undefined)
    client.release()
  }
}
