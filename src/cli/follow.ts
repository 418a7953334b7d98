import { setTimeout as delay } from 'node:timers/promises'
import type { MigrationHandle, MigrationStatus } from '../client.ts'
import { isBefore, phases, type Phase } from '../core/phases.ts'
import { CrossfadeError } from '../errors/index.ts'
import type { Context, Result } from './command.ts'
import { exitCodes, exitCodeOfOutcome } from './exit-codes.ts'
import { waitingOf } from './output/answer.ts'
import { progressLine, renderStatus, standing, statusJson } from './output/progress.ts'

const lookEveryMs = 1000
/** How often a log hears of progress when nothing else happened. */
export const lineEveryMs = 30_000

/** The status with the end's own detail: a workflow that has ended needs no worker to say how. */
export async function readStatus(handle: MigrationHandle, timeoutMs?: number): Promise<MigrationStatus> {
  const status = await handle.status(timeoutMs === undefined ? {} : { timeoutMs })
  if (status.detail || status.execution !== 'COMPLETED') return status
  return { ...status, detail: (await handle.result()).status }
}

/** Ctrl-C while following: leaves at once and says that nothing was stopped. */
export function detachOnSignals({ streams }: Context, name: string): void {
  const leave = (exitCode: 130 | 143) => (): void => {
    streams.note('')
    streams.note(`Detached. The migration ${name} goes on: crossfade status ${name} --watch`)
    streams.note(`To stop it: crossfade pause ${name}, or take it back: crossfade abort ${name}`)
    process.exit(exitCode)
  }
  process.once('SIGINT', leave(exitCodes.interrupted))
  process.once('SIGTERM', leave(exitCodes.terminated))
}

export type Until = 'the end' | { readonly phase: Phase; readonly is: 'reached' | 'over' }

/** Whether the migration has come as far as `until`. The end is always far enough. */
function isFarEnough({ execution, detail, phase }: MigrationStatus, until: Until): boolean {
  if (execution !== 'RUNNING') return true
  if (until === 'the end') return false
  const at = detail?.phase ?? phase
  if (!(phases as readonly string[]).includes(at)) return false
  const isPast = isBefore(until.phase, at as Phase)
  return until.is === 'over' ? isPast : isPast || at === until.phase
}

/**
 * Follows until the migration is far enough, or waits for a person. Says what changes on stderr.
 * @throws `CLI.TIMEOUT`, and what the workflow itself failed with
 */
export async function follow(
  context: Context,
  handle: MigrationHandle,
  { until = 'the end', timeoutMs }: { readonly until?: Until; readonly timeoutMs?: number | undefined } = {},
): Promise<MigrationStatus> {
  detachOnSignals(context, handle.name)
  const deadline = timeoutMs === undefined ? Infinity : Date.now() + timeoutMs
  let said = ''
  let saidAt = 0
  for (;;) {
    const status = await readStatus(handle)
    if (status.execution !== 'RUNNING' && status.execution !== 'COMPLETED') await handle.result() // throws why
    const now = Date.now()
    if (standing(status) !== said || now - saidAt >= lineEveryMs) {
      context.streams.note(progressLine(status))
      said = standing(status)
      saidAt = now
    }
    if (isFarEnough(status, until) || waitingOf(status)) return status
    if (now >= deadline)
      throw new CrossfadeError({
        kind: 'unavailable',
        code: 'CLI.TIMEOUT',
        message: `The time given by --timeout is over; ${handle.name} is still at: ${standing(status)}.`,
        mend: `It goes on by itself. Follow it with \`crossfade status ${handle.name} --watch\`.`,
      })
    await delay(Math.min(lookEveryMs, Math.max(10, deadline - now)))
  }
}

/** The answer of a command that followed: 0 far enough, 3 a person is needed, 4 gone back. */
export function followed(
  { streams }: Context,
  status: MigrationStatus,
  before: readonly string[] = [],
): Result {
  const waiting = waitingOf(status)
  const outcome = status.detail?.outcome ?? 'running'
  return {
    exitCode: waiting ? exitCodes.waiting : exitCodeOfOutcome(outcome),
    data: statusJson(status),
    text: [...before, ...renderStatus(status, Date.now(), streams)],
    next: [
      waiting
        ? `${waiting.on.startsWith('approval') ? 'Approve' : 'Answer'} it: ${waiting.command}`
        : outcome === 'running'
          ? `Follow it: crossfade status ${status.name} --watch`
          : 'See all migrations: crossfade list',
    ],
  }
}
