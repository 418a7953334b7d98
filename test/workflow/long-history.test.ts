import { describe, expect, test } from 'vitest'
import { timesOf } from '../support/fake-activities.ts'
import { withoutApproval, workflowEnvironment } from '../support/workflow-environment.ts'

const { start } = workflowEnvironment()

describe('continue-as-new', () => {
  test('thousands of slices leave no history longer than it should be', { timeout: 180_000 }, async () => {
    const life = await start(withoutApproval, {
      continueAfterEvents: 400,
      world: (world) => (world.slicesPerLane = 840),
    })
    const { outcome, status } = await life.result()
    expect(outcome).toBe('done')
    const slices = timesOf(life.world, 'backfillSlice') + timesOf(life.world, 'verifySlice')
    expect(slices).toBeGreaterThan(5_000)
    const histories = await life.histories()
    expect(histories.length).toBeGreaterThan(20)
    for (const { events, bytes } of histories) {
      expect(events).toBeLessThan(500)
      // The server warns at 10 MB.
      expect(bytes).toBeGreaterThan(0)
      expect(bytes).toBeLessThan(500_000)
    }
    process.stderr.write(
      `${slices} slices in ${histories.length} histories of at most ${Math.max(...histories.map(({ events }) => events))} events and ${Math.max(...histories.map(({ bytes }) => bytes))} bytes\n`,
    )
    expect(histories.slice(1).map((run) => run.status)).toEqual(
      histories.slice(1).map(() => 'CONTINUED_AS_NEW'),
    )
    // Each comparison was begun once, forward and back.
    expect(status.verify.pass).toBe(2)
    const begun = life.world.calls.filter(
      ({ name, input }) => name === 'planVerify' && input['begun'] === false,
    )
    expect(begun).toHaveLength(2)
    expect(timesOf(life.world, 'plan')).toBe(1)
    expect(timesOf(life.world, 'expand')).toBe(1)
    expect(timesOf(life.world, 'movePrimary')).toBe(1)
  })
})
