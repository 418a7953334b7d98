import { nextChunkRows, restAfterChunkMs } from '../core/chunk-size.ts'
import { copyChunk } from '../copy/copy-range.ts'
import { wideColumnsOf } from '../copy/step-end.ts'
import { walkRanges } from '../copy/walk-ranges.ts'
import { jittered, rest, type Pace, type Workplace } from '../copy/workplace.ts'
import type { SyncGroup } from '../database/index.ts'
import type { Migration } from '../definition/index.ts'
import type { Throttle } from './throttle.ts'

export interface LaneProgress {
  /** Source rows passed over in this slice. */
  readonly rows: number
  readonly written: number
  readonly refused: number
  readonly chunkRows: number
  readonly ratePerSec: number
  readonly throttledBy: string | undefined
}

export interface LaneResult extends LaneProgress {
  /** No range is left for this lane. */
  readonly done: boolean
}

const throttledRestMs = 500

/** One time slice of a lane: chunks that adapt to `targetChunkMs`, with a rest after each, while nothing says to wait. */
export async function runLane(
  place: Workplace,
  groups: readonly SyncGroup[],
  lane: number,
  settings: Migration['backfill'],
  throttle: Throttle,
  pace: Pace<LaneProgress>,
): Promise<LaneResult> {
  const startedAt = performance.now()
  let chunkRows = settings.batchSize
  let progress: LaneProgress = {
    rows: 0,
    written: 0,
    refused: 0,
    chunkRows,
    ratePerSec: 0,
    throttledBy: undefined,
  }
  const report = (change: Partial<LaneProgress>): void => {
    progress = { ...progress, ...change }
    pace.report(progress)
  }
  const wideColumns = wideColumnsOf(place)
  const isOver = (): boolean => pace.signal.aborted || Date.now() >= pace.until

  const done = await walkRanges(place, groups, 'backfill', lane, isOver, async (group, state) => {
    for (let reason = await throttle(); reason !== undefined; reason = await throttle()) {
      report({ throttledBy: reason, ratePerSec: 0 })
      if (isOver()) return { cursor: undefined, rows: 0, done: false }
      await rest(throttledRestMs, pace.signal)
    }
    const chunk = await withRetries(place, settings, pace.signal, async () =>
      copyChunk(place, group, state, chunkRows, pace.signal, await wideColumns(group)),
    )
    chunkRows = nextChunkRows(
      { askedRows: chunk.askedRows, tookMs: chunk.tookMs, full: !chunk.done },
      { targetChunkMs: settings.targetChunkMs, maxRows: settings.maxBatchSize },
    )
    const rows = progress.rows + chunk.rows
    report({
      rows,
      written: progress.written + chunk.written,
      refused: progress.refused + (chunk.refused ? 1 : 0),
      chunkRows,
      ratePerSec: Math.round(rows / ((performance.now() - startedAt) / 1000)),
      throttledBy: undefined,
    })
    await rest(restAfterChunkMs(chunk.tookMs, settings.profile, settings.rateLimitMs), pace.signal)
    return chunk
  })
  return { ...progress, done }
}

/** A chunk that fails on an outage is tried again here, with growing waits, before the slice fails and Temporal takes over. */
async function withRetries<T>(
  { database }: Workplace,
  { retryAttempts, retryBackoffBaseMs }: Migration['backfill'],
  signal: AbortSignal,
  work: () => Promise<T>,
): Promise<T> {
  for (let attempt = 1; ; attempt++)
    try {
      return await work()
    } catch (error) {
      if (!database.dialect.errors.isConnectionLoss(error) || attempt > retryAttempts || signal.aborted)
        throw error
      await rest(jittered(retryBackoffBaseMs * 2 ** (attempt - 1)), signal)
    }
}
