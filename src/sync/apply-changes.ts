import type {
  ChangeLogEntry,
  ChangeLogState,
  Key,
  LogEntryInput,
  SyncGroup,
  Transaction,
} from '../database/index.ts'
import { rest, type Pace, type Workplace } from '../copy/workplace.ts'

/** Keys a transaction: their target rows are locked until it commits, a few milliseconds. */
const batchKeys = 200

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
  readonly settled: number
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
  while (!pace.signal.aborted && Date.now() < pace.until) {
    let worked = 0
    for (const group of groups) {
      const round = await applyRound(place, group)
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
): Promise<{ settled: number; refused: number }> {
  await resolveDependencies(place, group)
  await applyTruncations(place, group)
  const fresh = await applyFresh(place, group)
  const retried = await applyOneByOne(place, group, 'retried', batchKeys)
  return { settled: fresh.settled + retried.settled, refused: fresh.refused + retried.refused }
}

/** Which keys a change of another table touches is known from here on; they are copied like any other. */
async function resolveDependencies({ database, scope }: Workplace, group: SyncGroup): Promise<void> {
  if (group.dependencies.length === 0) return
  await database.transaction((tx) => database.dialect.changeLog.resolveDependencies(tx, scope, group))
}

async function applyFresh(place: Workplace, group: SyncGroup): Promise<{ settled: number; refused: number }> {
  const { errors } = place.database.dialect
  let settled = 0
  for (;;) {
    try {
      const batch = await applyBatch(place, group, batchKeys, 'fresh')
      settled += batch.settled
      if (batch.taken < batchKeys) return { settled, refused: 0 }
    } catch (error) {
      if (!errors.isBusy(error) && !errors.isRejected(error)) throw error
      // One key spoils the batch: find it by going on alone.
      const alone = await applyOneByOne(place, group, 'fresh', batchKeys)
      return { settled: settled + alone.settled, refused: alone.refused }
    }
  }
}

async function applyOneByOne(
  place: Workplace,
  group: SyncGroup,
  attempts: 'fresh' | 'retried',
  most: number,
): Promise<{ settled: number; refused: number }> {
  const { errors } = place.database.dialect
  let settled = 0
  let refused = 0
  for (let i = 0; i < most; i++) {
    let tried: string | undefined
    try {
      const batch = await applyBatch(place, group, 1, attempts, (entries) => (tried = entries[0]?.id))
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
    }
  }
  return { settled, refused }
}

async function applyBatch(
  { database, scope }: Workplace,
  group: SyncGroup,
  limit: number,
  attempts: 'fresh' | 'retried',
  onTaken: (entries: readonly ChangeLogEntry[]) => void = () => undefined,
): Promise<Batch> {
  return database.transaction(
    async (tx) => {
      const { changeLog, copy } = database.dialect
      const entries = await changeLog.take(tx, scope, group, limit, attempts)
      onTaken(entries)
      if (entries.length === 0) return { taken: 0, settled: 0 }
      // In a batch nobody is waited for; a single key that was busy before waits up to the lock timeout.
      const result = await copy.copyKeys(
        tx,
        scope,
        group,
        distinctKeys(entries),
        attempts === 'fresh' ? 'skip' : 'wait',
      )
      const again = [
        ...result.busy.map((key): LogEntryInput => ({ kind: 'copy', key, attempts: 1, delayMs: 20 })),
        ...secondLooks(entries, result.gone, result.chunks),
      ]
      await changeLog.put(tx, scope, group, again)
      return { taken: entries.length, settled: entries.length - result.busy.length }
    },
    { applying: scope.migration },
  )
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
    const next = entry.attempts + 1
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
