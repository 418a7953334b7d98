import type { Key, RangePurpose, RangeState, SyncGroup } from '../database/index.ts'
import type { Workplace } from './workplace.ts'

/** Where a step over a range ended. */
export interface RangeStep {
  readonly cursor: Key | undefined
  readonly rows: number
  readonly done: boolean
}

/**
 * One lane's walk: takes a range, steps through it from its checkpoint, takes the next, until there is none or `isOver`. Lanes
 * never share a range. After a crash the same lane gets its range again with a new fence, which shuts the older attempt out.
 * @returns true when no range is left for this lane.
 */
export async function walkRanges(
  place: Workplace,
  groups: readonly SyncGroup[],
  purpose: RangePurpose,
  lane: number,
  isOver: () => boolean,
  step: (group: SyncGroup, state: RangeState) => Promise<RangeStep>,
): Promise<boolean> {
  const { database, scope } = place
  for (const group of groups)
    for (;;) {
      if (isOver()) return false
      // Nobody but us locks these rows, and the last chunk of an older attempt ends soon.
      const lockTimeoutMs = 10_000
      let state = await database.transaction(
        (tx) => database.dialect.ranges.claim(tx, scope, group.id, purpose, lane),
        { lockTimeoutMs },
      )
      if (state === undefined) break
      for (;;) {
        const { cursor, rows, done } = await step(group, state)
        if (done) break
        state = { ...state, cursor: cursor ?? state.cursor, rowsDone: state.rowsDone + rows }
        if (isOver()) return false
      }
    }
  return true
}
