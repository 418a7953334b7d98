import { formatDuration, formatInstant } from './durations.ts'
import { bar, etaSec, progressPercent } from './progress.ts'
import { phases, type Phase } from './phases.ts'
import { waitingFor, type MigrationState } from './state.ts'
import type { ParityStatement } from './gates.ts'

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
  const { gate, trouble, paused, abort } = state
  if (state.outcome !== 'running') return []
  const aborting = abort
    ? [
        `**Going back**: ${plain(abort.by)} aborted it at ${formatInstant(abort.at)} UTC${because(abort.reason)}.`,
      ]
    : []
  if (trouble)
    return [
      ...aborting,
      `**Needs a person** (${trouble.code}): ${oneLine(trouble.message)}`,
      `→ ${oneLine(trouble.mend)}`,
      `Then send the signal (or update) \`resume\`${abort ? '' : ', or `abort`'}:`,
      signalBlock({ by: 'your name' }),
    ]
  if (abort) return aborting
  if (paused)
    return [
      `**Paused** by ${plain(paused.by)} at ${formatInstant(paused.at)} UTC${because(paused.reason)}.${state.companions.applying ? ' Both sides stay in step.' : ''}`,
      'Send the signal (or update) `resume`:',
      signalBlock({ by: 'your name' }),
    ]
  if (gate && !gate.approval)
    return [
      `**Waiting for approval of ${gate.gate}** since ${formatInstant(gate.since)} UTC. ${gate.why}`,
      'Send the signal (or update) `approve`:',
      signalBlock({
        gate: gate.gate,
        by: 'your name',
        ...(gate.token === undefined ? {} : { token: gate.token }),
      }),
    ]
  return []
}

const because = (reason: string | undefined): string => (reason === undefined ? '' : `: ${plain(reason)}`)

const oneLine = (text: string): string => text.replace(/\s+/g, ' ')

/** What people wrote, on one line and without power over the page. */
const plain = (text: string): string => oneLine(text).replace(/[\\`*_[\]<>|#]/g, '\\$&')

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
  if (parity) rows.push(['Parity', parityText(parity)])
  if (state.breach !== undefined) rows.push(['Breach', plain(state.breach)])
  if (state.companions.applying)
    rows.push([
      'Change log',
      changeLog.pending === 0
        ? 'empty'
        : `${count(changeLog.pending)} pending, oldest ${changeLog.oldestAgeSec.toFixed(1)} s`,
    ])
  if (ramp.reached.length > 0)
    rows.push([
      'Reads',
      `${state.readPercent} % on the new side (step ${Math.min(ramp.index + 1, ramp.steps)} of ${ramp.steps})`,
    ])
  if (state.awaited) rows.push(['Instances that act on earlier flags', plain(state.awaited.join(', '))])
  if (state.hold) rows.push(['Hold', `${state.hold.label}, until ${formatInstant(state.hold.until)} UTC`])
  rows.push(['Primary', `${state.primary} side`])
  return [['| | |', '|---|---|', ...rows.map(([name, value]) => `| ${name}${gap} | ${value} |`)].join('\n')]
}

/** A full comparison is exact; what is only sampled is given with its bound. */
function parityText({ parity, lowerBound, confidence, compared }: ParityStatement): string {
  const percent = (ratio: number): string => `${(100 * ratio).toFixed(4)} %`
  if (lowerBound >= parity) return `${percent(parity)}, all of ${count(compared)} rows compared`
  return `${percent(parity)}, at least ${percent(lowerBound)} at ${Math.round(100 * confidence)} % confidence`
}

function lately(state: MigrationState): string[] {
  if (state.audit.length === 0) return []
  const lines = state.audit
    .slice(-6)
    .map(
      ({ at, what, by }) =>
        `- ${formatInstant(at)} ${plain(what)}${by === undefined ? '' : ` (${plain(by)})`}`,
    )
  return ['**Lately** (UTC)', lines.join('\n')]
}
