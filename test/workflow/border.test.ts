import { describe, expect, inject, test } from 'vitest'
import { connectCrossfade } from '../../src/client.ts'
import { required } from '../support/migration.ts'
import { failOnce, runUntil, stopAt, storyOf, timesOf } from '../support/fake-activities.ts'
import { withoutHolds, workflowEnvironment } from '../support/workflow-environment.ts'
import { eventually } from '../support/wait.ts'

const { start } = workflowEnvironment('real')
const by = 'Ann'

describe('the border between two runs', () => {
  test('loses no message under a fire of signals and updates', { timeout: 120_000 }, async (t) => {
    const life = await start(withoutHolds, {
      continueAfterEvents: 40,
      world: (world) => (world.slicesPerLane = 100_000),
    })
    await life.until('the backfill', ({ phase }) => phase === 'backfill')
    const signals = Array.from({ length: 100 }, (_, i) => 1000 + i)
    const updates = Array.from({ length: 40 }, (_, i) => 5000 + i)
    const answers: string[] = []
    const client = await connectCrossfade({ address: required(inject('temporalAddress'), 'Temporal') })
    t.onTestFinished(() => client.close())
    const migration = client.get(life.name)
    await Promise.all([
      (async () => {
        for (const batchSize of signals) await life.signal('configure', { by, batchSize })
      })(),
      (async () => {
        for (const batchSize of updates) answers.push(await migration.configure({ by, batchSize }))
      })(),
    ])
    expect(answers).toEqual(updates.map(() => 'the lanes go on with it'))
    await eventually(async () => {
      const story = await life.story()
      return [...signals, ...updates].every((n) => story.includes(`configured batchSize ${n} (Ann)`))
    })
    const histories = await life.histories()
    expect(histories.length).toBeGreaterThan(5)
    await life.update('abort', { by })
    expect((await life.result()).outcome).toBe('aborted')
  })

  test('a pause that lasts for weeks does not fill a history', { timeout: 120_000 }, async () => {
    const life = await start(withoutHolds, {
      continueAfterEvents: 60,
      world: (world) => (world.companionSliceMs = 20),
    })
    const stop = stopAt(life.world, 'backfillSlice')
    await life.reach(stop)
    await life.update('pause', { by })
    await eventually(() => life.world.companionSlices > 60, {
      what: 'companions to go on',
      timeoutMs: 60_000,
    })
    const paused = await life.histories()
    expect(paused.length).toBeGreaterThan(3)
    for (const { events } of paused) expect(events).toBeLessThan(120)
    expect((await life.status()).paused).toMatchObject({ by })
    for (let i = 0; i < 150; i++) await life.signal('pause', { by: `Bob ${i}` })
    for (const { events } of await life.histories()) expect(events).toBeLessThan(250)
    await life.update('resume', { by })
    expect((await life.result()).outcome).toBe('done')
  })

  test('an abort that meets the border returns traffic first', async () => {
    for (let i = 0; i < 5; i++) {
      const life = await start(withoutHolds, {
        continueAfterEvents: 12,
        world: (world) => (world.slicesPerLane = 100_000),
      })
      await life.until('the backfill', ({ phase }) => phase === 'backfill')
      await life.signal('abort', { by })
      const { outcome } = await life.result()
      expect(outcome).toBe('aborted')
      const names = life.world.calls.map(({ name }) => name)
      const first = names.indexOf('returnTraffic')
      expect(first).toBeGreaterThan(0)
      expect(names.slice(first).filter((name) => name === 'windDown')).toHaveLength(1)
    }
  })

  test('work that runs when the history is long ends before the next run begins', async () => {
    let isOver = false
    const life = await start(withoutHolds, {
      continueAfterEvents: 30,
      world: (world) => {
        world.before.complete = () => runUntil(() => isOver)
      },
    })
    await eventually(() => timesOf(life.world, 'complete') === 1)
    for (let i = 0; i < 30; i++) await life.signal('configure', { by, batchSize: 1 + i })
    await life.until('all of them', ({ settings }) => settings.batchSize === 30)
    isOver = true
    expect((await life.result()).outcome).toBe('done')
    expect(timesOf(life.world, 'complete')).toBe(1)
  })

  test('a breach that meets the border still takes reads back', async () => {
    const life = await start(
      { ...withoutHolds, cutover: { ramp: [{ percent: 100, hold: '90d' }] } },
      { continueAfterEvents: 40, world: (world) => (world.companionSliceMs = 20) },
    )
    await life.until('the ramp', ({ readPercent }) => readPercent === 100)
    const slices = life.world.companionSlices
    await eventually(() => life.world.companionSlices > slices + 20)
    life.world.breach = 'sampling found 5 mismatches in 900 comparisons'
    const { trouble } = await life.until('the way back', (status) => status.trouble !== undefined)
    expect(trouble?.code).toBe('CUTOVER.BREACH')
    expect(life.world.flags[life.migration.flags.readEnabled]).toBe(0)
    expect((await life.histories()).length).toBeGreaterThan(3)
    const times = timesOf(life.world, 'proveCutover')
    life.world.breach = undefined
    await life.update('resume', { by })
    await life.until('the ramp again', ({ readPercent }) => readPercent === 100)
    expect(timesOf(life.world, 'proveCutover')).toBe(times + 1)
    expect((await life.status()).verify.pass).toBe(2)
  })
  test('a limit that is too small for a phase still gets somewhere', async () => {
    const life = await start(withoutHolds, { continueAfterEvents: 5 })
    const { outcome } = await life.result()
    expect(outcome).toBe('done')
    expect((await life.histories()).length).toBeGreaterThan(2)
  })

  test('an approval that meets the border is not lost', async () => {
    const life = await start(
      { ...withoutHolds, safety: { requireApproval: true } },
      { continueAfterEvents: 12 },
    )
    await life.atGate('expand')
    // Each refused signal makes the history longer, so that one of them makes it too long.
    const refused = Array.from({ length: 30 }, (_, i) =>
      life.signal('approve', { gate: 'retire', by: `Bob ${i}` }),
    )
    const approved = life.approve('expand')
    await Promise.all([...refused, approved])
    await life.atGate('cutover')
    expect(storyOf(life.world)).toContain('expand')
    const story = await life.story()
    expect(story.split('refused approve').length - 1).toBe(30)
    expect((await life.histories()).length).toBeGreaterThan(2)
  })

  test('a gate is the same one in the next run, and its approval counts', async () => {
    const life = await start(
      { ...withoutHolds, safety: { requireApproval: true } },
      { continueAfterEvents: 40, world: (world) => (world.companionSliceMs = 20) },
    )
    await life.atGate('expand')
    await life.approve('expand')
    const first = await life.atGate('cutover')
    const slices = life.world.companionSlices
    await eventually(() => life.world.companionSlices > slices + 60, {
      what: 'companions',
      timeoutMs: 40_000,
    })
    const histories = await life.histories()
    expect(histories.length).toBeGreaterThan(3)
    for (const { events } of histories) expect(events).toBeLessThan(100)
    expect((await life.status()).gate).toEqual(first.gate)
    await life.approve('cutover')
    await life.atGate('retire')
    const begun = life.world.calls.filter(
      ({ name, input }) => name === 'planVerify' && input['begun'] === false,
    )
    expect(begun).toHaveLength(2)
  })

  test('a hold keeps its end, and one that is over is not repeated', { timeout: 120_000 }, async () => {
    const life = await start(
      { ...withoutHolds, retire: { soak: '8s' } },
      { continueAfterEvents: 40, world: (world) => (world.companionSliceMs = 20) },
    )
    failOnce(life.world, 'stopDualWrite', 'DDL.BLOCKED')
    await life.until('the soak', ({ hold }) => hold?.label.startsWith('soak') === true)
    const { hold } = await life.status()
    await life.until('the end of the soak', ({ trouble }) => trouble !== undefined)
    const during = await life.histories()
    expect(during.length).toBeGreaterThan(3)
    expect(Date.now()).toBeGreaterThanOrEqual(hold?.until ?? Infinity)
    // A fire of refused signals makes the history long while it needs a person: the phase is entered anew after that.
    for (let i = 0; i < 40; i++) await life.signal('pause', { by: '' })
    await eventually(async () => (await life.histories()).length > during.length, { what: 'a new history' })
    const resumedAt = Date.now()
    await life.update('resume', { by })
    expect((await life.result()).outcome).toBe('done')
    expect(Date.now() - resumedAt).toBeLessThan(8000)
    expect(timesOf(life.world, 'startReverse')).toBe(1)
    expect(timesOf(life.world, 'movePrimary')).toBe(1)
  })
})
