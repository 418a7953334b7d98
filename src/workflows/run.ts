import {
  ApplicationFailure,
  ActivityFailure,
  CancellationScope,
  ContinueAsNew,
  TimeoutFailure,
  allHandlersFinished,
  condition,
  isCancellation,
  makeContinueAsNewFunc,
  setCurrentDetails,
  upsertSearchAttributes,
  workflowInfo,
} from '@temporalio/workflow'
import type { PersonGate } from '../core/gates.ts'
import { renderDetails } from '../core/details.ts'
import { formatDuration } from '../core/durations.ts'
import type { Outcome, Phase, Side } from '../core/phases.ts'
import { createState, record, waitingFor, type MigrationState, type Trouble } from '../core/state.ts'
import type { Activities, MigrationRef } from '../activities/contract.ts'
import type { Migration } from '../definition/index.ts'
import { activitiesFor, flagActivities } from './activity-options.ts'
import { Companions } from './companions.ts'
import { wireMessages } from './handlers.ts'
import type { MigrationInput, MigrationResult } from './migration.ts'
import { crossfadeDatabase, crossfadePhase, crossfadeWaitingFor } from './search-attributes.ts'

/** A timer this long stands for waiting on a person: the Timeline shows it as an open bar. Armed again when it ends. */
const gateTimer = '30 days'

/** What the phases work with: their state, and the few ways of waiting that survive pause, abort, configure and long histories. */
export class MigrationRun {
  readonly migration: Migration
  readonly fingerprint: string
  readonly ref: MigrationRef
  readonly state: MigrationState
  readonly #input: MigrationInput
  readonly #companions: Companions
  /** Grows with every pause and every configuration: what runs is stopped and started again with what holds now. */
  #interruptions = 0
  #working = 0
  #workingSince = 0
  #shown = { phase: '', waiting: '' }

  constructor(input: MigrationInput) {
    this.#input = input
    this.migration = input.migration
    this.fingerprint = input.fingerprint
    const { name, database, cutover } = input.migration
    this.ref = { name, database, fingerprint: input.fingerprint }
    this.state = input.carried ?? createState(name, database, Date.now(), cutover.ramp.length)
    this.#companions = new Companions(this)
  }

  /** Whether a lossless way back exists after the new side became primary. */
  get hasWayBack(): boolean {
    return this.migration.mappings.every((mapping) => mapping.reverse !== false)
  }

  /** Changes whenever running work should stop and start again. */
  get interruptions(): number {
    return this.#interruptions
  }

  interrupt(): void {
    this.#interruptions += 1
  }

  /**
   * Runs the story until it ends, an abort stops it, or the history is long enough. Abort returns traffic before it stops
   * anything else.
   */
  async live(
    story: () => Promise<'done' | 'planned'>,
    goBack: (run: MigrationRun) => Promise<void>,
  ): Promise<Outcome> {
    wireMessages(this)
    this.#companions.resume()
    this.show()
    const life = new CancellationScope()
    const ended: Promise<{ outcome: 'done' | 'planned' } | { error: unknown }> = life.run(story).then(
      (outcome) => ({ outcome }),
      (error: unknown) => ({ error }),
    )
    const first = await Promise.race([ended, condition(() => this.state.abort !== undefined)])
    if (first !== undefined && 'outcome' in first) return this.#end(first.outcome)
    if (first !== undefined && this.state.abort === undefined) throw first.error

    await this.#returnTraffic()
    life.cancel()
    await ended
    await this.#returnTraffic() // a ramp step that was under way may have landed after the first
    await goBack(this)
    return this.#end('aborted')
  }

  async #returnTraffic(): Promise<void> {
    if (!this.state.canGoBack) return
    const { primary, left } = await this.unstoppable('returning traffic', () =>
      flagActivities.returnTraffic(this.ref),
    )
    this.state.readPercent = 0
    this.state.primary = primary
    if (left > 0)
      record(
        this.state,
        Date.now(),
        `traffic is on the ${primary} side; ${left} keys of the new side are still being copied back`,
      )
  }

  async #end(outcome: Outcome): Promise<Outcome> {
    await this.#companions.stop()
    await condition(allHandlersFinished)
    this.state.outcome = outcome
    this.state.activity = outcome
    record(this.state, Date.now(), outcome)
    this.show()
    return outcome
  }

  /** Runs a phase unless it is behind us. A phase that returns a reason had nothing to do. */
  async phase(name: Phase, run: (run: MigrationRun) => Promise<string | void>): Promise<void> {
    const { state } = this
    if (state.finishedPhases.some((finished) => finished.name === name)) return
    if (state.phase !== name) {
      state.phase = name
      state.phaseStartedAt = Date.now()
    }
    this.show()
    const skipped = await run(this)
    const seconds = Math.round((Date.now() - state.phaseStartedAt) / 100) / 10
    state.finishedPhases.push({ name, seconds, ...(typeof skipped === 'string' ? { skipped } : {}) })
    record(
      state,
      Date.now(),
      `${name} ${typeof skipped === 'string' ? `had nothing to do: ${skipped}` : `finished after ${formatDuration(seconds * 1000)}`}`,
    )
    this.show()
  }

  hasPassed(place: string): boolean {
    return this.state.passed.includes(place)
  }

  pass(place: string): void {
    if (!this.hasPassed(place)) this.state.passed.push(place)
  }

  forget(place: string): void {
    this.state.passed = this.state.passed.filter((other) => other !== place)
  }

  /** Work that must not be repeated when the phase is entered again. Undefined where it was done before. */
  async once<T>(place: string, label: string, fn: (act: Activities) => Promise<T>): Promise<T | undefined> {
    if (this.hasPassed(place)) return undefined
    const result = await this.work(label, fn)
    this.pass(place)
    return result
  }

  /**
   * Runs activities until they are through. Pause and configure stop them and start them again; what a retry cannot mend waits for
   * a person; a lost worker is simply replaced.
   */
  async work<T>(label: string, fn: (act: Activities) => Promise<T>): Promise<T> {
    for (;;) {
      await this.#untilResumed()
      this.#heedMaxRuntime()
      this.state.activity = label
      this.show()
      const scope = new CancellationScope()
      this.#beginWork()
      try {
        return await scope.run(async () => {
          const before = this.#interruptions
          void condition(() => this.#interruptions !== before).then(
            () => scope.cancel(),
            () => undefined,
          )
          return await fn(activitiesFor(label))
        })
      } catch (error) {
        if (CancellationScope.current().consideredCancelled) throw error
        if (isCancellation(error) || isLostWorker(error)) continue
        await this.needPerson(toTrouble(error))
      } finally {
        this.#endWork()
        scope.cancel() // the condition above waits no longer
        this.show()
      }
    }
  }

  /** Work that neither pause nor abort stops. */
  async unstoppable<T>(label: string, fn: (act: Activities) => Promise<T>): Promise<T> {
    this.state.activity = label
    this.show()
    return CancellationScope.nonCancellable(() => fn(activitiesFor(label)))
  }

  /** Waits on a durable timer. Returns why it ended early, or undefined when the time is over. */
  async hold(label: string, ms: number, { heedBreach = true } = {}): Promise<string | undefined> {
    const { state } = this
    if (state.hold?.label !== label) state.hold = { label, until: Date.now() + ms }
    const { until } = state.hold
    this.show()
    const breached = (): boolean => heedBreach && this.#companions.breach !== undefined
    while (Date.now() < until && !breached()) {
      await this.#continueAsNewIfLong()
      await condition(() => breached() || this.#isLong(), until - Date.now(), { summary: label })
    }
    state.hold = undefined
    await this.#untilResumed()
    if (!breached()) return undefined
    return this.#companions.takeBreach()
  }

  /** Waits for the approval of a gate. It counts only if it arrived while this gate was open. */
  async personGate(gate: PersonGate, why: string, token?: string): Promise<void> {
    const { state } = this
    if (this.hasPassed(`gate ${gate}`)) return
    if (!this.migration.safety.requireApproval) {
      record(state, Date.now(), `gate ${gate} needs no approval (safety.requireApproval is false)`)
      return this.pass(`gate ${gate}`)
    }
    if (state.gate?.gate !== gate) state.gate = { gate, since: Date.now(), token, why, approval: undefined }
    const { gate: open } = state
    this.show()
    while (!open.approval || state.paused) {
      await this.#continueAsNewIfLong()
      await condition(() => (open.approval !== undefined && !state.paused) || this.#isLong(), gateTimer, {
        summary: `approval gate: ${gate}`,
      })
    }
    state.gate = undefined
    this.pass(`gate ${gate}`)
    this.show()
  }

  reopenGate(gate: PersonGate): void {
    this.forget(`gate ${gate}`)
  }

  /** Stops until a person resumes, or aborts. */
  async needPerson(trouble: Omit<Trouble, 'at'>): Promise<void> {
    const { state } = this
    state.trouble = { ...trouble, at: Date.now() }
    record(state, Date.now(), `needs a person: ${trouble.code} ${trouble.message}`)
    this.show()
    while (state.trouble) {
      await this.#continueAsNewIfLong()
      await condition(() => state.trouble === undefined || this.#isLong(), gateTimer, {
        summary: `needs a person: ${trouble.code}`,
      })
    }
    this.show()
  }

  /** Writes flags, in the workflow's own worker and at once. */
  async setFlags(change: {
    readPercent?: number
    writePercent?: number
    backfillActive?: number
    primary?: Side
  }): Promise<void> {
    await this.#untilResumed()
    const { flags } = this.migration
    const percent = {
      ...(change.readPercent === undefined ? {} : { [flags.readEnabled]: change.readPercent }),
      ...(change.writePercent === undefined ? {} : { [flags.writeEnabled]: change.writePercent }),
      ...(change.backfillActive === undefined ? {} : { [flags.backfillActive]: change.backfillActive }),
    }
    await flagActivities.setFlags({
      ...this.ref,
      percent,
      ...(change.primary === undefined ? {} : { primary: change.primary }),
    })
    this.state.readPercent = change.readPercent ?? this.state.readPercent
    this.state.writePercent = change.writePercent ?? this.state.writePercent
    this.state.primary = change.primary ?? this.state.primary
    this.show()
  }

  tookPrimary(primary: Side, readPercent: number): void {
    this.state.primary = primary
    this.state.readPercent = readPercent
    this.show()
  }

  leaveWayBack(): void {
    this.state.canGoBack = false
  }

  async checkDrift(): Promise<void> {
    const token = this.state.plan?.token
    if (token !== undefined)
      await this.work('looking for changes of the source’s schema', (act) =>
        act.checkDrift({ ...this.ref, token }),
      )
  }

  startCompanions(): void {
    this.#companions.startApplying()
  }

  startSampling(): void {
    this.#companions.startSampling()
  }

  /** Ends them in good order; what they were doing is finished when this returns. */
  async stopCompanions(): Promise<void> {
    await this.#companions.stop()
  }

  /** What people see: current details, and search attributes where they changed. */
  show(): void {
    setCurrentDetails(renderDetails(this.state, Date.now()))
    const shown = {
      phase: this.state.outcome === 'running' ? this.state.phase : this.state.outcome,
      waiting: waitingFor(this.state) ?? 'nothing',
    }
    if (shown.phase === this.#shown.phase && shown.waiting === this.#shown.waiting) return
    this.#shown = shown
    upsertSearchAttributes([
      { key: crossfadePhase, value: shown.phase },
      { key: crossfadeWaitingFor, value: shown.waiting },
      { key: crossfadeDatabase, value: this.state.database },
    ])
  }

  async #untilResumed(): Promise<void> {
    const { state } = this
    while (state.paused || state.trouble) {
      this.show()
      await condition(() => !state.paused && !state.trouble, gateTimer, { summary: 'paused' })
    }
  }

  #beginWork(): void {
    if (this.#working === 0) this.#workingSince = Date.now()
    this.#working += 1
  }

  #endWork(): void {
    this.#working -= 1
    if (this.#working === 0) this.state.workedMs += Date.now() - this.#workingSince
  }

  #heedMaxRuntime(): void {
    const { state, migration } = this
    if (state.abort || state.workedMs <= migration.safety.maxRuntimeMinutes * 60_000) return
    state.abort = {
      by: 'crossfade',
      reason: `worked for longer than safety.maxRuntimeMinutes (${migration.safety.maxRuntimeMinutes})`,
      at: Date.now(),
    }
    record(state, Date.now(), `abort: ${state.abort.reason}`, 'crossfade')
  }

  /** True when the history is long enough to begin a new one. */
  #isLong(): boolean {
    const info = workflowInfo()
    const { continueAfterEvents } = this.#input
    return (
      info.continueAsNewSuggested ||
      (continueAfterEvents !== undefined && info.historyLength > continueAfterEvents)
    )
  }

  get shouldYield(): boolean {
    return this.#isLong()
  }

  async #continueAsNewIfLong(): Promise<void> {
    if (this.#isLong()) await this.continueAsNew()
  }

  /** Begins a new history with all that this one knows. The companions stop first: nothing may be running across the border. */
  async continueAsNew(): Promise<never> {
    const { companions } = this.state
    await this.#companions.stop()
    this.state.companions = companions
    await condition(allHandlersFinished)
    const next = makeContinueAsNewFunc<(input: MigrationInput) => Promise<MigrationResult>>({
      memo: workflowInfo().memo ?? {},
    })
    return next({ ...this.#input, carried: this.state })
  }
}

export function openRun(input: MigrationInput): MigrationRun {
  return new MigrationRun(input)
}

export const isContinueAsNew = (error: unknown): boolean => error instanceof ContinueAsNew

/** A worker died or was cut off while it worked: its checkpoint stands, the next attempt goes on from there. */
function isLostWorker(error: unknown): boolean {
  return error instanceof ActivityFailure && error.cause instanceof TimeoutFailure
}

/** What an activity could not do and a retry would not mend, in words for a person. Anything else is a fault of ours: thrown. */
function toTrouble(error: unknown): Omit<Trouble, 'at'> {
  const cause = error instanceof ActivityFailure ? error.cause : undefined
  if (!(cause instanceof ApplicationFailure)) throw error
  const [envelope] = (cause.details ?? []) as { code?: string; message?: string; mend?: string }[]
  return {
    code: envelope?.code ?? cause.type ?? 'INTERNAL.UNEXPECTED',
    message: envelope?.message ?? cause.message,
    mend: envelope?.mend ?? 'See the worker’s log.',
  }
}
