import { record, type MigrationState } from '../core/state.ts'
import type { MigrationRun } from './run.ts'

/** The first slice is short, so that figures show soon; then longer ones lose less between them and keep the history short. */
const sliceSec = (slices: number): number => Math.min(60, 10 * 3 ** Math.min(slices, 2))

/**
 * Runs one kind of slice in `count()` lanes at once until every lane says that nothing is left. When somebody configures, all
 * slices end and the lanes are counted anew; when the history is long, the workflow continues as new between two slices.
 */
async function runLanes(
  run: MigrationRun,
  prepare: () => Promise<number>,
  slice: (lane: number, lanes: number, sliceSec: number) => Promise<boolean>,
): Promise<void> {
  for (;;) {
    const lanes = await prepare()
    const before = run.configurations
    const finished = await Promise.all(
      Array.from({ length: lanes }, async (_, lane) => {
        // One slice at least, so that each history gets somewhere, however soon it counts as long.
        let slices = 0
        do if (await slice(lane, lanes, sliceSec(slices++))) return true
        while (run.configurations === before && !run.shouldYield)
        return false
      }),
    )
    if (finished.every(Boolean)) return
    if (run.shouldYield) await run.continueAsNew()
  }
}

export async function runBackfillLanes(run: MigrationRun): Promise<void> {
  const { state, ref } = run
  await runLanes(
    run,
    async () => {
      const { settings } = state
      const { lanes, ...counts } = await run.work('planning the lanes', (act) =>
        act.planBackfill({ ...ref, settings }),
      )
      state.backfill = { ...state.backfill, ...counts }
      return lanes
    },
    async (lane, lanes, sliceSec) => {
      const slice = await run.slice(`copying, lane ${lane + 1} of ${lanes}`, (act) =>
        act.backfillSlice({ ...ref, lane, lanes, sliceSec, settings: state.settings }),
      )
      if (!slice) return false
      state.backfill = {
        ...slice.counts,
        ratePerSec: slice.done ? state.backfill.ratePerSec : slice.ratePerSec * lanes,
        throttledBy: slice.throttledBy,
        refused: state.backfill.refused + slice.refused,
      }
      run.show()
      return slice.done
    },
  )
  record(state, Date.now(), `backfill passed over ${state.backfill.rowsDone} rows`)
}

/** One full comparison. Its counts are the database's own, so that a lost slice loses none of them. */
export async function runVerifyLanes(
  run: MigrationRun,
  direction: 'forward' | 'reverse',
  { repair }: { repair: boolean },
): Promise<MigrationState['verify']> {
  const { state, ref } = run
  const place = `comparing ${direction}`
  await runLanes(
    run,
    async () => {
      const begun = run.hasPassed(place)
      const { lanes } = await run.work('planning the comparison', (act) =>
        act.planVerify({ ...ref, direction, begun }),
      )
      if (!begun) state.verify = { pass: state.verify.pass + 1, compared: 0, mismatched: 0, repaired: 0 }
      run.pass(place)
      return lanes
    },
    async (lane, lanes, sliceSec) => {
      const slice = await run.slice(
        `comparing ${direction === 'forward' ? 'both sides' : 'the way back'}, lane ${lane + 1} of ${lanes}`,
        (act) => act.verifySlice({ ...ref, direction, repair, lane, lanes, sliceSec }),
      )
      if (!slice) return false
      state.verify = { pass: state.verify.pass, ...slice.counts }
      run.show()
      return slice.done
    },
  )
  run.forget(place)
  return state.verify
}
