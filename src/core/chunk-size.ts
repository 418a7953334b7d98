/** How large the next chunk should be, from how long the last one took. */

export interface ChunkLimits {
  /** The time that a chunk should take: the longest that a writer of the same rows has to wait. */
  readonly targetChunkMs: number
  readonly minRows?: number
  readonly maxRows: number
}

/**
 * The rows of the next chunk. Grows at most twofold, shrinks at once, and stays within `[minRows, maxRows]`.
 * A chunk that was cut short by the end of its range says little about speed, so it never makes the next one larger.
 */
export function nextChunkRows(
  chunk: { readonly askedRows: number; readonly tookMs: number; readonly full: boolean },
  limits: ChunkLimits,
): number {
  const minRows = limits.minRows ?? 1
  const ratio = limits.targetChunkMs / Math.max(chunk.tookMs, 0.1)
  const growth = chunk.full ? Math.min(ratio, 2) : Math.min(ratio, 1)
  const wanted = Math.floor(chunk.askedRows * growth)
  return Math.max(minRows, Math.min(limits.maxRows, wanted))
}

/** After a chunk that could not get its locks: half of it, at least one row. */
export function halvedRows(rows: number): number {
  return Math.max(1, Math.floor(rows / 2))
}

/** The pause of a lane after a chunk: `gentle` rests as long as it worked, and nobody rests less than `rateLimitMs`. */
export function restAfterChunkMs(tookMs: number, profile: 'gentle' | 'fast', rateLimitMs: number): number {
  return Math.max(rateLimitMs, profile === 'gentle' ? tookMs : 0)
}
