import type { Database, Scope } from '../database/index.ts'

/** What everything on level 3 works in: a database and the migration's own corner of it. */
export interface Workplace {
  readonly database: Database
  readonly scope: Scope
  /** With what is done here, flags are set: see `Flags.set`. */
  readonly order?: number | undefined
}

/** How long-running work is told to stop and says that it lives. */
export interface Pace<Progress> {
  readonly signal: AbortSignal
  /** Stop at the next safe point after this instant (milliseconds since the epoch). */
  readonly until: number
  /** Called after every piece of work; cheap. */
  report(progress: Progress): void
}

/** Waits, or returns at once when the signal fires. Never throws. */
export async function rest(ms: number, signal: AbortSignal): Promise<void> {
  if (ms <= 0 || signal.aborted) return
  await new Promise<void>((resolve) => {
    const done = (): void => {
      clearTimeout(timer)
      signal.removeEventListener('abort', done)
      resolve()
    }
    const timer = setTimeout(done, ms)
    signal.addEventListener('abort', done)
  })
}

/** Between half and one and a half of `ms`: what waits for the same thing does not come back at the same time. */
export const jittered = (ms: number): number => ms * (0.5 + Math.random())
