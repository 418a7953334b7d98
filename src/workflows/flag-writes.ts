import { CancellationScope, condition, patched } from '@temporalio/workflow'
import type { Migration } from '../definition/index.ts'
import { flagActivitiesFor, localFlagActivities, type FlagActivities } from './activity-options.ts'

/**
 * How a run writes flags. A run that 0.1.0 opened does it by local activities, to its end. A query that is answered while one runs lets its
 * result be told one workflow task late, together with what has come meanwhile, and in its order; a replay tells it at once
 * (temporalio/sdk-rust, prepare_complete_resp, in SDK 1.24). So in such a run what follows from another activity's end waits until what
 * follows from the flags is done; what a message brings in that very task is not met by this. Ordinary activities have no such fault.
 */
export class FlagWrites {
  /** Asked once, where a run opens: after a local activity, the answer itself would stand in another place of the history. */
  readonly areLocal = !patched('flags by ordinary activities')
  #underWay = 0

  async write<T>(summary: string, fn: (act: FlagActivities) => Promise<T>): Promise<T> {
    if (!this.areLocal) return fn(flagActivitiesFor(summary))
    this.#underWay += 1
    try {
      return await fn(localFlagActivities)
    } finally {
      this.#underWay -= 1
    }
  }

  /** Whether something has to wait until they are {@link over}. */
  get areInTheWay(): boolean {
    return this.#underWay > 0
  }

  /** Call it only while they are in the way: a wait for nothing, too, would change the order of what is asked for. */
  async over(): Promise<void> {
    await CancellationScope.nonCancellable(() => condition(() => !this.areInTheWay))
  }
}

/** What is set; the rest stays. */
export interface FlagChange {
  readonly readPercent?: number
  readonly writePercent?: number
  readonly backfillActive?: number
}

export const byKey = (change: FlagChange, { flags }: Migration): Record<string, number> => ({
  ...(change.readPercent === undefined ? {} : { [flags.readEnabled]: change.readPercent }),
  ...(change.writePercent === undefined ? {} : { [flags.writeEnabled]: change.writePercent }),
  ...(change.backfillActive === undefined ? {} : { [flags.backfillActive]: change.backfillActive }),
})

export const summaryOf = (percent: Readonly<Record<string, number>>): string =>
  Object.entries(percent)
    .map(([key, value]) => `${key} ${value} %`)
    .join(', ')
