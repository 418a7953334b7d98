import { CancelledFailure, Context } from '@temporalio/activity'
import { ApplicationFailure } from '@temporalio/common'
import { toEnvelope, type CrossfadeError } from '../errors/index.ts'

/** The waits between attempts at what only needs time. */
const nextRetryDelay = '2 seconds'

/**
 * The only place where an error becomes a Temporal failure: the code is the type, the envelope the details. What needs time is
 * retried; what needs a person or the caller is not. No driver's text, no cause and no stack goes into the history.
 */
export function toFailure(error: CrossfadeError): ApplicationFailure {
  const envelope = toEnvelope(error)
  const isRetryable = error.kind === 'unavailable'
  const failure = ApplicationFailure.create({
    message: envelope.message,
    type: envelope.code,
    nonRetryable: !isRetryable,
    details: [envelope],
    ...(isRetryable ? { nextRetryDelay } : {}),
  })
  failure.stack = `${failure.name}: ${failure.message}`
  return failure
}

/** Whether this activity was told to stop: what failed because of it is a cancellation, not a failure. */
export function asCancellation(): CancelledFailure | undefined {
  const { cancellationSignal } = Context.current()
  if (!cancellationSignal.aborted) return undefined
  return cancellationSignal.reason instanceof CancelledFailure
    ? cancellationSignal.reason
    : new CancelledFailure('CANCELLED')
}
