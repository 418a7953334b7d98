/** By the index of the key, or as the rows lie in the table's file. */
export type CopyOrder = 'key' | 'physical'

export interface TableLayout {
  readonly pages: number
  /** What the server's own cache holds. */
  readonly cachePages: number
  /** How the first column of the key follows the file, from -1 to 1, as ANALYZE found it; undefined where it has not looked. */
  readonly correlation: number | undefined
  /** Why its places cannot be used, or undefined. */
  readonly obstacle: string | undefined
}

export interface OrderChoice {
  readonly order: CopyOrder
  readonly reason: string
}

/** Below this, a chunk of neighbours in the key meets most of its pages for one row only. */
const followsAbove = 0.5

/** In which order the rows of a table are best read, and why. `wanted` is what a person says. */
export function chooseOrder(layout: TableLayout, wanted?: CopyOrder): OrderChoice {
  const { pages, cachePages, correlation, obstacle } = layout
  const byKey = (reason: string): OrderChoice => ({ order: 'key', reason })
  if (obstacle !== undefined) return byKey(obstacle)
  if (wanted !== undefined) return { order: wanted, reason: 'backfill.order says so' }
  if (correlation === undefined) return byKey('nobody has analysed how the key follows the file')
  const figure = `correlation ${correlation.toFixed(2)}`
  if (Math.abs(correlation) >= followsAbove) return byKey(`the key follows the file (${figure})`)
  if (pages <= cachePages) return byKey('the file fits into the cache of the server')
  return {
    order: 'physical',
    reason: `the key does not follow the file (${figure}), which is larger than the cache of the server`,
  }
}
