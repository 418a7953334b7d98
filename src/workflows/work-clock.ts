/** Counts the time in which something works. Lanes overlap, so that a long backfill never stands still: it counts while it runs. */
export class WorkClock {
  readonly #add: (ms: number) => void
  #running = 0
  #since = 0

  constructor(add: (ms: number) => void) {
    this.#add = add
  }

  get isIdle(): boolean {
    return this.#running === 0
  }

  begin(): void {
    this.count()
    this.#running += 1
  }

  end(): void {
    this.count()
    this.#running -= 1
  }

  /** Adds what was worked since it was counted last. */
  count(): void {
    const now = Date.now()
    if (this.#running > 0) this.#add(now - this.#since)
    this.#since = now
  }
}
