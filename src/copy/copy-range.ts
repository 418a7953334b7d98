import { halvedRows } from '../core/chunk-size.ts'
import type { Key, KeyRange, RangeState, SyncGroup, Transaction } from '../database/index.ts'
import { stepEnd } from './step-end.ts'
import { jittered, rest, type Workplace } from './workplace.ts'

/** One chunk, committed: rows, checkpoint and fence in one transaction. */
export interface Chunk {
  readonly cursor: Key | undefined
  /** Source rows that were passed over. */
  readonly rows: number
  /** Target rows that were added. */
  readonly written: number
  /** The range ends here. */
  readonly done: boolean
  readonly askedRows: number
  readonly tookMs: number
  /** One row that the other side would not take; its key is in the change log with the reason. */
  readonly refused: boolean
}

/** So often is a chunk of one row tried before its key goes into the change log: somebody holds that row for long. */
const busyAttempts = 5

/**
 * Copies the next `rows` rows of a range (design, rule 4), or fewer where `wide` columns make them heavy. What cannot be copied never stops the rest: a chunk that clashes or is
 * refused is cut in halves until the one row is found, whose key goes into the change log for the applier.
 * @throws `BACKFILL.FENCED` when another attempt has taken over; whatever the driver throws when the database is away.
 */
export async function copyChunk(
  place: Workplace,
  group: SyncGroup,
  state: RangeState,
  rows: number,
  signal: AbortSignal,
  wide: readonly string[] = [],
): Promise<Chunk> {
  const { errors } = place.database.dialect
  let size = rows
  let conflicts: 'fail' | 'ignore' = 'fail'
  for (let busy = 0; ;) {
    const startedAt = performance.now()
    try {
      const chunk =
        (await place.database.transaction(
          (tx) => writeChunk(place, tx, group, state, size, conflicts, wide),
          {
            applying: place.scope.migration,
            asynchronousCommit: true,
          },
        )) ?? (await planAnew(place, group))
      return { ...chunk, askedRows: size, tookMs: performance.now() - startedAt, refused: false }
    } catch (error) {
      if (errors.isUniqueViolation(error) && conflicts === 'fail') conflicts = 'ignore'
      else if (errors.isBusy(error)) {
        busy += 1
        if (size === 1 && busy >= busyAttempts)
          return leaveKey(place, group, state, errors.describeRejection(error))
        size = halvedRows(size)
        await rest(jittered(20 * busy), signal)
      } else if (errors.isRejected(error)) {
        if (size === 1) return leaveKey(place, group, state, errors.describeRejection(error))
        size = halvedRows(size)
      } else throw error
    }
  }
}

type Copied = Pick<Chunk, 'cursor' | 'rows' | 'written' | 'done'>

/** @returns undefined where the range stands no more. */
async function writeChunk(
  { database, scope }: Workplace,
  tx: Transaction,
  group: SyncGroup,
  state: RangeState,
  rows: number,
  conflicts: 'fail' | 'ignore',
  wide: readonly string[],
): Promise<Copied | undefined> {
  const { copy, ranges } = database.dialect
  await ranges.lock(tx, scope, group.id, 'backfill', state)
  await ranges.markChunkRunning(tx, scope) // before the first look at the source
  if (!(await ranges.stands(tx, group, state.range))) return undefined
  const left = leftOf(state)
  const step = await stepEnd(database.dialect, tx, group, left, rows, wide)
  const range = { ...left, upTo: step.end ?? left.upTo }
  let written = 0
  for (const link of group.links) written += await copy.insertMissing(tx, link, range, conflicts)
  const passed = step.rows ?? (await copy.countRows(tx, group, range))
  const advance = { cursor: step.end, rows: passed, written, done: step.end === undefined }
  await ranges.advance(tx, scope, group.id, 'backfill', state.id, advance)
  return advance
}

const leftOf = ({ range, cursor }: RangeState): KeyRange => ({ ...range, after: cursor ?? range.after })

/** This range is over; what lies in the table's new file is other ranges'. */
async function planAnew({ database, scope }: Workplace, group: SyncGroup): Promise<Copied> {
  await database.transaction((tx) => database.dialect.ranges.planAnew(tx, scope, group, 'backfill'), {
    // A chunk of another lane ends soon.
    lockTimeoutMs: 10_000,
  })
  return { cursor: undefined, rows: 0, written: 0, done: true }
}

/** Passes over one row and leaves its key, with the reason, in the same transaction. */
async function leaveKey(
  place: Workplace,
  group: SyncGroup,
  state: RangeState,
  reason: string,
): Promise<Chunk> {
  const { database, scope } = place
  const { copy, ranges, changeLog } = database.dialect
  const startedAt = performance.now()
  const left = await database.transaction(async (tx) => {
    await ranges.lock(tx, scope, group.id, 'backfill', state)
    if (!(await ranges.stands(tx, group, state.range))) return undefined
    const range = leftOf(state)
    const end = await copy.chunkEnd(tx, group, range, 1)
    // More than one only where somebody has added rows meanwhile, which does no harm.
    const keys = await copy.keysOf(tx, group, { ...range, upTo: end ?? range.upTo })
    await changeLog.put(
      tx,
      scope,
      group,
      keys.map((key) => ({ kind: 'copy', key, attempts: 1, delayMs: 1000, reason })),
    )
    const step = { cursor: end, rows: keys.length, written: 0, done: end === undefined }
    await ranges.advance(tx, scope, group.id, 'backfill', state.id, step)
    return step
  })
  const refused = left !== undefined
  const step = left ?? (await planAnew(place, group))
  return { ...step, askedRows: 1, tookMs: performance.now() - startedAt, refused }
}
