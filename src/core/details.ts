import { formatDuration, formatInstant } from './durations.ts'
import { bar, etaSec, progressPercent } from './progress.ts'
import { phases, type Phase } from './phases.ts'
import { waitingFor, type MigrationState } from './state.ts'

/** The Markdown of the Temporal UI's "Current Details": where it stands, what it waits for, and exactly what to send. */
export function renderDetails(state: MigrationState): string {
  return [
    `### ${headline(state)}`,
    life(state),
    ...callToAction(state),
    ...figures(state),
    ...lately(state),
  ].join('\n\n')
}

/** One line, also for the terminal. */
export function headline(state: MigrationState): string {
  const wait = waitingFor(state)
  switch (state.outcome) {
    case 'done':
      return `${state.name} · done`
    case 'planned':
      return `${state.name} · planned, nothing was changed (dry run)`
    case 'aborted':
      return `${state.name} · aborted, the ${state.primary} side serves`
    case 'failed':
      return `${state.name} · failed`
    case 'running':
      return `${state.name} · ${state.phase} · ${wait === undefined ? state.activity : `waiting for ${wait}`}`
  }
}

function life(state: MigrationState): string {
  const mark = (phase: Phase): string => {
    const finished = state.finishedPhases.find((entry) => entry.name === phase)
    if (finished) return finished.skipped === undefined ? `✓ ${phase}` : `– ${phase}`
    return phase === state.phase ? `**▶ ${phase}**` : phase
  }
  return phases.map(mark).join(' → ')
}

function callToAction(state: MigrationState): string[] {
  const { gate, trouble, paused } = state
  if (state.outcome !== 'running' || state.abort) return []
  if (trouble)
    return [
      `**Needs a person** (${trouble.code}): ${trouble.message}`,
      `→ ${trouble.mend} Then send the signal \`resume\`, or \`abort\`:`,
      signalBlock({ by: 'your name' }),
    ]
  if (paused)
    return [
      `**Paused** by ${paused.by} at ${formatInstant(paused.at)} UTC${paused.reason === undefined ? '' : `: ${paused.reason}`}. Send the signal \`resume\`:`,
      signalBlock({ by: 'your name' }),
    ]
  if (gate && !gate.approval)
    return [
      `**Waiting for approval of ${gate.gate}** since ${formatInstant(gate.since)} UTC. ${gate.why}`,
      `Send the signal (or update) \`approve\`:`,
      signalBlock({
        gate: gate.gate,
        by: 'your name',
        ...(gate.token === undefined ? {} : { token: gate.token }),
      }),
    ]
  return []
}

const signalBlock = (payload: object): string => '```json\n' + JSON.stringify(payload) + '\n```'

const count = (value: number): string => Math.round(value).toLocaleString('en-US')

/** The UI sets the columns of a table close together. */
const gap = '\u00a0\u00a0'

function figures(state: MigrationState): string[] {
  const rows: [string, string][] = []
  const { backfill, parity, changeLog, ramp, verify } = state
  if (backfill.rangesTotal > 0) {
    const percent = progressPercent(backfill)
    const eta = etaSec(backfill, backfill.ratePerSec)
    rows.push(['Backfill', `${bar(percent)} ${percent.toFixed(1)} %`])
    rows.push([
      'Rows',
      `${count(backfill.rowsDone)} of about ${count(Math.max(backfill.rowsDone, backfill.rowsEstimated))}`,
    ])
    if (percent < 100) {
      rows.push(['Rate', `${count(backfill.ratePerSec)} rows/s`])
      rows.push(['ETA', eta === undefined ? 'not known yet' : formatDuration(eta * 1000)])
    }
    if (backfill.throttledBy !== undefined && percent < 100) rows.push(['Throttled', backfill.throttledBy])
    if (backfill.refused > 0) rows.push(['Refused rows', count(backfill.refused)])
  }
  if (verify.pass > 0)
    rows.push([
      'Verified',
      `pass ${verify.pass}: ${count(verify.compared)} compared, ${count(verify.mismatched)} mismatched, ${count(verify.repaired)} repaired`,
    ])
  if (parity)
    rows.push([
      'Parity',
      `${(100 * parity.parity).toFixed(4)} % (at least ${(100 * parity.lowerBound).toFixed(4)} % at ${Math.round(100 * parity.confidence)} % confidence)`,
    ])
  rows.push([
    'Change log',
    `${count(changeLog.pending)} pending, oldest ${changeLog.oldestAgeSec.toFixed(1)} s`,
  ])
  if (ramp.reached.length > 0)
    rows.push([
      'Reads on the new side',
      `${state.readPercent} % (step ${Math.min(ramp.index + 1, ramp.steps)} of ${ramp.steps})`,
    ])
  if (state.hold) rows.push(['Hold', `${state.hold.label}, until ${formatInstant(state.hold.until)} UTC`])
  rows.push(['Primary side', state.primary])
  return [['| | |', '|---|---|', ...rows.map(([name, value]) => `| ${name}${gap} | ${value} |`)].join('\n')]
}

function lately(state: MigrationState): string[] {
  if (state.audit.length === 0) return []
  const lines = state.audit
    .slice(-6)
    .map(({ at, what, by }) => `- ${formatInstant(at)} ${what}${by === undefined ? '' : ` (${by})`}`)
  return [`**Lately**\n${lines.join('\n')}`]
}
