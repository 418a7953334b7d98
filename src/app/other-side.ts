import { setTimeout as delay } from 'node:timers/promises'
import type { ApplicationClient, ApplicationWrites, WrittenKey } from '../database/application.ts'
import { applicationMetrics as metrics } from '../telemetry/metrics.ts'
import type { Report } from './report.ts'

export interface OtherSideSettings {
  /** So long may a copy to the other side take, after the commit. Default 1000. */
  readonly timeoutMs: number
  /** So many of them go on at a time. Default 2. */
  readonly concurrency: number
}

/** A key on its way to the other side. */
export interface Followed {
  readonly log: string
  readonly key: WrittenKey
  /** What reads ask for what it holds. */
  readonly readKeys: readonly string[]
  readonly by?: ((client: ApplicationClient) => Promise<void>) | undefined
}

/** Keys of one copy. */
const mostTogether = 50

/** Keys that wait for a copy; more than that are left to the appliers. */
const mostWaiting = 1_000

/** Keys that are known one by one to be on their way; beyond, every read goes to the primary side. */
const mostKnown = 10_000

/** After a failure that says nothing about a row, the other side is left alone for so long. */
const restMs = 1_000

/** How often it is asked whether the appliers have copied what was left to them. */
const lookMs = 250

/**
 * What follows a commit: the other side is written, off the request's path and never in its way. At most `concurrency` copies at a time;
 * what is too much, too slow or refused is left in the change log, where the appliers find it. Until a key has arrived, it is known here
 * as one that only the primary side can answer.
 */
export class OtherSide {
  readonly #writes: ApplicationWrites
  readonly #settings: OtherSideSettings
  readonly #report: Report
  #waiting: Followed[] = []
  #running = 0
  #restUntil = -Infinity
  /** By what reads ask for: how many of its keys are on their way. */
  readonly #unread = new Map<string, number>()
  /** Left to the appliers. */
  #left: Followed[] = []
  /** Logs of which more was left than is known. */
  readonly #uncounted = new Set<string>()
  #looking: NodeJS.Timeout | undefined
  #idle: (() => void)[] = []

  constructor(writes: ApplicationWrites, settings: OtherSideSettings, report: Report) {
    this.#writes = writes
    this.#settings = settings
    this.#report = report
  }

  /** Before the commit: a read that comes right after it must know. What is rolled back is forgotten with the rest. */
  expect(keys: readonly Followed[]): void {
    for (const { readKeys } of keys)
      for (const key of readKeys) this.#unread.set(key, (this.#unread.get(key) ?? 0) + 1)
  }

  forget(keys: readonly Followed[]): void {
    for (const { readKeys } of keys)
      for (const key of readKeys) {
        const left = (this.#unread.get(key) ?? 0) - 1
        if (left > 0) this.#unread.set(key, left)
        else this.#unread.delete(key)
      }
  }

  /** Whether only the primary side is sure to know what this instance has written of `key`. */
  isOnItsWay(key: string): boolean {
    return this.#unread.has(key) || this.#uncounted.size > 0
  }

  /** After the commit. */
  follow(keys: readonly Followed[], isOn: boolean): void {
    if (keys.length === 0) return
    if (!isOn) return this.#leave(keys, 'flag')
    if (performance.now() < this.#restUntil) return this.#leave(keys, 'rest')
    if (this.#waiting.length + keys.length > mostWaiting) return this.#leave(keys, 'overload')
    this.#waiting.push(...keys)
    this.#start()
  }

  #start(): void {
    while (this.#running < this.#settings.concurrency && this.#waiting.length > 0) {
      const keys = this.#takeTogether()
      this.#running += 1
      void this.#copy(keys).finally(() => {
        this.#running -= 1
        this.#start()
        if (this.#running === 0 && this.#waiting.length === 0) for (const tell of this.#idle.splice(0)) tell()
      })
    }
  }

  /** The first, and others of its log; one with a function of its own goes alone. */
  #takeTogether(): Followed[] {
    const [first, ...rest] = this.#waiting as [Followed, ...Followed[]]
    if (first.by) {
      this.#waiting = rest
      return [first]
    }
    const together: Followed[] = []
    const others: Followed[] = []
    for (const each of this.#waiting)
      if (together.length < mostTogether && each.log === first.log && !each.by) together.push(each)
      else others.push(each)
    this.#waiting = others
    return together
  }

  async #copy(keys: readonly Followed[]): Promise<void> {
    const [{ log, by }] = keys as [Followed]
    const isToNew = log.startsWith('f')
    const captured = { log, keys: distinct(keys) }
    const { timeoutMs } = this.#settings
    try {
      const copied = by
        ? await this.#writes.applyBy(captured, timeoutMs, by)
        : await this.#writes.apply(captured, timeoutMs)
      this.#report.count(isToNew ? metrics.newWriteSuccess : metrics.oldWriteSuccess, copied, {})
      // What an applier has taken meanwhile is its own to copy; what a function of the application's wrote, it looks at.
      if (by || copied < captured.keys.length) this.#leave(keys, 'taken')
      else this.forget(keys)
    } catch (error) {
      const isAboutRows = /^2[23]/.test(codeOf(error))
      if (!isAboutRows) this.#restUntil = performance.now() + restMs
      this.#report.count(isToNew ? metrics.newWriteError : metrics.oldWriteError, captured.keys.length, {})
      this.#report.failed('A copy to the other side', error)
      this.#leave(keys, isAboutRows ? 'error' : 'time-out')
    }
  }

  #leave(keys: readonly Followed[], reason: string): void {
    this.#report.count(metrics.writeLeft, keys.length, { reason })
    if (this.#left.length + keys.length > mostKnown) {
      for (const { log } of [...keys, ...this.#left]) this.#uncounted.add(log)
      this.forget([...keys, ...this.#left])
      this.#left = []
    } else this.#left.push(...keys)
    this.#lookLater()
  }

  #lookLater(): void {
    if (this.#looking !== undefined || (this.#left.length === 0 && this.#uncounted.size === 0)) return
    this.#looking = setTimeout(() => {
      void this.#look()
        .catch((error: unknown) => {
          // Nothing is on its way any more where there is no migration any more.
          if (this.#writes.isOver(error)) this.#forgetAll()
          else this.#report.failed('A look at the change log', error)
        })
        .finally(() => {
          this.#looking = undefined
          this.#lookLater()
        })
    }, lookMs)
    this.#looking.unref()
  }

  async #look(): Promise<void> {
    for (const log of this.#uncounted) if (await this.#writes.isEmpty(log)) this.#uncounted.delete(log)
    const asked = this.#left.slice(0, mostWaiting)
    const arrived = new Set<Followed>()
    for (const log of new Set(asked.map((each) => each.log))) {
      const keys = asked.filter((each) => each.log === log)
      const pending = new Set(
        (await this.#writes.pending({ log, keys: distinct(keys) })).map((key) => JSON.stringify(key)),
      )
      for (const each of keys) if (!pending.has(JSON.stringify(each.key))) arrived.add(each)
    }
    // Those that are still on their way go to the end, so that all are asked for in turn.
    const later = asked.filter((each) => !arrived.has(each))
    this.#left = [...this.#left.slice(asked.length), ...later]
    this.forget([...arrived])
  }

  #forgetAll(): void {
    this.forget(this.#left)
    this.#left = []
    this.#uncounted.clear()
  }

  /** Waits for what is being copied, at most a little longer than a copy may take. */
  async settle(): Promise<void> {
    clearTimeout(this.#looking)
    if (this.#running === 0 && this.#waiting.length === 0) return
    const idle = new Promise<void>((resolve) => this.#idle.push(resolve))
    await Promise.race([idle, delay(2 * this.#settings.timeoutMs, undefined, { ref: false })])
  }
}

const codeOf = (error: unknown): string => {
  const { code } = (error ?? {}) as { code?: unknown }
  return typeof code === 'string' ? code : ''
}

const distinct = (keys: readonly Followed[]): WrittenKey[] => [
  ...new Map(keys.map(({ key }) => [JSON.stringify(key), key])).values(),
]
