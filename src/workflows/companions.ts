import { CancellationScope, condition, sleep } from '@temporalio/workflow'
import { stateParity } from '../core/gates.ts'
import { record } from '../core/state.ts'
import { activitiesFor } from './activity-options.ts'
import type { MigrationRun } from './run.ts'
import { describeFailure } from './trouble.ts'

/** While lanes copy, people want fresh figures; afterwards long slices keep the history short. */
const backfillSliceSec = 30
const quietSliceSec = 300
/** After failures that follow each other: so long that a database that is away for weeks does not fill the history. */
const pauseAfterFailureMs = [5_000, 30_000, 300_000]
/** A breach that nobody has heeded yet is looked at again after this. */
const pauseAfterBreach = '5 minutes'

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

  constructor(run: MigrationRun) {
    this.#run = run
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
      let failures = 0
      let said: string | undefined
      while (!scope.consideredCancelled)
        try {
          await loop()
          failures = 0
        } catch (error) {
          if (scope.consideredCancelled) return
          if (this.#run.flagWrites.areInTheWay) await this.#run.flagWrites.over()
          const problem = describeFailure(error)
          if (problem !== said)
            record(this.#run.state, Date.now(), `a companion is started again: ${problem}`)
          said = problem
          this.#run.show()
          const pauseMs = pauseAfterFailureMs[Math.min(failures++, pauseAfterFailureMs.length - 1)] ?? 0
          await sleep(pauseMs).catch(() => undefined)
        }
    })
  }

  async #apply(): Promise<void> {
    const { state, ref } = this.#run
    const sliceSec = state.phase === 'backfill' ? backfillSliceSec : quietSliceSec
    const changeLog = await activitiesFor('applying the change log').applyChanges({ ...ref, sliceSec })
    if (this.#run.flagWrites.areInTheWay) await this.#run.flagWrites.over()
    state.changeLog = changeLog
    this.#run.show()
  }

  async #sample(): Promise<void> {
    const { state, ref, migration } = this.#run
    const { breach, evidence } = await activitiesFor('sampling parity').sampleParity({
      ...ref,
      sliceSec: quietSliceSec,
    })
    if (this.#run.flagWrites.areInTheWay) await this.#run.flagWrites.over()
    state.parity = stateParity(evidence, migration.verify)
    if (breach !== undefined && state.breach === undefined) record(state, Date.now(), `breach: ${breach}`)
    state.breach = breach
    this.#run.show()
    if (breach !== undefined)
      await condition(() => state.breach === undefined, pauseAfterBreach, {
        summary: 'looks at a breach again',
      })
  }
}
