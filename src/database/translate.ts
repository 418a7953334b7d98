import { CrossfadeError, isCrossfadeError, type ErrorDetails } from '../errors/index.ts'

/** What a kind of a driver's errors means to us. */
export interface Rule<E extends Error> {
  when(error: unknown): boolean
  readonly kind: 'refused' | 'unavailable'
  readonly code: string
  /** What follows after what was tried. Messages of a server stand in it only where they cannot quote a row's value. */
  says(error: E): string
  readonly mend: string
}

/** How a driver's errors are told apart. */
interface Kinds {
  isConnectionLoss(error: unknown): boolean
  isBusy(error: unknown): boolean
  isRejected(error: unknown): boolean
  describeRejection(error: unknown): string
}

/** What means the same on every engine. */
export function commonRules<E extends Error & { code?: string | undefined }>(
  kinds: Kinds,
): Readonly<Record<'unreachable' | 'busy' | 'rejected', Rule<E>>> {
  return {
    unreachable: {
      when: kinds.isConnectionLoss,
      kind: 'unavailable',
      code: 'DATABASE.UNREACHABLE',
      says: (error) => `the database did not answer (${error.code ?? 'connection lost'})`,
      mend: 'It goes on by itself when the database answers; check its address, its health and max_connections.',
    },
    busy: {
      when: kinds.isBusy,
      kind: 'unavailable',
      code: 'DATABASE.LOCK_NOT_AVAILABLE',
      says: (error) => `a lock was not free in time (${kinds.describeRejection(error)})`,
      mend: 'It is tried again by itself; `crossfade doctor` lists long transactions.',
    },
    rejected: {
      when: kinds.isRejected,
      kind: 'refused',
      code: 'DATABASE.ROW_REJECTED',
      says: (error) => `a row was refused (${kinds.describeRejection(error)})`,
      mend: 'Correct the mapping or the rows it names, then start again.',
    },
  }
}

/** Any error as one of ours, by the first rule that fits; ours pass unchanged. */
export function translate<E extends Error>(
  error: unknown,
  what: string,
  rules: readonly Rule<E>[],
  detailsOf: (error: unknown) => ErrorDetails,
): CrossfadeError {
  if (isCrossfadeError(error)) return error
  const rule = rules.find(({ when }) => when(error))
  if (!rule)
    return new CrossfadeError({
      kind: 'bug',
      code: 'INTERNAL.UNEXPECTED',
      message: `${what}: ${error instanceof Error ? error.message : 'an unknown error'}.`,
      mend: 'Please report this with the versions of crossfade-db, Temporal and the database.',
      cause: error,
    })
  const { kind, code, says, mend } = rule
  return new CrossfadeError({
    kind,
    code,
    message: `${what}: ${says(error as E)}.`,
    mend,
    details: detailsOf(error),
  })
}

/** What Node says of a connection that cannot be made or does not live any more. */
export const connectionCodes: ReadonlySet<string> = new Set([
  'ECONNRESET',
  'ECONNREFUSED',
  'EPIPE',
  'ETIMEDOUT',
  'ENOTFOUND',
  'EAI_AGAIN',
  'EHOSTUNREACH',
])

/** Rule 8: an answer to COMMIT that was lost is neither done nor failed. */
export function mayHaveCommitted(cause: unknown): CrossfadeError {
  return new CrossfadeError({
    kind: 'unavailable',
    code: 'DATABASE.MAY_HAVE_COMMITTED',
    message: 'The connection was lost while a transaction was being committed: it may or may not have been.',
    mend: 'Nothing to do: the step looks at the database before it goes on.',
    cause,
  })
}

export function errorSwallowed(): CrossfadeError {
  return new CrossfadeError({
    kind: 'bug',
    code: 'INTERNAL.ERROR_SWALLOWED',
    message: 'A transaction was to be committed in which a statement had failed: it was rolled back.',
    mend: 'Please report this with the versions of crossfade-db, Temporal and the database.',
  })
}
