import { rangeCount } from '../core/lanes.ts'
import { sampleBreach, type ParityEvidence } from '../core/gates.ts'
import type { MeasuredLimits } from '../core/measured.ts'
import { counterparts, type Groups } from '../copy/groups.ts'
import type { Workplace } from '../copy/workplace.ts'
import type { ParityCounts, SyncGroup } from '../database/index.ts'
import type { Migration } from '../definition/index.ts'
import { createLagThrottle } from '../backfill/throttle.ts'
import { captureFindings, followPartitions, notCaptured } from '../sync/capture.ts'
import { readChangeLogs } from '../sync/apply-changes.ts'
import { sampleParity } from '../verify/sample.ts'
import { watchApplication } from '../verify/watch-application.ts'
import { verifyLane } from '../verify/verify-lane.ts'
import { readTotals } from './backfill.ts'
import type { Direction } from './contract.ts'
import type { Bodies } from './surroundings.ts'

/** Comparing is cheap reading; two lanes keep it from being anybody's trouble. */
const verifyLanes = 2

export const verifyActivities: Pick<Bodies, 'planVerify' | 'verifySlice' | 'readParity' | 'sampleParity'> = {
  async planVerify({ direction, begun, ...ref }, { enter }) {
    const { place, groups } = await enter(ref)
    const { database, scope } = place
    const { ranges, parity, flags } = database.dialect
    await database.transaction(async (tx) => {
      if (begun) return ranges.release(tx, scope, 'verify', 0)
      await ranges.reset(tx, scope, 'verify')
      for (const group of groups[direction])
        await ranges.plan(tx, scope, group, 'verify', rangeCount(verifyLanes))
      // What was sampled before belongs to a state that is being compared, and repaired, anew.
      for (const source of ['full', 'sample'] as const)
        await parity.reset(tx, scope, source, linkIds(groups[direction]))
      await flags.forgetMeasured(tx, scope)
    })
    const { ranges: planned } = await readTotals(place, 'verify')
    return { lanes: Math.max(1, Math.min(verifyLanes, planned)) }
  },

  async verifySlice({ direction, repair, lane, sliceSec, ...ref }, { enter, signal, report }) {
    const { place, groups } = await enter(ref)
    const { done } = await verifyLane(
      place,
      groups[direction],
      lane,
      { signal, until: Date.now() + sliceSec * 1000, report },
      { repair, beside: (group) => counterparts(groups, group) },
    )
    const { full } = await readCounts(place, groups[direction])
    return { done, counts: { compared: full.compared, mismatched: full.mismatched, repaired: full.repaired } }
  },

  async readParity({ direction, ...ref }, { enter }) {
    const { place, groups } = await enter(ref)
    await assertComparisonsHold(place, groups[direction])
    return readEvidence(place, groups, { direction })
  },

  async sampleParity({ sliceSec, ...ref }, { enter, signal, report }) {
    const { place, migration, groups } = await enter(ref)
    const { lagThreshold } = migration.metrics.alertThresholds
    const throttle = createLagThrottle(place, lagThreshold)
    const direction = await leadingDirection(place)
    const leading = groups[direction]
    await followPartitions(place, leading)
    const isBreached = async (): Promise<string | undefined> => {
      const findings = await place.database.transaction((tx) => captureFindings(place, tx, leading))
      if (findings.length > 0) return `not every change is captured: ${findings.join('; ')}`
      const { sample } = await readEvidence(place, groups, { direction })
      const late = (await readChangeLogs(place, leading)).find((log) => log.oldestAgeSec > lagThreshold)
      if (late)
        return `a change has been waiting for ${late.oldestAgeSec.toFixed(0)} s to reach the other side${late.reason === undefined ? '' : ` (${late.reason})`}`
      return sampleBreach(sample, migration.verify) ?? (await throttle())
    }
    const pace = { signal, until: Date.now() + sliceSec * 1000, report }
    const breach = await firstOf([
      async (ended) => (await sampleParity(place, leading, pace, isBreached, ended)).breach,
      async (ended) =>
        direction === 'forward' // from then on there is no ramp to roll back
          ? watchApplication(place, limitsOf(migration), {
              ...pace,
              signal: AbortSignal.any([signal, ended]),
            })
          : undefined,
    ])
    return { breach, evidence: await readEvidence(place, groups, { direction: 'forward' }) }
  },
}

/** Of several that look at once: the first breach, when all have ended; it ends the others, and so does a failure. */
async function firstOf(
  looks: readonly ((ended: AbortSignal) => Promise<string | undefined>)[],
): Promise<string | undefined> {
  const end = new AbortController()
  const breaches = await Promise.allSettled(
    looks.map(async (look) => {
      try {
        const breach = await look(end.signal)
        if (breach !== undefined) end.abort()
        return breach
      } catch (error) {
        end.abort()
        throw error
      }
    }),
  )
  for (const settled of breaches) if (settled.status === 'rejected') throw settled.reason
  return breaches.map((settled) => (settled.status === 'fulfilled' ? settled.value : undefined)).find(Boolean)
}

/** So much slower in the mean is another user experience, where the definition does not say otherwise. */
const defaultLatencyDeltaMs = 50

const limitsOf = ({ metrics: { alertThresholds }, verify }: Migration): MeasuredLimits => ({
  errorRate: alertThresholds.errorRate,
  latencyDeltaMs: alertThresholds.latencyDeltaMs ?? defaultLatencyDeltaMs,
  alertMismatchRatio: verify.alertMismatchRatio,
})

/** The side that is primary is the one that the other is compared with. */
async function leadingDirection({ database, scope }: Workplace): Promise<'forward' | 'reverse'> {
  const flags = await database.transaction((tx) => database.dialect.flags.read(tx, scope), { readOnly: true })
  return flags?.primary === 'new' ? 'reverse' : 'forward'
}

/**
 * While a change can pass unseen, what was compared before proves nothing: it is forgotten, so that the gate stays shut until
 * everything was compared again.
 * @throws `SYNC.NOT_CAPTURED`
 */
async function assertComparisonsHold(place: Workplace, groups: readonly SyncGroup[]): Promise<void> {
  const { database, scope } = place
  await followPartitions(place, groups)
  const findings = await database.transaction(async (tx) => {
    const found = await captureFindings(place, tx, groups)
    if (found.length > 0) await database.dialect.ranges.reset(tx, scope, 'verify')
    return found
  })
  if (findings.length > 0)
    throw notCaptured(
      findings,
      'Enable it again (`crossfade doctor` prints the statement) and resume: everything is compared again, and what was missed is copied.',
    )
}

const linkIds = (groups: readonly SyncGroup[]): string[] =>
  groups.flatMap((group) => group.links.map((link) => link.link.id))

async function readCounts(
  { database, scope }: Workplace,
  groups: readonly SyncGroup[],
): Promise<{ full: ParityCounts; sample: ParityCounts }> {
  const ids = new Set(linkIds(groups))
  const rows = (await database.transaction((tx) => database.dialect.parity.read(tx, scope))).filter((row) =>
    ids.has(row.link),
  )
  const sum = (source: 'full' | 'sample'): ParityCounts =>
    rows
      .filter((row) => row.source === source)
      .reduce(
        (a, b) => ({
          compared: a.compared + b.compared,
          mismatched: a.mismatched + b.mismatched,
          repaired: a.repaired + b.repaired,
          explained: a.explained + b.explained,
        }),
        { compared: 0, mismatched: 0, repaired: 0, explained: 0 },
      )
  return { full: sum('full'), sample: sum('sample') }
}

async function readEvidence(
  place: Workplace,
  groups: Groups,
  { direction }: Direction,
): Promise<ParityEvidence> {
  const { full, sample } = await readCounts(place, groups[direction])
  const { rangesDone } = await readTotals(place, 'verify')
  const counts = ({ compared, mismatched }: ParityCounts): { compared: number; mismatched: number } => ({
    compared,
    mismatched,
  })
  return { full: counts(full), sample: counts(sample), rangesCompared: rangesDone }
}
