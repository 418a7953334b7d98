import type { Dialect } from '../dialect.ts'
import { ourTable } from './objects.ts'

export const add: Dialect['parity']['add'] = async (tx, scope, link, source, counts) => {
  await tx.query(
    `INSERT INTO ${ourTable(scope, 'parity')} AS p (link, source, compared, mismatched, repaired, explained) VALUES ($1, $2, $3, $4, $5, $6) ` +
      `ON CONFLICT (link, source) DO UPDATE SET compared = p.compared + EXCLUDED.compared, mismatched = p.mismatched + EXCLUDED.mismatched, ` +
      `repaired = p.repaired + EXCLUDED.repaired, explained = p.explained + EXCLUDED.explained, updated_at = clock_timestamp()`,
    [link, source, counts.compared, counts.mismatched, counts.repaired, counts.explained],
  )
}

export const read: Dialect['parity']['read'] = async (tx, scope) => {
  const result = await tx.query(
    `SELECT link, source, compared, mismatched, repaired, explained FROM ${ourTable(scope, 'parity')} ORDER BY link, source`,
  )
  return result.rows.map((row) => ({
    link: row['link'] ?? '',
    source: row['source'] === 'full' ? 'full' : 'sample',
    compared: Number(row['compared']),
    mismatched: Number(row['mismatched']),
    repaired: Number(row['repaired']),
    explained: Number(row['explained']),
  }))
}

export const reset: Dialect['parity']['reset'] = async (tx, scope, source, links) => {
  await tx.query(`DELETE FROM ${ourTable(scope, 'parity')} WHERE source = $1 AND link = ANY ($2::text[])`, [
    source,
    links,
  ])
}
