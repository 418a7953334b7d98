import type { Step } from './explore.ts'
import { at, holdsTables, pending, step, type Pair, type Setting } from './pair.ts'

/**
 * The end of expand, which makes the triggers. CREATE TRIGGER takes SHARE ROW EXCLUSIVE, which waits for every open transaction that
 * has written the table: https://www.postgresql.org/docs/18/explicit-locking.html
 */
export function expandSteps(s: Pair, { without }: Setting): Step<Pair>[] {
  if (s.captured) return []
  if (s.writers.some((w) => w.at !== 'idle') && !without.has('captureWithoutWaiting')) return []
  return [step(s, 'E', 'makes the triggers', (n) => (n.captured = true))]
}

/**
 * swapNames (src/ddl/swap.ts): the lock on both tables, then what is left in the log, then the names and the triggers, in one
 * transaction. With the lock nobody else can touch the tables, so what is copied under it is one step. Where a key is left it rolls
 * back and tries again.
 */
export function swapSteps(s: Pair, setting: Setting): Step<Pair>[] {
  const { without } = setting
  const isReady = s.ranges.every((range) => range.done)
  switch (s.swap) {
    case 'none':
    case 'over':
      return []
    case 'idle':
      if (!isReady) return []
      if (without.has('swapDrainsFirst'))
        return pending(s, 0, without) > 0
          ? []
          : [step(s, 'S', 'finds the log empty', (n) => (n.swap = 'drained'))]
      return lock(s, setting)
    case 'drained':
      return lock(s, setting)
    case 'locked':
      return exchange(s, setting)
  }
}

function lock(s: Pair, { without }: Setting): Step<Pair>[] {
  if (holdsTables(s) && !without.has('swapUnlocked')) return []
  return [step(s, 'S', 'locks both tables', (n) => (n.swap = 'locked'))]
}

function exchange(s: Pair, { without }: Setting): Step<Pair>[] {
  const drains = !without.has('swapUndrained') && !without.has('swapDrainsFirst')
  const drained = (n: Pair): void => {
    const due = n.log[0].filter((entry) => entry.after.length === 0)
    for (const { key } of due) at(n.tables[1], key).committed = at(n.tables[0], key).committed
    n.log[0] = n.log[0].filter((entry) => !due.includes(entry))
    // A key without a source row is looked at again where a chunk is running.
    if (n.running.length > 0)
      n.log[0].push(...due.filter(({ key }) => at(n.tables[0], key).committed === null))
  }
  const done = step(s, 'S', 'exchanges the names', (n) => {
    if (drains) drained(n)
    n.leading = 1
    n.captured = !without.has('swapLeavesTriggers')
    n.swap = 'over'
  })
  const left = without.has('swapIgnoresTaken') ? done.next.log[0].length : pending(done.next, 0, without)
  if (drains && left > 0) return [step(s, 'S', 'is not drained', (n) => (n.swap = 'idle'))]
  return [done]
}
