import { describe, expect, test } from 'vitest'
import { storyOf, timesOf, token } from '../support/fake-activities.ts'
import { day, hour, workflowEnvironment, type Life } from '../support/workflow-environment.ts'

const { start } = workflowEnvironment()

/** What a signal is refused with stands in the audit and on the page; an update's sender reads it. */
async function expectRefused(life: Life, payload: unknown, problem: string): Promise<void> {
  await expect(life.update('approve', payload)).rejects.toMatchObject({
    cause: { message: expect.stringContaining(problem) as string },
  })
  await life.signal('approve', payload)
  expect(await life.story()).toContain(`refused approve: ${problem}`)
  expect(await life.details()).toContain(`refused approve: ${problem}`.slice(0, 60))
}

const by = 'Ann'

describe('an approval', () => {
  test('counts only for the open gate, with its token, once', async () => {
    const life = await start()
    await life.atGate('expand')
    await expectRefused(life, { gate: 'cutover', by }, 'the open gate is expand, not cutover')
    await expectRefused(life, { gate: 'contract', by, token }, 'the open gate is expand, not contract')
    await expectRefused(life, { gate: 'expand', by }, 'the token does not fit')
    await expectRefused(life, { gate: 'expand', by, token: `${token}0` }, 'the token does not fit')
    await expectRefused(life, { gate: 'nothing', by, token }, '"gate" must be one of')
    await expectRefused(life, { gate: 'expand', token }, '"by" must name who sends this')
    await life.skip(day)
    expect(storyOf(life.world)).toEqual(['plan'])

    await life.update('pause', { by }) // so that the gate is still there for the second one
    expect(await life.update('approve', { gate: 'expand', by, token, note: 'go' })).toBe('expand is approved')
    await expectRefused(life, { gate: 'expand', by: 'Bob', token }, 'expand was approved by Ann already')
    expect(await life.story()).toContain('approved expand: go (Ann)')
    await life.update('resume', { by })
    await life.atGate('cutover')
  })

  test('that arrived before its gate opened is worth nothing', async () => {
    const life = await start()
    await life.atGate('expand')
    for (const gate of ['cutover', 'retire']) await life.signal('approve', { gate, by })
    await life.approve('expand')
    await life.atGate('cutover')
    await life.skip(3 * day)
    expect((await life.status()).gate).toMatchObject({ gate: 'cutover' })
    expect((await life.status()).gate?.approval).toBeUndefined()
    await life.approve('cutover')
    await life.until('the ramp', ({ readPercent, hold }) => readPercent === 1 && hold !== undefined)
    await expectRefused(life, { gate: 'cutover', by }, 'no gate is open now (approval of cutover)')
    await expectRefused(life, { gate: 'retire', by }, 'no gate is open now (approval of retire)')
    await life.skip(10 * hour)
    expect((await life.atGate('retire')).gate?.approval).toBeUndefined()
    expect(timesOf(life.world, 'startReverse')).toBe(0)
  })

  test('the very first signal, sent with the start, does not count either', async () => {
    const life = await start()
    await life.signal('approve', { gate: 'expand', by, token })
    await life.until('expand or later', ({ gate, phase }) => gate !== undefined || phase !== 'expand')
    const { gate } = await life.status()
    // It arrives either before the plan was made (refused) or when the gate is open already (counts).
    if (gate) expect(await life.story()).toContain('refused approve: no gate is open now')
    else expect(await life.story()).toContain('approved expand (Ann)')
  })

  test('is refused while it needs a person, and after an abort', async () => {
    const life = await start({ safety: { requireApproval: true } })
    await life.atGate('expand')
    let isReleased = false
    const { runUntil } = await import('../support/fake-activities.ts')
    life.world.before.windDown = () => runUntil(() => isReleased)
    await life.update('abort', { by, reason: 'changed my mind' })
    await expectRefused(life, { gate: 'expand', by, token }, 'Ann aborted it')
    await expect(life.update('pause', { by })).rejects.toMatchObject({ cause: { message: 'Ann aborted it' } })
    await expect(life.update('abort', { by: 'Bob' })).rejects.toMatchObject({
      cause: { message: 'Ann aborted it already' },
    })
    await expect(life.update('configure', { by, batchSize: 5 })).rejects.toMatchObject({
      cause: { message: 'Ann aborted it' },
    })
    isReleased = true
    expect((await life.result()).outcome).toBe('aborted')
    expect(timesOf(life.world, 'expand')).toBe(0)
  })
})

describe('the page', () => {
  test('shows the exact JSON to send, and that JSON opens each gate', async () => {
    const life = await start()
    for (const gate of ['expand', 'cutover', 'retire', 'contract']) {
      await life.atGate(gate)
      const details = await life.details()
      expect(details).toContain(`approval of ${gate}`)
      const json = /```json\n([\s\S]+?)\n```/.exec(details)?.[1] ?? ''
      const payload = JSON.parse(json) as Record<string, unknown>
      expect(payload['gate']).toBe(gate)
      await life.signal('approve', { ...payload, by: 'Ann' })
      if (gate !== 'contract') await life.skip(gate === 'expand' ? 1000 : 15 * day)
    }
    expect((await life.result()).outcome).toBe('done')
  })

  test('has search attributes, queries and figures that say the same', async () => {
    const life = await start()
    await life.atGate('expand')
    const attributes = async (): Promise<unknown[]> => {
      const { typedSearchAttributes } = await life.handle.describe()
      return typedSearchAttributes.getAll().map(({ key, value }) => [key.name, value])
    }
    expect(await attributes()).toEqual(
      expect.arrayContaining([
        ['CrossfadePhase', 'expand'],
        ['CrossfadeWaitingFor', 'approval of expand'],
        ['CrossfadeDatabase', 'default'],
      ]),
    )
    const status = await life.status()
    expect(status).toMatchObject({
      phase: 'expand',
      waitingFor: 'approval of expand',
      token,
      outcome: 'running',
      primary: 'old',
      canGoBack: true,
    })
    expect(status).not.toHaveProperty('audit')
    expect((await life.plan())?.token).toBe(token)
    await life.approve('expand')
    await life.atGate('cutover')
    const details = await life.details()
    expect(details).toContain('████████████████████ 100')
    expect(details).toContain('10,000')
    expect(details).toContain('pass 1')
    expect(await attributes()).toEqual(
      expect.arrayContaining([
        ['CrossfadePhase', 'cutover'],
        ['CrossfadeWaitingFor', 'approval of cutover'],
      ]),
    )
    await life.update('abort', { by })
    await life.result()
    expect(await attributes()).toEqual(
      expect.arrayContaining([
        ['CrossfadePhase', 'aborted'],
        ['CrossfadeWaitingFor', 'nothing'],
      ]),
    )
    expect(await life.details()).toContain('aborted, the old side serves')
  })
})
