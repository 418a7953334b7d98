import { setTimeout as delay } from 'node:timers/promises'
import { describe, expect, test } from 'vitest'
import { timesOf } from '../support/fake-activities.ts'
import { withoutApproval, workflowEnvironment, type Life } from '../support/workflow-environment.ts'

const { start } = workflowEnvironment()

const continueAfterEvents = 400
const mostEvents = 500
/** A slice is an activity and the workflow task that hears of its end, three events each; all that is not slices comes to 0.5. */
const mostEventsPerSlice = 6.8

const slicesOf = ({ world }: Life): number => timesOf(world, 'backfillSlice') + timesOf(world, 'verifySlice')

/** Looks while it runs: a history without an end grows ever slower, and would not be there to be looked at in time. */
async function endOf(life: Life): ReturnType<Life['result']> {
  const end = life.result()
  let isOver = false
  const over = (): void => void (isOver = true)
  end.then(over, over)
  while (!isOver) {
    const { historyLength } = await life.handle.describe()
    expect(historyLength, `events of one history, after ${slicesOf(life)} slices`).toBeLessThan(mostEvents)
    await delay(250)
  }
  return end
}

describe('continue-as-new', () => {
  test('thousands of slices leave no history longer than it should be', { timeout: 180_000 }, async () => {
    const life = await start(withoutApproval, {
      continueAfterEvents,
      world: (world) => (world.slicesPerLane = 840),
    })
    const { outcome, status } = await endOf(life)
    expect(outcome).toBe('done')
    const slices = slicesOf(life)
    expect(slices).toBeGreaterThan(5_000)
    const histories = await life.histories()
    expect(histories.length).toBeGreaterThan(20)
    for (const { events, bytes } of histories) {
      expect(events).toBeLessThan(mostEvents)
      // The server warns at 10 MB.
      expect(bytes).toBeGreaterThan(0)
      expect(bytes).toBeLessThan(500_000)
    }
    const perSlice = histories.reduce((sum, { events }) => sum + events, 0) / slices
    process.stderr.write(
      `${slices} slices in ${histories.length} histories of at most ${Math.max(...histories.map(({ events }) => events))} events and ${Math.max(...histories.map(({ bytes }) => bytes))} bytes, ${perSlice.toFixed(2)} events a slice\n`,
    )
    expect(perSlice).toBeLessThan(mostEventsPerSlice)
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
