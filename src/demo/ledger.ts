/** What an acknowledged write has left of a customer. */
export interface Seen {
  readonly id: number
  readonly version: number
  /** Undefined: the row is deleted. */
  readonly image: string | undefined
}

export interface Entry {
  readonly version: number
  readonly image: string | undefined
  /** A later write of this key ended without an answer: it may have committed. */
  readonly isUncertain: boolean
}

/**
 * Every write that the database has acknowledged: per key the last one. Sessions learn of their commits in another order than
 * the database made them, so the version that each write leaves in its row decides which one is the last.
 */
export class Ledger {
  readonly #entries = new Map<number, Entry>()
  #writes = 0

  /** Rows written and acknowledged. */
  get writes(): number {
    return this.#writes
  }

  get size(): number {
    return this.#entries.size
  }

  acknowledge(seen: readonly Seen[]): void {
    for (const { id, version, image } of seen) {
      this.#writes += 1
      const known = this.#entries.get(id)
      // A deleted row keeps its last version, so that at the same version the deletion is the later one.
      const isOlder =
        known !== undefined && (known.version > version || (known.version === version && image !== undefined))
      if (isOlder) continue
      this.#entries.set(id, { version, image, isUncertain: known?.isUncertain ?? false })
    }
  }

  /** The answer to a write of these keys was lost. */
  doubt(ids: readonly number[]): void {
    for (const id of ids) {
      const known = this.#entries.get(id)
      this.#entries.set(id, { version: known?.version ?? 0, image: known?.image, isUncertain: true })
    }
  }

  get(id: number): Entry | undefined {
    return this.#entries.get(id)
  }

  *batches(size: number): Generator<[number, Entry][]> {
    let batch: [number, Entry][] = []
    for (const entry of this.#entries) {
      batch.push(entry)
      if (batch.length < size) continue
      yield batch
      batch = []
    }
    if (batch.length > 0) yield batch
  }
}
