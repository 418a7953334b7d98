import { nextChunkRows } from '../core/chunk-size.ts'
import { stepEnd, wideColumnsOf } from '../copy/step-end.ts'
import { walkRanges, type RangeStep } from '../copy/walk-ranges.ts'
import type { Pace, Workplace } from '../copy/workplace.ts'
import type {
  Comparison,
  Key,
  KeyRange,
  RangeState,
  ResolvedLink,
  SyncGroup,
  Transaction,
} from '../database/index.ts'
import { repair } from './repair.ts'
import { settle } from './settle.ts'

/** Rows of the first comparison, then as many as take `targetMs`: wide rows must not make one statement last for minutes. */
const firstRows = 1_000
/** Beyond this the round trips no longer show. */
const size = { targetChunkMs: 200, maxRows: 100_000 }
/** Keys that one comparison hands on; where more differ, the rest of the range is compared again after these are settled. */
const suspectKeys = 2_000

export interface VerifyProgress {
  readonly compared: number
  readonly mismatched: number
  readonly repaired: number
  readonly explained: number
}

export interface VerifyResult extends VerifyProgress {
  readonly done: boolean
}

const nothing: VerifyProgress = { compared: 0, mismatched: 0, repaired: 0, explained: 0 }

const plus = (a: VerifyProgress, b: VerifyProgress): VerifyProgress => ({
  compared: a.compared + b.compared,
  mismatched: a.mismatched + b.mismatched,
  repaired: a.repaired + b.repaired,
  explained: a.explained + b.explained,
})

interface VerifyOptions {
  readonly repair: boolean
  /** Other groups whose change logs explain a difference. */
  readonly beside?: (group: SyncGroup) => readonly SyncGroup[]
}

/** What the first look at the next rows of a range has found, by link. */
interface Look {
  readonly next: { readonly end: Key | undefined; readonly range: KeyRange }
  readonly found: readonly { readonly link: ResolvedLink; readonly comparison: Comparison }[]
  /** The place and the counts are stored already, because nothing differs. */
  readonly settled: boolean
}

/**
 * One time slice of a verifying lane: compares range after range inside the database, looks twice at what differs, repairs what
 * is confirmed, and keeps the counts with the place they belong to in one transaction.
 */
export async function verifyLane(
  place: Workplace,
  groups: readonly SyncGroup[],
  lane: number,
  pace: Pace<VerifyProgress>,
  options: VerifyOptions,
): Promise<VerifyResult> {
  let progress = nothing
  let rows = firstRows
  const wideColumns = wideColumnsOf(place)
  const isOver = (): boolean => pace.signal.aborted || Date.now() >= pace.until
  const done = await walkRanges(place, groups, 'verify', lane, isOver, async (group, state) => {
    const startedAt = performance.now()
    const look = await lookAt(place, group, state, rows, await wideColumns(group))
    rows = nextChunkRows(
      { askedRows: rows, tookMs: performance.now() - startedAt, full: look.next.end !== undefined },
      size,
    )
    const counts: LinkCounts[] = []
    for (const { link, comparison } of look.found)
      counts.push({
        link: link.link.id,
        counts: await settleRange(place, group, link, look.next.range, comparison, pace.signal, options),
      })
    // A check that was cut short says nothing: the range is looked at again.
    if (!look.settled && pace.signal.aborted) return { cursor: undefined, rows: 0, done: false }
    if (!look.settled)
      await place.database.transaction(async (tx) => {
        await place.database.dialect.ranges.lock(tx, place.scope, group.id, 'verify', state)
        await store(place, tx, group, state, look.next.end, counts)
      })
    progress = plus(progress, sumOf(counts))
    pace.report(progress)
    return stepTo(look.next.end, counts)
  })
  return { ...progress, done }
}

interface LinkCounts {
  readonly link: string
  readonly counts: VerifyProgress
}

const sumOf = (counts: readonly LinkCounts[]): VerifyProgress =>
  counts.map((of) => of.counts).reduce(plus, nothing)

const stepTo = (end: Key | undefined, counts: readonly LinkCounts[]): RangeStep => ({
  cursor: end,
  rows: sumOf(counts).compared,
  done: end === undefined,
})

/** The first look, and where nothing differs the last one: then it is one transaction, whose loss in a crash loses place and counts together. */
async function lookAt(
  { database, scope }: Workplace,
  group: SyncGroup,
  state: RangeState,
  rows: number,
  wide: readonly string[],
): Promise<Look> {
  const { compare, ranges } = database.dialect
  return database.transaction(
    async (tx) => {
      await ranges.lock(tx, scope, group.id, 'verify', state)
      const left = { after: state.cursor ?? state.range.after, upTo: state.range.upTo }
      const { end } = await stepEnd(database.dialect, tx, group, left, rows, wide)
      const range = { after: left.after, upTo: end ?? left.upTo }
      const found: { link: ResolvedLink; comparison: Comparison }[] = []
      for (const link of group.links)
        found.push({ link, comparison: await compare.range(tx, link, range, suspectKeys) })
      const settled = found.every(({ comparison }) => comparison.differences === 0)
      if (settled)
        await store(
          { database, scope },
          tx,
          group,
          state,
          end,
          found.map(({ link, comparison }) => ({
            link: link.link.id,
            counts: { ...nothing, compared: comparison.compared },
          })),
        )
      return { next: { end, range }, found, settled }
    },
    { asynchronousCommit: true },
  )
}

/** The counts of all lanes are one row a link, so it comes last: nobody waits for a comparison. */
async function store(
  { database, scope }: Workplace,
  tx: Transaction,
  group: SyncGroup,
  state: RangeState,
  end: Key | undefined,
  counts: readonly LinkCounts[],
): Promise<void> {
  const { parity, ranges } = database.dialect
  const step = { ...stepTo(end, counts), written: sumOf(counts).repaired }
  await ranges.advance(tx, scope, group.id, 'verify', state.id, step)
  for (const of of counts) await parity.add(tx, scope, of.link, 'full', of.counts)
}

/** Looks again at what differed, and goes on behind the last key that one look hands on until the range is through. */
async function settleRange(
  place: Workplace,
  group: SyncGroup,
  link: ResolvedLink,
  range: KeyRange,
  first: Comparison,
  signal: AbortSignal,
  { repair: repairs, beside = () => [] }: VerifyOptions,
): Promise<VerifyProgress> {
  const { database } = place
  let counts: VerifyProgress = { ...nothing, compared: first.compared }
  // Each round goes on behind the last key that the one before has settled: none is missed, and none is counted twice.
  for (let look = first; ;) {
    const last = look.different.at(-1)
    if (last === undefined) return counts
    const { confirmed, explained } = await settle(place, group, link, look.different, signal, beside(group))
    const repaired = repairs ? await repair(place, group, confirmed) : 0
    counts = plus(counts, { compared: 0, mismatched: confirmed.length, repaired, explained })
    if (look.differences <= look.different.length || signal.aborted) return counts
    const left = { after: last, upTo: range.upTo }
    look = await database.transaction((tx) => database.dialect.compare.range(tx, link, left, suspectKeys))
  }
}
