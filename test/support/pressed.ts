import { runLane } from '../../src/backfill/run-lane.ts'
import type { Workplace } from '../../src/copy/workplace.ts'
import type { SyncGroup } from '../../src/database/index.ts'
import { openSession, paceOf, planRanges, type BothSides } from './both-sides.ts'
import { retried } from './retried.ts'

const free = (): Promise<undefined> => Promise.resolve(undefined)

/** Pass after pass of two lanes of small chunks, so that there is a chunk under way all the time. @returns how many passes there were */
export async function keepFilling(
  m: BothSides,
  place: Workplace,
  until: number,
  afterPass: (pass: number) => Promise<void>,
): Promise<number> {
  const settings = {
    ...m.migration.backfill,
    batchSize: 37,
    maxBatchSize: 200,
    rateLimitMs: 0,
    profile: 'fast' as const,
  }
  let passes = 0
  while (Date.now() < until) {
    await retried(async () => {
      await planRanges(place, [m.forward], 'backfill', 3)
      return true
    })
    const lane = (n: number): Promise<void> =>
      retried(async () => (await runLane(place, m.groups.forward, n, settings, free, paceOf())).done)
    await Promise.all([lane(0), lane(1)])
    passes += 1
    await afterPass(passes)
  }
  return passes
}

/** Ends busy sessions of one application after the other. @returns how many */
export async function keepKilling(
  m: BothSides,
  until: number,
  random: () => number,
  { leastPauseSec, pick }: { readonly leastPauseSec: number; readonly pick: () => string },
): Promise<number> {
  let killed = 0
  const session = await openSession(m.test.url, 'killer')
  while (Date.now() < until) {
    const { rowCount } = await session.query(
      `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND application_name = $1 AND state <> 'idle' ORDER BY random() LIMIT 1`,
      [pick()],
    )
    killed += rowCount ?? 0
    await session.query('SELECT pg_sleep($1)', [leastPauseSec + random() * 0.1])
  }
  await session.close()
  return killed
}

/** Empties a change log once the reasons for refusals are gone: what was refused waits longer each time, and need not now. */
export async function drainAtOnce(m: BothSides, group: SyncGroup): Promise<void> {
  await m.sql(`UPDATE _crossfade_m.changes_${group.id} SET due_at = '-infinity'`)
  await m.drain(group).catch(async (error: unknown) => {
    process.stderr.write(
      `torture: left in ${group.id}: ${JSON.stringify((await m.log(group)).slice(0, 5))}\n`,
    )
    throw error
  })
}
