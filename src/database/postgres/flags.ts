import type { Dialect } from '../dialect.ts'
import type { Transaction } from '../database.ts'
import type { Scope } from '../steps.ts'
import { nothingMeasured } from '../../core/measured.ts'
import { CrossfadeError } from '../../errors/index.ts'
import { slotNow, slotsKept } from './client-functions.ts'
import { relationExists } from './journal.ts'
import { ourTable } from './objects.ts'

/**
 * Flags are rows beside the application's own tables; NOTIFY on the scope's name wakes whoever listens, a poll finds the rest.
 * `wanted` is what the workflow has set last, `ceiling` the most that a person allows; `percent` is the lower of the two, and all
 * that clients look at. Schemas that an earlier version made have neither column, and no ceiling.
 */
export const set: Dialect['flags']['set'] = async (tx, scope, flags, by = {}) => {
  const epoch = await nextEpoch(tx, scope, by)
  const ceilings = await ceilingsOf(tx, scope)
  for (const [key, percent] of Object.entries(flags))
    await tx.query(
      `INSERT INTO ${ourTable(scope, 'flags')} (key, percent, epoch${ceilings ? ', wanted' : ''}) VALUES ($1, $2, $3${ceilings ? ', $4' : ''}) ` +
        `ON CONFLICT (key) DO UPDATE SET percent = EXCLUDED.percent, epoch = EXCLUDED.epoch${ceilings ? ', wanted = EXCLUDED.wanted' : ''}`,
      [key, Math.min(percent, ceilings?.get(key) ?? 100), epoch, ...(ceilings ? [percent] : [])],
    )
  await tx.query('SELECT pg_notify($1, $2)', [scope.schema, String(epoch)])
  return epoch
}

/** A worker that stood still goes on with what it was at before it hears that another has done it, and that all has changed since. */
async function nextEpoch(
  tx: Transaction,
  scope: Scope,
  { primary, order }: NonNullable<Parameters<Dialect['flags']['set']>[3]> = {},
): Promise<number> {
  const table = ourTable(scope, 'state')
  const isOrdered = order !== undefined && (await hasColumn(tx, table, 'flag_order'))
  const changed = await tx.query(
    `UPDATE ${table} SET epoch = epoch + 1, primary_side = coalesce($1, primary_side)` +
      (isOrdered ? `, flag_order = $2 WHERE coalesce(flag_order, 0) <= $2` : '') +
      ` RETURNING epoch`,
    [primary ?? null, ...(isOrdered ? [order] : [])],
  )
  if (isOrdered && changed.rowCount === 0)
    throw new CrossfadeError({
      kind: 'refused',
      code: 'FLAGS.OVERTAKEN',
      message: `The flags of ${scope.migration} have been changed by what came later; this change is not made.`,
      mend: 'Nothing, where a worker that stood still says so. Where the migration waits with it, the clock of the Temporal server has been set back: resume once it has passed where it was.',
    })
  return Number(changed.rows[0]?.['epoch'] ?? 0)
}

/** Schemas that an earlier version made lack some of them. */
async function hasColumn(tx: Transaction, table: string, column: string): Promise<boolean> {
  const { rows } = await tx.query(
    `SELECT FROM pg_attribute WHERE attrelid = to_regclass($1) AND attname = $2 AND NOT attisdropped`,
    [table, column],
  )
  return rows.length > 0
}

/** The row of `state` is locked by then: nobody else changes flags meanwhile. Undefined where the table has no column for it. */
async function ceilingsOf(tx: Transaction, scope: Scope): Promise<ReadonlyMap<string, number> | undefined> {
  if (!(await hasColumn(tx, ourTable(scope, 'flags'), 'ceiling'))) return undefined
  const { rows } = await tx.query(
    `SELECT key, ceiling FROM ${ourTable(scope, 'flags')} WHERE ceiling IS NOT NULL`,
  )
  return new Map(rows.map((row) => [row['key'] ?? '', Number(row['ceiling'])]))
}

export const hold: Dialect['flags']['hold'] = async (tx, scope, ceilings) => {
  const epoch = await nextEpoch(tx, scope)
  if ((await ceilingsOf(tx, scope)) === undefined)
    await tx.query(
      `ALTER TABLE ${ourTable(scope, 'flags')} ADD COLUMN wanted numeric(7,4), ADD COLUMN ceiling numeric(7,4)`,
    )
  for (const [key, ceiling] of Object.entries(ceilings))
    await tx.query(
      `UPDATE ${ourTable(scope, 'flags')} SET wanted = coalesce(wanted, percent), ceiling = nullif($2::numeric, 100), ` +
        `percent = least(coalesce(wanted, percent), $2::numeric), epoch = $3 WHERE key = $1`,
      [key, ceiling, epoch],
    )
  await tx.query('SELECT pg_notify($1, $2)', [scope.schema, String(epoch)])
  return epoch
}

/** The clock is the database's alone; a quarter more than the lease, because an instance measures it by a clock of its own. */
export const instances: Dialect['flags']['instances'] = async (tx, scope) => {
  const table = ourTable(scope, 'instances')
  if (!(await relationExists(tx, table))) return []
  const { rows } = await tx.query(
    `SELECT id, version, epoch, extract(epoch FROM clock_timestamp() - seen_at) AS age, ` +
      `clock_timestamp() - seen_at <= lease_ms * interval '1.25 ms' AS live FROM ${table} ORDER BY id`,
  )
  return rows.map((row) => ({
    id: row['id'] ?? '',
    version: row['version'] ?? '',
    epoch: Number(row['epoch']),
    ageSec: Number(row['age']),
    isLive: row['live'] === 't',
  }))
}

export const read: Dialect['flags']['read'] = async (tx, scope) => {
  const exists = await tx.query('SELECT to_regclass($1) IS NOT NULL AS there', [ourTable(scope, 'state')])
  if (exists.rows[0]?.['there'] !== 't') return undefined
  const flags = await tx.query(
    `SELECT key, percent, epoch, to_jsonb(f)->>'ceiling' AS ceiling, coalesce(to_jsonb(f)->>'wanted', percent::text) AS wanted FROM ${ourTable(scope, 'flags')} f ORDER BY key`,
  )
  const state = await tx.query(`SELECT primary_side, epoch FROM ${ourTable(scope, 'state')}`)
  return {
    flags: flags.rows.map((row) => ({
      key: row['key'] ?? '',
      percent: Number(row['percent']),
      epoch: Number(row['epoch']),
      wanted: Number(row['wanted']),
      ceiling: Number(row['ceiling'] ?? 100),
    })),
    primary: state.rows[0]?.['primary_side'] === 'new' ? 'new' : 'old',
    epoch: Number(state.rows[0]?.['epoch'] ?? 0),
  }
}

export const lockPrimary: Dialect['flags']['lockPrimary'] = async (tx, scope) => {
  const state = await tx.query(`SELECT primary_side FROM ${ourTable(scope, 'state')} FOR SHARE`)
  return state.rows[0]?.['primary_side'] === 'new' ? 'new' : 'old'
}

/** A schema that an earlier version made has no such table, and its instances have nobody to tell. */
export const measured: Dialect['flags']['measured'] = async (tx, scope) => {
  const table = ourTable(scope, 'measured')
  if (!(await relationExists(tx, table))) return nothingMeasured
  const sums = Object.keys(nothingMeasured).map((name) => `coalesce(sum("${name}"), 0) AS "${name}"`)
  const { rows } = await tx.query(
    `SELECT ${sums.join(', ')} FROM ${table} WHERE slot > ${slotNow} - ${slotsKept}`,
  )
  const of = (name: keyof typeof nothingMeasured): number => Number(rows[0]?.[name] ?? 0)
  return {
    reads: of('reads'),
    readErrors: of('readErrors'),
    writes: of('writes'),
    writeErrors: of('writeErrors'),
    compared: of('compared'),
    mismatched: of('mismatched'),
    latencyDeltaMs: of('latencyDeltaMs'),
  }
}

export const forgetMeasured: Dialect['flags']['forgetMeasured'] = async (tx, scope) => {
  const table = ourTable(scope, 'measured')
  if (await relationExists(tx, table)) await tx.query(`DELETE FROM ${table}`)
}
