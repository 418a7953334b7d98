import type { Step } from './explore.ts'
import {
  at,
  commitRows,
  isFree,
  isLockedForSwap,
  pageCount,
  putEntries,
  rollBackRows,
  seenBy,
  step,
  write,
  type Change,
  type Pair,
  type Row,
  type Setting,
} from './pair.ts'

/**
 * An application's session: each of its transactions is one statement, the trigger within it (src/database/postgres/triggers.ts),
 * and COMMIT or ROLLBACK. The trigger's writes are a subtransaction: whatever fails there, a wait that is too long for one, undoes
 * only them and leaves the keys.
 */
export function writerSteps(s: Pair, index: number, setting: Setting): Step<Pair>[] {
  const w = at(s.writers, index)
  const script = at(setting.configuration.writers, index)
  const change = script[w.change]
  if (change === undefined) return []
  const name = `A${index}`
  switch (w.at) {
    case 'idle':
      return isLockedForSwap(s) ? [] : statement(s, index, name, change, setting)
    case 'trigger':
      // Whoever captures only is to the rules a trigger that always gives up.
      if (setting.configuration.followers !== undefined) return [giveUp(s, index, name, change, setting)]
      return [...trigger(s, index, name, change, setting), giveUp(s, index, name, change, setting)]
    case 'insert':
      return [...insert(s, index, name, change, setting), giveUp(s, index, name, change, setting)]
    case 'gone':
      return [...deleteGone(s, index, name, change, setting), giveUp(s, index, name, change, setting)]
    case 'end':
      return [commit(s, index, name), rollBack(s, index, name)]
  }
}

const describe = (change: Change): string =>
  `${change.do} ${change.key}` +
  ('value' in change ? ` = ${change.value}` : '') +
  ('to' in change ? ` to ${change.to}` : '')

/** The keys that the trigger collects from its transition tables. */
const keysOf = (change: Change): number[] => (change.do === 'move' ? [change.key, change.to] : [change.key])

/** Waits for whoever holds a source row; where the statement finds nothing to do, or a row in its way, it is over. */
function statement(
  s: Pair,
  index: number,
  name: string,
  change: Change,
  { configuration: { pages } }: Setting,
): Step<Pair>[] {
  const table = s.leading
  const rows = keysOf(change).map((key) => at(s.tables[table], key))
  if (!rows.every((r) => isFree(r, name))) return []
  const [first, second] = rows as [Row, Row?]
  const isNothing =
    change.do === 'insert'
      ? first.committed !== null
      : first.committed === null || (second?.committed ?? null) !== null
  const text = describe(change)
  if (isNothing)
    return [step(s, name, 'statement', (n) => (at(n.writers, index).change += 1), `${text}: nothing to do`)]
  // Where places count, the new version may come to lie in any page.
  const hasPages = pages !== undefined && change.do !== 'delete'
  return Array.from({ length: hasPages ? pageCount : 1 }, (_, page) =>
    step(
      s,
      name,
      'statement',
      (n) => {
        const source = n.tables[table]
        const value = at(source, change.key).committed
        write(at(source, change.key), name, 'value' in change ? change.value : null, page)
        if (change.do === 'move') write(at(source, change.to), name, value, page)
        Object.assign(at(n.writers, index), { at: n.captured ? 'trigger' : 'end', table })
      },
      hasPages ? `${text} in page ${page}` : text,
    ),
  )
}

const other = (table: 0 | 1): 0 | 1 => (table === 0 ? 1 : 0)

const writtenKey = (change: Change): number => (change.do === 'move' ? change.to : change.key)

/** writeRows: one statement, one snapshot. Its UPDATE waits for a row that it sees; what it does not see, its INSERT meets. */
function trigger(s: Pair, index: number, name: string, change: Change, { without }: Setting): Step<Pair>[] {
  const { table } = at(s.writers, index)
  if (change.do === 'delete')
    return [step(s, name, 'trigger', (n) => (at(n.writers, index).at = 'gone'), 'nothing to write')]
  const key = writtenKey(change)
  const target = at(s.tables[other(table)], key)
  const value = at(s.tables[table], key).own
  const isSeen = seenBy(target, name) !== null
  if (!isSeen) return [step(s, name, 'trigger', (n) => (at(n.writers, index).at = 'insert'), 'finds no row')]
  if (!isFree(target, name)) return []
  const writes = !(without.has('equalIsNotWritten') && target.committed === value)
  return [
    step(
      s,
      name,
      'trigger',
      (n) => {
        if (writes) write(at(n.tables[other(table)], key), name, value)
        at(n.writers, index).at = change.do === 'move' ? 'gone' : 'end'
      },
      'updates the row',
    ),
  ]
}

function insert(s: Pair, index: number, name: string, change: Change, { without }: Setting): Step<Pair>[] {
  const { table } = at(s.writers, index)
  const key = writtenKey(change)
  const target = at(s.tables[other(table)], key)
  if (!isFree(target, name)) return []
  const value = at(s.tables[table], key).own
  const then = change.do === 'move' ? 'gone' : 'end'
  const passesOver = target.committed !== null
  // A row that came after the snapshot is a clash on the key: that raises, and is the give-up of writerSteps.
  if (passesOver && !without.has('triggerPassesOver')) return []
  return [
    step(
      s,
      name,
      'trigger inserts',
      (n) => {
        if (!passesOver) write(at(n.tables[other(table)], key), name, value)
        at(n.writers, index).at = then
      },
      passesOver ? 'passes over a row' : undefined,
    ),
  ]
}

/** deleteGone, then the key of what is gone. A row that is not visible to the DELETE is neither locked nor deleted. */
function deleteGone(s: Pair, index: number, name: string, change: Change, setting: Setting): Step<Pair>[] {
  const { table } = at(s.writers, index)
  const target = at(s.tables[other(table)], change.key)
  const isSeen = seenBy(target, name) !== null
  if (isSeen && !isFree(target, name)) return []
  return [
    step(
      s,
      name,
      'trigger deletes',
      (n) => {
        if (isSeen) write(at(n.tables[other(table)], change.key), name, null)
        const w = at(n.writers, index)
        if (!setting.without.has('deletesLeaveNoKey')) w.leaves = [change.key]
        w.at = 'end'
      },
      isSeen ? undefined : 'none there',
    ),
  ]
}

function giveUp(s: Pair, index: number, name: string, change: Change, { without }: Setting): Step<Pair> {
  return step(s, name, 'trigger gives up', (n) => {
    const w = at(n.writers, index)
    rollBackRows(n, name, other(w.table))
    w.leaves = without.has('givesUpSilently') ? [] : keysOf(change)
    w.at = 'end'
  })
}

function end(n: Pair, index: number): void {
  Object.assign(at(n.writers, index), { at: 'idle', change: at(n.writers, index).change + 1, leaves: [] })
}

const commit = (s: Pair, index: number, name: string): Step<Pair> =>
  step(s, name, 'commits', (n) => {
    const { table, leaves } = at(n.writers, index)
    commitRows(n, name)
    putEntries(
      n,
      table,
      leaves.map((key) => ({ key, kind: 'copy', after: [], retried: false })),
    )
    end(n, index)
  })

const rollBack = (s: Pair, index: number, name: string): Step<Pair> =>
  step(s, name, 'rolls back', (n) => {
    rollBackRows(n, name)
    end(n, index)
  })
