import { describe, expect, test } from 'vitest'
import { timesOf, type World } from '../support/fake-activities.ts'
import { day, hour, minute, workflowEnvironment, type Life } from '../support/workflow-environment.ts'

const { start } = workflowEnvironment()
const by = 'Ann'
const reason = 'sampling found 5 mismatches in 900 comparisons'

/** Sampling looks often enough to see a breach within a step of the ramp. */
const often = (world: World): void => {
  world.companionSliceMs = 4 * minute
}

async function toRamp(life: Life): Promise<void> {
  await life.atGate('expand')
  await life.approve('expand')
  await life.atGate('cutover')
  await life.approve('cutover')
  await life.until('the ramp', ({ readPercent, hold }) => readPercent === 1 && hold !== undefined)
}

const readsOf = (life: Life): number | undefined => life.world.flags[life.migration.flags.readEnabled]

async function expectRolledBack(life: Life): Promise<void> {
  const status = await life.until('the way back', ({ trouble }) => trouble !== undefined)
  expect(status).toMatchObject({ readPercent: 0, phase: status.phase, trouble: { code: 'CUTOVER.BREACH' } })
  expect(readsOf(life)).toBe(0)
  expect(await life.story()).toContain(`ramp rolled back: ${reason}`)
  expect(status.waitingFor).toBe('a person: CUTOVER.BREACH')
}

describe('a breach', () => {
  test('takes reads back by itself; after a person looked all is compared again and the gate opens again', async () => {
    const life = await start({}, { world: often })
    await toRamp(life)
    await life.skip(15 * minute)
    expect(readsOf(life)).toBe(10)
    life.world.breach = reason
    await life.skip(9 * minute)
    await expectRolledBack(life)
    const { verify } = await life.status()
    life.world.companionSliceMs = 10 * day
    await life.skip(day)
    expect(readsOf(life)).toBe(0)
    // It is told once, however long nobody comes.
    expect((await life.audit()).filter(({ what }) => what.startsWith('breach: ')).length).toBeLessThanOrEqual(
      2,
    )

    life.world.breach = undefined
    life.world.companionSliceMs = 30 * minute
    await life.update('resume', { by })
    const again = await life.atGate('cutover')
    expect(again.verify.pass).toBe(verify.pass + 1)
    expect(again.gate?.approval).toBeUndefined()
    expect(again.breach).toBeUndefined()
    expect(readsOf(life)).toBe(0)
    await life.approve('cutover')
    await life.until('the ramp again', ({ readPercent, hold }) => readPercent === 1 && hold !== undefined)
    await life.skip(4 * hour)
    await life.atGate('retire')
    expect((await life.status()).ramp.reached).toEqual([1, 10, 1, 10, 50, 100])
  })

  test('takes reads back while it is paused', async () => {
    const life = await start({}, { world: often })
    await toRamp(life)
    await life.skip(15 * minute)
    await life.update('pause', { by })
    await life.skip(3 * hour) // the hold is over, the next step waits
    expect(readsOf(life)).toBe(10)
    life.world.breach = reason
    await life.skip(9 * minute)
    await life.until('the way back', ({ readPercent }) => readPercent === 0)
    expect(readsOf(life)).toBe(0)
    life.world.breach = undefined
    await life.update('resume', { by })
    await life.atGate('cutover')
  })

  test('before the first step keeps reads where they are', async () => {
    const life = await start({}, { world: often })
    await life.atGate('expand')
    await life.approve('expand')
    await life.atGate('cutover')
    life.world.breach = reason
    await life.skip(10 * minute)
    expect(await life.details()).toContain(reason)
    await life.approve('cutover')
    await expectRolledBack(life)
    expect((await life.status()).ramp.reached).toEqual([])
  })

  test('that has passed before anybody moved reads is forgotten', async () => {
    const life = await start({}, { world: often })
    await life.atGate('expand')
    await life.approve('expand')
    await life.atGate('cutover')
    life.world.breach = 'a replica is 20 s behind'
    await life.skip(10 * minute)
    expect((await life.status()).breach).toBe('a replica is 20 s behind')
    life.world.breach = undefined
    await life.skip(20 * minute)
    expect((await life.status()).breach).toBeUndefined()
    await life.approve('cutover')
    await life.until('the ramp', ({ readPercent, hold }) => readPercent === 1 && hold !== undefined)
  })

  test('at the gate of retire still takes reads back, and they are ramped again before it opens', async () => {
    const life = await start({}, { world: often })
    await toRamp(life)
    await life.skip(4 * hour)
    await life.atGate('retire')
    expect(readsOf(life)).toBe(100)
    life.world.breach = reason
    await life.skip(10 * minute)
    await expectRolledBack(life)
    expect(timesOf(life.world, 'movePrimary')).toBe(0)
    await expect(life.update('approve', { gate: 'retire', by })).rejects.toMatchObject({
      name: 'WorkflowUpdateFailedError',
    })
    life.world.breach = undefined
    await life.update('resume', { by })
    await life.atGate('cutover')
    await life.approve('cutover')
    await life.skip(4 * hour)
    await life.atGate('retire')
    expect(readsOf(life)).toBe(100)
    await life.approve('retire')
    await life.until('the new side to be primary', ({ primary }) => primary === 'new')
  })
})
