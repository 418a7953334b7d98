import type { Model, Step } from './explore.ts'
import type { Mutations } from './mutations.ts'
import { at } from './pair.ts'

/**
 * Rows of a target whose values are unique, each row and each statement asked (src/database/postgres/exchange.ts). A transaction of
 * the application gives all rows new values at once; where its trigger cannot write one after the other it leaves the keys. An applier
 * tries a key alone once; what was refused is written together, with the values that others are to get set aside meanwhile.
 */
interface Exchange {
  source: number[]
  target: { committed: number; by: string | null; own: number }[]
  /** Keys that nobody has tried yet, and those that the unique index has refused. */
  fresh: number[]
  refused: number[]
  writer: { at: 'idle' | 'trigger' | 'end'; change: number; leaves: boolean }
  appliers: Applier[]
}

interface Applier {
  at: 'idle' | 'look' | 'write' | 'commit'
  keys: number[]
  /** Those that are left out. */
  held: number[]
  isTogether: boolean
  isRefused: boolean
}

export interface ExchangeConfiguration {
  readonly rows: readonly number[]
  /** What all rows say after each transaction. */
  readonly changes: readonly (readonly number[])[]
  readonly appliers: number
}

const idle: Applier = { at: 'idle', keys: [], held: [], isTogether: false, isRefused: false }

export function exchangeModel(
  { rows, changes, appliers }: ExchangeConfiguration,
  without: Mutations,
): Model<Exchange> {
  return {
    initial: {
      source: [...rows],
      target: rows.map((value) => ({ committed: value, by: null, own: 0 })),
      fresh: [],
      refused: [],
      writer: { at: 'idle', change: 0, leaves: false },
      appliers: Array.from({ length: appliers }, () => idle),
    },
    steps: (s) => [...writerSteps(s, changes), ...s.appliers.flatMap((_, i) => applierSteps(s, i, without))],
    violation: (s, isOver) => {
      const values = s.target.map(({ committed }) => committed)
      if (values.some((value) => value < 0)) return 'a value that nobody wrote is there to be read'
      if (new Set(values).size < values.length) return 'two rows have the same value'
      const isDrained =
        s.fresh.length + s.refused.length === 0 && s.appliers.every(({ at: where }) => where === 'idle')
      if (isDrained && s.writer.at === 'idle' && values.join() !== s.source.join())
        return 'drained, and the target says another thing'
      return isOver && !(isDrained && s.writer.change === changes.length) ? 'nobody can go on' : undefined
    },
  }
}

function step(s: Exchange, actor: string, does: string, change: (next: Exchange) => void): Step<Exchange> {
  const next = JSON.parse(JSON.stringify(s)) as Exchange
  change(next)
  return { actor, does, next }
}

const sorted = (keys: readonly number[]): number[] => [...new Set(keys)].sort((a, b) => a - b)

/** What the index has of a row: what is committed, and what its owner has written meanwhile. */
const taken = ({ committed, by, own }: Exchange['target'][number], reader: string): number[] =>
  by === null ? [committed] : by === reader ? [own] : [committed, own]

/** One row after the other, as a statement does it. False where the index refuses one; then nothing of it counts. */
function writeEach(n: Exchange, actor: string, keys: readonly number[], values: readonly number[]): boolean {
  for (const key of keys) {
    const value = at(values, key)
    if (n.target.some((other, i) => i !== key && taken(other, actor).includes(value))) return false
    Object.assign(at(n.target, key), { by: actor, own: value })
  }
  return true
}

function end(n: Exchange, actor: string, isCommitted: boolean): void {
  for (const row of n.target)
    if (row.by === actor)
      Object.assign(row, { committed: isCommitted ? row.own : row.committed, by: null, own: 0 })
}

function writerSteps(s: Exchange, changes: readonly (readonly number[])[]): Step<Exchange>[] {
  const { writer } = s
  const values = changes[writer.change]
  if (values === undefined) return []
  const changed = values.flatMap((value, key) => (value === s.source[key] ? [] : key))
  const isFree = changed.every((key) => at(s.target, key).by === null)
  const giveUp = step(s, 'A', 'trigger gives up', (n) => {
    Object.assign(n.writer, { at: 'end', leaves: true })
  })
  switch (writer.at) {
    case 'idle':
      return [step(s, 'A', 'statement', (n) => void (n.writer.at = 'trigger'))]
    case 'trigger': {
      const written = step(s, 'A', 'trigger writes', (n) => void (n.writer.at = 'end'))
      return isFree && writeEach(written.next, 'A', changed, values) ? [giveUp, written] : [giveUp]
    }
    case 'end':
      return [
        step(s, 'A', 'commits', (n) => {
          end(n, 'A', true)
          n.source = [...values]
          if (writer.leaves) n.fresh = sorted([...n.fresh, ...changed])
          n.writer = { at: 'idle', change: writer.change + 1, leaves: false }
        }),
      ]
  }
}

/** Of `keys`, those that are to get what a row has that is not written with them. */
function unfulfilled(s: Exchange, keys: readonly number[], without: Mutations): number[] {
  const holderOf = (key: number): number =>
    s.target.findIndex(({ committed }, i) => i !== key && committed === at(s.source, key))
  const held = new Set(keys.filter((key) => holderOf(key) >= 0 && !keys.includes(holderOf(key))))
  if (!without.has('asideUnwritten'))
    for (let before = -1; before < held.size;) {
      before = held.size
      for (const key of keys) if (held.has(holderOf(key))) held.add(key)
    }
  return sorted([...held])
}

function applierSteps(s: Exchange, index: number, without: Mutations): Step<Exchange>[] {
  const p = at(s.appliers, index)
  const name = `P${index}`
  const act = (does: string, change: (p: Applier, n: Exchange) => void): Step<Exchange>[] => [
    step(s, name, does, (n) => change(at(n.appliers, index), n)),
  ]
  const isFree = (key: number): boolean => at(s.target, key).by === null
  const lock = (keys: readonly number[], n: Exchange): void => {
    for (const key of keys) Object.assign(at(n.target, key), { by: name, own: at(n.target, key).committed })
  }
  switch (p.at) {
    case 'idle': {
      const alone = s.fresh.filter(isFree).flatMap((key) =>
        act('takes a key and locks its row', (q, n) => {
          n.fresh = n.fresh.filter((other) => other !== key)
          Object.assign(q, { at: 'write', keys: [key] })
          lock([key], n)
        }),
      )
      const keys = s.refused
      // Where all of them would be left out, the log stays as it is.
      const isAny = keys.length > unfulfilled(s, keys, without).length
      if (without.has('exchangedAlone') || !isAny || !keys.every(isFree)) return alone
      return [
        ...alone,
        ...act('takes what was refused and locks the rows', (q, n) => {
          n.refused = []
          Object.assign(q, { at: 'look', keys, isTogether: true })
          lock(keys, n)
        }),
      ]
    }
    case 'look':
      return act('sets aside what others are to get', (q, n) => {
        q.held = unfulfilled(s, p.keys, without)
        for (const key of p.keys) {
          const isWanted = p.keys.some(
            (other) =>
              !q.held.includes(other) && other !== key && at(s.source, other) === at(s.target, key).committed,
          )
          if (isWanted) at(n.target, key).own = -1 - key
        }
        if (without.has('asideCommitted')) {
          end(n, name, true)
          lock(p.keys, n)
        }
        q.at = 'write'
      })
    case 'write':
      return act('writes what the source says now', (q, n) => {
        q.isRefused = !writeEach(
          n,
          name,
          p.keys.filter((key) => !p.held.includes(key)),
          s.source,
        )
        q.at = 'commit'
      })
    case 'commit':
      return act(p.isRefused ? 'rolls back' : 'commits', (q, n) => {
        end(n, name, !p.isRefused)
        n.refused = sorted([...n.refused, ...(p.isRefused ? p.keys : p.held)])
        Object.assign(q, idle)
      })
  }
}
