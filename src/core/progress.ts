/** Progress of a backfill: never over 100 %, and honest about what is not known yet. */

export interface BackfillCounts {
  /** Rows that chunks have passed over. */
  readonly rowsDone: number
  /** The planner's estimate of all rows, taken when the backfill was planned. */
  readonly rowsEstimated: number
  readonly rangesDone: number
  readonly rangesTotal: number
}

/** 0–100. Reaches 100 only when every range is done, whatever the estimate said. */
export function progressPercent(counts: BackfillCounts): number {
  if (counts.rangesTotal > 0 && counts.rangesDone >= counts.rangesTotal) return 100
  if (counts.rowsEstimated <= 0) return 0
  return Math.min(99.9, (100 * counts.rowsDone) / counts.rowsEstimated)
}

/** Seconds to go at `ratePerSec`, or undefined where there is no rate yet. */
export function etaSec(counts: BackfillCounts, ratePerSec: number): number | undefined {
  if (progressPercent(counts) >= 100) return 0
  if (ratePerSec <= 0 || counts.rowsEstimated <= 0) return undefined
  return Math.max(1, Math.round(Math.max(0, counts.rowsEstimated - counts.rowsDone) / ratePerSec))
}

/** `███████░░░` of `width` cells. */
export function bar(percent: number, width = 20): string {
  const cells = Math.max(0, Math.min(width, Math.floor((percent / 100) * width)))
  return '█'.repeat(cells) + '░'.repeat(width - cells)
}
