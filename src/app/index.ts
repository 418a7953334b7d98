import { randomUUID } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { openApplicationSide, type ApplicationPool } from '../database/application.ts'
import { createFlagStore, type FlagStore } from '../flags/flag-store.ts'
import { createMeasure, type OnMetric } from '../telemetry/measure.ts'
import { applicationMetrics as metrics } from '../telemetry/metrics.ts'
import { DualRead, type Reads, type ReadSettings } from './dual-read.ts'
import { Report, type Logger } from './report.ts'
import { Tally } from './tally.ts'

export type { ApplicationPool } from '../database/application.ts'
export type { OnMetric } from '../telemetry/measure.ts'
export type { Reads, ReadSettings } from './dual-read.ts'
export type { Logger } from './report.ts'

/** How a service takes part in a migration. */
export interface CrossfadeOptions {
  /** The migration's name. It may begin later, or be long over. */
  readonly migration: string
  /** The application's own pool of `pg`. Connections of the library's own, at most four, are made like those of it. */
  readonly database: ApplicationPool
  /** The flag that ramps reads, where the definition gives it another name. */
  readonly readFlag?: string
  /** How this instance is called where somebody waits for it. Default: a random id. */
  readonly instance?: string
  /** For how long it acts on what it last knew while the database does not answer. Default 5000. */
  readonly leaseMs?: number
  readonly reads?: Partial<ReadSettings>
  /** Errors go here, with codes and keys, never with values. Default: nowhere. */
  readonly log?: Logger
  /** Called with each measurement (docs/reference/metrics.md), whether or not OpenTelemetry has it too. */
  readonly onMetric?: OnMetric
}

/** The migration as one instance of the application sees it. */
export interface Crossfade {
  /**
   * Asks the side that the flags name for `key`; the same key stays on its side. While the old side is primary, it answers
   * where the new one has nothing, fails, or takes too long.
   * @throws what the side that is primary throws
   * @example
   * const order = await crossfade.read(String(id), { old: () => orders.find(id), new: () => ordersV2.find(id) })
   */
  read<T>(key: string, reads: Reads<T>): Promise<T>
  /**
   * Writes the side that is primary; triggers carry it to the other one.
   * @throws what the write throws: nothing is tried a second time
   */
  write<T>(writes: { readonly old: () => Promise<T>; readonly new: () => Promise<T> }): Promise<T>
  /** What this instance acts on. */
  readonly flags: Pick<FlagStore, 'isOn' | 'primary' | 'epoch' | 'isFresh' | 'isPresent' | 'refresh'>
  /** Nobody waits for this instance any more. */
  close(): Promise<void>
}

const defaultLeaseMs = 5_000
const defaultReads: ReadSettings = { timeoutMs: 500, shadowRatio: 0.01 }

/**
 * Joins a migration. Reads the flags once, and follows them from then on: at most a second behind.
 * @throws what the database answers, where the flags cannot be read at all; `DATABASE.UNKNOWN_POOL`
 * @example
 * const crossfade = await createCrossfade({ migration: 'orders', database: pool })
 */
export async function createCrossfade(options: CrossfadeOptions): Promise<Crossfade> {
  const { migration, database, log, onMetric, leaseMs = defaultLeaseMs } = options
  const readFlag = options.readFlag ?? `${migration}.new_schema_read`
  const instance = options.instance ?? randomUUID()
  const side = openApplicationSide(database, migration)
  const tally = new Tally(side, instance)
  const report = new Report(migration, log, await createMeasure(onMetric), tally)
  // Epochs are few: at each of them the definition may have come, or be another one.
  let learning = Promise.resolve()
  const learn = async (): Promise<void> => {
    try {
      const metricSettings = await side.metricSettings()
      if (metricSettings) report.heed(metricSettings)
    } catch (error) {
      report.failed('A look at the definition', error)
    }
  }
  const flags = await createFlagStore({
    side,
    salt: migration,
    instance: { id: instance, version: version(), leaseMs },
    onChange: (standing) => {
      tally.forget()
      if (standing) learning = learn()
      report.count(metrics.flagEpoch, standing?.epoch ?? -1, {})
    },
    onError: (error) => report.failed('A look at the flags', error),
  }).catch(async (error: unknown) => {
    await side.close()
    throw error
  })
  await learning
  tally.start()
  const reads = new DualRead({ ...defaultReads, ...options.reads }, report)
  return {
    flags,
    read: (key, both) =>
      reads.read(key, both, {
        primary: flags.primary,
        isOn: flags.isOn(readFlag, key),
        isRamped: flags.isRamped(readFlag),
      }),
    async write(writes) {
      const { primary } = flags
      try {
        const result = await writes[primary]()
        report.count(primary === 'old' ? metrics.oldWriteSuccess : metrics.newWriteSuccess, 1, {})
        return result
      } catch (error) {
        if (primary === 'new') report.count(metrics.newWriteError, 1, {})
        throw error
      }
    },
    async close() {
      await reads.settle()
      await tally.close()
      await flags.close()
      await side.close()
    },
  }
}

function version(): string {
  const file = new URL('../../package.json', import.meta.url)
  return (JSON.parse(readFileSync(file, 'utf8')) as { version: string }).version
}
