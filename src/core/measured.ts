import type { ParityLimits } from './gates.ts'

/** What the application's instances have measured lately, added up. Counts alone: no keys, no values. */
export interface Measured {
  /** Reads that the new side was asked for. */
  readonly reads: number
  /** Of these, failed or too slow: the old side answered. */
  readonly readErrors: number
  readonly writes: number
  readonly writeErrors: number
  /** Reads that both sides were asked for. */
  readonly compared: number
  /** Of these, answered differently, twice. */
  readonly mismatched: number
  /** How much longer the new side took, all of these together; less than 0 where it was quicker. */
  readonly latencyDeltaMs: number
}

export const nothingMeasured: Measured = {
  reads: 0,
  readErrors: 0,
  writes: 0,
  writeErrors: 0,
  compared: 0,
  mismatched: 0,
  latencyDeltaMs: 0,
}

export const addMeasured = (a: Measured, b: Measured): Measured => ({
  reads: a.reads + b.reads,
  readErrors: a.readErrors + b.readErrors,
  writes: a.writes + b.writes,
  writeErrors: a.writeErrors + b.writeErrors,
  compared: a.compared + b.compared,
  mismatched: a.mismatched + b.mismatched,
  latencyDeltaMs: a.latencyDeltaMs + b.latencyDeltaMs,
})

export interface MeasuredLimits extends Pick<ParityLimits, 'alertMismatchRatio'> {
  /** Percent of reads, or of writes, that may fail. */
  readonly errorRate: number
  readonly latencyDeltaMs: number
}

/** Fewer failures are no rate: a restart somewhere, a connection that broke. */
const leastErrors = 5
const leastMismatches = 2
/** The mean of fewer comparisons is that of a cold cache. */
const leastCompared = 20

/** Why reads must go back, as the application itself sees it; undefined where nothing says so. */
export function measuredBreach(measured: Measured, limits: MeasuredLimits): string | undefined {
  const { reads, readErrors, writes, writeErrors, compared, mismatched, latencyDeltaMs } = measured
  for (const [what, errors, all] of [
    ['reads', readErrors, reads],
    ['writes', writeErrors, writes],
  ] as const)
    if (errors >= leastErrors && (100 * errors) / all > limits.errorRate)
      return `${errors} of ${all} ${what} of the new side failed in the application, more than ${limits.errorRate} %`
  if (mismatched >= leastMismatches && mismatched / compared > limits.alertMismatchRatio)
    return `the application was answered differently by both sides ${mismatched} times in ${compared} comparisons, more than ${100 * limits.alertMismatchRatio} %`
  const meanMs = latencyDeltaMs / compared
  if (compared >= leastCompared && meanMs > limits.latencyDeltaMs)
    return `the new side took ${meanMs.toFixed(1)} ms longer than the old one in the mean of ${compared} comparisons of the application, more than ${limits.latencyDeltaMs} ms`
  return undefined
}
