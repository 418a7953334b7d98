import { describe, expect, test } from 'vitest'
import { failOnce, putOff, storyOf, timesOf, token } from '../support/fake-activities.ts'
import {
  day,
  definition,
  hour,
  minute,
  withoutApproval,
  workflowEnvironment,
} from '../support/workflow-environment.ts'

const { start } = workflowEnvironment()

describe('the story', () => {
  test('a step of the ramp holds from when every instance acts on it; a brake waits for a person', async () => {
    const life = await start()
    await life.atGate('expand')
    await life.approve('expand')
    await life.atGate('cutover')
    life.world.behind.push(['a', 'b'], ['b'])
    life.world.braked = 'm.new_schema_read at 0 % instead of 1 %'
    await life.approve('cutover')
    const braked = await life.until('the brake', ({ trouble }) => trouble !== undefined)
    expect(braked.hold).toBeUndefined()
    expect(braked.trouble?.code).toBe('FLAGS.BRAKED')
    expect(braked.trouble?.message).toContain('m.new_schema_read at 0 % instead of 1 %')
    expect(await life.story()).toContain('waits for instances: a, b')
    expect(await life.details()).toContain('`crossfade flags')
    life.world.braked = undefined
    const before = timesOf(life.world, 'awaitInstances')
    await life.update('resume', { by: 'Ann' })
    const held = await life.until('the hold', ({ hold }) => hold !== undefined)
    expect(held).toMatchObject({ readPercent: 1, waitingFor: 'the hold to end' })
    expect(timesOf(life.world, 'awaitInstances')).toBe(before + 2) // b, and then nobody
  })

  test('default ramp, a soak of 21 and one of 9 days pass in seconds, each phase does what it should in order', async () => {
    const life = await start({ ...withoutApproval, retire: { soak: '21d' }, contract: { soak: '9d' } })
    const began = performance.now()
    const { outcome, status } = await life.result()
    expect(outcome).toBe('done')
    expect(performance.now() - began).toBeLessThan(30_000)
    expect(status.ramp.reached).toEqual([1, 10, 50, 100])
    expect(storyOf(life.world)).toEqual([
      'plan',
      'expand',
      'checkCapture',
      'setFlags',
      'awaitInstances',
      'checkDrift',
      'setFlags',
      'planBackfill',
      'backfillSlice',
      'complete',
      'setFlags',
      'planVerify',
      'verifySlice',
      'checkDrift',
      'readParity',
      'proveCutover',
      ...status.ramp.reached.flatMap(() => ['setFlags', 'awaitInstances']),
      'checkDrift',
      'planVerify',
      'verifySlice',
      'startReverse',
      'drainChangeLog',
      'movePrimary',
      'awaitInstances',
      'stopDualWrite',
      'observeOldSide',
      'retireOldTables',
      'dropOldTables',
    ])
    const seconds = (name: string): number =>
      status.finishedPhases.find((phase) => phase.name === name)?.seconds ?? NaN
    const rampMs = 10 * minute + 30 * minute + 2 * hour
    expect(seconds('cutover')).toBeGreaterThanOrEqual(rampMs / 1000)
    expect(seconds('cutover')).toBeLessThan((rampMs + 10 * minute) / 1000)
    expect(seconds('retire')).toBeGreaterThanOrEqual((21 * day) / 1000)
    expect(seconds('contract')).toBeGreaterThanOrEqual((9 * day) / 1000)
    expect(seconds('contract')).toBeLessThan((9 * day + hour) / 1000)
    expect(timesOf(life.world, 'applyChanges')).toBeGreaterThan(21)
  })

  test('a person opens four gates, and the reads move only after theirs', async () => {
    const life = await start()
    await life.atGate('expand')
    expect(storyOf(life.world)).toEqual(['plan'])
    await life.skip(45 * day)
    expect(storyOf(life.world)).toEqual(['plan'])
    expect(await life.approve('expand')).toBe('expand is approved')
    await life.atGate('cutover')
    await life.skip(10 * day)
    expect(life.world.flags[life.migration.flags.readEnabled] ?? 0).toBe(0)
    expect((await life.status()).readPercent).toBe(0)
    await life.approve('cutover')
    await life.until('the first step', ({ readPercent, hold }) => readPercent === 1 && hold !== undefined)
    await life.skip(2 * day)
    const retire = await life.atGate('retire')
    expect(retire.readPercent).toBe(100)
    expect(retire.primary).toBe('old')
    expect(timesOf(life.world, 'movePrimary')).toBe(0)
    await life.approve('retire')
    await life.until('the new side to be primary', ({ primary }) => primary === 'new')
    await life.skip(8 * day)
    const contract = await life.atGate('contract')
    expect(contract.canGoBack).toBe(false)
    expect(timesOf(life.world, 'retireOldTables')).toBe(0)
    await life.approve('contract')
    expect((await life.result()).outcome).toBe('done')
  })

  test('a swap exchanges the names once, with the companions stopped', async () => {
    const life = await start({ ...withoutApproval, cutover: { mode: 'swap' } })
    const { outcome, status } = await life.result()
    expect(outcome).toBe('done')
    expect(status.primary).toBe('new')
    const story = storyOf(life.world)
    expect(story.slice(story.indexOf('proveCutover'), story.indexOf('swap') + 1)).toEqual([
      'proveCutover',
      'drainChangeLog',
      'swap',
    ])
    expect(timesOf(life.world, 'movePrimary')).toBe(0)
  })

  test('without a reverse mapping the way back is not proven, and there is no soak', async () => {
    const [mapping] = definition.mappings
    if (!mapping) throw new Error('There is no mapping.')
    const life = await start({ ...withoutApproval, mappings: [{ ...mapping, reverse: false }] })
    const { outcome, status } = await life.result()
    expect(outcome).toBe('done')
    expect(timesOf(life.world, 'startReverse')).toBe(0)
    expect(status.finishedPhases.find(({ name }) => name === 'retire')?.seconds).toBeLessThan(3600)
    expect(status.verify.pass).toBe(1)
  })

  test('a dry run plans and ends', async () => {
    const life = await start({ safety: { dryRunMode: true } })
    const { outcome, status } = await life.result()
    expect(outcome).toBe('planned')
    expect(status.token).toBe(token)
    expect(life.world.calls.map(({ name }) => name)).toEqual(['plan'])
    expect(await life.details()).toContain('planned, nothing was changed (dry run)')
    expect((await life.plan())?.steps).toHaveLength(2)
  })

  test('a pass with repairs is followed by another, and after five a person has to look', async () => {
    const life = await start(withoutApproval, {
      world: (world) => (world.mismatches = [9, 8, 7, 6, 5, 4, 0]),
    })
    const status = await life.until('trouble', ({ trouble }) => trouble !== undefined)
    expect(status.trouble?.code).toBe('VERIFY.NOT_CLEAN')
    expect(status.verify.pass).toBe(5)
    await life.update('resume', { by: 'Ann' })
    await life.until('cutover', ({ phase }) => phase === 'cutover')
    expect((await life.status()).verify.pass).toBe(7)
  })

  test('parity that is too low keeps cutover shut until everything was compared again', async () => {
    const life = await start(withoutApproval, {
      world: (world) => {
        world.before.readParity = () => {
          if (timesOf(world, 'readParity') === 1) world.sample = { compared: 1000, mismatched: 50 }
        }
      },
    })
    const status = await life.until('trouble', ({ trouble }) => trouble !== undefined)
    expect(status.trouble?.code).toBe('CUTOVER.PARITY')
    expect(status.readPercent).toBe(0)
    await life.update('resume', { by: 'Ann' })
    expect((await life.until('the ramp', ({ readPercent }) => readPercent > 0)).verify.pass).toBe(2)
  })

  test('what still uses the old side keeps the contract shut', async () => {
    let reads = 7
    const life = await start(withoutApproval, {
      world: (world) => {
        world.before.observeOldSide = () => {
          world.oldSide = { ...world.oldSide, scans: (reads += reads < 12 ? 1 : 0) }
        }
      },
    })
    await life.skip(9 * day)
    const status = await life.until('trouble', ({ trouble }) => trouble !== undefined)
    expect(status.trouble?.code).toBe('CONTRACT.STILL_USED')
    expect(timesOf(life.world, 'retireOldTables')).toBe(0)
    reads = 20
    await life.update('resume', { by: 'Ann' })
    expect((await life.result()).outcome).toBe('done')
  })

  test('maxRuntimeMinutes counts work, not holds, gates, pauses and troubles', async () => {
    const life = await start({ safety: { requireApproval: true, maxRuntimeMinutes: 30 } })
    await life.atGate('expand')
    await life.skip(2 * day)
    await life.update('pause', { by: 'Ann' })
    await life.approve('expand')
    await life.skip(2 * day)
    failOnce(life.world, 'complete', 'DDL.FAILED')
    await life.update('resume', { by: 'Ann' })
    await life.until('trouble', ({ trouble }) => trouble !== undefined)
    await life.skip(2 * day)
    await life.update('resume', { by: 'Ann' })
    await life.atGate('cutover')
    await life.skip(2 * day)
    await life.approve('cutover')
    await life.skip(day)
    expect((await life.atGate('retire')).abort).toBeUndefined()
    expect((await life.status()).workedMs).toBeLessThan(30 * minute)
  })

  test('maxRuntimeMinutes of work aborts, in the middle of lanes that overlap', async () => {
    const life = await start(
      { safety: { requireApproval: false, maxRuntimeMinutes: 30 } },
      {
        world: (world) => {
          world.slicesPerLane = 1000
          world.companionSliceMs = 10 * day
          // Each slice lasts seven minutes of the server's time: put off, not running.
          world.before.backfillSlice = ({ lane }) => putOff((7 + Number(lane)) * minute)
        },
      },
    )
    const { outcome, status } = await life.result()
    expect(outcome).toBe('aborted')
    expect(status.abort?.reason).toContain('maxRuntimeMinutes (30)')
    expect(status.phase).toBe('backfill')
    expect(life.world.backfillSlices).toBeLessThan(15)
  })
})
