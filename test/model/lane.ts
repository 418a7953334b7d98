import type { Step } from './explore.ts'
import {
  at,
  commitRows,
  endChunk,
  holdsTables,
  isFree,
  isLockedForSwap,
  newAttempt,
  newRange,
  pageCount,
  putEntries,
  rollBackRows,
  step,
  write,
  type Attempt,
  type Configuration,
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
      return [...(mayTouch ? stands(s, index, name, setting) : []), ...crash(s, index, name)]
    case 'stood':
      return [...read(s, index, name, setting), ...crash(s, index, name)]
    case 'anew':
      return planAnew(s, name, index, setting)
    case 'insert':
      return [...insert(s, index, name, setting), ...crash(s, index, name)]
    case 'over':
      return []
  }
}

export const attemptName = (index: number): string => `B${index >> 1}${index % 2 === 0 ? 'a' : 'b'}`

const rangeOf = (index: number): number => index >> 1

const isFirst = (index: number): boolean => index % 2 === 0

const isOpen = (attempt: Attempt): boolean => ['locked', 'stood', 'insert'].includes(attempt.at)

/** The row of the range is locked by the chunk's transaction, so that the two attempts never write at the same time. */
const isRangeFree = (s: Pair, index: number): boolean =>
  !isOpen(at(s.attempts, index ^ 1)) && !isOpen(at(s.attempts, index))

function claim(s: Pair, index: number, name: string, { without }: Setting): Step<Pair>[] {
  if (!s.captured && !without.has('copyBeforeCapture')) return []
  if (at(s.ranges, rangeOf(index)).file !== null && s.end === null) return []
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

/** `ranges.stands`: from here on it holds the table, which nobody can rewrite any more. Ranges of keys have nothing to ask. */
function stands(s: Pair, index: number, name: string, setting: Setting): Step<Pair>[] {
  const { file } = at(s.ranges, rangeOf(index))
  if (file === null) return read(s, index, name, setting)
  if (file === s.file || setting.without.has('rewriteUnseen'))
    return [step(s, name, 'finds its file', (n) => (at(n.attempts, index).at = 'stood'))]
  return [
    step(s, name, 'finds another file', (n) => {
      endChunk(n, name)
      at(n.attempts, index).at = 'anew'
    }),
  ]
}

/** A transaction that holds the rows of all ranges. Who comes second has nothing left to do. */
function planAnew(s: Pair, name: string, index: number, { without }: Setting): Step<Pair>[] {
  if (s.attempts.some(isOpen)) return []
  return [
    step(s, name, 'plans anew', (n) => {
      end(n, index, name)
      const byPlace = n.ranges.filter((range) => range.file !== null && !range.left)
      if (byPlace.length === 0) return
      const lost = without.has('doneRangesStay') ? byPlace.filter((range) => !range.done) : byPlace
      for (const range of lost) Object.assign(range, { done: true, counted: 1, left: true })
      if (without.has('doneRangesStay')) {
        // The same pages of the new file.
        n.ranges.push(...lost.map(() => newRange(n.file)))
        n.attempts.push(...lost.flatMap(() => [newAttempt('idle'), newAttempt('over')]))
        return
      }
      n.ranges.push(newRange(null))
      n.attempts.push(newAttempt('idle'), newAttempt('over'))
    }),
  ]
}

/** Whose rows a chunk reads; a range that is there since the table was planned anew has all keys. */
function keysOf(s: Pair, index: number, { rows, ranges }: Configuration): readonly number[] {
  const given = ranges[rangeOf(index)]
  const all = rows.map((_, key) => key)
  if (at(s.ranges, rangeOf(index)).file === null) return given && s.end === null ? given : all
  const isLast = rangeOf(index) === ranges.length - 1
  const covers = (page: number): boolean =>
    (given ?? []).includes(page) || (isLast && page > Math.max(...(given ?? [])) && page < (s.end ?? 0))
  return all.filter((key) => covers(at(s.tables[0], key).page))
}

function read(s: Pair, index: number, name: string, { configuration, without }: Setting): Step<Pair>[] {
  return [
    step(s, name, 'reads', (n) => {
      const attempt = at(n.attempts, index)
      attempt.at = 'insert'
      for (const key of keysOf(s, index, configuration)) {
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
      step(s, name, 'leaves its keys', (n) => leaveKeys(n, index, name, keysOf(s, index, configuration))),
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

/**
 * The plan by place (`ranges.plan`), which reads how many pages there are once the triggers stand, and whoever rewrites the table: VACUUM
 * FULL waits for everybody who has it open. Empty where nobody copies by place.
 */
export function fileSteps(s: Pair, { configuration: { pages, rewritten }, without }: Setting): Step<Pair>[] {
  if (pages === undefined) return []
  const steps: Step<Pair>[] = []
  if (s.end === null && (s.captured || without.has('endReadEarly')))
    steps.push(
      step(s, 'L', 'plans by place', (n) => {
        const used = n.tables[0].flatMap((r) => (r.committed === null ? [r.ownPage] : [r.page, r.ownPage]))
        n.end = Math.max(...used) + 1
      }),
    )
  const isHeld = holdsTables(s) && !(without.has('fileUnheld') && !s.writers.some((w) => w.at !== 'idle'))
  if (rewritten && s.file === 0 && s.end !== null && !isHeld)
    steps.push(
      step(s, 'V', 'rewrites the table', (n) => {
        n.file = 1
        for (const r of n.tables[0]) r.page = pageCount - 1 - r.page
      }),
    )
  return steps
}
