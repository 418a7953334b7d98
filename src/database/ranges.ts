import type { CopyOrder, OrderChoice } from '../core/copy-order.ts'
import type { TableName } from '../core/link.ts'
import type { Transaction } from './database.ts'
import type { Scope } from './steps.ts'
import type { Key, KeyRange, SyncGroup } from './sync-group.ts'

/** How a table is cut into ranges, and who walks over which. */

export interface RangeState {
  readonly id: number
  readonly range: KeyRange
  readonly cursor: Key | undefined
  readonly fence: number
  readonly rowsDone: number
}

export type RangePurpose = 'backfill' | 'verify'

export interface RangeTotals {
  readonly ranges: number
  readonly rangesDone: number
  readonly rowsDone: number
  readonly rowsWritten: number
  readonly rowsEstimated: number
}

export interface Ranges {
  reset(tx: Transaction, scope: Scope, purpose: RangePurpose): Promise<void>
  /** @param wanted the order of a backfill, where a person says it; see {@link orderOf}. */
  plan(
    tx: Transaction,
    scope: Scope,
    group: SyncGroup,
    purpose: RangePurpose,
    ranges: number,
    wanted?: CopyOrder,
  ): Promise<void>
  /** In which order the rows of a table are best read, and why. */
  orderOf(tx: Transaction, table: TableName, key: readonly string[], wanted?: CopyOrder): Promise<OrderChoice>
  /**
   * False where the places of a range mean nothing any more, because the table was rewritten. Holds the table until the
   * transaction ends, so that it cannot be rewritten any more. Ranges of keys always stand.
   */
  stands(tx: Transaction, group: SyncGroup, range: KeyRange): Promise<boolean>
  /** Once a table was rewritten: what was copied by place is left as it is, and the whole table is planned by key. */
  planAnew(tx: Transaction, scope: Scope, group: SyncGroup, purpose: RangePurpose): Promise<void>
  /** Gives `lane` its unfinished range again, else the next free one, with a new fence that shuts older attempts out. */
  claim(
    tx: Transaction,
    scope: Scope,
    groupId: string,
    purpose: RangePurpose,
    lane: number,
  ): Promise<RangeState | undefined>
  /** Rows of a pass that no lane has begun are handed out again; used when the number of lanes shrinks. */
  release(tx: Transaction, scope: Scope, purpose: RangePurpose, fromLane: number): Promise<void>
  /** Whether `lane` has a range that it has not finished; null: whether one is free. */
  hasRange(tx: Transaction, scope: Scope, purpose: RangePurpose, lane: number | null): Promise<boolean>
  /**
   * Hands the unfinished range of `lane` to whoever comes for it. Only while a lane below `steady` has one of the same group, which is
   * held here: it looks for another when it has ended. (Two that leave at once would hold each other, so it is a lane that never does.)
   * @returns false where there is no such lane: then the range stays.
   */
  leave(tx: Transaction, scope: Scope, purpose: RangePurpose, lane: number, steady: number): Promise<boolean>
  /** Locks the range for this transaction. @throws `BACKFILL.FENCED` when another attempt has taken over */
  lock(
    tx: Transaction,
    scope: Scope,
    groupId: string,
    purpose: RangePurpose,
    state: RangeState,
  ): Promise<void>
  advance(
    tx: Transaction,
    scope: Scope,
    groupId: string,
    purpose: RangePurpose,
    id: number,
    step: {
      readonly cursor: Key | undefined
      readonly rows: number
      readonly written: number
      readonly done: boolean
    },
  ): Promise<void>
  totals(tx: Transaction, scope: Scope, purpose: RangePurpose): Promise<RangeTotals>
  /** Before the first look at the source: this transaction may read a row and add it to the target after the row is gone. */
  markChunkRunning(tx: Transaction, scope: Scope): Promise<void>
}
