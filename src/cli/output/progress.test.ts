import { describe, expect, test } from 'vitest'
import type { MigrationStatus } from '../../client.ts'
import { createState, toStatus, type MigrationState } from '../../core/state.ts'
import { waitingOf } from './answer.ts'
import { progressLine, renderStatus, standing } from './progress.ts'

const startedAt = Date.parse('2026-03-01T10:00:00Z')
const now = startedAt + 65_000
const plain = { style: (_: unknown, text: string) => text, isTerminal: false, columns: 80 }

function statusWith(
  change: Partial<MigrationState> | undefined,
  record: Partial<MigrationStatus> = {},
): MigrationStatus {
  const state = change && { ...createState('people', 'default', startedAt, 4), ...change }
  return {
    name: 'people',
    workflowId: 'crossfade/people',
    runId: 'r',
    execution: 'RUNNING',
    phase: state?.phase ?? 'expand',
    waitingFor: 'nothing',
    database: 'default',
    startedAt: new Date(startedAt).toISOString(),
    closedAt: undefined,
    historyEvents: 42,
    activities: [],
    ...record,
    detail: state && toStatus(state),
  }
}

const gateOf = (gate: 'expand' | 'cutover' | 'contract', token?: string): Partial<MigrationState> => ({
  phase: gate,
  gate: { gate, since: startedAt, token, why: 'Because.', approval: undefined },
})

const backfilling: Partial<MigrationState> = {
  phase: 'backfill',
  activity: 'copying',
  finishedPhases: [
    { name: 'expand', seconds: 2 },
    { name: 'dual-write', seconds: 0, skipped: 'triggers' },
  ],
  backfill: {
    rowsDone: 50_000,
    rowsEstimated: 200_000,
    rangesDone: 1,
    rangesTotal: 4,
    ratePerSec: 10_000,
    throttledBy: 'replica r2 is 9.1 s behind',
    refused: 3,
  },
  changeLog: { pending: 12, oldestAgeSec: 0.25 },
}

describe('the answer to what it waits for', () => {
  test('an approval carries the token that waits; contract wants the name too', () => {
    expect(waitingOf(statusWith(gateOf('expand', 'ab12')))?.command).toBe(
      'crossfade approve people --gate expand --token ab12',
    )
    expect(waitingOf(statusWith(gateOf('cutover')))?.command).toBe('crossfade approve people --gate cutover')
    expect(waitingOf(statusWith(gateOf('contract', 'ab12')))?.command).toBe(
      'crossfade approve people --gate contract --token ab12 --confirm people',
    )
  })

  test('trouble comes before a pause, a pause before a gate', () => {
    const paused = { by: 'ann', reason: 'sale', at: now }
    const trouble = { code: 'VERIFY.NOT_CLEAN', message: 'It differs.', mend: 'Find out why.', at: now }
    expect(waitingOf(statusWith({ ...gateOf('expand', 'x'), paused }))).toEqual({
      on: 'resume',
      why: 'Paused by ann: sale.',
      command: 'crossfade resume people',
    })
    expect(waitingOf(statusWith({ ...gateOf('expand', 'x'), paused, trouble }))?.on).toBe(
      'a person: VERIFY.NOT_CLEAN',
    )
  })

  test('an approved gate, an abort and an end wait for nobody', () => {
    const open = gateOf('cutover').gate
    const approval = { gate: 'cutover' as const, by: 'ann', at: now }
    expect(waitingOf(statusWith({ phase: 'cutover', gate: open && { ...open, approval } }))).toBeUndefined()
    expect(waitingOf(statusWith({ ...gateOf('cutover'), abort: { by: 'ann', at: now } }))).toBeUndefined()
    expect(waitingOf(statusWith(gateOf('cutover'), { execution: 'COMPLETED' }))).toBeUndefined()
  })

  test('without a worker, Temporal’s record must do', () => {
    expect(waitingOf(statusWith(undefined, { waitingFor: 'approval of contract' }))?.command).toBe(
      'crossfade approve people --gate contract --token TOKEN --confirm people',
    )
    expect(waitingOf(statusWith(undefined, { waitingFor: 'a person: CUTOVER.BREACH' }))?.command).toBe(
      'crossfade resume people',
    )
    expect(waitingOf(statusWith(undefined, { waitingFor: 'the hold to end' }))).toBeUndefined()
  })
})

describe('the page', () => {
  test('shows where a backfill stands, with every figure in its place', () => {
    expect(renderStatus(statusWith(backfilling), now, plain)).toMatchInlineSnapshot(`
      [
        "people · backfill · waiting for lag and load to fall",
        "✓ expand → – dual-write → ▶ backfill → verify → cutover → retire → contract",
        "",
        "  Backfill    ███████░░░░░░░░░░░░░░░░░░░░░░░ 25.0 %  50,000 of about 200,000 rows",
        "  Rate        10,000 rows/s",
        "  ETA         15s",
        "  Throttled   replica r2 is 9.1 s behind",
        "  Refused     3 rows, kept in the change log",
        "  Change log  12 pending, the oldest 0.3 s old",
        "  Primary     old side",
        "  Started     2026-03-01 10:00:00 UTC, 1m 5s ago",
      ]
    `)
  })

  test('says that no worker answered, and what to start', () => {
    expect(renderStatus(statusWith(undefined, { waitingFor: 'approval of expand' }), now, plain))
      .toMatchInlineSnapshot(`
      [
        "people · expand · waiting for approval of expand",
        "▶ expand → dual-write → backfill → verify → cutover → retire → contract",
        "",
        "  Phase     expand",
        "  Database  default",
        "  Started   2026-03-01 10:00:00 UTC, 1m 5s ago",
        "  History   42 events",
        "",
        "● Waiting for approval of expand.",
        "  \`crossfade plan people\` shows the token.",
        "  → crossfade approve people --gate expand --token TOKEN",
        "",
        "! No worker answered: this is what Temporal itself knows. Start one: crossfade worker",
      ]
    `)
  })

  test('parity stands with its bound and its confidence', () => {
    const parity = {
      parity: 0.99995,
      lowerBound: 0.9999,
      confidence: 0.95,
      compared: 10,
      mismatched: 1,
      proven: true,
    }
    const page = renderStatus(statusWith({ ...gateOf('cutover'), parity }), now, plain).join('\n')
    expect(page).toContain('Parity      99.9950 %, at least 99.9900 % at 95 % confidence')
  })

  test('a reason is wrapped on a terminal, so that the page can be drawn over', () => {
    const narrow = { ...plain, isTerminal: true, columns: 40 }
    const gate = { ...gateOf('cutover').gate, why: 'many words '.repeat(10).trim() } as NonNullable<
      MigrationState['gate']
    >
    const lines = renderStatus(statusWith({ phase: 'cutover', gate }), now, narrow).filter((line) =>
      line.includes('many'),
    )
    expect(lines.length).toBeGreaterThan(2)
    expect(Math.max(...lines.map((line) => line.length))).toBeLessThanOrEqual(40)
  })
})

describe('one line', () => {
  test('has progress, rate, ETA, what throttles and what is pending', () => {
    expect(progressLine(statusWith(backfilling))).toBe(
      'people · backfill · waiting for lag and load to fall · 25.0 % · 50,000 rows · 10,000 rows/s · ETA 15s · ' +
        'throttled: replica r2 is 9.1 s behind · change log 12',
    )
  })

  test('ends with the command that answers', () => {
    expect(progressLine(statusWith(gateOf('cutover')))).toMatch(/→ crossfade approve people --gate cutover$/)
  })
})

test.each([
  [statusWith({ outcome: 'done' }, { execution: 'COMPLETED' }), 'done'],
  [statusWith({ outcome: 'aborted' }, { execution: 'COMPLETED' }), 'aborted, the old side serves'],
  [statusWith({ outcome: 'planned' }, { execution: 'COMPLETED' }), 'planned, nothing was changed'],
  [statusWith(undefined, { execution: 'COMPLETED', phase: 'aborted' }), 'aborted'],
  [statusWith(undefined, { execution: 'TERMINATED', phase: 'backfill' }), 'terminated'],
  [
    statusWith({ phase: 'cutover', hold: { label: 'reads at 10 %', until: now } }),
    'cutover · holding: reads at 10 %',
  ],
])('%#: where it stands', (status, words) => {
  expect(standing(status)).toBe(words)
})
