import type { Mutations } from './mutations.ts'
import type { Step } from './explore.ts'

/** A row's one column; null is no row. */
export type Value = number | null

/** One key of one table, as READ COMMITTED sessions see it. */
export interface Row {
  committed: Value
  /** Who holds the row's lock, or has an uncommitted row of this key in the unique index. */
  by: string | null
  /** What the holder's transaction has made of it so far. */
  own: Value
  /** The page that each of the two versions lies in; always 0 where nobody copies by place. */
  page: number
  ownPage: number
}

export interface Entry {
  key: number
  kind: 'copy' | 'look-again'
  /** Transactions that must have ended before the entry is taken. Those that have ended are left out. */
  after: string[]
  /** Was busy once: tried alone, and waits. */
  retried: boolean
}

export type Change =
  | { readonly do: 'insert' | 'update'; readonly key: number; readonly value: number }
  | { readonly do: 'delete'; readonly key: number }
  /** An UPDATE of the key itself. */
  | { readonly do: 'move'; readonly key: number; readonly to: number }

/** A session of the application: `change` is its place in the script of single-statement transactions. */
export interface Writer {
  at: 'idle' | 'trigger' | 'insert' | 'gone' | 'end'
  change: number
  /** The table that its statement has found under the application's name. */
  table: 0 | 1
  /** Keys that its triggers leave when it commits. */
  leaves: number[]
}

/** An attempt at a range: one chunk. Two of a range may overlap. */
export interface Attempt {
  at: 'idle' | 'claimed' | 'locked' | 'stood' | 'insert' | 'anew' | 'over'
  fence: number
  ignores: boolean
  todo: { key: number; value: number }[]
}

export interface Range {
  fence: number
  done: boolean
  /** The checkpoint was advanced so many times over these rows. */
  counted: number
  /** The file that its places are in; null where it is one of keys. */
  file: number | null
  /** Done because its places mean nothing any more. */
  left: boolean
}

export interface Applier {
  at:
    | 'idle'
    | 'take'
    | 'read early'
    | 'lock'
    | 'update'
    | 'read'
    | 'insert'
    | 'look'
    | 'name'
    | 'relock'
    | 'delete'
    | 'commit'
  group: 0 | 1
  waits: boolean
  taken: Entry[]
  keys: number[]
  /** Of a mutation: what the source said of `keys` before the lock. */
  early: Value[]
  standing: number[]
  absent: { key: number; value: Value }[]
  added: number[]
  missing: number[]
  busy: number[]
  gone: number[]
  chunks: string[]
  running: string[]
}

/**
 * Two tables of one database, and everybody who works on them. Index 0 is the old table and the forward group, 1 the new table
 * and the group that leads back.
 */
export interface Pair {
  tables: [Row[], Row[]]
  /** The table that has the application's name. */
  leading: 0 | 1
  captured: boolean
  log: [Entry[], Entry[]]
  running: string[]
  ranges: Range[]
  writers: Writer[]
  attempts: Attempt[]
  appliers: Applier[]
  swap: 'none' | 'idle' | 'drained' | 'locked' | 'over'
  /** Transactions of ours that may still be killed. */
  crashes: number
  /** The old table's file, and how many of its pages the plan has seen; null before there is a plan by place. */
  file: number
  end: number | null
}

export interface Configuration {
  readonly rows: readonly Value[]
  /** The page of each row, where ranges are of pages: a row that is written may come to lie in any of `pageCount`. */
  readonly pages?: readonly number[]
  /** The old table is rewritten once: every row that lay in page n lies n pages before the last one then. */
  readonly rewritten?: boolean
  readonly target?: readonly Value[]
  readonly writers: readonly (readonly Change[])[]
  /** Keys of each range, or pages where rows have them, each walked by a lane of its own. */
  readonly ranges: readonly (readonly number[])[]
  /** Each lane has one attempt only; else a second one, that may begin while the first one lives. */
  readonly once?: boolean
  readonly appliers: number
  /** The application captures its writes itself, and so many of its copies after a commit may be under way at a time. */
  readonly followers?: number
  /** The triggers stand from the start unless this is true. */
  readonly expands?: boolean
  readonly swaps?: boolean
  readonly crashes?: number
  /** Keys that the log holds at the start. */
  readonly logged?: readonly number[]
}

/** What the steps of every actor are made from. */
export interface Setting {
  readonly configuration: Configuration
  readonly without: Mutations
}

/** Pages of a table in a configuration of places. */
export const pageCount = 3

const row = (committed: Value, page = 0): Row => ({ committed, by: null, own: null, page, ownPage: 0 })

export const idleApplier = (): Applier => ({
  at: 'idle',
  group: 0,
  waits: false,
  taken: [],
  keys: [],
  early: [],
  standing: [],
  absent: [],
  added: [],
  missing: [],
  busy: [],
  gone: [],
  chunks: [],
  running: [],
})

export function initialPair(configuration: Configuration): Pair {
  const {
    rows,
    target,
    writers,
    ranges,
    appliers,
    followers = 0,
    once,
    expands,
    swaps,
    crashes,
    logged,
    pages,
  } = configuration
  return {
    tables: [rows.map((r, key) => row(r, pages?.[key])), rows.map((_, key) => row(target?.[key] ?? null))],
    leading: 0,
    captured: expands !== true,
    log: [(logged ?? []).map((key) => ({ key, kind: 'copy', after: [], retried: false })), []],
    running: [],
    ranges: ranges.map(() => newRange(pages ? 0 : null)),
    writers: writers.map(() => ({ at: 'idle', change: 0, table: 0, leaves: [] })),
    attempts: ranges.flatMap(() => [newAttempt('idle'), newAttempt(once ? 'over' : 'idle')]),
    appliers: Array.from({ length: appliers + followers }, idleApplier),
    swap: swaps ? 'idle' : 'none',
    crashes: crashes ?? 0,
    file: 0,
    end: null,
  }
}

export const newRange = (file: number | null): Range => ({
  fence: 0,
  done: false,
  counted: 0,
  file,
  left: false,
})

export const newAttempt = (at: Attempt['at']): Attempt => ({ at, fence: 0, ignores: false, todo: [] })

const copyEntry = (entry: Entry): Entry => ({ ...entry, after: [...entry.after] })

/** Written out, because it is most of the exploration's time: a deep copy in the same order of fields. */
function copyPair(s: Pair): Pair {
  return {
    tables: [s.tables[0].map((r) => ({ ...r })), s.tables[1].map((r) => ({ ...r }))],
    leading: s.leading,
    captured: s.captured,
    log: [s.log[0].map(copyEntry), s.log[1].map(copyEntry)],
    running: [...s.running],
    ranges: s.ranges.map((range) => ({ ...range })),
    writers: s.writers.map((w) => ({ ...w, leaves: [...w.leaves] })),
    attempts: s.attempts.map((a) => ({ ...a, todo: [...a.todo] })),
    appliers: s.appliers.map((p) => ({
      ...p,
      taken: p.taken.map(copyEntry),
      keys: [...p.keys],
      early: [...p.early],
      standing: [...p.standing],
      absent: p.absent.map((r) => ({ ...r })),
      added: [...p.added],
      missing: [...p.missing],
      busy: [...p.busy],
      gone: [...p.gone],
      chunks: [...p.chunks],
      running: [...p.running],
    })),
    swap: s.swap,
    crashes: s.crashes,
    file: s.file,
    end: s.end,
  }
}

/** The step that changes a copy of `state`. */
export function step(
  state: Pair,
  actor: string,
  does: string,
  change: (next: Pair) => void,
  note?: string,
): Step<Pair> {
  const next = copyPair(state)
  change(next)
  return { actor, does, next, ...(note === undefined ? {} : { note }) }
}

export const at = <T>(list: readonly T[], index: number): T => {
  const found = list[index]
  if (found === undefined) throw new Error(`There is no ${index} of ${list.length}.`)
  return found
}

export const isFree = (r: Row, actor: string): boolean => r.by === null || r.by === actor

/** What `actor` sees of a row in a snapshot taken now. */
export const seenBy = (r: Row, actor: string): Value => (r.by === actor ? r.own : r.committed)

export function write(r: Row, actor: string, value: Value, page = 0): void {
  r.by = actor
  r.own = value
  r.ownPage = page
}

/** Makes visible what a transaction wrote, all at once, and gives its row locks back. */
export function commitRows(s: Pair, actor: string): void {
  for (const r of s.tables.flat())
    if (r.by === actor) {
      r.committed = r.own
      r.page = r.ownPage
      r.by = null
      r.own = null
      r.ownPage = 0
    }
}

export function rollBackRows(s: Pair, actor: string, table?: 0 | 1): void {
  for (const r of table === undefined ? s.tables.flat() : s.tables[table])
    if (r.by === actor) {
      r.by = null
      r.own = null
      r.ownPage = 0
    }
}

export function putEntries(s: Pair, group: 0 | 1, entries: readonly Entry[]): void {
  const text = (entry: Entry): string => JSON.stringify(entry)
  s.log[group] = [...s.log[group], ...entries].sort((a, b) => (text(a) < text(b) ? -1 : 1))
}

/**
 * A transaction is no chunk any more. Nobody waits for it from now on: its name goes out of all entries, and stays as a mark
 * without a name where a look has noted it.
 */
export function endChunk(s: Pair, actor: string): void {
  s.running = s.running.filter((name) => name !== actor)
  for (const entry of [...s.log.flat(), ...s.appliers.flatMap((p) => p.taken)])
    entry.after = entry.after.filter((name) => name !== actor)
  for (const p of s.appliers) {
    p.chunks = p.chunks.map((name) => (name === actor ? 'ended' : name)).sort()
    p.running = p.running.filter((name) => name !== actor)
  }
}

/** As `changeLog.state` counts: what an open transaction has taken is still there for everybody else. */
export const pending = (s: Pair, group: 0 | 1, without: Mutations): number =>
  s.log[group].length +
  s.appliers.reduce(
    (sum, p) => sum + (p.group === group && !without.has('entryTakenFirst') ? p.taken.length : 0),
    0,
  )

/** Open transactions that hold a table: what a lock on both tables waits for. */
export const holdsTables = (s: Pair): boolean =>
  s.writers.some((w) => w.at !== 'idle') ||
  s.attempts.some((a) => a.at === 'insert' || a.at === 'stood') ||
  s.appliers.some((p) => !['idle', 'take', 'lock'].includes(p.at))

export const isLockedForSwap = (s: Pair): boolean => s.swap === 'locked'
