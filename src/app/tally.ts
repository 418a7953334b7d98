import { addMeasured, nothingMeasured, type Measured } from '../core/measured.ts'
import type { ApplicationSide } from '../database/application.ts'
import { pollMs } from '../flags/flag-store.ts'
import type { Attributes } from '../telemetry/measure.ts'
import { applicationMetrics as metrics, type Metric } from '../telemetry/metrics.ts'

/**
 * What a ramp is guarded by, counted since the last poll and told to the database with the next. What it could not tell it keeps: these are
 * a few numbers, however long that lasts. A report whose answer was lost may count twice.
 */
export class Tally {
  readonly #side: Pick<ApplicationSide, 'report'>
  readonly #instance: string
  #counts: Measured = nothingMeasured
  #timer: NodeJS.Timeout | undefined
  #telling: Promise<void> | undefined

  constructor(side: Pick<ApplicationSide, 'report'>, instance: string) {
    this.#side = side
    this.#instance = instance
  }

  add(metric: Metric, value: number, attributes: Attributes): void {
    const more = toMeasured(metric, value, attributes)
    if (more) this.#counts = addMeasured(this.#counts, { ...nothingMeasured, ...more })
  }

  /** What was measured under other flags says nothing of these. */
  forget(): void {
    this.#counts = nothingMeasured
  }

  start(): void {
    this.#timer = setInterval(() => void this.#tell(), pollMs)
    this.#timer.unref()
  }

  #tell(): Promise<void> {
    if (this.#counts === nothingMeasured) return Promise.resolve()
    this.#telling ??= this.#tellNow().finally(() => (this.#telling = undefined))
    return this.#telling
  }

  async #tellNow(): Promise<void> {
    const counts = this.#counts
    this.#counts = nothingMeasured
    try {
      await this.#side.report(this.#instance, counts)
    } catch {
      this.#counts = addMeasured(this.#counts, counts)
    }
  }

  async close(): Promise<void> {
    clearInterval(this.#timer)
    await this.#telling
    await this.#tell()
  }
}

function toMeasured(metric: Metric, value: number, attributes: Attributes): Partial<Measured> | undefined {
  switch (metric) {
    case metrics.readDuration:
      return attributes['side'] === 'new' ? { reads: 1 } : undefined
    case metrics.readFallback:
      return attributes['reason'] === 'miss' ? undefined : { reads: 1, readErrors: 1 }
    case metrics.newWriteSuccess:
      return { writes: 1 }
    case metrics.newWriteError:
      return { writes: 1, writeErrors: 1 }
    case metrics.shadowCompared:
      return { compared: value }
    case metrics.shadowMismatch:
      return { mismatched: value }
    case metrics.latencyDelta:
      return { latencyDeltaMs: value }
    default:
      return undefined
  }
}
