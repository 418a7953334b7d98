import type { Model, Step } from './explore.ts'
import type { Mutations } from './mutations.ts'
import type { Value } from './pair.ts'

/**
 * One key whose source and target stand in two databases, so that no commit covers both. Rule 3: a lock on the key, which lives in
 * the target's transaction, is held across read and write. Rule 8: where the answer to COMMIT is lost, the transaction is still on
 * its way and ends by itself, either way; whoever sent it looks again. Not built yet: this is what has to be built.
 */
interface Two {
  source: Value
  /** What an open transaction of the application has made of the source row. */
  written: { value: Value } | null
  target: Value
  /** Whose uncommitted row, or row lock, stands in the target. */
  by: string | null
  own: Value
  keyLock: string | null
  /** Transactions in the target's database that are chunks. */
  running: string[]
  /** Entries stand in the source's database, and stay there until the target is known to have committed. */
  log: Entry[]
  change: number
  chunk: { at: 'idle' | 'read' | 'insert' | 'commit' | 'over'; value: Value }
  isCopied: boolean
  appliers: Applier[]
  /** A transaction whose client has lost it: still open in the target's database. */
  lost: { name: string; copies: boolean } | null
  mayLose: boolean
}

interface Entry {
  /** The change that left it. Two entries of one key are two. */
  id: number
  kind: 'copy' | 'look-again'
  after: string[]
}

interface Applier {
  at: 'idle' | 'lock' | 'read' | 'name' | 'write' | 'commit' | 'settle'
  entry: Entry | null
  value: Value
  chunks: string[]
}

export interface TwoConfiguration {
  readonly row: Value
  readonly target: Value
  /** The application's changes of the row, one transaction each: null is a delete. */
  readonly changes: readonly Value[]
  readonly appliers: number
  readonly copies: boolean
}

const idle = (): Applier => ({ at: 'idle', entry: null, value: null, chunks: [] })

export function twoDatabasesModel(configuration: TwoConfiguration, without: Mutations): Model<Two> {
  const { row, target, changes, appliers, copies } = configuration
  return {
    initial: {
      source: row,
      written: null,
      target,
      by: null,
      own: null,
      keyLock: null,
      running: [],
      log: [],
      change: 0,
      chunk: { at: copies ? 'idle' : 'over', value: null },
      isCopied: !copies,
      appliers: Array.from({ length: appliers }, idle),
      lost: null,
      mayLose: true,
    },
    steps: (s) => [
      ...writerSteps(s, changes),
      ...chunkSteps(s, without),
      ...s.appliers.flatMap((_, i) => applierSteps(s, i, without)),
      ...lostSteps(s),
    ],
    violation: (s, isOver) => {
      const isDrained = s.isCopied && s.log.length === 0
      if (isDrained && s.source !== s.target) return 'drained, and the tables differ'
      const isDone = isDrained && s.change === changes.length && s.chunk.at === 'over' && s.lost === null
      return isOver && !isDone ? 'nobody can go on' : undefined
    },
  }
}

function step(s: Two, actor: string, does: string, change: (next: Two) => void, note?: string): Step<Two> {
  const next = structuredCloneOf(s)
  change(next)
  return { actor, does, next, ...(note === undefined ? {} : { note }) }
}

const structuredCloneOf = (s: Two): Two => JSON.parse(JSON.stringify(s)) as Two

const put = (n: Two, ...entries: Entry[]): void => {
  n.log = [...n.log, ...entries].sort((a, b) => (JSON.stringify(a) < JSON.stringify(b) ? -1 : 1))
}

/** A statement and its key in one transaction of the source's database; nothing is written inline. */
function writerSteps(s: Two, changes: readonly Value[]): Step<Two>[] {
  const value = changes[s.change]
  if (value === undefined) return []
  if (s.written === null)
    return [
      step(s, 'A', 'statement', (n) => (n.written = { value }), value === null ? 'delete' : `= ${value}`),
    ]
  return [
    step(s, 'A', 'commits', (n) => {
      n.source = value
      n.written = null
      n.change += 1
      put(n, { id: s.change, kind: 'copy', after: [] })
    }),
    step(s, 'A', 'rolls back', (n) => {
      n.written = null
      n.change += 1
    }),
  ]
}

/** Ends a transaction in the target's database. */
function end(n: Two, name: string, isCommitted: boolean): void {
  if (n.by === name) {
    if (isCommitted) n.target = n.own
    n.by = null
    n.own = null
  }
  if (n.keyLock === name) n.keyLock = null
  endChunk(n, name)
}

function endChunk(n: Two, name: string): void {
  n.running = n.running.filter((other) => other !== name)
  for (const entry of n.log) entry.after = entry.after.filter((other) => other !== name)
  for (const p of n.appliers) p.chunks = p.chunks.map((other) => (other === name ? 'ended' : other))
}

/** The connection breaks: before COMMIT the server rolls back at once; after it nobody knows. */
function breaks(
  s: Two,
  name: string,
  isSent: boolean,
  then: (next: Two) => void,
  without: Mutations,
): Step<Two>[] {
  if (!s.mayLose) return []
  if (!isSent)
    return [
      step(s, name, 'is killed', (n) => {
        n.mayLose = false
        end(n, name, false)
        then(n)
      }),
    ]
  return [
    step(s, name, 'loses the answer to COMMIT', (n) => {
      n.mayLose = false
      n.lost = { name: `${name} lost`, copies: name === 'B' }
      const rename = (other: string): string => (other === name ? `${name} lost` : other)
      if (n.by !== null) n.by = rename(n.by)
      if (n.keyLock === name) n.keyLock = without.has('keyLockOfClient') ? null : `${name} lost`
      if (without.has('chunkForgottenWhenLost')) endChunk(n, name)
      n.running = n.running.map(rename)
      for (const entry of n.log) entry.after = entry.after.map(rename)
      for (const p of n.appliers) p.chunks = p.chunks.map(rename)
      then(n)
    }),
  ]
}

function lostSteps(s: Two): Step<Two>[] {
  const { lost } = s
  if (lost === null) return []
  return [true, false].map((isCommitted) =>
    step(s, lost.name, isCommitted ? 'has committed' : 'has rolled back', (n) => {
      end(n, lost.name, isCommitted)
      if (isCommitted && lost.copies) n.isCopied = true
      n.lost = null
    }),
  )
}

/** Its checkpoint stands beside the target's rows, and its row is locked: a later attempt waits for one that is on its way. */
function chunkSteps(s: Two, without: Mutations): Step<Two>[] {
  const { chunk } = s
  const again = (n: Two): void => void (n.chunk = { at: 'idle', value: null })
  const isFree = s.by === null || s.by === 'B'
  switch (chunk.at) {
    case 'over':
      return []
    case 'idle':
      if (s.lost?.copies) return []
      if (s.isCopied) return [step(s, 'B', 'finds it done', (n) => (n.chunk.at = 'over'))]
      return [
        step(s, 'B', 'locks its range', (n) => {
          n.chunk.at = 'read'
          n.running.push('B')
        }),
      ]
    case 'read':
      return [
        step(s, 'B', 'reads', (n) => (n.chunk = { at: 'insert', value: n.source })),
        ...breaks(s, 'B', false, again, without),
      ]
    case 'insert':
      if (chunk.value !== null && !isFree) return []
      return [
        step(s, 'B', 'inserts', (n) => {
          n.chunk.at = 'commit'
          if (chunk.value === null || n.target !== null) return
          n.by = 'B'
          n.own = chunk.value
        }),
      ]
    case 'commit':
      return [
        step(s, 'B', 'commits', (n) => {
          end(n, 'B', true)
          n.isCopied = true
          n.chunk = { at: 'over', value: null }
        }),
        ...breaks(s, 'B', true, again, without),
      ]
  }
}

function applierSteps(s: Two, index: number, without: Mutations): Step<Two>[] {
  const p = s.appliers[index]
  if (p === undefined) return []
  const name = `P${index}`
  const act = (does: string, change: (q: Applier, n: Two) => void, note?: string): Step<Two> =>
    step(s, name, does, (n) => change(n.appliers[index] ?? idle(), n), note)
  const stops = (n: Two): void => void (n.appliers[index] = idle())
  const locksLate = without.has('keyLockAfterRead')
  switch (p.at) {
    case 'idle':
      return s.log
        .filter((entry) => entry.after.length === 0)
        .map((entry) =>
          act(
            'reads an entry',
            (q, n) => {
              Object.assign(q, { at: locksLate ? 'read' : 'lock', entry })
              if (without.has('settledBeforeCommit')) settle(n, { ...q, value: 0 }, without)
            },
            entry.kind,
          ),
        )
    case 'lock':
      if (s.keyLock !== null) return []
      return [
        act('locks the key', (q, n) => {
          if (!without.has('noKeyLock')) n.keyLock = name
          q.at = locksLate ? 'name' : 'read'
        }),
      ]
    case 'read':
      return [
        act('reads the source', (q, n) => {
          q.value = n.source
          q.at = locksLate ? 'lock' : 'name'
        }),
      ]
    case 'name':
      return [
        act('names running chunks', (q, n) => {
          q.chunks = n.running.filter((other) => other !== name)
          q.at = 'write'
        }),
      ]
    case 'write':
      // A DELETE neither sees nor waits for a row that is not committed.
      if (s.by !== null && (p.value !== null || s.target !== null)) return []
      return [
        act('writes the target', (q, n) => {
          if (q.value !== null || n.target !== null) Object.assign(n, { by: name, own: q.value })
          q.at = 'commit'
        }),
        ...breaks(s, name, false, stops, without),
      ]
    case 'commit':
      return [
        act('commits', (q, n) => {
          end(n, name, true)
          q.at = 'settle'
        }),
        ...breaks(
          s,
          name,
          true,
          without.has('guessesCommitted') ? (n) => void (n.appliers[index] = { ...p, at: 'settle' }) : stops,
          without,
        ),
      ]
    case 'settle':
      return [
        act('takes the entry out', (q, n) => {
          if (!without.has('settledBeforeCommit')) settle(n, q, without)
          n.appliers[index] = idle()
        }),
      ]
  }
}

/** The entry goes; a key that was found without a source row while chunks were running is looked at again after them. */
function settle(n: Two, { entry, value, chunks }: Applier, without: Mutations): void {
  if (entry === null) return
  const isIt = (other: Entry): boolean => other.id === entry.id && other.kind === entry.kind
  const place = n.log.findIndex((other) => without.has('entrySettledByKey') || isIt(other))
  // The other applier has settled the same entry.
  if (place < 0) return
  n.log.splice(place, 1)
  if (value === null && chunks.length > 0 && entry.kind === 'copy')
    put(n, { id: entry.id, kind: 'look-again', after: chunks.filter((name) => name !== 'ended') })
}
