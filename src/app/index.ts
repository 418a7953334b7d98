import { randomUUID } from 'node:crypto'
import { readFileSync } from 'node:fs'
import {
  openApplicationSide,
  type ApplicationClient,
  type ApplicationPool,
  type TransactionClient,
} from '../database/application.ts'
import { createFlagStore, type FlagStore } from '../flags/flag-store.ts'
import { createMeasure, type OnMetric } from '../telemetry/measure.ts'
import { applicationMetrics as metrics } from '../telemetry/metrics.ts'
import { DualRead, type Reads, type ReadSettings } from './dual-read.ts'
import { DualWrite, keyText, type KeyValue, type Writes } from './dual-write.ts'
import type { OtherSideSettings } from './other-side.ts'
import { Report, type Logger } from './report.ts'
import { Tally } from './tally.ts'
import { ask, type IsAllowed } from './veto.ts'

export type { ApplicationClient, ApplicationPool, TransactionClient } from '../database/application.ts'
export type { OnMetric } from '../telemetry/measure.ts'
export type { Reads, ReadSettings } from './dual-read.ts'
export type { KeyValue, Writes } from './dual-write.ts'
export type { OtherSideSettings } from './other-side.ts'
export type { Logger } from './report.ts'
export type { IsAllowed } from './veto.ts'

/** How a service takes part in a migration. */
export interface CrossfadeOptions<Pool extends ApplicationPool = ApplicationPool> {
  /** The migration's name. It may begin later, or be long over. */
  readonly migration: string
  /** The application's own pool of `pg`. Connections of the library's own, at most four, are made like those of it. */
  readonly database: Pool
  /** The flags that ramp reads and writes, where the definition gives them other names. */
  readonly readFlag?: string
  readonly writeFlag?: string
  /** How this instance is called where somebody waits for it. Default: a random id. */
  readonly instance?: string
  /** For how long it acts on what it last knew while the database does not answer. Default 5000. */
  readonly leaseMs?: number
  readonly reads?: Partial<ReadSettings>
  readonly writes?: Partial<OtherSideSettings>
  /**
   * A veto of the team's own flags: while the old side is primary, the new one is read where the ramp and this say so. Give the same
   * key the same answer. A failure, or none within 50 ms, is a no. Default: the ramp alone.
   */
  readonly isAllowed?: IsAllowed
  /** Errors go here, with codes and keys, never with values. Default: nowhere. */
  readonly log?: Logger
  /** Called with each measurement (docs/reference/metrics.md), whether or not OpenTelemetry has it too. */
  readonly onMetric?: OnMetric
}

/** A connection of the application's pool, as its own types know it. */
export type ClientOf<Pool> = Pool extends {
  connect: { (): Promise<infer Client>; (callback: never): unknown }
}
  ? Client
  : ApplicationClient

/** The migration as one instance of the application sees it. */
export interface Crossfade<Client = ApplicationClient> {
  /**
   * Asks the side that the flags name for `key`; the same key stays on its side. While the old side is primary, it answers
   * where the new one has nothing, fails, or takes too long, and where this instance has written the key and that is still on its way.
   * @throws what the side that is primary throws
   * @example
   * const order = await crossfade.read(id, { old: () => orders.find(id), new: () => ordersV2.find(id) })
   */
  read<T>(key: KeyValue, reads: Reads<T>): Promise<T>
  /**
   * Writes the side that is primary, in a transaction of the application's pool; the other side follows: by triggers, or by this
   * library after the commit, as the definition says. Given `client`, it takes part in the transaction that is open there, and whoever
   * opened it commits it.
   * @throws what the write throws: nothing of it is tried a second time. Given `client`, also the database's error 40001 where the
   * primary side has moved: roll back and run the transaction again. `SYNC.SOURCE_UNNAMED`
   * @example
   * await crossfade.write({
   *   keys: [id],
   *   old: (client) => client.query('UPDATE orders SET state = $2 WHERE id = $1', [id, state]),
   *   new: (client) => client.query('UPDATE orders_v2 SET status = $2 WHERE id = $1', [id, state]),
   * })
   */
  write<T>(write: Writes<T, Client>): Promise<T>
  write<T, Own extends TransactionClient>(write: Writes<T, Own> & { readonly client: Own }): Promise<T>
  /** What this instance acts on. */
  readonly flags: Pick<
    FlagStore,
    'isOn' | 'isKnown' | 'primary' | 'epoch' | 'isFresh' | 'isPresent' | 'refresh'
  >
  /** Nobody waits for this instance any more. */
  close(): Promise<void>
}

const defaultLeaseMs = 5_000
const defaultWrites: OtherSideSettings = { timeoutMs: 1_000, concurrency: 2 }
const defaultReads: ReadSettings = { timeoutMs: 500, shadowRatio: 0.01 }

/**
 * Joins a migration. Reads the flags once, and follows them from then on: at most a second behind.
 * @throws what the database answers, where the flags cannot be read at all; `DATABASE.UNKNOWN_POOL`
 * @example
 * const crossfade = await createCrossfade({ migration: 'orders', database: pool })
 */
export async function createCrossfade<Pool extends ApplicationPool>(
  options: CrossfadeOptions<Pool>,
): Promise<Crossfade<ClientOf<Pool>>> {
  const { migration, database, log, onMetric, isAllowed, leaseMs = defaultLeaseMs } = options
  const readFlag = options.readFlag ?? `${migration}.new_schema_read`
  const writeFlag = options.writeFlag ?? `${migration}.new_schema_write`
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
  const writes = new DualWrite({
    writes: side.writes,
    flags,
    writeFlag,
    report,
    settings: { ...defaultWrites, ...options.writes },
  })
  let closing: Promise<void> | undefined
  const close = async (): Promise<void> => {
    await Promise.all([reads.settle(), writes.otherSide.settle()])
    await tally.close()
    await flags.close()
    await side.close()
  }
  return {
    flags,
    async read(key, both) {
      const text = keyText(key)
      const isOn =
        flags.isOn(readFlag, text) &&
        !writes.otherSide.isOnItsWay(text) &&
        (flags.primary === 'new' || isAllowed === undefined || (await ask(isAllowed, readFlag, text, report)))
      return reads.read(text, both, { primary: flags.primary, isOn, isRamped: flags.isRamped(readFlag) })
    },
    write: (write: Writes<unknown, never> & { readonly client?: TransactionClient }) =>
      write.client === undefined ? writes.write(write) : writes.writeWithin(write.client, write),
    close: () => (closing ??= close()),
  }
}

function version(): string {
  const file = new URL('../../package.json', import.meta.url)
  return (JSON.parse(readFileSync(file, 'utf8')) as { version: string }).version
}
