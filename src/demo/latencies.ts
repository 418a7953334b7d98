const leastMs = 0.05
const growth = 1.04
const buckets = 420

/** Times of many statements in little space: buckets that grow by 4 %, so that a percentile is right to 4 %. */
export class Latencies {
  readonly #counts = new Uint32Array(buckets)
  #total = 0
  #longestMs = 0

  get count(): number {
    return this.#total
  }

  get longestMs(): number {
    return this.#longestMs
  }

  add(ms: number): void {
    const bucket = ms <= leastMs ? 0 : Math.ceil(Math.log(ms / leastMs) / Math.log(growth))
    const at = Math.min(buckets - 1, bucket)
    this.#counts[at] = (this.#counts[at] ?? 0) + 1
    this.#total += 1
    this.#longestMs = Math.max(this.#longestMs, ms)
  }

  /** The time that `percent` of all stayed below; 0 where there was none. */
  percentile(percent: number): number {
    let left = Math.ceil((this.#total * percent) / 100)
    for (const [i, count] of this.#counts.entries()) {
      left -= count
      if (left <= 0 && this.#total > 0) return Math.min(this.#longestMs, leastMs * growth ** i)
    }
    return 0
  }

  reset(): void {
    this.#counts.fill(0)
    this.#total = 0
    this.#longestMs = 0
  }
}
