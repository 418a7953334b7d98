import {
  CancellationScope,
  allHandlersFinished,
  condition,
  isCancellation,
  makeContinueAsNewFunc,
  setCurrentDetails,
  upsertSearchAttributes,
  workflowInfo,
} from '@temporalio/workflow'
import type { PersonGate } from '../core/gates.ts'
import type { AbortRequest } from '../core/messages.ts'
import { renderDetails } from '../core/details.ts'
import { formatDuration } from '../core/durations.ts'
import type { Outcome, Phase, Side } from '../core/phases.ts'
import { createState, record, waitingFor, type MigrationState, type Trouble } from '../core/state.ts'
import type { Activities, MigrationRef } from '../activities/contract.ts'
import type { Migration } from '../definition/index.ts'
import { activitiesFor } from './activity-options.ts'
import { Companions } from './companions.ts'
import { byKey, FlagWrites, summaryOf, type FlagChange } from './flag-writes.ts'
import { wireMessages } from './handlers.ts'
import type { MigrationInput, MigrationResult } from './migration.ts'
import { crossfadeDatabase, crossfadePhase, crossfadeWaitingFor } from './search-attributes.ts'
import { isLostWorker, toTrouble } from './trouble.ts'
import { WorkClock } from './work-clock.ts'

/** A timer this long stands for waiting on a person: the Timeline shows it as an open bar. Armed again when it ends. */
const gateTimer = '30 days'

/** What the phases work with: their state, and the few ways of waiting that survive pause, abort, configure and long histories. */
export class MigrationRun {
  readonly migration: Migration
  readonly fingerprint: string
  readonly ref: MigrationRef
  readonly state: MigrationState
  readonly flagWrites = new FlagWrites()
  readonly #input: MigrationInput
  readonly #companions: Companions
  /** Grows with every pause: what runs is stopped, and started again when somebody resumes. */
  #pauses = 0
  /** Grows with every configuration: slices of lanes are stopped, and the lanes are counted anew. */
  #configurations = 0
  readonly #clock: WorkClock
  #isGoingBack = false
  #continuing: Promise<never> | undefined
  #shown = { phase: '', waiting: '' }

  constructor(input: MigrationInput) {
    this.#input = input
    this.migration = input.migration
    this.fingerprint = input.fingerprint
    const { name, database, cutover } = input.migration
    this.ref = { name, database, fingerprint: input.fingerprint }
    this.state = input.carried ?? createState(name, database, Date.now(), cutover.ramp.length)
    this.#companions = new Companions(this)
    this.#clock = new WorkClock((ms) => (this.state.workedMs += ms))
  }

  /** For the next call that changes flags or the primary side. By time, so that it grows over the migrations of a name, too. */
  nextRef(): MigrationRef {
    const order = Math.max(Date.now(), (this.state.order ?? 0) + 1)
    this.state.order = order
    return { ...this.ref, order }
  }

  /** Whether a lossless way back exists after the new side became primary. */
  get hasWayBack(): boolean {
    return this.migration.mappings.every((mapping) => mapping.reverse !== false)
  }

  get configurations(): number {
    return this.#configurations
  }

  interruptWork(): void {
    this.#pauses += 1
  }

  interruptSlices(): void {
    this.#configurations += 1
  }

  /** Temporal's own cancellation (a button of its UI) is an abort: nothing here may just stop where it is. */
  heedCancellation(requested: Promise<never>): void {
    requested.catch(() => this.abort({ by: 'Temporal', reason: 'its workflow was asked to cancel' }))
  }

  /** Nobody needs to resume or approve first: from here on only going back counts. */
  abort(request: AbortRequest): void {
    const { state } = this
    if (state.abort) return
    state.abort = { ...request, at: Date.now() }
    state.paused = undefined
    state.trouble = undefined
    record(state, Date.now(), `abort${request.reason === undefined ? '' : `: ${request.reason}`}`, request.by)
    this.show()
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
    const ended = this.state.abort === undefined ? begin(life, story) : undefined
    const first = await Promise.race([
      ...(ended ? [ended] : []),
      condition(() => this.state.abort !== undefined),
    ])
    if (first !== undefined && 'outcome' in first) return this.#end(first.outcome)
    if (first !== undefined && this.state.abort === undefined) throw first.error

    await this.#returnTraffic()
    life.cancel()
    await ended
    this.#isGoingBack = true
    this.#continuing = undefined
    this.state.gate =
      this.state.hold =
      this.state.breach =
      this.state.trouble =
      this.state.awaited =
        undefined
    await this.#returnTraffic() // a ramp step that was under way may have landed after the first
    await goBack(this)
    return this.#end('aborted')
  }

  async #returnTraffic(): Promise<void> {
    if (!this.state.canGoBack) return
    const ordered = this.nextRef()
    const { primary, left } = await this.unstoppable('returning traffic', () =>
      this.flagWrites.write('returning traffic', (act) => act.returnTraffic(ordered)),
    )
    this.state.readPercent = 0
    this.state.writePercent = 0
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
    this.state.paused = undefined // a pause that came while the last activity ended by itself
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
   * Runs activities until they are through. A pause stops them and starts them again; what a retry cannot mend waits for a person;
   * a lost worker is simply replaced.
   */
  async work<T>(label: string, fn: (act: Activities) => Promise<T>): Promise<T> {
    for (;;) {
      const done = await this.#attempt(label, fn, () => this.#pauses)
      if (done) return done.result
    }
  }

  /** The same for one slice of a lane. Undefined where somebody configured meanwhile: it was stopped, and counts for nothing. */
  async slice<T>(label: string, fn: (act: Activities) => Promise<T>): Promise<T | undefined> {
    const before = this.#configurations
    for (;;) {
      const done = await this.#attempt(label, fn, () => this.#pauses + this.#configurations)
      if (done) return done.result
      if (this.#configurations !== before) return undefined
    }
  }

  /** Undefined where it has to be tried again: interrupted, its worker lost, or mended by a person. */
  async #attempt<T>(
    label: string,
    fn: (act: Activities) => Promise<T>,
    revision: () => number,
  ): Promise<{ readonly result: T } | undefined> {
    this.#heedMaxRuntime()
    await this.#untilFree()
    this.state.activity = label
    this.show()
    try {
      return { result: await this.#interruptible(() => fn(activitiesFor(label)), revision) }
    } catch (error) {
      if (CancellationScope.current().consideredCancelled) throw error
      if (!isCancellation(error) && !isLostWorker(error)) await this.needPerson(toTrouble(error))
      return undefined
    }
  }

  async #interruptible<T>(fn: () => Promise<T>, revision: () => number): Promise<T> {
    const scope = new CancellationScope()
    this.#clock.begin()
    try {
      return await scope.run(async () => {
        const before = revision()
        void condition(() => revision() !== before).then(
          () => scope.cancel(),
          () => undefined,
        )
        return await fn()
      })
    } finally {
      if (this.flagWrites.areInTheWay) await this.flagWrites.over()
      this.#clock.end()
      scope.cancel() // the condition above waits no longer
      this.show()
    }
  }

  /** Work of going back, which nothing stops. What a retry cannot mend waits for a person. */
  async unstoppable<T>(label: string, fn: (act: Activities) => Promise<T>): Promise<T> {
    for (;;) {
      this.state.activity = label
      this.show()
      try {
        return await CancellationScope.nonCancellable(() => fn(activitiesFor(label)))
      } catch (error) {
        if (!isCancellation(error) && !isLostWorker(error)) await this.needPerson(toTrouble(error))
      }
    }
  }

  /**
   * Waits on a durable timer. A pause does not stop the clock, but what follows waits for the end of it; a breach ends both at once.
   * @returns the breach, or undefined when the time is over. `once`: not again when its phase is entered again.
   */
  async hold(
    label: string,
    ms: number,
    { heedBreach = true, once = false } = {},
  ): Promise<string | undefined> {
    const { state } = this
    if (once && this.hasPassed(label)) return undefined
    if (state.hold?.label !== label) state.hold = { label, until: Date.now() + ms }
    const { until } = state.hold
    this.show()
    const breached = (): boolean => heedBreach && state.breach !== undefined
    const isOver = (): boolean => Date.now() >= until && !this.#isHeld
    while (!breached() && !isOver()) {
      await this.#continueAsNewIfLong()
      const leftMs = until - Date.now()
      await condition(() => breached() || isOver() || this.shouldYield, leftMs > 0 ? leftMs : gateTimer, {
        summary: leftMs > 0 ? label : 'paused',
      })
    }
    state.hold = undefined
    if (once) this.pass(label)
    return breached() ? this.takeBreach() : undefined
  }

  takeBreach(): string | undefined {
    const { breach } = this.state
    this.state.breach = undefined
    return breach
  }

  /** Waits for the approval of a gate, which counts only if it arrived while this gate was open. @returns the breach that shut it. */
  async personGate(
    gate: PersonGate,
    why: string,
    {
      token,
      heedBreach = false,
    }: { readonly token?: string | undefined; readonly heedBreach?: boolean } = {},
  ): Promise<string | undefined> {
    const { state } = this
    if (this.hasPassed(`gate ${gate}`)) return undefined
    if (!this.migration.safety.requireApproval) {
      record(state, Date.now(), `gate ${gate} needs no approval (safety.requireApproval is false)`)
      this.pass(`gate ${gate}`)
      return undefined
    }
    if (state.gate?.gate !== gate) state.gate = { gate, since: Date.now(), token, why, approval: undefined }
    const { gate: open } = state
    this.show()
    const breached = (): boolean => heedBreach && state.breach !== undefined
    const isOpen = (): boolean => open.approval !== undefined && !this.#isHeld
    while (!breached() && !isOpen()) {
      await this.#continueAsNewIfLong()
      await condition(() => breached() || isOpen() || this.shouldYield, gateTimer, {
        summary: `approval gate: ${gate}`,
      })
    }
    state.gate = undefined
    if (breached()) return this.takeBreach()
    this.pass(`gate ${gate}`)
    this.show()
    return undefined
  }

  /** Stops until a person resumes, or aborts, or there is a breach to heed. */
  async needPerson(trouble: Omit<Trouble, 'at'>, { heedBreach = false } = {}): Promise<void> {
    const { state } = this
    const breached = (): boolean => heedBreach && state.breach !== undefined
    state.trouble = { ...trouble, at: Date.now() }
    record(state, Date.now(), `needs a person: ${trouble.code} ${trouble.message}`)
    this.show()
    while (state.trouble && !breached()) {
      await this.#continueAsNewIfLong()
      await condition(() => state.trouble === undefined || breached() || this.shouldYield, gateTimer, {
        summary: `needs a person: ${trouble.code}`,
      })
    }
    state.trouble = undefined
    this.show()
  }

  /** Writes flags, at once. `evenWhilePaused`: for what makes it safer. */
  async setFlags(change: FlagChange, { evenWhilePaused = false } = {}): Promise<void> {
    const percent = byKey(change, this.migration)
    for (;;) {
      if (!evenWhilePaused) await this.#untilFree()
      try {
        const ordered = this.nextRef()
        await this.flagWrites.write(summaryOf(percent), (act) => act.setFlags({ ...ordered, percent }))
        break
      } catch (error) {
        if (CancellationScope.current().consideredCancelled) throw error
        if (!isLostWorker(error)) await this.needPerson(toTrouble(error))
      }
    }
    this.state.readPercent = change.readPercent ?? this.state.readPercent
    this.state.writePercent = change.writePercent ?? this.state.writePercent
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
    setCurrentDetails(renderDetails(this.state))
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

  /** Somebody paused it, or it needs somebody; once it is aborted, the story does not go on at all. */
  get #isHeld(): boolean {
    const { paused, trouble, abort } = this.state
    return paused !== undefined || trouble !== undefined || abort !== undefined
  }

  async #untilFree(): Promise<void> {
    while (this.#isHeld) {
      this.show()
      await this.#continueAsNewIfLong()
      await condition(() => !this.#isHeld || this.shouldYield, gateTimer, {
        summary: this.state.trouble ? `needs a person: ${this.state.trouble.code}` : 'paused',
      })
    }
  }

  #heedMaxRuntime(): void {
    this.#clock.count()
    const { maxRuntimeMinutes } = this.migration.safety
    if (this.state.workedMs > maxRuntimeMinutes * 60_000)
      this.abort({
        by: 'crossfade',
        reason: `worked for longer than safety.maxRuntimeMinutes (${maxRuntimeMinutes})`,
      })
  }

  /** True when the history is long enough to begin a new one, and nobody waits for traffic to return. */
  get shouldYield(): boolean {
    if (this.state.abort !== undefined && !this.#isGoingBack) return false
    const { continueAsNewSuggested, historyLength } = workflowInfo()
    const { continueAfterEvents } = this.#input
    return (
      continueAsNewSuggested || (continueAfterEvents !== undefined && historyLength > continueAfterEvents)
    )
  }

  async #continueAsNewIfLong(): Promise<void> {
    if (this.shouldYield) await this.continueAsNew()
  }

  /** Begins a new history with all that this one knows. Lanes may come here together; it happens once. */
  continueAsNew(): Promise<never> {
    return (this.#continuing ??= this.#continueAsNew())
  }

  /** Work and companions stop first: nothing may be running across the border. */
  async #continueAsNew(): Promise<never> {
    await condition(() => this.#clock.isIdle)
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

type Ending = { readonly outcome: 'done' | 'planned' } | { readonly error: unknown }

function begin(life: CancellationScope, story: () => Promise<'done' | 'planned'>): Promise<Ending> {
  return life.run(story).then(
    (outcome) => ({ outcome }),
    (error: unknown) => ({ error }),
  )
}

export function openRun(input: MigrationInput): MigrationRun {
  return new MigrationRun(input)
}
