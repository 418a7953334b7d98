/** How many lanes run at once, and into how many ranges a table is cut. */

export interface LaneSettings {
  readonly maxConcurrency: number
  readonly profile: 'gentle' | 'fast'
}

/**
 * Two lanes copy 1.2 to 1.6 times as fast as one; more only help where the server has more cores, and they cost the application
 * its cache and its WAL (docs/benchmarks). So gentle takes two, and fast as many as it is given.
 */
export function laneCount({ maxConcurrency, profile }: LaneSettings, ranges: number): number {
  return Math.max(1, Math.min(maxConcurrency, ranges, profile === 'gentle' ? 2 : 4))
}

/** More ranges than lanes, so that lanes end at about the same time although some ranges are slower. */
export function rangeCount(maxConcurrency: number): number {
  return Math.max(4, Math.min(64, maxConcurrency * 4))
}
