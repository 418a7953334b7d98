import { quietly, type Attributes, type Measure, type MetricSettings } from '../telemetry/measure.ts'
import { defaultPrefix, type Metric } from '../telemetry/metrics.ts'
import type { Tally } from './tally.ts'

/** What is used of a logger: pino's own shape. */
export interface Logger {
  warn(details: object, message: string): void
}

/** What the library tells of itself. Neither a logger nor a hook that throws ever reaches a request. */
export class Report {
  readonly #log: Logger | undefined
  readonly #measure: Measure
  readonly #migration: string
  readonly #tally: Pick<Tally, 'add'>
  #settings: MetricSettings

  constructor(migration: string, log: Logger | undefined, measure: Measure, tally: Pick<Tally, 'add'>) {
    this.#migration = migration
    this.#tally = tally
    this.#log = log
    this.#measure = measure
    this.#settings = { prefix: defaultPrefix(migration), enabled: true }
  }

  /** As the definition says, once it is known. */
  heed(settings: MetricSettings): void {
    this.#settings = settings
  }

  /** Metrics can be switched off; what guards the ramp cannot. */
  count(metric: Metric, value: number, attributes: Attributes): void {
    this.#tally.add(metric, value, attributes)
    this.#measure(metric, value, { migration: this.#migration, ...attributes }, this.#settings)
  }

  /** A driver's message may quote a row: only its code is told. */
  failed(what: string, error: unknown): void {
    const code = (error as { code?: unknown } | undefined)?.code
    this.#warn({ code: typeof code === 'string' ? code : 'unknown' }, `${what} failed`)
  }

  mismatch(key: string): void {
    this.#warn({ key }, 'Both sides answered differently, twice')
  }

  #warn(details: object, message: string): void {
    quietly(() => this.#log?.warn({ migration: this.#migration, ...details }, message))
  }
}
