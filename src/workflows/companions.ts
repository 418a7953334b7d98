import { CancellationScope, sleep } from '@temporalio/workflow'
import { stateParity } from '../core/gates.ts'
import { record } from '../core/state.ts'
import { activitiesFor } from './activity-options.ts'
import type { MigrationRun } from './run.ts'

/** While lanes copy, people want fresh figures; afterwards long slices keep the history short. */
const backfillSliceSec = 30
const quietSliceSec = 300
const pauseAfterFailure = '5 seconds'

/**
 * What goes on beside the phases: appliers that empty the change logs, and sampling that watches parity. Neither pause nor abort
 * stops them, because the sides must stay in step whatever the main line does.
 */
export class Companions {
  readonly #run: MigrationRun
  readonly #home = CancellationScope.current()
  #scope: CancellationScope | undefined
  #applying: Promise<void> | undefined
  #sampling: Promise<void> | undefined
  #breach: string | undefined

  constructor(run: MigrationRun) {
    this.#run = run
  }

  /** Why reads must go back, as long as nobody has taken notice. */
  get breach(): string | undefined {
    return this.#breach
  }

  takeBreach(): string | undefined {
    const breach = this.#breach
    this.#breach = undefined
    return breach
  }

  /** Starts what ran before the workflow continued as new. */
  resume(): void {
    const { applying, sampling } = this.#run.state.companions
    if (applying) this.startApplying()
    if (sampling) this.startSampling()
  }

  startApplying(): void {
    this.#run.state.companions = { ...this.#run.state.companions, applying: true }
    this.#applying ??= this.#beside(() => this.#apply())
  }

  startSampling(): void {
    this.#run.state.companions = { ...this.#run.state.companions, sampling: true }
    this.#sampling ??= this.#beside(() => this.#sample())
  }

  async stop(): Promise<void> {
    this.#scope?.cancel()
    await Promise.all([this.#applying, this.#sampling])
    this.#scope = this.#applying = this.#sampling = undefined
    this.#run.state.companions = { applying: false, sampling: false }
  }

  #beside(loop: () => Promise<void>): Promise<void> {
    this.#scope ??= new CancellationScope({ cancellable: true, parent: this.#home })
    const scope = this.#scope
    return scope.run(async () => {
      while (!scope.consideredCancelled)
        try {
          await loop()
        } catch (error) {
          if (scope.consideredCancelled) return
          record(
            this.#run.state,
            Date.now(),
            `a companion is started again: ${error instanceof Error ? (error.cause instanceof Error ? error.cause.message : error.message) : 'unknown error'}`,
          )
          await sleep(pauseAfterFailure).catch(() => undefined)
        }
    })
  }

  async #apply(): Promise<void> {
    const { state, ref } = this.#run
    const sliceSec = state.phase === 'backfill' ? backfillSliceSec : quietSliceSec
    state.changeLog = await activitiesFor('applying the change log').applyChanges({ ...ref, sliceSec })
    this.#run.show()
  }

  async #sample(): Promise<void> {
    const { state, ref, migration } = this.#run
    const { breach, evidence } = await activitiesFor('sampling parity').sampleParity({
      ...ref,
      sliceSec: quietSliceSec,
    })
    state.parity = stateParity(evidence, migration.verify)
    if (breach !== undefined) {
      this.#breach = breach
      record(state, Date.now(), `breach: ${breach}`)
    }
    this.#run.show()
    if (breach !== undefined) await sleep(pauseAfterFailure)
  }
}
