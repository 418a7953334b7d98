import { createBackfillThrottle } from '../backfill/throttle.ts'
import { runFurtherLane } from '../backfill/run-further-lane.ts'
import { runLane } from '../backfill/run-lane.ts'
import type { Workplace } from '../copy/workplace.ts'
import type { Database, RangePurpose, RangeTotals } from '../database/index.ts'
import { progressPercent, type BackfillCounts } from '../core/progress.ts'
import { laneCount, rangeCount, steadyLanes } from '../core/lanes.ts'
import { workerMetrics } from '../telemetry/metrics.ts'
import type { Bodies } from './surroundings.ts'

export const backfillActivities: Pick<Bodies, 'planBackfill' | 'backfillSlice'> = {
  async planBackfill({ settings, ...ref }, { enter, measure }) {
    const { place, migration, groups } = await enter(ref)
    const { database, scope } = place
    const { ranges } = database.dialect
    const backfill = { ...migration.backfill, ...settings }
    const counts = await database.transaction(async (tx) => {
      if ((await ranges.totals(tx, scope, 'backfill')).ranges === 0)
        for (const group of groups.forward)
          await ranges.plan(
            tx,
            scope,
            group,
            'backfill',
            rangeCount(backfill.maxConcurrency),
            migration.backfill.order,
          )
      else await ranges.release(tx, scope, 'backfill', 0)
      return toCounts(await ranges.totals(tx, scope, 'backfill'))
    })
    measure(migration, workerMetrics.backfillProgress, progressPercent(counts) / 100)
    return { ...counts, lanes: laneCount(backfill, counts.rangesTotal) }
  },

  async backfillSlice({ settings, lane, sliceSec, ...ref }, { enter, signal, report, measure, place: open }) {
    const { place, migration, groups } = await enter(ref)
    const backfill = { ...migration.backfill, ...settings }
    const tables = groups.forward.flatMap(({ links }) =>
      links.flatMap(({ link }) => [...link.parts.map(({ table }) => table), link.target.table]),
    )
    const openStandby = async (database: string): Promise<Database> =>
      (await open({ name: ref.name, database })).database
    const throttle = createBackfillThrottle(place, backfill, tables, openStandby)
    const until = Date.now() + sliceSec * 1000
    const { done, rows, refused, ratePerSec, throttledBy } = await (
      lane < steadyLanes ? runLane : runFurtherLane
    )(place, groups.forward, lane, backfill, throttle, { signal, until, report })
    const counts = toCounts(await readTotals(place, 'backfill'))
    measure(migration, workerMetrics.backfillProgress, progressPercent(counts) / 100)
    return { done, rows, refused, ratePerSec, throttledBy, counts }
  },
}

export async function readTotals(
  { database, scope }: Workplace,
  purpose: RangePurpose,
): Promise<RangeTotals> {
  return database.transaction((tx) => database.dialect.ranges.totals(tx, scope, purpose))
}

function toCounts(totals: RangeTotals): BackfillCounts {
  return {
    rowsDone: totals.rowsDone,
    rowsEstimated: totals.rowsEstimated,
    rangesDone: totals.rangesDone,
    rangesTotal: totals.ranges,
  }
}
