import { ActivityFailure, ApplicationFailure, TimeoutFailure } from '@temporalio/workflow'
import type { Trouble } from '../core/state.ts'

/** A worker died or was cut off while it worked: its checkpoint stands, the next attempt goes on from there. */
export function isLostWorker(error: unknown): boolean {
  return causeOf(error) instanceof TimeoutFailure
}

/** A local activity fails with the cause itself, any other with an ActivityFailure around it. */
const causeOf = (error: unknown): unknown => (error instanceof ActivityFailure ? error.cause : error)

/** What an activity could not do and a retry would not mend, in words for a person. Anything else is a fault of ours: thrown. */
export function toTrouble(error: unknown): Omit<Trouble, 'at'> {
  const cause = causeOf(error)
  if (!(cause instanceof ApplicationFailure)) throw error
  const [envelope] = (cause.details ?? []) as { code?: string; message?: string; mend?: string }[]
  return {
    code: envelope?.code ?? cause.type ?? 'INTERNAL.UNEXPECTED',
    message: envelope?.message ?? cause.message,
    mend: envelope?.mend ?? 'See the worker’s log.',
  }
}

/** In words, for the audit. */
export function describeFailure(error: unknown): string {
  if (!(error instanceof Error)) return 'unknown error'
  return error.cause instanceof Error ? error.cause.message : error.message
}
