import type { Transaction } from '../database.ts'
import type { Dialect, Scope } from '../dialect.ts'
import { ourTable } from './objects.ts'

/** What a migration has created or still has to finish, a word a line, written in the transaction that did it. */

/** True where a relation of this name, as it is written in SQL, stands. */
export async function relationExists(tx: Transaction, relation: string): Promise<boolean> {
  const result = await tx.query('SELECT to_regclass($1) IS NOT NULL AS there', [relation])
  return result.rows[0]?.['there'] === 't'
}

export const exists: Dialect['journal']['exists'] = (tx, scope) =>
  relationExists(tx, ourTable(scope, 'journal'))

export const read: Dialect['journal']['read'] = async (tx, scope) => {
  const result = await tx.query(`SELECT step FROM ${ourTable(scope, 'journal')} ORDER BY at, step`)
  return result.rows.map((row) => row['step'] ?? '')
}

export async function note(tx: Transaction, scope: Scope, step: string): Promise<void> {
  await tx.query(`INSERT INTO ${ourTable(scope, 'journal')} (step) VALUES ($1) ON CONFLICT DO NOTHING`, [
    step,
  ])
}

/** True where the step is ours to take back. What stood before us has no entry, and an undo leaves it alone. */
export async function isNoted(tx: Transaction, scope: Scope, step: string): Promise<boolean> {
  if (!(await exists(tx, scope))) return false
  return (await tx.query(`SELECT FROM ${ourTable(scope, 'journal')} WHERE step = $1`, [step])).rowCount > 0
}

export async function forget(tx: Transaction, scope: Scope, step: string): Promise<void> {
  await tx.query(`DELETE FROM ${ourTable(scope, 'journal')} WHERE step = $1`, [step])
}
