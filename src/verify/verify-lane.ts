import { walkRanges } from '../copy/walk-ranges.ts'
import type { Pace, Workplace } from '../copy/workplace.ts'
import type { KeyRange, ResolvedLink, SyncGroup } from '../database/index.ts'
import { repair } from './repair.ts'
import { settle } from './settle.ts'

/** Rows a comparison: large enough for one hash join, small enough to end soon. */
const comparedRows = 20_000
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

/**
 * One time slice of a verifying lane: compares range after range inside the database, looks twice at what differs, repairs what
 * is confirmed, and keeps the counts with the place they belong to in one transaction.
 */
export async function verifyLane(
  place: Workplace,
  groups: readonly SyncGroup[],
  lane: number,
  pace: Pace<VerifyProgress>,
  { repair: repairs }: { readonly repair: boolean },
): Promise<VerifyResult> {
  const { database, scope } = place
  const { copy, parity, ranges } = database.dialect
  let progress = nothing
  const isOver = (): boolean => pace.signal.aborted || Date.now() >= pace.until
  const done = await walkRanges(place, groups, 'verify', lane, isOver, async (group, state) => {
    const left = { after: state.cursor ?? state.range.after, upTo: state.range.upTo }
    const next = await database.transaction((tx) => copy.chunkEnd(tx, group, left, comparedRows), {
      readOnly: true,
    })
    const range = { after: left.after, upTo: next.end ?? left.upTo }
    const results: { link: string; counts: VerifyProgress }[] = []
    for (const link of group.links)
      results.push({
        link: link.link.id,
        counts: await verifyRange(place, group, link, range, repairs, pace.signal),
      })
    // A check that was cut short says nothing: the range is looked at again.
    if (pace.signal.aborted) return { cursor: undefined, rows: 0, done: false }
    const total = results.map((result) => result.counts).reduce(plus, nothing)
    const step = {
      cursor: next.end,
      rows: total.compared,
      written: total.repaired,
      done: next.end === undefined,
    }
    await database.transaction(async (tx) => {
      await ranges.lock(tx, scope, group.id, 'verify', state)
      for (const { link, counts } of results) await parity.add(tx, scope, link, 'full', counts)
      await ranges.advance(tx, scope, group.id, 'verify', state.id, step)
    })
    progress = plus(progress, total)
    pace.report(progress)
    return step
  })
  return { ...progress, done }
}

async function verifyRange(
  place: Workplace,
  group: SyncGroup,
  link: ResolvedLink,
  range: KeyRange,
  repairs: boolean,
  signal: AbortSignal,
): Promise<VerifyProgress> {
  const { database } = place
  let counts = nothing
  // Each round goes on behind the last key that the one before has settled: none is missed, and none is counted twice.
  for (let left = range, round = 0; ; round++) {
    const look = await database.transaction((tx) =>
      database.dialect.compare.range(tx, link, left, suspectKeys),
    )
    if (round === 0) counts = { ...counts, compared: look.compared }
    const last = look.different.at(-1)
    if (last === undefined) break
    const { confirmed, explained } = await settle(place, group, link, look.different, signal)
    const repaired = repairs ? await repair(place, group, confirmed) : 0
    counts = plus(counts, { compared: 0, mismatched: confirmed.length, repaired, explained })
    if (look.differences <= look.different.length || signal.aborted) break
    left = { after: last, upTo: range.upTo }
  }
  return counts
}
