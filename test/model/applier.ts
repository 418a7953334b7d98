import type { Step } from './explore.ts'
import {
  at,
  commitRows,
  endChunk,
  idleApplier,
  isFree,
  isLockedForSwap,
  putEntries,
  rollBackRows,
  seenBy,
  step,
  write,
  type Applier,
  type Entry,
  type Pair,
  type Row,
  type Setting,
} from './pair.ts'
import type { Mutations } from './mutations.ts'

/**
 * One applier: takes what is due and copies it by key, in one transaction (src/sync/apply-changes.ts; copyLinkKeys in
 * src/database/postgres/copy.ts, whose statements the steps follow one by one). Fresh entries are one batch that skips rows which
 * somebody holds; one that was busy is taken alone, and waits.
 */
export function applierSteps(s: Pair, index: number, { configuration, without }: Setting): Step<Pair>[] {
  const p = at(s.appliers, index)
  const name = `P${index}`
  if (p.at === 'idle')
    return without.has('runningReadFirst')
      ? [readRunning(s, index, name)]
      : take(s, index, name, without, s.running)
  if (p.at === 'take') return takeLate(s, index, name, without)
  const act = (does: string, change: (next: Applier, pair: Pair) => void, note?: string): Step<Pair>[] => [
    step(s, name, does, (n) => change(at(n.appliers, index), n), note),
  ]
  const isKilled = s.crashes > 0 && configuration.ranges.length === 0
  const ends = isKilled ? [killed(s, index, name, without)] : []
  if (p.at === 'lock' && isLockedForSwap(s)) return ends
  return [...copySteps(s, p, name, without, act, () => [givesWay(s, index, name, without)]), ...ends]
}

type Act = (does: string, change: (next: Applier, pair: Pair) => void, note?: string) => Step<Pair>[]

function copySteps(
  s: Pair,
  p: Applier,
  name: string,
  without: Mutations,
  act: Act,
  giveWay: () => Step<Pair>[],
): Step<Pair>[] {
  const source = s.tables[p.group]
  const target = s.tables[p.group === 0 ? 1 : 0]
  const targetOf = (n: Pair): Row[] => n.tables[p.group === 0 ? 1 : 0]
  switch (p.at) {
    case 'idle':
    case 'take':
      return []
    case 'read early':
      return act('reads early', (q) => {
        q.early = q.keys.map((key) => at(source, key).committed)
        q.at = 'lock'
      })
    case 'lock': {
      const held = p.keys.filter((key) => isHeld(at(target, key), name))
      if (p.waits && held.length > 0) return giveWay()
      return act('locks target rows', (q, n) => {
        for (const key of q.keys) lockTarget(q, at(targetOf(n), key), key, name)
        q.at = q.standing.length > 0 ? 'update' : q.absent.length > 0 ? 'read' : 'look'
      })
    }
    case 'update':
      return act('updates standing rows', (q, n) => {
        for (const key of q.standing) {
          const value = q.early.length > 0 ? at(q.early, q.keys.indexOf(key)) : at(source, key).committed
          if (value !== null) write(at(targetOf(n), key), name, value)
        }
        q.early = []
        q.at = q.absent.length > 0 ? 'read' : 'look'
      })
    case 'read':
      return act('reads absent rows', (q, n) => {
        for (const r of q.absent) r.value = at(source, r.key).committed
        if (!without.has('applierUnmarked')) n.running = [...new Set([...n.running, name])].sort()
        q.at = 'insert'
      })
    case 'insert':
      return insert(s, p, name, act, giveWay)
    case 'look':
      return act('looks for the source', (q) => look(source, q, without))
    case 'name':
      return act('names running chunks', (q) => {
        q.chunks = s.running.filter((other) => other !== name)
        q.at = 'relock'
      })
    case 'relock': {
      if (without.has('deletesUnlocked')) return deleteUnlocked(s, p, name, act, giveWay)
      const held = p.missing.filter((key) => isHeld(at(target, key), name))
      if (p.waits && held.length > 0) return giveWay()
      return act('locks rows to delete', (q, n) => {
        q.gone = q.missing.filter((key) => !held.includes(key))
        q.busy = [...q.busy, ...q.missing.filter((key) => held.includes(key))]
        for (const key of q.gone) {
          const r = at(targetOf(n), key)
          if (seenBy(r, name) !== null) write(r, name, seenBy(r, name))
        }
        q.at = 'delete'
      })
    }
    case 'delete':
      return without.has('deletesUnlocked')
        ? deleteUnlocked(s, p, name, act, giveWay)
        : deleteGone(s, p, name, without, act)
    case 'commit':
      return act('commits', (q, n) => commit(n, n.appliers.indexOf(q), name, without))
  }
}

/** A row that others see, and that somebody else's transaction holds: `FOR UPDATE SKIP LOCKED` leaves it out. */
const isHeld = (r: Row, name: string): boolean => r.committed !== null && !isFree(r, name)

function lockTarget(q: Applier, r: Row, key: number, name: string): void {
  if (isHeld(r, name)) q.busy.push(key)
  else if (r.committed === null) q.absent.push({ key, value: null })
  else {
    q.standing.push(key)
    write(r, name, r.committed)
  }
}

/** ON CONFLICT DO NOTHING waits for a row that is not committed yet, and passes one that is. */
function insert(s: Pair, p: Applier, name: string, act: Act, giveWay: () => Step<Pair>[]): Step<Pair>[] {
  const table = p.group === 0 ? 1 : 0
  const rows = p.absent.filter((r) => r.value !== null)
  if (!rows.every((r) => isFree(at(s.tables[table], r.key), name))) return giveWay()
  return act('inserts absent rows', (q, n) => {
    for (const { key, value } of rows) {
      const r = at(n.tables[table], key)
      if (r.committed !== null) continue
      write(r, name, value)
      q.added.push(key)
    }
    q.at = 'look'
  })
}

function look(source: readonly Row[], q: Applier, without: Mutations): void {
  q.missing = q.keys.filter((key) => !q.busy.includes(key) && at(source, key).committed === null)
  const overtaken = q.absent
    .map((r) => r.key)
    .filter((key) => !q.added.includes(key) && !q.missing.includes(key))
  if (!without.has('insertIsEnough')) q.busy = [...q.busy, ...overtaken]
  q.standing = []
  q.absent = []
  q.added = []
  q.at = q.missing.length > 0 ? 'name' : 'commit'
}

/** The condition on the source is part of the statement, and the rows are ours: it waits for nobody. */
function deleteGone(s: Pair, p: Applier, name: string, without: Mutations, act: Act): Step<Pair>[] {
  const source = s.tables[p.group]
  return act('deletes', (q, n) => {
    for (const key of q.gone) {
      const r = at(n.tables[p.group === 0 ? 1 : 0], key)
      const isGone = at(source, key).committed === null || without.has('deletesBlindly')
      if (r.by === name && r.own !== null && isGone) write(r, name, null)
    }
    q.at = 'commit'
  })
}

/** Without the lock before it: its snapshot says which rows go, and it waits for each of them without asking again. */
function deleteUnlocked(
  s: Pair,
  p: Applier,
  name: string,
  act: Act,
  giveWay: () => Step<Pair>[],
): Step<Pair>[] {
  const target = s.tables[p.group === 0 ? 1 : 0]
  if (p.at === 'relock')
    return act('delete takes its snapshot', (q) => {
      q.gone = [...q.missing]
      q.standing = q.missing.filter(
        (key) => at(target, key).committed !== null && at(s.tables[p.group], key).committed === null,
      )
      q.at = 'delete'
    })
  if (!p.standing.every((key) => isFree(at(target, key), name))) return giveWay()
  return act('deletes', (q, n) => {
    for (const key of q.standing) write(at(n.tables[p.group === 0 ? 1 : 0], key), name, null)
    q.standing = []
    q.at = 'commit'
  })
}

const isDue = (entry: Entry, running: readonly string[]): boolean =>
  !entry.after.some((name) => running.includes(name))

const readRunning = (s: Pair, index: number, name: string): Step<Pair> =>
  step(s, name, 'reads what runs', (n) =>
    Object.assign(at(n.appliers, index), { at: 'take', running: [...n.running] }),
  )

function takeLate(s: Pair, index: number, name: string, without: Mutations): Step<Pair>[] {
  const steps = take(s, index, name, without, at(s.appliers, index).running)
  if (steps.length > 0) return steps
  return [step(s, name, 'takes nothing', (n) => (n.appliers[index] = idleApplier()))]
}

/** All fresh entries that are due, or one that was busy. */
function take(
  s: Pair,
  index: number,
  name: string,
  without: Mutations,
  running: readonly string[],
): Step<Pair>[] {
  const steps: Step<Pair>[] = []
  const takeable = (entry: Entry): boolean => without.has('secondLookAtOnce') || isDue(entry, running)
  for (const group of [0, 1] as const) {
    const due = s.log[group].filter(takeable)
    const fresh = due.filter((entry) => !entry.retried)
    const batches = [
      ...(fresh.length > 0 ? [fresh] : []),
      ...due.filter((e) => e.retried).map((entry) => [entry]),
    ]
    for (const batch of batches)
      steps.push(
        step(
          s,
          name,
          'takes entries',
          (n) => {
            const places = batch.map((entry) => s.log[group].indexOf(entry))
            const q = Object.assign(at(n.appliers, index), idleApplier())
            q.taken = n.log[group].filter((_, place) => places.includes(place))
            n.log[group] = n.log[group].filter((_, place) => !places.includes(place))
            q.at = without.has('readBeforeLock') ? 'read early' : 'lock'
            q.group = group
            q.waits = batch.every((entry) => entry.retried)
            q.keys = [...new Set(batch.map((entry) => entry.key))].sort()
          },
          batch.map((entry) => `${entry.kind} ${entry.key}`).join(', '),
        ),
      )
  }
  return steps
}

function commit(n: Pair, index: number, name: string, without: Mutations): void {
  const q = at(n.appliers, index)
  const { group, taken } = q
  const chunks = without.has('chunksNamedAtCommit') ? n.running.filter((other) => other !== name) : q.chunks
  const again = [
    ...(without.has('busyIsForgotten') ? [] : q.busy).map((key): Entry => ({
      key,
      kind: 'copy',
      after: [],
      retried: true,
    })),
    ...secondLooks(taken, q.gone, chunks, without),
  ]
  commitRows(n, name)
  n.appliers[index] = idleApplier()
  endChunk(n, name)
  putEntries(n, group, again)
}

/** As src/sync/apply-changes.ts. */
function secondLooks(
  entries: readonly Entry[],
  gone: readonly number[],
  chunks: readonly string[],
  without: Mutations,
): Entry[] {
  if (chunks.length === 0 || without.has('noSecondLook')) return []
  const keysOf = (kind: Entry['kind']): number[] => entries.filter((e) => e.kind === kind).map((e) => e.key)
  const first = without.has('secondLookIsLastForAll') ? [] : keysOf('copy')
  const second = keysOf('look-again')
  return gone
    .filter((key) => first.includes(key) || !second.includes(key))
    .map((key) => ({ key, kind: 'look-again', after: chunks.filter((c) => c !== 'ended'), retried: false }))
}

/** Its wait was too long: everything is rolled back, and the entries are in the log as they were. */
function undo(n: Pair, index: number, name: string, without: Mutations): void {
  const { group, taken } = at(n.appliers, index)
  rollBackRows(n, name)
  n.appliers[index] = idleApplier()
  endChunk(n, name)
  if (!without.has('entryTakenFirst')) putEntries(n, group, taken)
}

const givesWay = (s: Pair, index: number, name: string, without: Mutations): Step<Pair> =>
  step(s, name, 'gives way', (n) => undo(n, index, name, without))

const killed = (s: Pair, index: number, name: string, without: Mutations): Step<Pair> =>
  step(s, name, 'is killed', (n) => {
    n.crashes -= 1
    undo(n, index, name, without)
  })
