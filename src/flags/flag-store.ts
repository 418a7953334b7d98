import type { ApplicationSide, Standing } from '../database/application.ts'
import { buckets, createBucketOf } from './bucket.ts'

/** A look at least this often, whether or not a notification came. */
export const pollMs = 900

/** A connection that listens is made anew after this. */
const listenAgainMs = 1_000

export interface FlagStoreOptions {
  readonly side: Pick<ApplicationSide, 'announce' | 'leave' | 'listen'>
  /** Keys fall into the same buckets for every flag of a migration, and into others for every other migration. */
  readonly salt: string
  readonly instance: { readonly id: string; readonly version: string; readonly leaseMs: number }
  /** Called after the store acts on another epoch. */
  readonly onChange?: (standing: Standing | undefined) => void
  /** Called with what a look failed with, once until one succeeds. */
  readonly onError?: (error: unknown) => void
}

/** The flags as an instance of the application knows them. */
export interface FlagStore {
  /** The side that is primary as far as is known: the last known one, for as long as the database does not answer. */
  readonly primary: 'old' | 'new'
  /** What this instance acts on; -1 where there is no migration. */
  readonly epoch: number
  /** Whether what is known is still good: the database has answered within the lease. */
  readonly isFresh: boolean
  /** True where the database holds a migration of this name. */
  readonly isPresent: boolean
  /** All that this instance acts on; undefined where there is no migration. */
  readonly standing: Standing | undefined
  /**
   * Whether the flag is on for `key`. A memory look-up: the same key gets the same answer for the same percentage, and a key that
   * is on stays on as the percentage grows. After the lease: whether the new side is primary.
   */
  isOn(flag: string, key: string): boolean
  /** Whether the migration has a flag of this name. */
  isKnown(flag: string): boolean
  /** Whether it may be on for any key, as far as is known for sure. */
  isRamped(flag: string): boolean
  /** Looks now. */
  refresh(): Promise<void>
  /** Ends the announcements: nobody waits for this instance any more. */
  close(): Promise<void>
}

/**
 * Reads the flags once, and keeps them up to date from then on.
 * @throws what the first look fails with: nothing is known then, and nothing may be guessed.
 */
export async function createFlagStore(options: FlagStoreOptions): Promise<FlagStore> {
  const store = new LiveFlags(options)
  await store.refresh()
  store.start()
  return store
}

class LiveFlags implements FlagStore {
  readonly #options: FlagStoreOptions
  readonly #bucketOf: (key: string) => number
  #standing: Standing | undefined
  /** By flag: keys in buckets below it have it on. */
  #thresholds = new Map<string, number>()
  /** By the clock that neither stops with the process nor is ever set. */
  #goodUntil = -Infinity
  #looking: Promise<void> | undefined
  #lookAgain = false
  #poll: NodeJS.Timeout | undefined
  #listenTimer: NodeJS.Timeout | undefined
  #endListening: (() => void) | undefined
  #isClosed = false
  #hasFailed = false

  constructor(options: FlagStoreOptions) {
    this.#options = options
    this.#bucketOf = createBucketOf(options.salt)
  }

  get primary(): 'old' | 'new' {
    return this.#standing?.primary ?? 'old'
  }

  get epoch(): number {
    return this.#standing?.epoch ?? -1
  }

  get isFresh(): boolean {
    return performance.now() < this.#goodUntil
  }

  get standing(): Standing | undefined {
    return this.#standing
  }

  get isPresent(): boolean {
    return this.#standing !== undefined
  }

  isOn(flag: string, key: string): boolean {
    const threshold = this.#thresholds.get(flag)
    if (threshold === undefined || performance.now() >= this.#goodUntil)
      return this.#standing?.primary === 'new'
    return threshold >= buckets || (threshold > 0 && this.#bucketOf(key) < threshold)
  }

  isKnown(flag: string): boolean {
    return this.#thresholds.has(flag)
  }

  isRamped(flag: string): boolean {
    return this.isFresh && (this.#thresholds.get(flag) ?? 0) > 0
  }

  start(): void {
    this.#poll = setInterval(() => this.#refreshQuietly(), pollMs)
    this.#poll.unref()
    this.#listen()
  }

  /** Looks that are asked for together are one; one that is asked for while another is under way comes after it. */
  refresh(): Promise<void> {
    if (this.#looking) {
      this.#lookAgain = true
      return this.#looking
    }
    const looking = this.#lookUntilSeen().finally(() => (this.#looking = undefined))
    this.#looking = looking
    return looking
  }

  /** An instance that acts on another epoch now says so at once: somebody may be waiting for it. */
  async #lookUntilSeen(): Promise<void> {
    do {
      this.#lookAgain = false
      if (await this.#look()) this.#lookAgain = true
    } while (this.#lookAgain && !this.#isClosed)
  }

  /** @returns whether it acts on something else from now on. */
  async #look(): Promise<boolean> {
    const { side, instance, onChange } = this.#options
    const before = this.#standing
    const sentAt = performance.now()
    const standing = await side.announce({ ...instance, standing: before })
    if (this.#isClosed) return false
    this.#standing = standing
    this.#goodUntil = sentAt + instance.leaseMs
    this.#hasFailed = false
    if (standing?.epoch === before?.epoch && standing?.incarnation === before?.incarnation) return false
    this.#thresholds = new Map(
      Object.entries(standing?.flags ?? {}).map(([key, percent]) => [
        key,
        Math.round((percent * buckets) / 100),
      ]),
    )
    onChange?.(standing)
    return standing !== undefined
  }

  #refreshQuietly(): void {
    this.refresh().catch((error: unknown) => {
      if (!this.#hasFailed) this.#options.onError?.(error)
      this.#hasFailed = true
    })
  }

  /** Without a connection that listens, the poll finds every change, a second later at most. */
  #listen(): void {
    const again = (): void => {
      this.#endListening = undefined
      clearTimeout(this.#listenTimer)
      if (this.#isClosed) return
      this.#listenTimer = setTimeout(() => this.#listen(), listenAgainMs)
      this.#listenTimer.unref()
    }
    this.#options.side
      .listen(() => this.#refreshQuietly(), again)
      .then((end) => {
        if (this.#isClosed) return end()
        this.#endListening = end
        this.#refreshQuietly() // what changed while nobody listened
      }, again)
  }

  async close(): Promise<void> {
    if (this.#isClosed) return
    this.#isClosed = true
    clearInterval(this.#poll)
    clearTimeout(this.#listenTimer)
    this.#endListening?.()
    await this.#looking?.catch(() => undefined)
    await this.#options.side.leave(this.#options.instance.id).catch(() => undefined) // its lease runs out
  }
}
