import { setTimeout as delay } from 'node:timers/promises'
import { applicationMetrics as metrics } from '../telemetry/metrics.ts'
import { canonical } from './canonical.ts'
import type { Report } from './report.ts'

type Side = 'old' | 'new'

/** The same question to both sides. Each answers as the application expects it, whichever tables it reads. */
export interface Reads<T> {
  readonly old: () => Promise<T>
  readonly new: () => Promise<T>
  /** Whether an answer means "not there". Default: undefined, null, and an empty array. */
  readonly isMiss?: (answer: T) => boolean
}

export interface ReadSettings {
  /** After this, the new side's answer is not waited for any longer while the old side is primary. Default 500. */
  readonly timeoutMs: number
  /** Share of reads, 0 to 1, after which the other side is asked too, and both answers are compared. Default 0.01. */
  readonly shadowRatio: number
}

/** So many comparisons go on at a time; what comes meanwhile is not compared. */
const mostShadows = 4

/** A row may have moved between two reads: what differs is read again after this, and only then counts. */
const secondLookMs = 1_000

const isAbsent = (answer: unknown): boolean =>
  answer === undefined || answer === null || (Array.isArray(answer) && answer.length === 0)

/** What the flags say of one read. */
export interface Standpoint {
  readonly primary: Side
  readonly isOn: boolean
  readonly isRamped: boolean
}

interface Timed<T> {
  readonly answer: T
  readonly tookMs: number
}

/** Reads that follow the flags, and what is learnt from asking both sides. */
export class DualRead {
  readonly #settings: ReadSettings
  readonly #report: Report
  readonly #shadows = new Set<Promise<void>>()

  constructor(settings: ReadSettings, report: Report) {
    this.#settings = settings
    this.#report = report
  }

  /**
   * From the new side where it is primary or `isOn`. While the old side is primary it answers whatever the new side does not: then it
   * alone knows what is there. Once the new side is primary its word counts, errors included. Both are compared from the first step of
   * the ramp on: before it the new side need not be complete.
   */
  async read<T>(key: string, reads: Reads<T>, { primary, isOn, isRamped }: Standpoint): Promise<T> {
    if (primary === 'new') return (await this.#timed('new', reads.new)).answer
    const served = isOn ? await this.#newOrOld(reads) : await this.#timed('old', reads.old)
    if (isRamped && Math.random() < this.#settings.shadowRatio && this.#shadows.size < mostShadows) {
      const shadow = this.#compare(key, reads).finally(() => this.#shadows.delete(shadow))
      this.#shadows.add(shadow)
    }
    return served.answer
  }

  async #newOrOld<T>(reads: Reads<T>): Promise<Timed<T>> {
    const { isMiss = isAbsent } = reads
    const ended = new AbortController()
    const read = this.#timed('new', reads.new)
    read.catch(() => undefined) // may fail after nobody waits any more
    let reason = 'time-out'
    try {
      const found = await Promise.race([
        read,
        delay(this.#settings.timeoutMs, undefined, { signal: ended.signal, ref: false }),
      ])
      if (found && !isMiss(found.answer)) return found
      if (found) reason = 'miss'
    } catch (error) {
      reason = 'error'
      this.#report.failed('A read of the new side', error)
    } finally {
      ended.abort()
    }
    this.#report.count(metrics.readFallback, 1, { reason })
    return this.#timed('old', reads.old)
  }

  async #timed<T>(side: Side, read: () => Promise<T>): Promise<Timed<T>> {
    const startedAt = performance.now()
    const answer = await read()
    const tookMs = performance.now() - startedAt
    this.#report.count(metrics.readDuration, tookMs, { side })
    return { answer, tookMs }
  }

  /** Off the request's path: nobody waits for it, and nothing of it is thrown. Keys are told, never values. */
  async #compare<T>(key: string, reads: Reads<T>): Promise<void> {
    try {
      if (!(await this.#isDifferent(reads))) return
      await delay(secondLookMs, undefined, { ref: false })
      if (!(await this.#isDifferent(reads))) return
      this.#report.count(metrics.shadowMismatch, 1, {})
      this.#report.mismatch(key)
    } catch (error) {
      this.#report.failed('A comparison of both sides', error)
    }
  }

  async #isDifferent<T>(reads: Reads<T>): Promise<boolean> {
    await new Promise((resolve) => setImmediate(resolve)) // the answer goes out first
    const before = await this.#timed('old', reads.old)
    const after = await this.#timed('new', reads.new)
    this.#report.count(metrics.shadowCompared, 1, {})
    this.#report.count(metrics.latencyDelta, after.tookMs - before.tookMs, {})
    return canonical(before.answer) !== canonical(after.answer)
  }

  async settle(): Promise<void> {
    await Promise.all(this.#shadows)
  }
}
