import { tablesOf, type Groups } from '../copy/groups.ts'
import type { Workplace } from '../copy/workplace.ts'
import type { Migration } from '../definition/index.ts'
import { isCrossfadeError } from '../errors/index.ts'
import { drain } from '../sync/drain.ts'
import { completionSteps } from './expand-steps.ts'
import { runStep, type DdlWatch, type StepOutcome } from './run-step.ts'

/** So often are the change logs emptied for a key that does not hold yet, each time for at most so long. */
const catchUps = 3
const catchUpMs = 10_000

/**
 * Builds what new tables lack after the backfill. A row whose parent still waits in the change log is no orphan: its foreign key is
 * proven again once the log has been emptied.
 */
export async function completeTargets(
  place: Workplace,
  migration: Migration,
  groups: Groups,
  watch: DdlWatch,
): Promise<StepOutcome[]> {
  const outcomes: StepOutcome[] = []
  for (const step of completionSteps(place.database.dialect, migration))
    for (let left = catchUps; ; left--)
      try {
        outcomes.push(await runStep(place, step, tablesOf(migration).new, watch))
        break
      } catch (error) {
        if (!isCrossfadeError(error) || error.code !== 'DATABASE.ROW_REJECTED' || left === 0) throw error
        for (const group of groups.forward) await drain(place, group, 0, catchUpMs, watch.signal)
      }
  return outcomes
}
