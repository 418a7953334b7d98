import { setTimeout as delay } from 'node:timers/promises'
import { expect, test } from 'vitest'
import { personGates, type PersonGate } from '../../src/core/gates.ts'
import { phases, type Phase } from '../../src/core/phases.ts'
import type { StatusView } from '../../src/core/state.ts'
import { failedTasks } from '../support/failed-tasks.ts'
import { createFakeActivities, runUntil, token, type ActivityName } from '../support/fake-activities.ts'
import { isLong } from '../support/migrations.ts'
import { eventually } from '../support/wait.ts'
import {
  workflowEnvironment,
  withoutHolds,
  type Life,
  type MessageName,
} from '../support/workflow-environment.ts'

/**
 * Every message, in good and in bad shape, in time and out of time, at every place of a migration: in each activity that the workflow asks
 * for, at each gate, in each hold, and while one place is left for the next.
 */
const env = workflowEnvironment('real')

const by = 'Ann'

const messageNames: readonly MessageName[] = ['approve', 'abort', 'pause', 'resume', 'configure']

const wrong: readonly unknown[] = [
  null,
  'approve',
  [{ by }],
  {},
  { by: 7 },
  { by, surprise: 1 },
  { gate: 'everything', by },
  { by, batchSize: -1 },
  { by, cleanUp: 'yes', reason: 4 },
]

/** Flags are written in a moment, which the second test meets; companions run beside every place. */
const notAPlace: readonly string[] = ['setFlags', 'returnTraffic', 'windDown', 'applyChanges', 'sampleParity']

const places = Object.keys(createFakeActivities(() => Promise.reject() as never)).filter(
  (name) => !notAPlace.includes(name),
) as ActivityName[]

/** The activities that wait for their battery: each is met until its battery has come. */
class Places {
  readonly met: string[] = []
  #here: string | undefined
  #entered: string | undefined

  constructor({ world }: Life) {
    for (const name of places)
      world.before[name] = async () => {
        if (this.met.includes(name)) return
        this.#here = name
        await runUntil(() => this.#here !== name).finally(() => {
          if (this.#here === name) this.#here = undefined // stopped before anybody came
        })
      }
  }

  get here(): string | undefined {
    return this.#here
  }

  /** From now on it goes through here. */
  enter(): void {
    this.#entered = this.#here
    if (this.#here !== undefined) this.met.push(this.#here)
  }

  /** The next place may have been reached already: the battery has let the migration go on. */
  leave(): void {
    if (this.#here === this.#entered) this.#here = undefined
  }
}

/** Places so far: each has another payload, and another setting. */
let turn = 0

/** What the sender of an update reads. It must be words of ours. */
async function refusal(life: Life, name: MessageName, payload: unknown): Promise<string> {
  const problem = await life.update(name, payload).then(
    (answer) => `accepted: ${answer}`,
    (error: Error & { cause?: Error }) => error.cause?.message ?? error.message,
  )
  expect(problem, `${name} ${JSON.stringify(payload)}`).not.toMatch(/accepted|undefined|TypeError|\bat \//)
  return problem
}

async function sendWrong(life: Life): Promise<void> {
  for (const name of messageNames) await refusal(life, name, wrong[turn % wrong.length])
  // All of them as signals: nobody reads an answer, and nothing may come of it.
  await Promise.all(messageNames.flatMap((name) => wrong.map((payload) => life.signal(name, payload))))
}

/** Approvals of every gate but the open one, with a token that fits. */
async function sendStale(life: Life, open: PersonGate | undefined): Promise<void> {
  for (const gate of personGates)
    if (gate !== open)
      expect(await refusal(life, 'approve', { gate, by, token })).toMatch(
        open === undefined ? /^no gate is open now/ : /^the open gate is \w+, not/,
      )
}

/** Everything that may come while it is paused, which it is in the meantime: nothing moves under the battery. */
async function whilePaused(life: Life, open: PersonGate | undefined): Promise<void> {
  expect(await refusal(life, 'resume', { by })).toBe('it is not paused and waits for nobody to resume it')
  expect(await life.update('pause', { by })).toContain('paused')
  const before = await life.status()
  expect(await refusal(life, 'pause', { by: 'Bob' })).toBe('Ann paused it already')
  await sendWrong(life)
  await sendStale(life, open)
  const batchSize = 100 + ++turn
  expect(await life.update('configure', { by, batchSize })).toContain('go on with it')
  if (open !== undefined) {
    if (open === 'expand' || open === 'contract') {
      expect(await refusal(life, 'approve', { gate: open, by })).toMatch(/^the token does not fit/)
      expect(await refusal(life, 'approve', { gate: open, by, token: 'stale' })).toMatch(
        /^the token does not fit/,
      )
    }
    expect(await life.approve(open)).toBe(`${open} is approved`)
    expect(await refusal(life, 'approve', { gate: open, by: 'Bob', token })).toBe(
      `${open} was approved by Ann already`,
    )
    await life.signal('approve', { gate: open, by: 'Bob', token })
  }
  const after = await life.status()
  expect(unmoved(after)).toEqual(unmoved(before))
  expect(after.settings.batchSize).toBe(batchSize)
  expect(after.gate?.approval?.by).toBe(open === undefined ? undefined : by)
  expect(await life.update('resume', { by })).toBe('it goes on')
}

const unmoved = ({
  phase,
  primary,
  readPercent,
  writePercent,
  abort,
  trouble,
  paused,
  breach,
}: StatusView): object => ({
  ...{ phase, primary, readPercent, writePercent, abort, trouble, paused, breach },
})

/** While one place is left for the next. Signals overtake each other, so that it may be paused in the end. */
async function inPassing(life: Life): Promise<void> {
  await Promise.all([
    life.signal('pause', { by }),
    life.signal('approve', { gate: 'retire', by: 7 }),
    life.signal('configure', { by, rateLimitMs: turn }),
    life.signal('resume', { by }),
    life.signal('pause', null),
  ])
  const { paused, outcome } = await life.status()
  if (!paused || outcome !== 'running') return
  // What was paused may have been the last of it all.
  await life.update('resume', { by }).catch(async (error: unknown) => {
    if ((await life.status()).outcome === 'running') throw error
  })
}

test('the whole battery of messages at every place of a migration', { timeout: 180_000 }, async () => {
  const life = await env.start({
    ...withoutHolds,
    safety: { requireApproval: true },
    cutover: {
      ramp: [
        { percent: 50, hold: '2s' },
        { percent: 100, hold: '2s' },
      ],
    },
    retire: { soak: '2s' },
    contract: { observe: '2s', soak: '2s' },
  })
  const met = new Places(life)
  const seen = new Set<Phase>()
  const waits = new Set<string>()
  for (;;) {
    const { status, wait } = await eventually(
      async () => {
        const { here } = met // before the question: it stays while the battery is out
        const status = await life.status()
        if (status.outcome !== 'running' || here !== undefined) return { status, wait: undefined }
        const wait = status.gate && !status.gate.approval ? `gate ${status.gate.gate}` : status.hold?.label
        return wait !== undefined && !waits.has(wait) && { status, wait }
      },
      { timeoutMs: 30_000, what: 'the next place' },
    )
    if (status.outcome !== 'running') break
    seen.add(status.phase)
    if (wait !== undefined) waits.add(wait)
    met.enter()
    await sendStale(life, status.gate?.gate)
    await whilePaused(life, status.gate?.gate)
    met.leave()
    await inPassing(life)
  }
  expect(await life.result()).toMatchObject({ outcome: 'done', status: { primary: 'new', readPercent: 100 } })
  expect([...seen]).toEqual(phases)
  expect([...waits].filter((wait) => wait.startsWith('gate '))).toEqual(
    personGates.map((gate) => `gate ${gate}`),
  )
  expect([...waits].filter((wait) => !wait.startsWith('gate '))).toHaveLength(5)
  // With an exchange of names there are others; nothing else is left out.
  expect(places.filter((name) => !met.met.includes(name))).toEqual(['swap'])
  const history = await life.handle.fetchHistory()
  expect(failedTasks(history)).toEqual([])
  // The story is that of a life that nobody disturbed.
  const calm = await env.start(withoutHolds)
  await calm.result()
  const firsts = ({ world }: Life): string[] => [
    ...new Set(world.calls.map(({ name }) => name).filter((name) => !notAPlace.includes(name))),
  ]
  expect(firsts(life)).toEqual(firsts(calm))
})

test('questions and messages at every moment leave a history that can be replayed', async () => {
  const steps = isLong ? 200 : 30
  const life = await env.start(
    {
      ...withoutHolds,
      safety: { requireApproval: true },
      cutover: {
        ramp: Array.from({ length: steps }, (_, i) => ({ percent: (100 * (i + 1)) / steps, hold: '10ms' })),
      },
    },
    {
      world: (world) => {
        world.companionSliceMs = 20
        // So long that a question is answered, a message comes, and a companion ends, while flags are written.
        world.before.setFlags = () => delay(20)
      },
    },
  )
  await life.atGate('expand')
  await life.approve('expand')
  await life.atGate('cutover')
  await life.approve('cutover')
  // Not to the end: the server gives the task that ends a run anew for as long as messages come.
  let isRamping = true
  const keep = async (pauseMs: number, ask: () => Promise<unknown>): Promise<void> => {
    for (; isRamping; await delay(pauseMs)) await ask()
  }
  await Promise.all([
    ...Array.from({ length: 4 }, () =>
      keep(1, async () => {
        if ((await life.status()).gate?.gate === 'retire') isRamping = false
      }),
    ),
    ...Array.from({ length: 3 }, () => keep(1, () => life.update('configure', { by, batchSize: 200 }))),
    keep(5, async () => {
      await life.signal('approve', null)
      await life.update('pause', { by })
      await life.update('resume', { by })
    }),
  ])
  await life.approve('retire')
  await life.atGate('contract')
  await life.approve('contract')
  expect((await life.result()).outcome).toBe('done')
  // What has ended is in no cache: to answer, a worker goes through the history from its beginning.
  expect((await life.status()).outcome).toBe('done')
  expect(failedTasks(await life.handle.fetchHistory())).toEqual([])
})
