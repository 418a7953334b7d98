import type {
  ChangeLogEntry,
  ChangeLogState,
  Dialect,
  Key,
  LogEntryInput,
  SyncGroup,
  Transaction,
} from '../database/index.ts'
import { lightKeys, wideColumnsOf } from '../copy/step-end.ts'
import { rest, type Pace, type Workplace } from '../copy/workplace.ts'

/** Keys a transaction: their target rows are locked until it commits, a few milliseconds. */
const batchKeys = 200

/** So long does one go take keys one by one: the other logs wait for it, and what is left is there for the next. */
const aloneMs = 1_000

/** Rows that may exchange their unique values in one transaction, which holds the target rows until it commits. */
export const mostTangled = 2_000

const idleRestMs = 100

/** The wait before a refused key is tried again: 1 s, doubled each time, at most a minute. */
const refusedDelayMs = (attempts: number): number => Math.min(60_000, 1000 * 2 ** Math.min(attempts, 6))

export interface ApplyProgress {
  readonly applied: number
  readonly refused: number
  readonly pending: number
  readonly oldestAgeSec: number
}

interface Batch {
  readonly taken: number
  /** There may be more that is due: not all that was there was taken, or not all that was taken was copied. */
  readonly isFull: boolean
  readonly settled: number
  /** Left out, because another row has what they are to get. */
  readonly held: number
}

interface Round {
  readonly settled: number
  readonly refused: number
  /** Of these, refused by a unique index: another row may have to be written with it. */
  readonly tangled: number
}

/**
 * Empties the change logs of `groups` again and again, until the pace says stop. Every entry is taken out and copied in one
 * transaction: a crash brings it back, a second copy does no harm.
 */
export async function applyChanges(
  place: Workplace,
  groups: readonly SyncGroup[],
  pace: Pace<ApplyProgress>,
): Promise<ApplyProgress> {
  let applied = 0
  let refused = 0
  let progress: ApplyProgress = { applied, refused, pending: 0, oldestAgeSec: 0 }
  const wideOf = wideColumnsOf(place)
  while (!pace.signal.aborted && Date.now() < pace.until) {
    let worked = 0
    for (const group of groups) {
      const round = await applyRound(place, group, wideOf)
      applied += round.settled
      refused += round.refused
      worked += round.settled
    }
    const states = await readChangeLogs(place, groups)
    progress = {
      applied,
      refused,
      pending: states.reduce((sum, state) => sum + state.pending, 0),
      oldestAgeSec: Math.max(0, ...states.map((state) => state.oldestAgeSec)),
    }
    pace.report(progress)
    if (worked === 0) await rest(idleRestMs, pace.signal)
  }
  return progress
}

export async function readChangeLogs(
  { database, scope }: Workplace,
  groups: readonly SyncGroup[],
): Promise<ChangeLogState[]> {
  return database.transaction(async (tx) => {
    const states: ChangeLogState[] = []
    for (const group of groups) states.push(await database.dialect.changeLog.state(tx, scope, group))
    return states
  })
}

/** One go through everything that is due: what other tables' changes touch, truncations, fresh keys in batches, then what was busy or refused, key by key. */
export async function applyRound(
  place: Workplace,
  group: SyncGroup,
  wideOf = wideColumnsOf(place),
): Promise<{ settled: number; refused: number }> {
  await resolveDependencies(place, group)
  await applyTruncations(place, group)
  const fresh = await applyFresh(place, group, await wideOf(group))
  const retried = await applyOneByOne(place, group, 'retried', batchKeys)
  let passed = 0
  if (fresh.tangled + retried.tangled > 0)
    for (let some = 1; some > 0; passed += some) some = await applyTangled(place, group)
  return { settled: fresh.settled + retried.settled + passed, refused: fresh.refused + retried.refused }
}

/** Which keys a change of another table touches is known from here on; they are copied like any other. */
async function resolveDependencies({ database, scope }: Workplace, group: SyncGroup): Promise<void> {
  if (group.dependencies.length === 0) return
  await database.transaction((tx) => database.dialect.changeLog.resolveDependencies(tx, scope, group))
}

async function applyFresh(place: Workplace, group: SyncGroup, wide: readonly string[]): Promise<Round> {
  const { errors } = place.database.dialect
  const done = { settled: 0, refused: 0, tangled: 0 }
  for (let together = false; ;) {
    try {
      const batch = await applyBatch(place, group, batchKeys, 'fresh', { wide, together })
      done.settled += batch.settled
      done.tangled += batch.held
      if (!batch.isFull) return done
    } catch (error) {
      if (!errors.isBusy(error) && !errors.isRejected(error)) throw error
      if (errors.isUniqueViolation(error) && !together) {
        together = true
        continue
      }
      // One key spoils the batch: find it by going on alone.
      const alone = await applyOneByOne(place, group, 'fresh', batchKeys)
      return {
        settled: done.settled + alone.settled,
        refused: alone.refused,
        tangled: done.tangled + alone.tangled,
      }
    }
  }
}

async function applyOneByOne(
  place: Workplace,
  group: SyncGroup,
  attempts: 'fresh' | 'retried',
  most: number,
): Promise<Round> {
  const { errors } = place.database.dialect
  const until = performance.now() + aloneMs
  let settled = 0
  let refused = 0
  let tangled = 0
  for (let i = 0; i < most && performance.now() < until; i++) {
    let tried: string | undefined
    try {
      const batch = await applyBatch(place, group, 1, attempts, {
        onTaken: (entries) => (tried = entries[0]?.id),
      })
      if (batch.taken === 0) break
      settled += batch.settled
    } catch (error) {
      if (!errors.isBusy(error) && !errors.isRejected(error)) throw error
      await postpone(
        place,
        group,
        attempts,
        tried,
        errors.isBusy(error) ? undefined : errors.describeRejection(error),
      )
      refused += errors.isRejected(error) ? 1 : 0
      tangled += errors.isUniqueViolation(error) ? 1 : 0
    }
  }
  return { settled, refused, tangled }
}

/**
 * Rows that have exchanged their unique values are written together: alone, each of them would meet the other. Whoever is to get what
 * a row has that is not among them stays in the log as it is. A row of many that take over each other's values in a row ends at one end
 * of the log, where there are more of them than fit: so it is tried from both.
 * @returns how many passed
 */
async function applyTangled({ database, scope }: Workplace, group: SyncGroup): Promise<number> {
  const { changeLog, errors } = database.dialect
  let passed = 0
  for (const from of ['first', 'last'] as const)
    try {
      const some = await database.transaction(
        async (tx) => {
          const found = await changeLog.tangled(tx, scope, group, mostTangled, from)
          if (found.length === 0) return 0
          const { entries } = await setAside(tx, database.dialect, group, found)
          if (entries.length === 0) return 0
          const ids = entries.map(({ id }) => id)
          await changeLog.remove(tx, scope, group, ids)
          const busy = await settle(tx, { database, scope }, group, entries, 'wait')
          return entries.length - busy
        },
        { applying: scope.migration },
      )
      passed += some
    } catch (error) {
      // Nothing has changed: somebody holds a row, or has changed one meanwhile. They are tried again when they are due.
      if (!errors.isBusy(error) && !errors.isRejected(error)) throw error
    }
  return passed
}

async function applyBatch(
  { database, scope }: Workplace,
  group: SyncGroup,
  limit: number,
  attempts: 'fresh' | 'retried',
  {
    wide = [],
    together = false,
    onTaken = () => undefined,
  }: {
    /** Columns that may be wide: entries whose rows would make the transaction too heavy are left for the next one. */
    readonly wide?: readonly string[]
    /** Rows may have exchanged unique values. */
    readonly together?: boolean
    readonly onTaken?: (entries: readonly ChangeLogEntry[]) => void
  },
): Promise<Batch> {
  return database.transaction(
    async (tx) => {
      const { changeLog } = database.dialect
      const taken = await changeLog.take(tx, scope, group, limit, attempts)
      onTaken(taken)
      if (taken.length === 0) return { taken: 0, isFull: false, settled: 0, held: 0 }
      const light = await lightKeys(database.dialect, tx, group, keysOf(taken), wide)
      await changeLog.put(tx, scope, group, taken.slice(light))
      const now = taken.slice(0, light)
      const { entries, held } = together
        ? await setAside(tx, database.dialect, group, now)
        : { entries: now, held: [] }
      await changeLog.put(
        tx,
        scope,
        group,
        held.map(({ kind, key }) => ({
          kind,
          key,
          attempts: 1,
          delayMs: refusedDelayMs(1),
          reason: uniqueViolation,
        })),
      )
      // In a batch nobody is waited for; a single key that was busy before waits up to the lock timeout.
      const busy = await settle(
        tx,
        { database, scope },
        group,
        entries,
        attempts === 'fresh' ? 'skip' : 'wait',
      )
      return {
        taken: taken.length,
        isFull: taken.length === limit || light < taken.length,
        settled: entries.length - busy,
        held: held.length,
      }
    },
    { applying: scope.migration },
  )
}

/** Until it is tried alone, nobody knows the constraint's name. */
const uniqueViolation = 'SQLSTATE 23505'

async function setAside(
  tx: Transaction,
  { copy }: Dialect,
  group: SyncGroup,
  found: readonly ChangeLogEntry[],
): Promise<{ entries: readonly ChangeLogEntry[]; held: readonly ChangeLogEntry[] }> {
  const left = new Set(
    (await copy.setAside(tx, group, distinctKeys(found))).map((key) => JSON.stringify(key)),
  )
  const isHeld = ({ key }: ChangeLogEntry): boolean => left.has(JSON.stringify(key))
  return { entries: found.filter((entry) => !isHeld(entry)), held: found.filter(isHeld) }
}

/** Copies what was taken, and puts what has to be looked at again. @returns how many were busy */
async function settle(
  tx: Transaction,
  { database, scope }: Workplace,
  group: SyncGroup,
  entries: readonly ChangeLogEntry[],
  locks: 'skip' | 'wait',
): Promise<number> {
  const { changeLog, copy } = database.dialect
  const result = await copy.copyKeys(tx, scope, group, distinctKeys(entries), locks)
  await changeLog.put(tx, scope, group, [
    ...result.busy.map((key): LogEntryInput => ({ kind: 'copy', key, attempts: 1, delayMs: 20 })),
    ...secondLooks(entries, result.gone, result.chunks),
  ])
  return result.busy.length
}

/**
 * Rule 4: where chunks were running at the look, a second one that begins after they ended. It is the last, unless the same look
 * was the first for a later delete of the same key.
 */
export function secondLooks(
  entries: readonly ChangeLogEntry[],
  gone: readonly Key[],
  chunks: readonly string[],
): LogEntryInput[] {
  if (chunks.length === 0) return []
  const keysOf = (kind: ChangeLogEntry['kind']): Set<string> =>
    new Set(entries.filter((entry) => entry.kind === kind).map((entry) => JSON.stringify(entry.key)))
  const first = keysOf('copy')
  const second = keysOf('look-again')
  return gone
    .filter((key) => first.has(JSON.stringify(key)) || !second.has(JSON.stringify(key)))
    .map((key) => ({ kind: 'look-again', key, lookAfter: chunks }))
}

const keysOf = (entries: readonly ChangeLogEntry[]): Key[] => entries.map(({ key }) => key)

export function distinctKeys(entries: readonly ChangeLogEntry[]): Key[] {
  return [...new Map(entries.map((entry) => [JSON.stringify(entry.key), entry.key])).values()]
}

/** The transaction that tried the key is rolled back; this one only moves the entry back in time, with the reason. */
async function postpone(
  { database, scope }: Workplace,
  group: SyncGroup,
  attempts: 'fresh' | 'retried',
  tried: string | undefined,
  reason: string | undefined,
): Promise<void> {
  const { changeLog } = database.dialect
  await database.transaction(async (tx) => {
    const [entry] = await changeLog.take(tx, scope, group, 1, attempts)
    if (!entry) return
    if (entry.id !== tried) {
      // Another applier has taken the one that failed; this one goes back as it was.
      await changeLog.put(tx, scope, group, [entry])
      return
    }
    // Waiting for somebody says nothing about the row: it must not make a later refusal wait longer.
    const next = reason === undefined ? Math.max(1, entry.attempts) : entry.attempts + 1
    await changeLog.put(tx, scope, group, [
      {
        kind: entry.kind,
        key: entry.key,
        attempts: next,
        delayMs: reason === undefined ? 50 : refusedDelayMs(next),
        ...(reason === undefined ? {} : { reason }),
      },
    ])
  })
}

/** TRUNCATE names no keys: every row of the target is looked at, and goes where the source has none. */
async function applyTruncations(place: Workplace, group: SyncGroup): Promise<void> {
  const { database, scope } = place
  const { changeLog, copy } = database.dialect
  const ids = await database.transaction((tx) => changeLog.truncations(tx, scope, group))
  if (ids.length === 0) return
  for (const link of group.links) {
    let after: Key | undefined
    for (;;) {
      const keys = await database.transaction((tx) => copy.targetKeys(tx, link, after, batchKeys))
      after = keys.at(-1)
      if (after === undefined) break
      await database.transaction((tx) => lookAt(place, tx, group, keys), { applying: scope.migration })
    }
  }
  await database.transaction((tx) => changeLog.remove(tx, scope, group, ids))
}

async function lookAt(
  { database, scope }: Workplace,
  tx: Transaction,
  group: SyncGroup,
  keys: readonly Key[],
): Promise<void> {
  const { changeLog, copy } = database.dialect
  const result = await copy.copyKeys(tx, scope, group, keys, 'skip')
  await changeLog.put(tx, scope, group, [
    ...result.busy.map((key): LogEntryInput => ({ kind: 'copy', key, attempts: 1, delayMs: 20 })),
    ...secondLooks([], result.gone, result.chunks),
  ])
}
