import { describe, expect, test } from 'vitest'
import {
  failOnce,
  refusal,
  runUntil,
  stopAt,
  timesOf,
  type ActivityName,
  type World,
} from '../support/fake-activities.ts'
import {
  withoutApproval,
  withoutHolds,
  workflowEnvironment,
  type Life,
} from '../support/workflow-environment.ts'
import { eventually } from '../support/wait.ts'

const { start } = workflowEnvironment('real')
const by = 'Ann'

const companions: readonly string[] = ['applyChanges', 'sampleParity']

/** What was called since the abort, the companions' slices aside. */
const since = (world: World, count: number): ActivityName[] =>
  world.calls
    .slice(count)
    .map(({ name }) => name)
    .filter((name) => !companions.includes(name))

/** Until the story called nothing new for a while. */
async function settled(world: World): Promise<void> {
  let known = -1
  await eventually(() => known === (known = since(world, 0).length), { intervalMs: 300 })
}

/** Traffic first, once more after the story has stopped, then the rest; and no activity of the story starts any more. */
async function expectGoneBack(life: Life, count: number, stopped?: ActivityName): Promise<void> {
  const { outcome, status } = await life.result()
  expect(outcome).toBe('aborted')
  expect(status).toMatchObject({ primary: 'old', readPercent: 0, writePercent: 0, outcome: 'aborted' })
  expect(status.gate).toBeUndefined()
  expect(status.hold).toBeUndefined()
  const ending = stopped === undefined ? [] : [stopped]
  expect(since(life.world, count)).toEqual(['returnTraffic', ...ending, 'returnTraffic', 'windDown'])
  for (const [flag, percent] of Object.entries(life.world.flags)) expect([flag, percent]).toEqual([flag, 0])
  expect(await life.details()).toContain('aborted, the old side serves')
  expect(await life.story()).toContain('everything that was created is removed')
}

describe('abort returns traffic before anything else', () => {
  const places: readonly ActivityName[] = [
    'plan',
    'expand',
    'checkCapture',
    'planBackfill',
    'backfillSlice',
    'complete',
    'verifySlice',
    'checkDrift',
    'readParity',
    'proveCutover',
    'startReverse',
    'drainChangeLog',
    'movePrimary',
  ]
  test.each(places)('in the middle of %s', async (name) => {
    const life = await start(withoutHolds)
    const stop = stopAt(life.world, name)
    await life.reach(stop)
    await settled(life.world) // the other lane ends first
    const count = life.world.calls.length
    expect(await life.update('abort', { by, reason: 'enough' })).toBe('traffic returns to the old side')
    await expectGoneBack(life, count, name)
    expect(await life.story()).toContain('abort: enough (Ann)')
  })

  test.each(['expand', 'cutover', 'retire'])('at the gate of %s', async (gate) => {
    const life = await start({ ...withoutHolds, safety: { requireApproval: true } })
    for (const before of ['expand', 'cutover', 'retire']) {
      await life.atGate(before)
      if (before === gate) break
      await life.approve(before)
    }
    const count = life.world.calls.length
    await life.signal('abort', { by })
    await expectGoneBack(life, count)
  })

  test.each([1, 10, 50, 100])('while reads are at %s percent', async (percent) => {
    const life = await start({
      ...withoutHolds,
      cutover: { ramp: [1, 10, 50, 100].map((p) => ({ percent: p, hold: p === percent ? '90d' : '0s' })) },
    })
    await life.until('the hold', ({ readPercent, hold }) => readPercent === percent && hold !== undefined)
    expect(life.world.flags[life.migration.flags.readEnabled]).toBe(percent)
    const count = life.world.calls.length
    await life.update('abort', { by })
    await expectGoneBack(life, count)
  })

  test('in the soak, when the new side is primary', async () => {
    const life = await start({ ...withoutHolds, retire: { soak: '90d' } })
    await life.until('the soak', ({ primary, hold }) => primary === 'new' && hold !== undefined)
    const count = life.world.calls.length
    await life.update('abort', { by })
    await expectGoneBack(life, count)
  })

  test('after a swap', async () => {
    const life = await start({ ...withoutHolds, cutover: { mode: 'swap' }, retire: { soak: '90d' } })
    await life.until('the soak', ({ primary, hold }) => primary === 'new' && hold !== undefined)
    const count = life.world.calls.length
    await life.update('abort', { by })
    await expectGoneBack(life, count)
  })

  test('while it is paused', async () => {
    const life = await start(withoutHolds)
    const stop = stopAt(life.world, 'backfillSlice')
    await life.reach(stop)
    await life.update('pause', { by })
    await eventually(() => life.world.calls.some(({ input }) => input['cancelled'] === true))
    const count = life.world.calls.length
    await life.signal('abort', { by })
    await expectGoneBack(life, count)
    expect((await life.status()).paused).toBeUndefined()
  })

  test('while it is paused in a hold', async () => {
    const life = await start(withoutApproval)
    await life.until('the ramp', ({ readPercent, hold }) => readPercent === 1 && hold !== undefined)
    await life.update('pause', { by })
    const count = life.world.calls.length
    await life.signal('abort', { by })
    await expectGoneBack(life, count)
  })

  test('while it needs a person', async () => {
    const life = await start(withoutApproval, { world: (world) => failOnce(world, 'complete', 'DDL.FAILED') })
    await life.until('trouble', ({ trouble }) => trouble !== undefined)
    const count = life.world.calls.length
    await life.update('abort', { by })
    await expectGoneBack(life, count)
    expect((await life.status()).trouble).toBeUndefined()
  })

  test('before the first activity', async () => {
    const life = await start(withoutApproval)
    await life.signal('abort', { by })
    const { outcome } = await life.result()
    expect(outcome).toBe('aborted')
    expect(timesOf(life.world, 'movePrimary') + timesOf(life.world, 'swap')).toBe(0)
  })

  test('when Temporal is asked to cancel the workflow', async () => {
    const life = await start(withoutApproval)
    await life.until('the ramp', ({ readPercent, hold }) => readPercent === 1 && hold !== undefined)
    const count = life.world.calls.length
    await life.handle.cancel()
    await expectGoneBack(life, count)
    expect(await life.story()).toContain('abort: its workflow was asked to cancel (Temporal)')
    expect((await life.handle.describe()).status.name).toBe('COMPLETED')
  })
})

describe('abort', () => {
  test('keeps what was created where it is asked to', async () => {
    const life = await start()
    await life.atGate('expand')
    await life.update('abort', { by, cleanUp: false })
    await life.result()
    expect(life.world.calls.at(-1)).toMatchObject({ name: 'windDown', input: { cleanUp: false } })
  })

  test('leaves traffic on the new side once the old one is no longer in step', async () => {
    const life = await start({ ...withoutHolds, safety: { requireApproval: true } })
    for (const gate of ['expand', 'cutover', 'retire']) {
      await life.atGate(gate)
      await life.approve(gate)
    }
    await life.atGate('contract')
    const count = life.world.calls.length
    expect(await life.update('abort', { by })).toContain('traffic stays on the new side')
    const { outcome, status } = await life.result()
    expect(outcome).toBe('aborted')
    expect(status).toMatchObject({ primary: 'new', readPercent: 100, canGoBack: false })
    expect(since(life.world, count)).toEqual([])
    expect(await life.details()).toContain('aborted, the new side serves')
  })

  test('that cannot return traffic or wind down waits for a person, and goes on when resumed', async () => {
    const life = await start(withoutApproval)
    await life.until('the ramp', ({ readPercent, hold }) => readPercent === 1 && hold !== undefined)
    failOnce(life.world, 'returnTraffic', 'DATABASE.REFUSED')
    failOnce(life.world, 'windDown', 'DDL.FAILED')
    await life.update('abort', { by })
    const first = await life.until('trouble', ({ trouble }) => trouble !== undefined)
    expect(first.trouble?.code).toBe('DATABASE.REFUSED')
    expect(first.waitingFor).toBe('a person: DATABASE.REFUSED')
    expect(await life.details()).toContain('DATABASE.REFUSED')
    await life.update('resume', { by })
    await life.until('the next trouble', ({ trouble }) => trouble?.code === 'DDL.FAILED')
    expect((await life.status()).readPercent).toBe(0)
    await life.update('resume', { by })
    expect((await life.result()).outcome).toBe('aborted')
  })

  test('waits for what a retry mends', async () => {
    const life = await start(withoutApproval)
    await life.until('the ramp', ({ readPercent, hold }) => readPercent === 1 && hold !== undefined)
    let tries = 0
    life.world.before.returnTraffic = () => {
      if (++tries < 4) throw Object.assign(refusal('DATABASE.UNREACHABLE'), { nonRetryable: false })
    }
    await life.update('abort', { by })
    expect((await life.result()).outcome).toBe('aborted')
    expect(tries).toBeGreaterThanOrEqual(5)
    expect((await life.status()).trouble).toBeUndefined()
  })
})

describe('with every slot taken', () => {
  const { start } = workflowEnvironment('real', { slots: 3 })

  test('traffic returns before any of them is free', async () => {
    const life = await start(withoutHolds, {
      world: ({ before }) => {
        let isOver = false
        before.applyChanges = before.backfillSlice = () => runUntil(() => isOver)
        before.windDown = () => void (isOver = true)
      },
    })
    await life.until('both lanes', () => timesOf(life.world, 'backfillSlice') === 2)
    const slots = life.world.calls.length
    await life.signal('abort', { by })
    await eventually(() => timesOf(life.world, 'returnTraffic') > 0, { what: 'traffic', timeoutMs: 5_000 })
    expect(since(life.world, slots)).toEqual(['returnTraffic'])
    expect((await life.result()).outcome).toBe('aborted')
  })
})
