import type { Dialect, Key, KeyRange, SyncGroup, Transaction } from '../database/index.ts'
import type { Workplace } from './workplace.ts'

/** What one step over a range may weigh: one transaction's WAL, and what a standby or a replica is given at once. */
export const stepBytes = 16 * 1024 * 1024

export interface StepEnd {
  /** The last key of the step, or undefined where the range ends within it. */
  readonly end: Key | undefined
  /** Rows up to `end`; undefined where it must be counted. */
  readonly rows: number | undefined
}

/** Columns of a group's source that may be wide, asked once a slice: where there are none, no row is weighed. */
export function wideColumnsOf({ database }: Workplace): (group: SyncGroup) => Promise<readonly string[]> {
  const known = new Map<string, Promise<readonly string[]>>()
  return (group) => {
    const asked =
      known.get(group.id) ?? database.transaction((tx) => database.dialect.copy.wideColumns(tx, group))
    known.set(group.id, asked)
    asked.catch(() => known.delete(group.id)) // asked again by the next attempt
    return asked
  }
}

/** Where a step ends: after `rows` rows, or sooner where they weigh {@link stepBytes}. At least one row, however heavy. */
export async function stepEnd(
  { copy }: Dialect,
  tx: Transaction,
  group: SyncGroup,
  left: KeyRange,
  rows: number,
  wide: readonly string[],
): Promise<StepEnd> {
  const end = await copy.chunkEnd(tx, group, left, rows)
  const range = { ...left, upTo: end ?? left.upTo }
  const heavy = wide.length > 0 ? await copy.heavyEnd(tx, group, range, wide, stepBytes) : undefined
  // A page may hold fewer rows than it could.
  return heavy ?? { end, rows: end === undefined || left.file ? undefined : rows }
}

/** How many of `keys`, in their order, one transaction takes: all of them, or fewer where their rows weigh {@link stepBytes}. */
export async function lightKeys(
  { copy }: Dialect,
  tx: Transaction,
  group: SyncGroup,
  keys: readonly Key[],
  wide: readonly string[],
): Promise<number> {
  if (wide.length === 0 || keys.length < 2) return keys.length
  return Math.max(1, await copy.lightKeys(tx, group, keys, wide, stepBytes))
}
