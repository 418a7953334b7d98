import { describe, expect, test } from 'vitest'
import { failOnce, refusal, timesOf, type ActivityName } from '../support/fake-activities.ts'
import { day, hour, withoutApproval, workflowEnvironment } from '../support/workflow-environment.ts'

const { start } = workflowEnvironment()
const by = 'Ann'

const places: readonly ActivityName[] = [
  'plan',
  'expand',
  'checkCapture',
  'checkDrift',
  'setFlags',
  'planBackfill',
  'backfillSlice',
  'complete',
  'planVerify',
  'verifySlice',
  'readParity',
  'proveCutover',
  'startReverse',
  'drainChangeLog',
  'movePrimary',
  'stopDualWrite',
  'observeOldSide',
  'retireOldTables',
  'dropOldTables',
]

describe('what a retry does not mend', () => {
  test.each(places)('in %s waits for a person, who resumes', async (name) => {
    const life = await start(withoutApproval, { world: (world) => failOnce(world, name, 'PLAN.DRIFT') })
    await life.skip(9 * day)
    const status = await life.until('trouble', ({ trouble }) => trouble !== undefined)
    expect(status.trouble).toMatchObject({
      code: 'PLAN.DRIFT',
      message: 'What PLAN.DRIFT says went wrong.',
      mend: 'Mend what PLAN.DRIFT needs.',
    })
    expect(status.waitingFor).toBe('a person: PLAN.DRIFT')
    const details = await life.details()
    expect(details).toContain('**Needs a person** (PLAN.DRIFT): What PLAN.DRIFT says went wrong.')
    expect(details).toContain('Mend what PLAN.DRIFT needs.')
    const times = timesOf(life.world, name)
    await life.skip(2 * day)
    expect(timesOf(life.world, name)).toBe(times)
    await expect(life.update('approve', { gate: 'cutover', by })).rejects.toMatchObject({
      cause: { message: 'it needs a person first (PLAN.DRIFT); resume or abort it' },
    })
    const json = /```json\n([\s\S]+?)\n```/.exec(details)?.[1] ?? ''
    await life.signal('resume', { ...(JSON.parse(json) as object), by })
    expect((await life.result()).outcome).toBe('done')
    expect(timesOf(life.world, name)).toBeGreaterThan(times)
  })

  test('in both lanes at once is one trouble after the other, or one for both', async () => {
    const failed = new Set<unknown>()
    const life = await start(withoutApproval, {
      world: (world) => {
        world.before.backfillSlice = ({ lane }) => {
          if (failed.has(lane)) return
          failed.add(lane)
          throw refusal(`BACKFILL.LANE_${String(lane)}`)
        }
      },
    })
    for (let i = 0; i < 3; i++) {
      const { trouble, phase } = await life.until(
        'trouble or the end of the backfill',
        (status) => status.trouble !== undefined || status.finishedPhases.length > 2,
      )
      if (!trouble) break
      expect(phase).toBe('backfill')
      expect(trouble.code).toMatch(/^BACKFILL\.LANE_[01]$/)
      await life.update('resume', { by })
    }
    expect((await life.result()).outcome).toBe('done')
  })

  test('in a companion is no trouble: it is started again, told once, and ever more rarely', async () => {
    const life = await start(
      {},
      {
        world: (world) => {
          world.before.applyChanges = () => {
            throw refusal('SYNC.BROKEN')
          }
        },
      },
    )
    await life.atGate('expand')
    await life.approve('expand')
    await life.atGate('cutover')
    await life.skip(6 * hour)
    expect((await life.status()).trouble).toBeUndefined()
    expect((await life.audit()).filter(({ what }) => what.includes('companion'))).toHaveLength(1)
    expect(timesOf(life.world, 'applyChanges')).toBeLessThan(90)
    expect(timesOf(life.world, 'applyChanges')).toBeGreaterThan(20)
    delete life.world.before.applyChanges
    await life.skip(2 * day)
    expect(life.world.companionSlices).toBeGreaterThan(0)
  })
})

test('what a retry mends is retried, and nobody is asked', async () => {
  const life = await start(withoutApproval, {
    world: (world) => {
      for (const name of ['expand', 'backfillSlice', 'setFlags', 'movePrimary', 'dropOldTables'] as const) {
        let tries = 0
        world.before[name] = () => {
          if (++tries <= 3) throw Object.assign(refusal('DATABASE.UNREACHABLE'), { nonRetryable: false })
        }
      }
    },
  })
  const { outcome } = await life.result()
  expect(outcome).toBe('done')
  expect(timesOf(life.world, 'expand')).toBe(4)
  expect(await life.story()).not.toContain('needs a person')
})
