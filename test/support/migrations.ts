import { randomInt } from 'node:crypto'
import { Client, Connection, type WorkflowExecutionDescription } from '@temporalio/client'
import type { TestContext } from 'vitest'
import type { MigrationHandle } from '../../src/client.ts'
import type { PersonGate } from '../../src/core/gates.ts'
import { isBefore, phases, type Phase } from '../../src/core/phases.ts'
import type { StatusView } from '../../src/core/state.ts'
import { crossfadePhase } from '../../src/workflows/search-attributes.ts'
import { randomFrom } from './seeded.ts'
import { eventually } from './wait.ts'

/** `CROSSFADE_TORTURE=long` runs longer and larger; the short form fits into every run of CI. */
export const isLong = process.env['CROSSFADE_TORTURE'] === 'long'

/** Longer than any wait that ends well, on a machine that others use too. */
const patienceMs = 120_000

export interface Chance {
  readonly seed: number
  /** A whole number from `least` up to and including `most`. */
  between(least: number, most: number): number
}

/** Seeded, and the seed is printed: CROSSFADE_SEED repeats a run's decisions. */
export function chance(t: Pick<TestContext, 'task'>): Chance {
  const seed = Number(process.env['CROSSFADE_SEED'] ?? randomInt(2 ** 31))
  process.stderr.write(`${t.task.name}: CROSSFADE_SEED=${seed}\n`)
  const next = randomFrom(seed)
  return { seed, between: (least, most) => least + Math.floor(next() * (most - least + 1)) }
}

/** The workflow's own answer, asked again until a worker gives it: after a kill that takes seconds. */
export async function detailOf(handle: MigrationHandle): Promise<StatusView> {
  return eventually(async () => (await handle.status()).detail, {
    timeoutMs: patienceMs,
    what: `an answer of ${handle.name}`,
  })
}

/**
 * Waits until the workflow says what is asked for. A migration that ends, fails, or waits for a person meanwhile is an error:
 * nothing will happen any more.
 */
export async function untilDetail(
  handle: MigrationHandle,
  what: string,
  is: (detail: StatusView) => boolean,
  { evenInTrouble = false } = {},
): Promise<StatusView> {
  let stuck: string | undefined
  const found = await eventually(
    async () => {
      const { execution, detail } = await handle.status()
      if (detail && is(detail)) return detail
      if (detail?.trouble && !evenInTrouble)
        stuck = `it needs a person: ${detail.trouble.code} ${detail.trouble.message}`
      else if (execution !== 'RUNNING') stuck = `it is ${execution}: ${detail?.outcome ?? 'no answer'}`
      return stuck === undefined ? undefined : 'stuck'
    },
    { timeoutMs: patienceMs, what: `${handle.name}: ${what}` },
  )
  if (found === 'stuck') throw new Error(`Waiting for ${what} of ${handle.name} in vain: ${stuck}`)
  return found
}

/** What Temporal itself knows of a migration, whether or not a worker is there to answer. */
export interface Observer {
  /** The search attribute: the phase, or the outcome of a migration that has ended. */
  phase(handle: MigrationHandle): Promise<string>
  /** Resolves when the phase has begun (or is over already). */
  untilPhase(handle: MigrationHandle, phase: Phase): Promise<void>
  /** Activities that run now, with the worker that runs each. */
  running(handle: MigrationHandle): Promise<{ readonly type: string; readonly worker: string }[]>
}

export async function observe(t: Pick<TestContext, 'onTestFinished'>, address: string): Promise<Observer> {
  const connection = await Connection.connect({ address, connectTimeout: '30s' })
  t.onTestFinished(() => connection.close())
  const client = new Client({ connection })
  const describe = (handle: MigrationHandle): Promise<WorkflowExecutionDescription> =>
    client.workflow.getHandle(handle.workflowId).describe()
  const phaseOf = async (handle: MigrationHandle): Promise<string> =>
    (await describe(handle)).typedSearchAttributes.get(crossfadePhase) ?? '?'
  return {
    phase: phaseOf,
    async untilPhase(handle, phase) {
      await eventually(
        async () => {
          const now = await phaseOf(handle)
          const reached = phases.find((other) => other === now)
          return reached === undefined ? now === 'done' : !isBefore(reached, phase)
        },
        { timeoutMs: patienceMs, intervalMs: 5, what: `${handle.name} to reach ${phase}` },
      )
    },
    async running(handle) {
      const started = 2 // PENDING_ACTIVITY_STATE_STARTED
      return ((await describe(handle)).raw.pendingActivities ?? [])
        .filter((activity) => activity.state === started)
        .map((activity) => ({
          type: activity.activityType?.name ?? '?',
          worker: activity.lastWorkerIdentity ?? '?',
        }))
    },
  }
}

/** Waits until the gate is open and shut to us, and returns what approves it. */
export async function untilGate(handle: MigrationHandle, gate: PersonGate): Promise<StatusView> {
  return untilDetail(handle, `the gate ${gate}`, ({ gate: open }) => open?.gate === gate && !open.approval)
}

export async function approve(handle: MigrationHandle, gate: PersonGate): Promise<void> {
  const { gate: open } = await untilGate(handle, gate)
  await handle.approve({
    gate,
    by: 'the test',
    ...(open?.token === undefined ? {} : { token: open.token }),
  })
}
