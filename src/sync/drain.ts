import type { LogEntryInput, SyncGroup, Transaction } from '../database/index.ts'
import { CrossfadeError } from '../errors/index.ts'
import { rest, type Workplace } from '../copy/workplace.ts'
import { assertCaptured } from './capture.ts'
import { applyRound, distinctKeys, mostTangled, secondLooks } from './apply-changes.ts'

/**
 * Copies everything that a change log holds inside the caller's transaction, which has the tables to itself.
 * @throws `CUTOVER.NOT_DRAINED` when something is left: a key that the other side refuses, or one that is not due yet;
 *   `SYNC.NOT_CAPTURED` when an empty log proves nothing.
 */
export async function drainWithin(
  { database, scope }: Workplace,
  tx: Transaction,
  group: SyncGroup,
): Promise<void> {
  const { changeLog, copy } = database.dialect
  while ((await database.dialect.triggers.follow(tx, scope, group)).length > 0);
  await assertCaptured({ database, scope }, tx, [group])
  while ((await changeLog.resolveDependencies(tx, scope, group)) > 0);
  for (const attempts of ['fresh', 'retried'] as const)
    for (;;) {
      const entries = await changeLog.take(tx, scope, group, mostTangled, attempts)
      if (entries.length === 0) break
      const keys = distinctKeys(entries)
      const held = await copy.setAside(tx, group, keys)
      if (held.length > 0) throw notDrained(group, held.length, 'SQLSTATE 23505')
      const { busy, gone, chunks } = await copy.copyKeys(tx, scope, group, keys, 'wait')
      // An applier that read a row before it went may still be about to add it: the second look is not for this transaction.
      await changeLog.put(tx, scope, group, [
        ...busy.map((key): LogEntryInput => ({ kind: 'copy', key, attempts: 1, delayMs: 1000 })),
        ...secondLooks(entries, gone, chunks),
      ])
    }
  const left = await changeLog.state(tx, scope, group)
  if (left.pending > 0) throw notDrained(group, left.pending, left.reason)
}

/**
 * Brings the change log down before a lock is asked for. Returns what is left: under load never quite nothing.
 */
export async function drain(
  place: Workplace,
  group: SyncGroup,
  most: number,
  timeoutMs: number,
  signal: AbortSignal,
): Promise<number> {
  const { database, scope } = place
  const deadline = performance.now() + timeoutMs
  for (;;) {
    await applyRound(place, group)
    const { pending } = await database.transaction((tx) => database.dialect.changeLog.state(tx, scope, group))
    if (pending <= most || performance.now() > deadline || signal.aborted) return pending
    await rest(50, signal)
  }
}

export function notDrained(group: SyncGroup, pending: number, reason: string | undefined): CrossfadeError {
  return new CrossfadeError({
    kind: 'unavailable',
    code: 'CUTOVER.NOT_DRAINED',
    message: `The change log ${group.id} still holds ${pending} keys${reason === undefined ? '' : `; the other side refuses one: ${reason}`}.`,
    mend: mendOf(reason),
    details: { pending, ...(reason === undefined ? {} : { reason }) },
  })
}

function mendOf(reason: string | undefined): string {
  if (reason === undefined) return 'It is tried again by itself when the appliers have caught up.'
  const mend = 'Correct the row or the constraint that it names; the key is copied again by itself.'
  // Where setAside knows no value that a column can hold meanwhile, or another row has what the key is to get.
  return reason.includes('23505')
    ? `${mend} If rows have exchanged their unique values and none of these can be set aside for a moment, UPDATE one of them there to a value that no row has, or make the constraint DEFERRABLE.`
    : mend
}
