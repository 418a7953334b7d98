import type { Dialect } from '../dialect.ts'
import { ourTable } from './objects.ts'

/**
 * One row that we write on the primary and read on a standby: the age of what is there is how far the standby is behind, whoever
 * streams to it. All ages are of the primary's clock.
 */

export const read: Dialect['pulse']['read'] = async (tx, scope) => {
  const result = await tx.query(
    `SELECT at::text AS at, pg_is_in_recovery() AS standby FROM ${ourTable(scope, 'pulse')}`,
  )
  return { at: result.rows[0]?.['at'] ?? undefined, isStandby: result.rows[0]?.['standby'] === 't' }
}

export const ageSec: Dialect['pulse']['ageSec'] = async (tx, at) => {
  const result = await tx.query('SELECT extract(epoch FROM clock_timestamp() - $1::timestamptz) AS age', [at])
  return Number(result.rows[0]?.['age'])
}

/** Several lanes write it: the first of them within half a second is enough. */
export const write: Dialect['pulse']['write'] = async (tx, scope) => {
  await tx.query(
    `UPDATE ${ourTable(scope, 'pulse')} SET at = clock_timestamp() WHERE at IS NULL OR at < clock_timestamp() - interval '0.5 s'`,
  )
}
