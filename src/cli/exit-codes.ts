import type { ErrorEnvelope } from '../errors/index.ts'
import type { Outcome } from '../core/phases.ts'

/** What scripts read. The same numbers mean the same in every command; they are a contract. */
export const exitCodes = {
  done: 0,
  failed: 1,
  usage: 2,
  waiting: 3,
  goneBack: 4,
  findings: 5,
  interrupted: 130,
  terminated: 143,
} as const

export type ExitCode = (typeof exitCodes)[keyof typeof exitCodes]

/** `crossfade help exit-codes`, and the table in the reference. */
export const exitCodeMeanings: readonly (readonly [ExitCode, string])[] = [
  [exitCodes.done, 'done'],
  [exitCodes.failed, 'failed, or refused for good'],
  [exitCodes.usage, 'the command line or the definition is wrong; nothing was contacted or changed'],
  [exitCodes.waiting, 'waiting for a person: an approval, a resume, a confirmation'],
  [exitCodes.goneBack, 'rolled back or aborted'],
  [exitCodes.findings, 'finished with findings (verify, doctor, plan --exit-code)'],
  [exitCodes.interrupted, 'ended by Ctrl-C (the migration goes on)'],
  [exitCodes.terminated, 'ended by SIGTERM (the migration goes on)'],
]

/** Refusals that a person lifts with another answer, rather than with another definition. */
const liftable = new Set(['TEMPORAL.REFUSED', 'CLI.NOT_CONFIRMED'])

export function exitCodeOf(error: ErrorEnvelope): ExitCode {
  if (error.kind === 'input') return exitCodes.usage
  if (error.kind === 'refused' && liftable.has(error.code)) return exitCodes.waiting
  return exitCodes.failed
}

export function exitCodeOfOutcome(outcome: Outcome): ExitCode {
  switch (outcome) {
    case 'done':
    case 'planned':
    case 'running':
      return exitCodes.done
    case 'aborted':
      return exitCodes.goneBack
    case 'failed':
      return exitCodes.failed
  }
}
