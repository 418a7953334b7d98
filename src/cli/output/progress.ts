import type { MigrationStatus } from '../../client.ts'
import { formatDuration, formatInstant } from '../../core/durations.ts'
import { phases } from '../../core/phases.ts'
import { bar, etaSec, progressPercent } from '../../core/progress.ts'
import type { StatusView } from '../../core/state.ts'
import { waitingOf } from './answer.ts'
import type { Streams } from './streams.ts'
import { formatCount, renderFields, wrap } from './table.ts'

type Style = Streams['style']

const ratioText = (ratio: number): string => `${(100 * ratio).toFixed(4)} %`
const ago = (at: number, now: number): string => `${formatDuration(Math.max(0, now - at))} ago`

/** Where a migration stands in a few words: `done`, `backfill · copying`, `waiting for approval of expand`. */
export function standing({ detail, execution, phase, waitingFor }: MigrationStatus): string {
  const outcome = detail?.outcome ?? (execution === 'RUNNING' ? 'running' : undefined)
  if (outcome === 'done') return 'done'
  if (outcome === 'planned') return 'planned, nothing was changed'
  if (outcome === 'aborted') return `aborted, the ${detail?.primary ?? 'old'} side serves`
  if (execution !== 'RUNNING')
    return phase === 'done' || phase === 'aborted' || phase === 'planned' ? phase : execution.toLowerCase()
  if (detail?.abort) return `${detail.phase} · going back: ${detail.activity}`
  if (detail?.hold && !detail.paused && !detail.trouble)
    return `${detail.phase} · holding: ${detail.hold.label}`
  const waits = detail ? detail.waitingFor : waitingFor === 'nothing' ? undefined : waitingFor
  if (waits !== undefined) return `${phase} · waiting for ${waits}`
  return detail ? `${detail.phase} · ${detail.activity}` : phase
}

/** The page of `crossfade status`. */
export function renderStatus(
  status: MigrationStatus,
  now: number,
  { style, isTerminal, columns }: Pick<Streams, 'style' | 'isTerminal' | 'columns'>,
): string[] {
  const { name, detail } = status
  return [
    `${style('bold', name)} · ${standing(status)}`,
    renderLife(status, style),
    '',
    ...renderFields(detail ? [...figures(detail, now), ...ended(status)] : recorded(status, now), (text) =>
      style('dim', text),
    ),
    ...renderWaiting(status, style, isTerminal ? columns : Infinity),
  ]
}

function renderLife({ detail, phase, execution }: MigrationStatus, style: Style): string {
  const finished = new Map(detail?.finishedPhases.map((entry) => [entry.name, entry.skipped]))
  const at =
    detail?.outcome === 'running' || (!detail && execution === 'RUNNING')
      ? (detail?.phase ?? phase)
      : undefined
  return phases
    .map((name) => {
      if (finished.has(name)) return style('green', `${finished.get(name) === undefined ? '✓' : '–'} ${name}`)
      return name === at ? style('bold', style('cyan', `▶ ${name}`)) : style('dim', name)
    })
    .join(style('dim', ' → '))
}

function figures(detail: StatusView, now: number): [string, string][] {
  const { backfill, verify, parity, changeLog, ramp, hold, trouble } = detail
  const fields: [string, string][] = []
  const add = (name: string, value: string): void => void fields.push([name, value])
  if (backfill.rangesTotal > 0) {
    const percent = progressPercent(backfill)
    const eta = etaSec(backfill, backfill.ratePerSec)
    const rows = `${formatCount(backfill.rowsDone)} of about ${formatCount(Math.max(backfill.rowsDone, backfill.rowsEstimated))} rows`
    add('Backfill', `${bar(percent, 30)} ${percent.toFixed(1)} %  ${rows}`)
    if (percent < 100) {
      add('Rate', `${formatCount(backfill.ratePerSec)} rows/s`)
      add('ETA', eta === undefined ? 'not known yet' : formatDuration(eta * 1000))
      if (backfill.throttledBy !== undefined) add('Throttled', backfill.throttledBy)
    }
    if (backfill.refused > 0) add('Refused', `${formatCount(backfill.refused)} rows, kept in the change log`)
  }
  if (detail.phase !== 'expand')
    add(
      'Change log',
      `${formatCount(changeLog.pending)} pending, the oldest ${changeLog.oldestAgeSec.toFixed(1)} s old`,
    )
  if (verify.pass > 0)
    add(
      'Verified',
      `pass ${verify.pass}: ${formatCount(verify.compared)} compared, ${formatCount(verify.mismatched)} mismatched, ${formatCount(verify.repaired)} repaired`,
    )
  if (parity)
    add(
      'Parity',
      `${ratioText(parity.parity)}, at least ${ratioText(parity.lowerBound)} at ${Math.round(100 * parity.confidence)} % confidence`,
    )
  if (ramp.reached.length > 0)
    add(
      'Reads',
      `${bar(detail.readPercent, 30)} ${detail.readPercent} % on the new side (step ${Math.min(ramp.index + 1, ramp.steps)} of ${ramp.steps})`,
    )
  if (hold) add('Hold', `${hold.label}, until ${formatInstant(hold.until)} UTC`)
  if (trouble) add('Trouble', trouble.code)
  add('Primary', `${detail.primary} side${detail.canGoBack ? '' : ', no way back to the old one'}`)
  add('Started', `${formatInstant(detail.startedAt)} UTC, ${ago(detail.startedAt, now)}`)
  return fields
}

function ended({ closedAt, startedAt }: MigrationStatus): [string, string][] {
  if (closedAt === undefined) return []
  const at = Date.parse(closedAt)
  return [['Ended', `${formatInstant(at)} UTC, after ${formatDuration(at - Date.parse(startedAt))}`]]
}

/** What Temporal knows by itself when no worker answers. */
function recorded(status: MigrationStatus, now: number): [string, string][] {
  const { phase, database, startedAt, historyEvents, activities } = status
  const instant = (iso: string): string =>
    `${formatInstant(Date.parse(iso))} UTC, ${ago(Date.parse(iso), now)}`
  return [
    ['Phase', phase],
    ['Database', database],
    ['Started', instant(startedAt)],
    ...ended(status),
    ['History', `${formatCount(historyEvents)} events`],
    ...activities.map(({ type, attempt, failure }): [string, string] => [
      'Activity',
      `${type}, attempt ${attempt}${failure === undefined ? '' : `: ${failure}`}`,
    ]),
  ]
}

function renderWaiting(status: MigrationStatus, style: Style, columns: number): string[] {
  const waiting = waitingOf(status)
  const silence =
    status.detail || status.execution !== 'RUNNING'
      ? []
      : [
          '',
          `${style('yellow', '!')} No worker answered: this is what Temporal itself knows. Start one: crossfade worker`,
        ]
  if (!waiting) return silence
  return [
    '',
    `${style('yellow', '●')} Waiting for ${waiting.on}.`,
    ...(waiting.why === undefined ? [] : wrap(waiting.why, columns - 2).map((line) => `  ${line}`)),
    `  ${style('cyan', '→')} ${style('bold', waiting.command)}`,
    ...silence,
  ]
}

/** One line for logs: phase, progress, rate, ETA, lag, and what it waits for with the command that answers. */
export function progressLine(status: MigrationStatus): string {
  const { name, detail } = status
  const waiting = waitingOf(status)
  const parts = [`${name} · ${standing(status)}`]
  if (detail?.phase === 'backfill' && detail.outcome === 'running' && detail.backfill.rangesTotal > 0) {
    const { backfill } = detail
    const eta = etaSec(backfill, backfill.ratePerSec)
    parts.push(
      `${progressPercent(backfill).toFixed(1)} %`,
      `${formatCount(backfill.rowsDone)} rows`,
      `${formatCount(backfill.ratePerSec)} rows/s`,
      `ETA ${eta === undefined ? 'not known yet' : formatDuration(eta * 1000)}`,
    )
    if (backfill.throttledBy !== undefined) parts.push(`throttled: ${backfill.throttledBy}`)
  }
  if (detail && detail.changeLog.pending > 0)
    parts.push(`change log ${formatCount(detail.changeLog.pending)}`)
  if (detail?.parity) parts.push(`parity ${ratioText(detail.parity.parity)}`)
  if (waiting) parts.push(`→ ${waiting.command}`)
  if (!detail && status.execution === 'RUNNING') parts.push('no worker answered')
  return parts.join(' · ')
}

/** The JSON of a status: everything, with the answer to what it waits for. */
export function statusJson(status: MigrationStatus): object {
  const waiting = waitingOf(status)
  return {
    ...status,
    workerAnswered: status.detail !== undefined,
    ...(waiting === undefined ? {} : { waiting }),
  }
}
