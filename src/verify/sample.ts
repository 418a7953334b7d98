import { rest, type Pace, type Workplace } from '../copy/workplace.ts'
import type { ParityCounts, ResolvedLink, SyncGroup } from '../database/index.ts'
import { repair } from './repair.ts'
import { settle } from './settle.ts'

const sampleRows = 300
const restBetweenSamplesMs = 1000

/** Compares pages drawn at random from both sides, again and again, and adds the counts to the sampled parity. */
export async function sampleParity(
  place: Workplace,
  groups: readonly SyncGroup[],
  pace: Pace<ParityCounts>,
  isBreached: () => Promise<string | undefined>,
  /** Fires where the breach is known from elsewhere: what is being compared then counts no more. */
  ended: AbortSignal,
): Promise<{ readonly breach: string | undefined }> {
  const { database, scope } = place
  const signal = AbortSignal.any([pace.signal, ended])
  for (let round = 0; !signal.aborted && Date.now() < pace.until; round++) {
    for (const group of groups)
      for (const link of group.links) {
        const counts = await sampleOnce(place, group, link, round % 2 === 0 ? 'source' : 'target', signal)
        if (ended.aborted) return { breach: undefined }
        await database.transaction((tx) =>
          database.dialect.parity.add(tx, scope, link.link.id, 'sample', counts),
        )
        pace.report(counts)
      }
    const breach = await isBreached()
    if (breach !== undefined) return { breach }
    await rest(restBetweenSamplesMs, signal)
  }
  return { breach: undefined }
}

async function sampleOnce(
  place: Workplace,
  group: SyncGroup,
  link: ResolvedLink,
  side: 'source' | 'target',
  signal: AbortSignal,
): Promise<ParityCounts> {
  const { database } = place
  const look = await database.transaction(async (tx) => {
    const keys = await database.dialect.compare.sampleKeys(tx, link, side, sampleRows)
    return database.dialect.compare.keys(tx, link, keys)
  })
  const { confirmed, explained } = await settle(place, group, link, look.different, signal)
  const repaired = await repair(place, group, confirmed)
  return { compared: look.compared, mismatched: confirmed.length, repaired, explained }
}
