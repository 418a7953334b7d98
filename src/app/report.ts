import type { ApplicationMetric } from '../telemetry/names.ts'

/** What is used of a logger: pino's own shape. */
export interface Logger {
  warn(details: object, message: string): void
}

export type OnMetric = (
  name: ApplicationMetric,
  value: number,
  attributes: Readonly<Record<string, string>>,
) => void

/** What the library tells of itself. Neither a logger nor a hook that throws ever reaches a request. */
export class Report {
  readonly #log: Logger | undefined
  readonly #onMetric: OnMetric | undefined
  readonly #migration: string

  constructor(migration: string, log: Logger | undefined, onMetric: OnMetric | undefined) {
    this.#migration = migration
    this.#log = log
    this.#onMetric = onMetric
  }

  count(name: ApplicationMetric, value: number, attributes: Readonly<Record<string, string>>): void {
    quietly(() => this.#onMetric?.(name, value, { migration: this.#migration, ...attributes }))
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

function quietly(tell: () => void): void {
  try {
    tell()
  } catch {
    // whoever listens has a problem; requests have none
  }
}
