import { describe, expect, test } from 'vitest'
import { renderDetails } from './details.ts'
import { createState, record, type MigrationState } from './state.ts'

const at = Date.UTC(2026, 10, 25, 12, 0, 0)

const stateWith = (change: Partial<MigrationState>): MigrationState => ({
  ...createState('people', 'default', at, 4),
  ...change,
})

const json = (details: string): unknown => JSON.parse(/```json\n([\s\S]+?)\n```/.exec(details)?.[1] ?? 'null')

describe('the page', () => {
  test('of a gate has the exact payload of its approval', () => {
    const gate = { gate: 'expand', since: at, token: 'abc', why: 'Five steps.', approval: undefined } as const
    const details = renderDetails(stateWith({ gate }))
    expect(details).toContain('### people · expand · waiting for approval of expand')
    expect(details).toContain('**▶ expand** → dual-write')
    expect(details).toContain('**Waiting for approval of expand** since 2026-11-25 12:00:00 UTC. Five steps.')
    expect(json(details)).toEqual({ gate: 'expand', by: 'your name', token: 'abc' })
    expect(json(renderDetails(stateWith({ gate: { ...gate, token: undefined } })))).toEqual({
      gate: 'expand',
      by: 'your name',
    })
  })

  test('of a pause and of a trouble has the payload that ends it', () => {
    const paused = renderDetails(stateWith({ paused: { by: 'Ann', reason: 'lunch', at } }))
    expect(paused).toContain('**Paused** by Ann at 2026-11-25 12:00:00 UTC: lunch.')
    expect(json(paused)).toEqual({ by: 'your name' })
    const trouble = { code: 'DDL.BLOCKED', message: 'Blocked.', mend: 'Unblock it.', at }
    const troubled = renderDetails(stateWith({ trouble }))
    expect(troubled).toContain('**Needs a person** (DDL.BLOCKED): Blocked.')
    expect(troubled).toContain('→ Unblock it.')
    expect(troubled).toContain('`resume`, or `abort`')
    const aborted = renderDetails(stateWith({ trouble, abort: { by: 'Ann', at } }))
    expect(aborted).toContain('**Going back**: Ann aborted it')
    expect(aborted).toContain('(DDL.BLOCKED)')
    expect(aborted).not.toContain('`abort`')
  })

  test('gives a full comparison as exact, a sample with its bound', () => {
    const parity = {
      parity: 1,
      lowerBound: 1,
      confidence: 0.95,
      compared: 20000,
      mismatched: 0,
      proven: true,
    }
    expect(renderDetails(stateWith({ parity }))).toContain('100.0000 %, all of 20,000 rows compared')
    expect(renderDetails(stateWith({ parity: { ...parity, lowerBound: 0.9998 } }))).toContain(
      'at least 99.9800 % at 95 % confidence',
    )
  })

  test('is not in the power of those who send messages', () => {
    const state = stateWith({
      paused: { by: 'x\n\n# Approved\n| a | b |', reason: '[go](http://a.b) `c`', at },
    })
    record(state, at, 'refused approve: "\n```json\n{}\n```', '<b>Ann</b>')
    const details = renderDetails(state)
    expect(details.match(/```json/g)).toHaveLength(1)
    expect(details).not.toMatch(/^# Approved/m)
    expect(details).not.toContain('[go](')
    expect(details).not.toContain('<b>')
  })

  test('of what has ended asks for nothing', () => {
    for (const outcome of ['done', 'planned', 'aborted'] as const) {
      const details = renderDetails(stateWith({ outcome, paused: { by: 'Ann', at } }))
      expect(json(details)).toBeNull()
    }
  })
})
