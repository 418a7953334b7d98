/** How many lanes run at once, and into how many ranges a table is cut. */

export interface LaneSettings {
  readonly maxConcurrency: number
  readonly profile: 'gentle' | 'fast'
}

/**
 * Two lanes copy 1.2 to 1.6 times as fast as one, and the application pays: on two cores its p99 was 4.7 instead of 1.3 to 2.4
 * times the quiet one (docs/benchmarks.md). So gentle takes one, and fast up to four; more only help where the server has more cores.
 */
export function laneCount({ maxConcurrency, profile }: LaneSettings, ranges: number): number {
  return Math.max(1, Math.min(maxConcurrency, ranges, profile === 'gentle' ? 1 : 4))
}

/** More ranges than lanes, so that lanes end at about the same time although some ranges are slower. */
export function rangeCount(maxConcurrency: number): number {
  return Math.max(4, Math.min(64, maxConcurrency * 4))
}
