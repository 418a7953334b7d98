/** How many lanes run at once, and into how many ranges a table is cut. */

export interface LaneSettings {
  readonly maxConcurrency: number
  readonly profile: 'gentle' | 'fast'
}

/**
 * Two lanes copy 1.2 to 1.6 times as fast as one, and the application pays: on two cores its p99 was 4.7 instead of 1.3 to 2.4
 * times the quiet one (docs/benchmarks.md). So gentle takes one, and fast up to four, of which those after the second have to help.
 */
export function laneCount({ maxConcurrency, profile }: LaneSettings, ranges: number): number {
  return Math.max(1, Math.min(maxConcurrency, ranges, profile === 'gentle' ? 1 : 4))
}

/** The first lanes of a backfill stay. Each one after them stays only where it is seen to help. */
export const steadyLanes = 2

/** How much faster all lanes together must be with one more. Less is noise, or a core that the application would miss. */
const worthwhileGain = 1.1

export const isWorthwhile = (rateBefore: number, rateWith: number): boolean =>
  rateWith >= rateBefore * worthwhileGain

/** More ranges than lanes, so that lanes end at about the same time although some ranges are slower. */
export function rangeCount(maxConcurrency: number): number {
  return Math.max(4, Math.min(64, maxConcurrency * 4))
}
