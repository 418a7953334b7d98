import { randomUUID } from 'node:crypto'
import { describe, expect, inject, test } from 'vitest'
import { connectCrossfade } from '../../src/client.ts'
import {
  runUntil,
  runUntilCancelled,
  stopAt,
  storyOf,
  timesOf,
  type ActivityName,
} from '../support/fake-activities.ts'
import { definition, withoutHolds, workflowEnvironment } from '../support/workflow-environment.ts'
import { eventually } from '../support/wait.ts'

const { start } = workflowEnvironment('real')
const by = 'Ann'

/** One activity of each phase, and where pausing is most delicate. */
const places: readonly ActivityName[] = [
  'plan',
  'expand',
  'checkCapture',
  'backfillSlice',
  'complete',
  'verifySlice',
  'proveCutover',
  'drainChangeLog',
  'movePrimary',
  'stopDualWrite',
  'observeOldSide',
  'dropOldTables',
]

describe('pause and resume', () => {
  test.each(places)(
    'in the middle of %s: it is stopped, nothing else starts, and then it is done again',
    async (name) => {
      const life = await start(withoutHolds)
      const stop = stopAt(life.world, name)
      await life.reach(stop)
      expect(await life.update('pause', { by, reason: 'peak hours' })).toContain('paused')
      const isCancelled = (): boolean =>
        life.world.calls.some((call) => call.name === name && call.input['cancelled'] === true)
      await eventually(isCancelled, { what: `${name} to be cancelled` })
      const before = storyOf(life.world)
      const slices = life.world.companionSlices
      // Both sides stay in step meanwhile, wherever appliers ran.
      const isApplying = !['plan', 'expand', 'stopDualWrite', 'observeOldSide', 'dropOldTables'].includes(
        name,
      )
      if (isApplying)
        await eventually(() => life.world.companionSlices > slices + 1, { what: 'companions to go on' })
      expect(storyOf(life.world)).toEqual(before)
      const status = await life.status()
      expect(status.waitingFor).toBe('resume')
      expect(status.paused).toMatchObject({ by, reason: 'peak hours' })
      expect(await life.details()).toContain('**Paused** by Ann')
      await expect(life.update('pause', { by: 'Bob' })).rejects.toMatchObject({
        cause: { message: 'Ann paused it already' },
      })
      await life.update('resume', { by })
      const { outcome } = await life.result()
      expect(outcome).toBe('done')
      expect(timesOf(life.world, name)).toBeGreaterThanOrEqual(3) // the first, its end, the second
      expect(timesOf(life.world, 'swap') + timesOf(life.world, 'returnTraffic')).toBe(0)
    },
  )

  test('that comes while the last activity ends by itself leaves nothing to resume', async () => {
    const life = await start(withoutHolds)
    let isReached = false
    let isPaused = false
    life.world.before.dropOldTables = async () => {
      isReached = true
      await eventually(() => isPaused, { what: 'the pause' }) // it does not heed that it is cancelled
    }
    await eventually(() => isReached, { what: 'the last activity' })
    await life.update('pause', { by })
    isPaused = true
    expect((await life.result()).outcome).toBe('done')
    expect((await life.status()).paused).toBeUndefined()
  })

  test('before anything happened', async () => {
    const life = await start(withoutHolds)
    await life.signal('pause', { by })
    await life.until('the pause', ({ paused }) => paused !== undefined)
    await life.signal('resume', { by })
    expect((await life.result()).outcome).toBe('done')
  })

  test('ten times in a row, and resuming twice is refused', async () => {
    const life = await start(withoutHolds, { world: (world) => (world.slicesPerLane = 20) })
    for (let i = 0; i < 10; i++) {
      await life.update('pause', { by })
      await life.update('resume', { by })
    }
    await expect(life.update('resume', { by })).rejects.toMatchObject({
      cause: { message: 'it is not paused and waits for nobody to resume it' },
    })
    expect((await life.result()).outcome).toBe('done')
    expect(await life.story()).toContain('resumed (Ann)')
  })
})

describe('configure', () => {
  test('stops the slices and starts them with the new settings, in as many lanes as it says', async () => {
    const life = await start(withoutHolds)
    life.world.before.backfillSlice = ({ settings }) =>
      (settings as { batchSize?: number }).batchSize === 77 ? undefined : runUntilCancelled()
    await eventually(() => timesOf(life.world, 'backfillSlice') === 2, { what: 'two lanes' })
    await life.update('configure', { by, batchSize: 77, maxConcurrency: 4, profile: 'fast' })
    expect((await life.status()).settings).toEqual({ batchSize: 77, maxConcurrency: 4, profile: 'fast' })
    await life.until('verify', ({ phase }) => phase !== 'backfill')
    const slices = life.world.calls.filter(({ name }) => name === 'backfillSlice').map(({ input }) => input)
    expect(slices[0]).toMatchObject({ lanes: 2, settings: {} })
    expect(slices.at(-1)).toMatchObject({
      lanes: 4,
      settings: { batchSize: 77, maxConcurrency: 4, profile: 'fast' },
    })
    // No slice of the old count came after: the lanes were counted anew at once.
    const firstNew = slices.findIndex(({ lanes }) => lanes === 4)
    expect(slices.slice(firstNew).every(({ lanes }) => lanes === 4)).toBe(true)
    expect(slices.slice(0, firstNew)).toHaveLength(2)
    expect(await life.story()).toContain('configured batchSize 77, maxConcurrency 4, profile fast (Ann)')
  })

  test('one setting after another adds up, and applies to what comes later', async () => {
    const life = await start()
    await life.atGate('expand')
    await life.update('configure', { by, batchSize: 10 })
    await life.signal('configure', { by, maxReplicationLagSec: 20 })
    await life.update('configure', { by, batchSize: 20 })
    await life.approve('expand')
    await life.atGate('cutover')
    const slice = life.world.calls.find(({ name }) => name === 'backfillSlice')
    expect(slice?.input['settings']).toEqual({ batchSize: 20, maxReplicationLagSec: 20 })
  })

  test('does not disturb what is no slice', async () => {
    const life = await start(withoutHolds)
    let isBuilt = false
    life.world.before.complete = () => runUntil(() => isBuilt)
    await eventually(() => timesOf(life.world, 'complete') === 1, { what: 'indexes to be built' })
    await life.update('configure', { by, batchSize: 10 })
    await life.until('the setting', ({ settings }) => settings.batchSize === 10)
    isBuilt = true
    await life.until('cutover', ({ phase }) => phase === 'cutover')
    expect(timesOf(life.world, 'complete')).toBe(1)
  })
})

/** A server takes 10 updates of a workflow before it answers them. */
test('more messages at once than the server takes all arrive, with a worker and without one', async () => {
  const life = await start()
  await life.atGate('expand')
  const address = inject('temporalAddress') ?? ''
  const client = await connectCrossfade({ address })
  const sizes = Array.from({ length: 24 }, (_, i) => 100 + i)
  await Promise.all(sizes.map((batchSize) => client.get(life.name).configure({ by, batchSize })))
  await eventually(
    async () => {
      const told = (await life.audit()).map(({ what }) => what).join()
      return sizes.every((size) => told.includes(`${size}`))
    },
    { what: 'all of them in the audit' },
  )
  await client.close()

  const alone = await connectCrossfade({ address, taskQueue: `nobody-${randomUUID()}` })
  const handle = await alone.start({ ...definition, name: `alone-${randomUUID().slice(0, 8)}` })
  const answers = await Promise.all(sizes.map((batchSize) => handle.configure({ by, batchSize })))
  expect(new Set(answers)).toEqual(new Set(['sent; no worker answered yet, it takes effect when one does']))
  await life.handle.client.getHandle(handle.workflowId).terminate('the test is over')
  await alone.close()
})
