import { describe, expect, test } from 'vitest'
import { storyOf, timesOf } from '../support/fake-activities.ts'
import { day, hour, minute, withoutApproval, workflowEnvironment } from '../support/workflow-environment.ts'

const { start } = workflowEnvironment()
const by = 'Ann'

describe('a pause', () => {
  test('during a hold does not stop its clock, and the next step waits', async () => {
    const life = await start(withoutApproval)
    await life.until('the ramp', ({ readPercent, hold }) => readPercent === 1 && hold !== undefined)
    const { hold } = await life.status()
    await life.update('pause', { by })
    await life.skip(5 * hour)
    expect(await life.status()).toMatchObject({ readPercent: 1, waitingFor: 'resume', hold })
    await life.update('resume', { by })
    await life.until(
      'the second step at once',
      ({ readPercent, hold }) => readPercent === 10 && hold !== undefined,
    )
    expect((await life.result()).outcome).toBe('done')
  })

  test('that ends within a hold changes nothing', async () => {
    const life = await start(withoutApproval)
    await life.until('the ramp', ({ readPercent, hold }) => readPercent === 1 && hold !== undefined)
    const { hold } = await life.status()
    await life.skip(3 * minute)
    await life.update('pause', { by })
    await life.skip(3 * minute)
    await life.update('resume', { by })
    expect((await life.status()).hold).toEqual(hold)
    await life.skip(3 * minute)
    expect((await life.status()).readPercent).toBe(1)
    await life.skip(2 * minute)
    await life.until('the second step', ({ readPercent, hold }) => readPercent === 10 && hold !== undefined)
  })

  test('during a soak of weeks', async () => {
    const life = await start(withoutApproval)
    await life.skip(3 * day)
    expect((await life.status()).phase).toBe('retire')
    await life.update('pause', { by })
    await life.skip(40 * day)
    expect(timesOf(life.world, 'stopDualWrite')).toBe(0)
    expect(life.world.companionSlices).toBeGreaterThan(40)
    await life.update('resume', { by })
    expect((await life.result()).outcome).toBe('done')
  })

  test('at a gate: an approval counts, and what it opens waits for the end of the pause', async () => {
    const life = await start()
    await life.atGate('expand')
    await life.update('pause', { by })
    await life.approve('expand')
    await life.skip(40 * day) // longer than the timer that stands for waiting
    expect(storyOf(life.world)).toEqual(['plan'])
    expect((await life.status()).waitingFor).toBe('resume')
    await life.update('resume', { by })
    await life.atGate('cutover')
  })
})
