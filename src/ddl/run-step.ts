import type { TableName } from '../core/link.ts'
import { jittered, rest, type Workplace } from '../copy/workplace.ts'
import type { Blocker, DdlStep } from '../database/index.ts'
import { CrossfadeError } from '../errors/index.ts'

/** How DDL waits: briefly and often, because whoever comes after a waiting DDL statement waits behind it. */
export interface DdlPatience {
  readonly lockTimeoutMs: number
  readonly pauseMs: number
  readonly attempts: number
}

const defaultPatience: DdlPatience = { lockTimeoutMs: 200, pauseMs: 700, attempts: 120 }

export interface StepOutcome {
  readonly id: string
  readonly title: string
  readonly did: 'applied' | 'was there' | 'mended' | 'undone' | 'left'
  readonly tookMs: number
  readonly attempts: number
}

export interface DdlReport {
  readonly step: string
  readonly waitingFor: readonly Blocker[]
}

/** How a step is told to stop, how it says who is in the way, and how long it keeps trying. */
export interface DdlWatch {
  readonly signal: AbortSignal
  report(progress: DdlReport): void
  readonly patience?: DdlPatience
}

/**
 * Brings one step about: looks, applies what is missing, and looks at the catalogue again after every failure, because a
 * statement whose answer was lost may have run.
 * @throws `DDL.BLOCKED` naming who holds the locks, when the last attempt did not get them; `DDL.CANCELLED`.
 */
export async function runStep(
  place: Workplace,
  step: DdlStep,
  tables: readonly TableName[],
  watch: DdlWatch,
): Promise<StepOutcome> {
  return attempt(place, step.title, tables, watch, async (patience, attempts, startedAt) => {
    const before = await place.database.transaction((tx) => step.inspect(tx, place.scope))
    const outcome = { id: step.id, title: step.title, attempts }
    if (before === 'present')
      return { ...outcome, did: attempts > 1 ? 'applied' : 'was there', tookMs: elapsed(startedAt) }
    await step.apply(place.database, place.scope, {
      lockTimeoutMs: patience.lockTimeoutMs,
      signal: watch.signal,
    })
    return { ...outcome, did: before === 'broken' ? 'mended' : 'applied', tookMs: elapsed(startedAt) }
  })
}

/** Takes a step back, where there is anything to take back. */
export async function undoStep(
  place: Workplace,
  step: DdlStep,
  tables: readonly TableName[],
  watch: DdlWatch,
): Promise<StepOutcome> {
  const { undo } = step
  if (undo === undefined) return { id: step.id, title: step.title, did: 'left', tookMs: 0, attempts: 0 }
  return attempt(place, `Undo: ${step.title}`, tables, watch, async (patience, attempts, startedAt) => {
    await undo(place.database, place.scope, { lockTimeoutMs: patience.lockTimeoutMs, signal: watch.signal })
    return { id: step.id, title: step.title, did: 'undone', tookMs: elapsed(startedAt), attempts }
  })
}

const elapsed = (startedAt: number): number => Math.round(performance.now() - startedAt)

/** Runs `work` until it does not fail on a lock, with short waits and jitter; tells meanwhile who is in the way. */
export async function attempt<T>(
  place: Workplace,
  title: string,
  tables: readonly TableName[],
  watch: DdlWatch,
  work: (patience: DdlPatience, attempts: number, startedAt: number) => Promise<T>,
): Promise<T> {
  const { database } = place
  const { errors, catalog } = database.dialect
  const patience = watch.patience ?? defaultPatience
  const startedAt = performance.now()
  let blockers: readonly Blocker[] = []
  for (let attempts = 1; attempts <= patience.attempts; attempts++) {
    if (watch.signal.aborted) throw cancelled(title)
    watch.report({ step: title, waitingFor: blockers })
    try {
      return await work(patience, attempts, startedAt)
    } catch (error) {
      if (!errors.isBusy(error)) throw errors.toCrossfadeError(error, title)
      blockers = await database.transaction((tx) => catalog.blockers(tx, tables)).catch(() => [])
      watch.report({ step: title, waitingFor: blockers })
    }
    await rest(jittered(patience.pauseMs), watch.signal)
  }
  throw blocked(title, patience, blockers)
}

function cancelled(title: string): CrossfadeError {
  return new CrossfadeError({
    kind: 'unavailable',
    code: 'DDL.CANCELLED',
    message: `${title}: stopped before it began.`,
    mend: 'Nothing to do: it starts again when the migration goes on.',
  })
}

const describeBlocker = (blocker: Blocker): string =>
  `pid ${blocker.pid} (${[blocker.user, blocker.application, blocker.state].filter(Boolean).join(', ')}, transaction open for ${blocker.transactionAgeSec.toFixed(1)} s, query for ${blocker.queryAgeSec.toFixed(1)} s)`

function blocked(title: string, patience: DdlPatience, blockers: readonly Blocker[]): CrossfadeError {
  return new CrossfadeError({
    kind: 'unavailable',
    code: 'DDL.BLOCKED',
    message: `${title}: no lock within ${patience.attempts} attempts of ${patience.lockTimeoutMs} ms. In the way: ${blockers.map(describeBlocker).join('; ') || 'nobody that can be seen now'}.`,
    mend: 'It is tried again by itself; end the transactions named here (pg_terminate_backend) if they should not be open.',
    details: { blockers },
  })
}
