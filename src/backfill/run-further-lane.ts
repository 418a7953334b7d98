import type { Workplace, Pace } from '../copy/workplace.ts'
import { rest } from '../copy/workplace.ts'
import { isWorthwhile, steadyLanes } from '../core/lanes.ts'
import type { SyncGroup } from '../database/index.ts'
import type { Migration } from '../definition/index.ts'
import { runLane, type LaneProgress, type LaneResult } from './run-lane.ts'
import type { Throttle } from './throttle.ts'

/** Long enough for a dozen chunks of each lane. */
const defaultTrialMs = 2000

/**
 * One time slice of a lane after the first ones. It looks how fast these are, joins them, and goes again where all together are not
 * faster: then the server has no core left, and what is copied waits for what is copied. Its range goes to one of them.
 */
export async function runFurtherLane(
  place: Workplace,
  groups: readonly SyncGroup[],
  lane: number,
  settings: Migration['backfill'],
  throttle: Throttle,
  pace: Pace<LaneProgress>,
  trialMs = defaultTrialMs,
): Promise<LaneResult> {
  const run = (until: number): Promise<LaneResult> =>
    runLane(place, groups, lane, settings, throttle, { ...pace, until: Math.min(until, pace.until) })
  // An earlier slice has found it worthwhile.
  if (await hasRange(place, lane)) return run(pace.until)
  const lookOn = (ms: number): Promise<boolean> => restWhileFree(place, ms, pace.signal)
  // One after the other, so that each sees what it adds itself.
  if (!(await lookOn((lane - steadyLanes) * 2 * trialMs))) return { ...nothing(settings), done: true }
  const isOver = (): boolean => pace.signal.aborted || Date.now() + 2 * trialMs >= pace.until
  for (;;) {
    const before = await measure(place, () => lookOn(trialMs))
    if (!before.result) return { ...nothing(settings), done: true }
    if (isOver()) return { ...nothing(settings), done: false }
    if (before.rowsPerSec === 0) continue // whoever waits has no use for help, and says nothing
    const after = await measure(place, () => run(Date.now() + trialMs))
    const joined = after.result
    if (joined.done || pace.signal.aborted) return joined
    if (isWorthwhile(before.rowsPerSec, after.rowsPerSec) || !(await leave(place, lane)))
      return plus(joined, await run(pace.until))
    return { ...joined, done: true }
  }
}

const nothing = (settings: Migration['backfill']): LaneProgress => ({
  rows: 0,
  written: 0,
  refused: 0,
  chunkRows: settings.batchSize,
  ratePerSec: 0,
  throttledBy: undefined,
})

const plus = (before: LaneResult, then: LaneResult): LaneResult => ({
  ...then,
  rows: before.rows + then.rows,
  written: before.written + then.written,
  refused: before.refused + then.refused,
})

/** Rows a second of all lanes together, while `work` goes on. */
async function measure<T>(
  { database, scope }: Workplace,
  work: () => Promise<T>,
): Promise<{ readonly rowsPerSec: number; readonly result: T }> {
  const look = async (): Promise<number> =>
    (await database.transaction((tx) => database.dialect.ranges.totals(tx, scope, 'backfill'))).rowsDone
  const startedAt = performance.now()
  const before = await look()
  const result = await work()
  const rows = (await look()) - before
  return { rowsPerSec: (rows * 1000) / (performance.now() - startedAt), result }
}

/** @returns false as soon as no range is free any more: then the others end without help. */
async function restWhileFree(place: Workplace, ms: number, signal: AbortSignal): Promise<boolean> {
  const until = performance.now() + ms
  for (;;) {
    if (!(await hasRange(place, null))) return false
    const left = until - performance.now()
    if (left <= 0 || signal.aborted) return true
    await rest(Math.min(left, 50), signal)
  }
}

const hasRange = ({ database, scope }: Workplace, lane: number | null): Promise<boolean> =>
  database.transaction((tx) => database.dialect.ranges.hasRange(tx, scope, 'backfill', lane))

const leave = ({ database, scope }: Workplace, lane: number): Promise<boolean> =>
  database.transaction((tx) => database.dialect.ranges.leave(tx, scope, 'backfill', lane, steadyLanes), {
    lockTimeoutMs: 10_000, // the last chunk of another lane ends soon
  })
