import type { Dialect } from '../dialect.ts'
import { ourTable } from './objects.ts'

/** Flags are rows beside the application's own tables; NOTIFY on the scope's name wakes whoever listens, a poll finds the rest. */
export const set: Dialect['flags']['set'] = async (tx, scope, flags, primary) => {
  const changed = await tx.query(
    `UPDATE ${ourTable(scope, 'state')} SET epoch = epoch + 1, primary_side = coalesce($1, primary_side) RETURNING epoch`,
    [primary ?? null],
  )
  const epoch = Number(changed.rows[0]?.['epoch'] ?? 0)
  for (const [key, percent] of Object.entries(flags))
    await tx.query(
      `INSERT INTO ${ourTable(scope, 'flags')} (key, percent, epoch) VALUES ($1, $2, $3) ON CONFLICT (key) DO UPDATE SET percent = EXCLUDED.percent, epoch = EXCLUDED.epoch`,
      [key, percent, epoch],
    )
  await tx.query('SELECT pg_notify($1, $2)', [scope.schema, String(epoch)])
  return epoch
}

export const read: Dialect['flags']['read'] = async (tx, scope) => {
  const exists = await tx.query('SELECT to_regclass($1) IS NOT NULL AS there', [ourTable(scope, 'state')])
  if (exists.rows[0]?.['there'] !== 't') return undefined
  const flags = await tx.query(`SELECT key, percent, epoch FROM ${ourTable(scope, 'flags')} ORDER BY key`)
  const state = await tx.query(`SELECT primary_side, epoch FROM ${ourTable(scope, 'state')}`)
  return {
    flags: flags.rows.map((row) => ({
      key: row['key'] ?? '',
      percent: Number(row['percent']),
      epoch: Number(row['epoch']),
    })),
    primary: state.rows[0]?.['primary_side'] === 'new' ? 'new' : 'old',
    epoch: Number(state.rows[0]?.['epoch'] ?? 0),
  }
}

export const lockPrimary: Dialect['flags']['lockPrimary'] = async (tx, scope) => {
  const state = await tx.query(`SELECT primary_side FROM ${ourTable(scope, 'state')} FOR SHARE`)
  return state.rows[0]?.['primary_side'] === 'new' ? 'new' : 'old'
}
