/**
 * The one error class. Its `kind` says who has to act, its `code` never changes meaning, its `mend` says what to do.
 * Findings (mismatches, lint hits, doctor lines) are values, not errors.
 */

/** Who must act: the caller (`input`), a person (`refused`), time (`unavailable`), or us (`bug`). */
export type ErrorKind = 'input' | 'refused' | 'unavailable' | 'bug'

/** JSON without secrets and without row values. */
export type ErrorDetails = { readonly [key: string]: unknown }

export interface ErrorEnvelope {
  readonly kind: ErrorKind
  /** `NAMESPACE.REASON`, e.g. `BACKFILL.REPLICA_LAGGING`. */
  readonly code: string
  /** What was tried, on what, what was found, what the limit is. */
  readonly message: string
  /** An imperative with the exact command, setting or SQL. */
  readonly mend: string
  readonly details?: ErrorDetails
}

const mark = Symbol.for('crossfade.error')

/** The error that Crossfade throws. Recognise it with {@link isCrossfadeError}, never with `instanceof`. */
export class CrossfadeError extends Error implements ErrorEnvelope {
  readonly kind: ErrorKind
  readonly code: string
  readonly mend: string
  readonly details: ErrorDetails

  constructor(envelope: ErrorEnvelope & { readonly cause?: unknown }) {
    super(envelope.message, envelope.cause === undefined ? undefined : { cause: envelope.cause })
    this.name = 'CrossfadeError'
    this.kind = envelope.kind
    this.code = envelope.code
    this.mend = envelope.mend
    this.details = envelope.details ?? {}
    Object.defineProperty(this, mark, { value: true })
  }

  toJSON(): ErrorEnvelope {
    return toEnvelope(this)
  }
}

/** True across realms (the workflow sandbox), a second install of the package, and JSON. */
export function isCrossfadeError(error: unknown): error is CrossfadeError {
  if (typeof error !== 'object' || error === null) return false
  if ((error as Record<symbol, unknown>)[mark] === true) return true
  const shape = error as Partial<ErrorEnvelope>
  return (
    typeof shape.code === 'string' &&
    typeof shape.mend === 'string' &&
    ['input', 'refused', 'unavailable', 'bug'].includes(shape.kind ?? '')
  )
}

/** The plain JSON of an error: what crosses Temporal, `--json` and the log. */
export function toEnvelope(error: ErrorEnvelope): ErrorEnvelope {
  const { kind, code, message, mend, details } = error
  return { kind, code, message, mend, ...(details && Object.keys(details).length > 0 ? { details } : {}) }
}

/** Where the reference explains a code. */
export function docsLink(code: string): string {
  return `docs/errors.md#${code.toLowerCase().replaceAll(/[._]/g, '-')}`
}
