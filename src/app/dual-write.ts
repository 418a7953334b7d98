import type {
  ApplicationClient,
  ApplicationWrites,
  CapturedKeys,
  Standing,
  TransactionClient,
  WrittenKey,
} from '../database/application.ts'
import { CrossfadeError } from '../errors/index.ts'
import type { FlagStore } from '../flags/flag-store.ts'
import { applicationMetrics as metrics } from '../telemetry/metrics.ts'
import { OtherSide, type Followed, type OtherSideSettings } from './other-side.ts'
import type { Report } from './report.ts'

type Side = 'old' | 'new'
type KeyPart = string | number | bigint

/** A row's key; of several columns in the order of the definition's `key`. */
export type KeyValue = KeyPart | readonly KeyPart[]

/** One write, as each side knows it. */
export interface Writes<T, Client> {
  /**
   * Runs on the connection that it is given, within a transaction: its own statements, and nothing that cannot be taken back, because
   * it is run again for the other side where the primary side moves meanwhile.
   */
  readonly old: (client: Client) => Promise<T>
  readonly new: (client: Client) => Promise<T>
  /** The keys, as the source has them, of all rows that it inserts, changes or deletes; of a row whose key changes both. */
  readonly keys: readonly KeyValue[] | ((result: T) => readonly KeyValue[])
  /** The source, as in the definition, where a migration has several. */
  readonly source?: string
  /** What `read` is asked with for these rows, where that is not their keys. */
  readonly readKeys?: readonly KeyValue[]
  /**
   * Writes the other side after the commit instead of the definition's mapping; the appliers make of it what the mapping says. The
   * transaction is the library's own.
   */
  readonly copy?: (client: ApplicationClient) => Promise<void>
}

/** The text that flags and reads know a key by. */
export const keyText = (key: KeyValue): string => toKey(key).join(',')

const toKey = (key: KeyValue): WrittenKey => (typeof key === 'object' ? key.map(String) : [String(key)])

/** So often the primary side may move while one write runs. */
const mostMoves = 5

interface DualWriteOptions {
  readonly writes: ApplicationWrites
  readonly flags: FlagStore
  readonly writeFlag: string
  readonly report: Report
  readonly settings: OtherSideSettings
}

/**
 * Writes that follow the flags. The primary side is the critical path, and in its transaction the keys go into the change log, whatever
 * the flags say; the other side follows after the commit. Where triggers do that, or no migration stands, it is the write alone.
 */
export class DualWrite {
  readonly #writes: ApplicationWrites
  readonly #flags: FlagStore
  readonly #writeFlag: string
  readonly #report: Report
  readonly otherSide: OtherSide

  constructor({ writes, flags, writeFlag, report, settings }: DualWriteOptions) {
    this.#writes = writes
    this.#flags = flags
    this.#writeFlag = writeFlag
    this.#report = report
    this.otherSide = new OtherSide(writes, settings, report)
  }

  /** In a transaction of the application's pool, which is run again for the other side where the primary side moves meanwhile. */
  async write<T>(write: Writes<T, never>): Promise<T> {
    for (let move = 1; ; move++) {
      let followed: readonly Followed[] = []
      let side = 'old' as Side
      try {
        const { result, epoch } = await this.#writes.transact(async (client) => {
          side = (await this.#standing(client))?.primary ?? 'old'
          const result = await write[side](client as never)
          followed = await this.#followed(client, write, side, result)
          this.otherSide.expect(followed)
          return { result, capture: toCaptured(followed) }
        })
        this.#hasWritten(side)
        this.#notice(epoch)
        this.#follow(followed)
        return result
      } catch (error) {
        const isAgain = this.#writes.isPrimaryMoved(error) || this.#isEnded(error, followed)
        if (!isAgain || move === mostMoves) {
          // Where the answer to COMMIT was lost, nobody knows whether they are on their way: the change log does.
          this.otherSide.follow(followed, false)
          this.#report.count(side === 'old' ? metrics.oldWriteError : metrics.newWriteError, 1, {})
          throw error
        }
        this.otherSide.forget(followed)
        await this.#flags.refresh()
      }
    }
  }

  /** In a transaction that is the application's, on the connection that it gives; it commits. */
  async writeWithin<T>(client: TransactionClient, write: Writes<T, never>): Promise<T> {
    const side = (await this.#standing(client))?.primary ?? 'old'
    const result = await write[side](client as never)
    const followed = await this.#followed(client, write, side, result)
    const captured = toCaptured(followed)
    if (captured === undefined) return result
    try {
      this.#notice(await this.#writes.capture(client, captured))
    } catch (error) {
      // What runs it again must know the other side by then.
      if (this.#writes.isPrimaryMoved(error)) await this.#flags.refresh().catch(() => undefined)
      throw error
    }
    this.otherSide.expect(followed)
    // Rolled back or committed, copying the keys makes the other side equal. Where nobody tells of the end, the appliers come for them.
    if (!this.#writes.onTransactionEnd(client, () => this.#follow(followed)))
      this.otherSide.follow(followed, false)
    this.#hasWritten(side)
    return result
  }

  /**
   * What this write acts on. Known in memory; where the lease is over (cut off from the flags, or stood still), what is known may be
   * long past, and the database is asked in the write's own transaction.
   */
  async #standing(client: TransactionClient): Promise<Standing | undefined> {
    return this.#flags.isFresh ? this.#flags.standing : this.#writes.standingWithin(client)
  }

  /** Looks after the write: from here to COMMIT it holds its table, and whoever waits for its end waits for that. */
  async #followed<T>(
    client: TransactionClient,
    { keys, source, readKeys, copy }: Writes<T, never>,
    side: Side,
    result: T,
  ): Promise<readonly Followed[]> {
    const { captures = {} } = (await this.#standing(client)) ?? {}
    const sources = Object.keys(captures)
    if (sources.length === 0) return []
    const name = source === undefined ? onlyOf(sources) : source.includes('.') ? source : `public.${source}`
    const log = captures[name]?.[side]
    if (log === undefined) return []
    const written = typeof keys === 'function' ? keys(result) : keys
    return written.map((key) => ({
      log,
      key: toKey(key),
      readKeys: (readKeys ?? [key]).map(keyText),
      by: copy,
    }))
  }

  #hasWritten(side: Side): void {
    this.#report.count(side === 'old' ? metrics.oldWriteSuccess : metrics.newWriteSuccess, 1, {})
  }

  #notice(epoch: number | undefined): void {
    if (epoch !== undefined && epoch !== this.#flags.epoch) this.#flags.refresh().catch(() => undefined)
  }

  #follow(followed: readonly Followed[]): void {
    const isOn = followed.some(({ readKeys }) =>
      readKeys.some((key) => this.#flags.isOn(this.#writeFlag, key)),
    )
    this.otherSide.follow(followed, isOn)
  }

  /** The migration was taken back between the look and the capture. */
  #isEnded(error: unknown, followed: readonly Followed[]): boolean {
    return followed.length > 0 && this.#writes.isOver(error)
  }
}

const toCaptured = (followed: readonly Followed[]): CapturedKeys | undefined => {
  const [first] = followed
  return first && { log: first.log, keys: followed.map(({ key }) => key) }
}

/** @throws `SYNC.SOURCE_UNNAMED` */
function onlyOf(sources: readonly string[]): string {
  const [only, ...others] = sources
  if (only !== undefined && others.length === 0) return only
  throw new CrossfadeError({
    kind: 'input',
    code: 'SYNC.SOURCE_UNNAMED',
    message: `A write does not say which of the sources of its migration it belongs to: ${sources.join(', ')}.`,
    mend: 'Give `write` the source, as the definition names it.',
  })
}
