import type { Step } from './explore.ts'
import {
  at,
  commitRows,
  endChunk,
  isFree,
  isLockedForSwap,
  putEntries,
  rollBackRows,
  step,
  write,
  type Attempt,
  type Pair,
  type Setting,
} from './pair.ts'

/**
 * Two attempts at one range, the second of which may begin while the first one lives (src/copy/walk-ranges.ts, copy-range.ts). A
 * chunk is the whole range. `insertMissing` is one statement: its snapshot and its reading are one step, each row that it adds one
 * more.
 */
export function attemptSteps(s: Pair, index: number, setting: Setting): Step<Pair>[] {
  const attempt = at(s.attempts, index)
  const name = attemptName(index)
  // Both tables are locked against everybody: each of its statements would wait.
  const mayTouch = !isLockedForSwap(s)
  switch (attempt.at) {
    case 'idle':
      return claim(s, index, name, setting)
    case 'claimed':
      return lock(s, index, name, setting)
    case 'locked':
      return [...(mayTouch ? read(s, index, name, setting) : []), ...crash(s, index, name)]
    case 'insert':
      return [...insert(s, index, name, setting), ...crash(s, index, name)]
    case 'over':
      return []
  }
}

export const attemptName = (index: number): string => `B${index >> 1}${index % 2 === 0 ? 'a' : 'b'}`

const rangeOf = (index: number): number => index >> 1

const isFirst = (index: number): boolean => index % 2 === 0

const isOpen = (attempt: Attempt): boolean => attempt.at === 'locked' || attempt.at === 'insert'

/** The row of the range is locked by the chunk's transaction, so that the two attempts never write at the same time. */
const isRangeFree = (s: Pair, index: number): boolean =>
  !isOpen(at(s.attempts, index ^ 1)) && !isOpen(at(s.attempts, index))

function claim(s: Pair, index: number, name: string, { without }: Setting): Step<Pair>[] {
  if (!s.captured && !without.has('copyBeforeCapture')) return []
  if (!isFirst(index) && at(s.attempts, index ^ 1).at === 'idle') return []
  if (!isRangeFree(s, index)) return []
  return [
    step(s, name, 'claims', (n) => {
      const range = at(n.ranges, rangeOf(index))
      range.fence += 1
      Object.assign(at(n.attempts, index), { at: range.done ? 'over' : 'claimed', fence: range.fence })
      if (range.done) at(n.attempts, index).fence = 0
    }),
  ]
}

/** Fence first, then the lock that names it as running: both before its reading snapshot. */
function lock(s: Pair, index: number, name: string, { without }: Setting): Step<Pair>[] {
  if (!isRangeFree(s, index)) return []
  const range = at(s.ranges, rangeOf(index))
  if (range.fence !== at(s.attempts, index).fence && !without.has('chunkUnfenced'))
    return [step(s, name, 'is fenced', (n) => end(n, index, name))]
  return [
    step(s, name, 'locks its range', (n) => {
      at(n.attempts, index).at = 'locked'
      if (without.has('checkpointFirst')) at(n.ranges, rangeOf(index)).done = true
      if (!without.has('chunkUnmarked') && !without.has('chunkMarkedLate')) mark(n, name)
    }),
  ]
}

const mark = (n: Pair, name: string): void => {
  n.running = [...new Set([...n.running, name])].sort()
}

function read(s: Pair, index: number, name: string, { configuration, without }: Setting): Step<Pair>[] {
  return [
    step(s, name, 'reads', (n) => {
      const attempt = at(n.attempts, index)
      attempt.at = 'insert'
      for (const key of at(configuration.ranges, rangeOf(index))) {
        const value = at(n.tables[0], key).committed
        const isThere = at(n.tables[1], key).committed !== null
        if (value === null || (isThere && !attempt.ignores && !without.has('chunkOverwrites'))) continue
        attempt.todo.push({ key, value })
      }
    }),
  ]
}

function insert(s: Pair, index: number, name: string, { configuration, without }: Setting): Step<Pair>[] {
  const attempt = at(s.attempts, index)
  if (without.has('chunkMarkedLate') && !s.running.includes(name))
    return [step(s, name, 'names itself', (n) => mark(n, name))]
  const [row] = attempt.todo
  if (row === undefined) {
    if (without.has('chunkUnmarkedEarly') && s.running.includes(name))
      return [step(s, name, 'is no longer named', (n) => endChunk(n, name))]
    return [step(s, name, 'commits', (n) => commit(n, index, name))]
  }
  const target = at(s.tables[1], row.key)
  // The statement waits for whoever holds the key, and after too long its rows are left to the appliers.
  if (!isFree(target, name))
    return [
      step(s, name, 'leaves its keys', (n) =>
        leaveKeys(n, index, name, at(configuration.ranges, rangeOf(index))),
      ),
    ]
  if (target.committed !== null && !attempt.ignores && !without.has('chunkOverwrites'))
    return [step(s, name, 'meets a clash', (n) => again(n, index, name))]
  return [
    step(
      s,
      name,
      'inserts',
      (n) => {
        at(n.attempts, index).todo.shift()
        if (target.committed === null || without.has('chunkOverwrites'))
          write(at(n.tables[1], row.key), name, row.value)
      },
      `${row.key} = ${row.value}`,
    ),
  ]
}

function end(n: Pair, index: number, name: string): void {
  endChunk(n, name)
  Object.assign(at(n.attempts, index), { at: 'over', fence: 0, ignores: false, todo: [] })
}

function commit(n: Pair, index: number, name: string): void {
  commitRows(n, name)
  const range = at(n.ranges, rangeOf(index))
  range.done = true
  range.counted += 1
  end(n, index, name)
}

/** A plain INSERT met a row of somebody else: the same chunk again, with ON CONFLICT DO NOTHING. */
function again(n: Pair, index: number, name: string): void {
  rollBackRows(n, name)
  endChunk(n, name)
  Object.assign(at(n.attempts, index), { at: 'claimed', ignores: true, todo: [] })
}

/** leaveKey: what somebody holds for long goes into the log, and the checkpoint passes it. */
function leaveKeys(n: Pair, index: number, name: string, keys: readonly number[]): void {
  rollBackRows(n, name)
  commit(n, index, name)
  putEntries(
    n,
    0,
    keys.map((key) => ({ key, kind: 'copy', after: [], retried: true })),
  )
}

function crash(s: Pair, index: number, name: string): Step<Pair>[] {
  if (s.crashes === 0 || !isFirst(index)) return []
  return [
    step(s, name, 'is killed', (n) => {
      n.crashes -= 1
      rollBackRows(n, name)
      end(n, index, name)
    }),
  ]
}
