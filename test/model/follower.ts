import {
  idleApplier,
  at,
  commitRows,
  endChunk,
  isFree,
  putEntries,
  rollBackRows,
  seenBy,
  step,
  write,
} from './pair.ts'
import type { Step } from './explore.ts'
import type { Applier, Pair, Setting } from './pair.ts'

/**
 * A copy that an application makes after its commit (src/database/postgres/application-capture.ts, `apply`): an applier for the entries
 * of one key, with one way out where that has several. What clashes, or waits too long, rolls back, and the entries are in the log as
 * they were; a key without a source row stays there for an applier.
 */
export function followerSteps(s: Pair, index: number, { without }: Setting): Step<Pair>[] {
  const p = at(s.appliers, index)
  const name = `F${index}`
  if (p.at === 'idle') return take(s, index, name)
  const [key = 0] = p.keys
  const source = at(s.tables[p.group], key)
  const target = at(s.tables[p.group === 0 ? 1 : 0], key)
  const act = (does: string, change: (next: Applier, pair: Pair) => void): Step<Pair> =>
    step(s, name, does, (n) => change(at(n.appliers, index), n))
  const targetOf = (n: Pair): Pair['tables'][0][number] => at(n.tables[p.group === 0 ? 1 : 0], key)
  const fails = step(s, name, 'fails', (n) => undo(n, index, name))
  switch (p.at) {
    case 'lock': {
      if (without.has('followerReadsFirst') && p.early.length === 0)
        return [act('reads early', (q) => (q.early = [source.committed]))]
      const isSeen = seenBy(target, name) !== null
      if (isSeen && !isFree(target, name)) return [fails]
      return [
        act('locks the target row', (q, n) => {
          if (isSeen) write(targetOf(n), name, target.committed)
          q.at = isSeen ? 'update' : 'read'
        }),
      ]
    }
    case 'update':
      return [
        act('updates the row', (q, n) => {
          const value = q.early.length > 0 ? (q.early[0] ?? null) : source.committed
          if (value !== null) write(targetOf(n), name, value)
          q.early = []
          q.at = 'delete'
        }),
      ]
    case 'read':
      return [
        act('reads the absent row', (q, n) => {
          q.absent = [{ key, value: source.committed }]
          if (!without.has('followerUnmarked')) n.running = [...new Set([...n.running, name])].sort()
          q.at = 'insert'
        }),
      ]
    case 'insert': {
      const value = p.absent[0]?.value ?? null
      if (value === null) return [act('finds no source', (q) => (q.at = 'look'))]
      // A row that is not committed yet is waited for; one that came meanwhile is a clash on the key.
      if (!isFree(target, name)) return [fails]
      if (target.committed !== null)
        return without.has('followerPassesOver')
          ? [act('passes over a row', (q) => (q.at = 'look'))]
          : [fails]
      return [
        act('inserts the row', (q, n) => {
          write(targetOf(n), name, value)
          q.at = 'look'
        }),
      ]
    }
    case 'delete':
      return [
        act('deletes without a source', (q, n) => {
          if (source.committed === null) write(targetOf(n), name, null)
          q.at = 'look'
        }),
      ]
    case 'look':
      return [
        act('leaves what is gone', (q) => {
          if (source.committed === null && !without.has('goneIsCopied')) q.gone = [key]
          q.at = 'commit'
        }),
      ]
    default:
      return [
        step(s, name, 'commits', (n) => {
          const { group, gone } = at(n.appliers, index)
          commitRows(n, name)
          n.appliers[index] = idleApplier()
          endChunk(n, name)
          putEntries(
            n,
            group,
            gone.map((left) => ({ key: left, kind: 'copy', after: [], retried: false })),
          )
        }),
      ]
  }
}

/** Those of one key, as many as there are, whatever an applier has made of them; second looks are not its own. */
function take(s: Pair, index: number, name: string): Step<Pair>[] {
  const keys = [...new Set(s.log[0].filter(({ kind }) => kind === 'copy').map(({ key }) => key))].sort()
  return keys.map((key) =>
    step(s, name, 'takes entries', (n) => {
      const isIts = (entry: { key: number; kind: string }): boolean =>
        entry.key === key && entry.kind === 'copy'
      Object.assign(at(n.appliers, index), {
        ...idleApplier(),
        at: 'lock',
        keys: [key],
        taken: n.log[0].filter(isIts),
      })
      n.log[0] = n.log[0].filter((entry) => !isIts(entry))
    }),
  )
}

function undo(n: Pair, index: number, name: string): void {
  const { group, taken } = at(n.appliers, index)
  rollBackRows(n, name)
  n.appliers[index] = idleApplier()
  endChunk(n, name)
  putEntries(n, group, taken)
}
