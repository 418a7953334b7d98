import { bar } from '../core/progress.ts'
import { phases, type Phase } from '../core/phases.ts'
import type { StatusView } from '../core/state.ts'
import type { BackfillPlace } from './crash.ts'
import type { LoadFigures } from './load.ts'

interface Headcount {
  readonly running: number
  readonly killed: number
}

/** All that a glance at the demo shows. */
interface Glance {
  readonly status: StatusView | undefined
  readonly backfill: BackfillPlace | undefined
  readonly backfillPerSec: number
  readonly load: LoadFigures | undefined
  readonly workers: Headcount
  /** Of the application, where it is a service. */
  readonly instances: Headcount | undefined
}

export interface Progress {
  /** A line that stays. */
  say(line: string): void
  /** What is going on now: a block that is drawn again on a terminal, a line every few seconds elsewhere. */
  show(glance: Glance): void
  /** Takes the block away. */
  end(): void
}

const plainEveryMs = 5_000

/** Writes to `stream` only: stdout is for the result. */
export function createProgress(
  stream: NodeJS.WritableStream & { isTTY?: boolean; columns?: number },
): Progress {
  const startedAt = performance.now()
  const isLive = stream.isTTY === true && process.env['TERM'] !== 'dumb' && !process.env['CI']
  let drawn = 0
  let shownAt = startedAt
  let last: readonly string[] = []
  const clear = (): string => (drawn === 0 ? '' : `\u001b[${drawn}A\r\u001b[J`)
  const stamp = (): string => `${((performance.now() - startedAt) / 1000).toFixed(1).padStart(6)} s`
  const draw = (lines: readonly string[]): void => {
    const width = (stream.columns ?? 80) - 1
    stream.write(`${clear()}${lines.map((line) => `${[...line].slice(0, width).join('')}\n`).join('')}`)
    drawn = lines.length
  }
  return {
    say(line) {
      stream.write(`${clear()}${stamp()}  ${line}\n`)
      drawn = 0
      if (isLive && last.length > 0) draw(last)
    },
    show(glance) {
      if (isLive) {
        last = block(glance)
        draw(last)
      } else if (performance.now() - shownAt >= plainEveryMs) {
        shownAt = performance.now()
        stream.write(`${stamp()}  ${plainLine(glance)}\n`)
      }
    },
    end() {
      if (drawn > 0) stream.write(clear())
      drawn = 0
      last = []
    },
  }
}

export const count = (value: number): string => Math.round(value).toLocaleString('en-US')

function block(glance: Glance): string[] {
  const { status, workers, instances } = glance
  return [
    '',
    status ? life(status) : 'asking the workers …',
    `  backfill  ${backfillText(glance)}`,
    `  load      ${loadText(glance)}`,
    `  sides     ${sidesText(status)}`,
    `  workers   ${headcountText(workers)}`,
    ...(instances ? [`  instances ${headcountText(instances)}`] : []),
    `  now       ${status ? (status.waitingFor === undefined ? status.activity : `waiting for ${status.waitingFor}`) : '…'}`,
  ]
}

function plainLine({ status, ...glance }: Glance): string {
  if (!status) return `no worker answers; load ${loadText({ status, ...glance })}`
  const what =
    status.phase === 'backfill' ? `backfill ${backfillText({ status, ...glance })}` : sidesText(status)
  return `${status.phase}: ${what} · load ${loadText({ status, ...glance })}`
}

function life(status: StatusView): string {
  const mark = (phase: Phase): string => {
    const finished = status.finishedPhases.find(({ name }) => name === phase)
    if (finished) return `✓ ${phase} ${finished.seconds.toFixed(1)} s`
    return phase === status.phase ? `▶ ${phase}` : phase
  }
  return phases.map(mark).join('  ')
}

function backfillText({ backfill, backfillPerSec }: Glance): string {
  if (!backfill || backfill.rowsEstimated === 0) return 'not begun'
  const percent = backfill.isDone ? 100 : Math.min(99.9, (100 * backfill.rowsDone) / backfill.rowsEstimated)
  const rate = backfill.isDone ? '' : ` · ${count(backfillPerSec)} rows/s`
  return `${bar(percent)} ${percent.toFixed(1)} % · ${count(backfill.rowsDone)} rows${rate}`
}

export const ms = (value: number): string => `${value < 10 ? value.toFixed(1) : Math.round(value)} ms`

const headcountText = ({ running, killed }: Headcount): string => `${running} running, ${killed} killed`

function loadText({ load, instances }: Glance): string {
  if (!load) return 'none'
  return (
    `${count(load.callsPerSec)} ${instances ? 'requests' : 'statements'}/s · ${count(load.writesPerSec)} rows written/s · p99 ${ms(load.p99Ms)} · ` +
    `longest ${ms(load.longestMs)} · errors ${load.errorCount}`
  )
}

function sidesText(status: StatusView | undefined): string {
  if (!status) return '…'
  const parity =
    status.parity === undefined ? 'not compared yet' : `${(100 * status.parity.parity).toFixed(4)} %`
  return `parity ${parity} · reads on the new side ${status.readPercent} % · primary ${status.primary} · ${count(status.changeLog.pending)} keys in the change log`
}
