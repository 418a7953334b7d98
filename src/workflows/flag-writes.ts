import { CancellationScope, condition } from '@temporalio/workflow'

/**
 * Flags are written by local activities. A query that is answered while one runs lets its result be told one workflow task late, together with
 * what has come meanwhile, and in its order; a replay tells it at once (temporalio/sdk-rust, prepare_complete_resp, in SDK 1.24).
 * Either way the workflow must ask for the same: so what follows from another activity's end waits until what follows from the flags is done.
 */
export class FlagWrites {
  #underWay = 0

  get areUnderWay(): boolean {
    return this.#underWay > 0
  }

  async during<T>(write: () => Promise<T>): Promise<T> {
    this.#underWay += 1
    try {
      return await write()
    } finally {
      this.#underWay -= 1
    }
  }

  /** Call it only while they are under way: a wait for nothing, too, would change the order of what is asked for. */
  async over(): Promise<void> {
    await CancellationScope.nonCancellable(() => condition(() => !this.areUnderWay))
  }
}
