import { setTimeout as delay } from 'node:timers/promises'
import type pg from 'pg'
import type { CrossfadeClient, MigrationHandle } from '../client.ts'
import type { OpenGate, StatusView } from '../core/state.ts'
import type { DefinitionInput } from '../definition/index.ts'
import { CrossfadeError, isCrossfadeError } from '../errors/index.ts'
import { crashMidBackfill, readBackfill, type BackfillPlace, type Resumption } from './crash.ts'
import type { Fleet } from './fleet.ts'
import type { Load } from './load-process.ts'
import { count, type Progress } from './progress.ts'
import { compareSides, type SidesCompared } from './proof.ts'
import type { Crew, Killed } from './workers.ts'

export interface Stage {
  readonly pool: pg.Pool
  readonly client: CrossfadeClient
  readonly crew: Crew
  readonly load: Load
  /** Where the application is a service and captures its own writes. */
  readonly fleet: Fleet | undefined
  readonly progress: Progress
  readonly signal: AbortSignal
}

export interface Story {
  readonly status: StatusView
  readonly historyEvents: number
  readonly workflowId: string
  readonly runId: string
  readonly resumption: Resumption | undefined
  /** The demo's own comparisons of both sides: with the old side leading, and with the new one. */
  readonly comparisons: readonly (SidesCompared & { readonly leading: 'old' | 'new' })[]
  /** When which phase began, in milliseconds since the epoch. */
  readonly phaseStarts: readonly { readonly name: string; readonly at: number }[]
}

const lookEveryMs = 300
/** A person reads before approving. */
const readingMs = 400
const settleMs = 10_000
const mostRefusals = 5

/** Who gives the approvals. */
const approver = 'demo'

/** Starts the migration and lives through it as the people around it would: reading, approving, deploying – and losing workers. */
export async function liveThrough(stage: Stage, definition: DefinitionInput): Promise<Story> {
  const handle = await stage.client.start(definition)
  const ending = new AbortController()
  const story = new StoryTeller({ ...stage, signal: AbortSignal.any([stage.signal, ending.signal]) }, handle)
  try {
    return await story.run()
  } catch (error) {
    ending.abort()
    await story.settle().catch(() => undefined) // the first error is the one to tell
    throw error
  }
}

class StoryTeller {
  readonly #stage: Stage
  readonly #handle: MigrationHandle
  /** What goes on beside the main line: a crash, a comparison. Each happens once. */
  readonly #events = new Map<string, Promise<void>>()
  readonly #comparisons: Story['comparisons'][number][] = []
  readonly #phaseStarts: Story['phaseStarts'][number][] = []
  #resumption: Resumption | undefined
  #backfill: (BackfillPlace & { readonly at: number }) | undefined
  #backfillPerSec = 0
  #refusals = 0
  #status: StatusView | undefined

  constructor(stage: Stage, handle: MigrationHandle) {
    this.#stage = stage
    this.#handle = handle
  }

  async run(): Promise<Story> {
    const { signal } = this.#stage
    for (;;) {
      signal.throwIfAborted()
      const { execution, detail, historyEvents, workflowId, runId } = await this.#handle.status()
      this.#status = detail ?? this.#status
      if (execution !== 'RUNNING') {
        const { status } = await this.#handle.result()
        this.#notePhases(status)
        await this.settle()
        return {
          status,
          historyEvents,
          workflowId,
          runId,
          resumption: this.#resumption,
          comparisons: this.#comparisons,
          phaseStarts: this.#phaseStarts,
        }
      }
      if (detail) await this.#heed(detail)
      this.#show()
      await delay(lookEveryMs, undefined, { signal })
    }
  }

  /** Waits for what is still going on beside. */
  async settle(): Promise<void> {
    await Promise.all(this.#events.values())
  }

  async #heed(status: StatusView): Promise<void> {
    this.#notePhases(status)
    if (status.trouble) throw new CrossfadeError({ kind: 'refused', ...status.trouble })
    if (status.gate && !status.gate.approval) await this.#answer(status.gate)
    if (status.phase === 'backfill') await this.#watchBackfill()
    if (status.phase === 'cutover' && status.ramp.reached.includes(10))
      void this.#once('crash in the ramp', () => this.#crashInRamp())
    if (status.phase === 'cutover' && status.ramp.reached.includes(50)) this.#killInstance('in the ramp')
    // The reverse mapping keeps the old side in step now: the same comparison has to hold the other way round.
    if (status.phase === 'retire' && status.hold) {
      this.#killInstance('with the new side leading')
      void this.#once('comparison with the new side leading', () => this.#compare('new'))
    }
  }

  /** Starts what has not been started yet. Not awaited where it goes on beside: settle() waits for it, and throws what it threw. */
  #once(what: string, event: () => Promise<void>): Promise<void> {
    const known = this.#events.get(what)
    if (known) return known
    const run = event()
    run.catch(() => undefined)
    this.#events.set(what, run)
    return run
  }

  #notePhases(status: StatusView): void {
    for (const { name, seconds, skipped } of status.finishedPhases) {
      if (this.#phaseStarts.some((start) => start.name === `${name} ended`)) continue
      this.#phaseStarts.push({ name: `${name} ended`, at: Date.now() })
      this.#stage.progress.say(
        `✓ ${name}${skipped === undefined ? ` in ${seconds.toFixed(1)} s` : `: ${skipped}`}`,
      )
    }
    if (!this.#phaseStarts.some((start) => start.name === status.phase))
      this.#phaseStarts.push({ name: status.phase, at: status.phaseStartedAt })
  }

  /** A gate waits for a person: who looks at what matters there, and approves with the token that the plan shows. */
  async #answer({ gate, token, why }: OpenGate): Promise<void> {
    const { progress } = this.#stage
    await this.#once(`gate ${gate}`, async () => {
      progress.say(`gate ${gate} waits for approval: ${why}`)
      await this.#deployBefore(gate)
      if (gate === 'retire') await this.#compare('old')
    })
    await delay(readingMs)
    const approval = { gate, by: approver, ...(token === undefined ? {} : { token }) }
    try {
      progress.say(`approved by ${approver}: ${await this.#handle.approve(approval)}`)
    } catch (error) {
      // An approval whose answer was lost with a worker is refused when it is given again: the next look at the gate tells.
      if (!isCrossfadeError(error) || error.code !== 'TEMPORAL.REFUSED') throw error
      this.#refusals += 1
      if (this.#refusals > mostRefusals) throw error
      progress.say(error.message)
    }
  }

  /** Who captures its own writes has to do so before dual-write begins; triggers need nothing of the application until reads move. */
  async #deployBefore(gate: OpenGate['gate']): Promise<void> {
    const { load, fleet, progress } = this.#stage
    if (gate !== (fleet ? 'expand' : 'cutover')) return
    await (fleet ?? load).deploy()
    progress.say(
      fleet
        ? `deployed, instance by instance: the release that captures its writes and follows the flags`
        : 'deployed: the release of the application that follows the flags',
    )
  }

  #killInstance(when: string): void {
    const { fleet, progress } = this.#stage
    if (!fleet) return
    void this.#once(`an instance killed ${when}`, async () =>
      progress.say(
        `✗ SIGKILL to instance ${await fleet.kill()} of the service, ${when}; another took its place`,
      ),
    )
  }

  async #watchBackfill(): Promise<void> {
    const now = { ...(await readBackfill(this.#stage.pool)), at: performance.now() }
    const before = this.#backfill
    if (before && now.at > before.at) {
      const rate = (1000 * (now.rowsDone - before.rowsDone)) / (now.at - before.at)
      this.#backfillPerSec = this.#backfillPerSec * 0.7 + rate * 0.3
    }
    this.#backfill = now
    if (!now.isDone && now.rowsDone > now.rowsEstimated * 0.3)
      void this.#once('crash in the backfill', () => this.#crashInBackfill())
    if (!now.isDone && now.rowsDone > now.rowsEstimated * 0.1) this.#killInstance('in the backfill')
  }

  async #crashInBackfill(): Promise<void> {
    const { pool, crew, progress, signal } = this.#stage
    const onKilled = ({ pid, activities }: Killed): void =>
      progress.say(`✗ SIGKILL to worker process ${pid}, in the middle of ${activities} lanes`)
    const resumption = crashMidBackfill(pool, crew, onKilled, signal)
    resumption.catch(() => undefined) // awaited below
    await delay(500, undefined, { signal })
    await crew.start()
    this.#resumption = await resumption
    if (this.#resumption)
      progress.say(
        `its ${this.#resumption.lanes} lanes went on from their checkpoints ${(this.#resumption.resumedInMs / 1000).toFixed(1)} s after the crash`,
      )
  }

  async #crashInRamp(): Promise<void> {
    const { crew, progress } = this.#stage
    const { pid } = await crew.killOneRunning('sampleParity')
    progress.say(`✗ SIGKILL to worker process ${pid}, in the ramp`)
    await crew.start()
  }

  async #compare(leading: 'old' | 'new'): Promise<void> {
    const { pool, progress } = this.#stage
    const compared = await compareSides(pool, settleMs)
    this.#comparisons.push({ ...compared, leading })
    progress.say(
      `own comparison, ${leading} side leading: ${count(compared.rows)} rows, ${compared.mismatched} mismatched`,
    )
  }

  #show(): void {
    const { load, fleet, crew, progress } = this.#stage
    progress.show({
      status: this.#status,
      backfill: this.#backfill,
      backfillPerSec: this.#backfillPerSec,
      load: load.figures,
      workers: { running: crew.running, killed: crew.killed },
      instances: fleet && { running: fleet.running, killed: fleet.killed },
    })
  }
}
