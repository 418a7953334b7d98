import type { CrossfadeError, ErrorDetails } from '../../errors/index.ts'
import { commonRules, connectionCodes, translate, type Rule } from '../translate.ts'

/** What node-postgres throws: https://www.postgresql.org/docs/18/protocol-error-fields.html */
interface PostgresError extends Error {
  readonly code?: string
  readonly schema?: string
  readonly table?: string
  readonly column?: string
  readonly constraint?: string
  readonly dataType?: string
  readonly severity?: string
}

const isPostgresError = (error: unknown): error is PostgresError =>
  error instanceof Error && typeof (error as PostgresError).code === 'string'

/** Somebody else has the lock, or we were chosen as the victim: the same statement may succeed a moment later. */
const busyStates = new Set(['55P03', '40P01', '40001'])

export const isBusy = (error: unknown): boolean => isPostgresError(error) && busyStates.has(error.code ?? '')

/** The row itself is not acceptable to the other side: classes 22 (data exception) and 23 (integrity), and what a trigger raises. */
export const isRejected = (error: unknown): boolean =>
  isPostgresError(error) && /^(22|23|P0001|44)/.test(error.code ?? '')

export const isUniqueViolation = (error: unknown): boolean => isPostgresError(error) && error.code === '23505'

export const sqlState = (error: unknown): string | undefined =>
  isPostgresError(error) ? error.code : undefined

const connectionStates = /^(08|57P0[123]|53300|25P03)/ // 25P03: we stood still for too long, and were cut off

export function isConnectionLoss(error: unknown): boolean {
  if (!(error instanceof Error)) return false
  const code = (error as PostgresError).code ?? ''
  return (
    connectionStates.test(code) ||
    connectionCodes.has(code) ||
    /Connection terminated|connection timeout|Client has encountered a connection error|timeout exceeded when trying to connect/i.test(
      error.message,
    )
  )
}

/**
 * A driver's error without its row values: SQLSTATE and the names of table, column and constraint stay, `detail` never does,
 * and the message only where it cannot quote a value (classes 22, 23 and what triggers raise can).
 */
export function describeRejection(error: unknown): string {
  if (!isPostgresError(error)) return 'unknown error'
  const place = [
    error.constraint && `constraint ${error.constraint}`,
    error.column && `column ${error.column}`,
  ].filter(Boolean)
  return [`SQLSTATE ${error.code}`, ...place].join(', ')
}

/** Classes whose messages name things, and never quote a row: what a function RAISEs says whatever its author wanted. */
const namesOnly = /^(0A|25|26|28|2B|34|3D|3F|40|42|54)/

/** The server did not let us in: the password, pg_hba.conf, the role, or a database that is not there. */
const isLoginRefused = (error: unknown): boolean =>
  isPostgresError(error) && /^(28|3D000)/.test(error.code ?? '')

const ofState =
  (states: RegExp) =>
  (error: unknown): boolean =>
    isPostgresError(error) && states.test(error.code ?? '')

const { unreachable, busy, rejected } = commonRules<PostgresError>({
  isConnectionLoss,
  isBusy,
  isRejected,
  describeRejection,
})

/** The first that fits. Messages of the server stand only where they cannot quote a row's value. */
const rules: readonly Rule<PostgresError>[] = [
  unreachable,
  {
    when: isLoginRefused,
    kind: 'refused',
    code: 'DATABASE.LOGIN_REFUSED',
    says: (error) => `the server lets nobody in by this URL: ${error.message} (SQLSTATE ${error.code})`,
    mend: 'Correct user, password or database in the URL that the environment of this process holds, or pg_hba.conf of the server, and start the process again.',
  },
  busy,
  {
    when: ofState(/^42501/),
    kind: 'refused',
    code: 'DATABASE.PRIVILEGE_MISSING',
    says: (error) => error.message,
    mend: 'Grant it to the role of the URL; `crossfade doctor` lists the privileges that are needed.',
  },
  rejected,
  {
    when: ofState(/^(57014|53|58|XX|55)/),
    kind: 'unavailable',
    code: 'DATABASE.FAILED',
    says: (error) => `${error.message} (SQLSTATE ${error.code})`,
    mend: 'It is tried again by itself; see the server’s log if it stays.',
  },
  {
    when: isPostgresError,
    kind: 'refused',
    code: 'DATABASE.STATEMENT_REFUSED',
    says: (error) =>
      namesOnly.test(error.code ?? '')
        ? `${error.message} (SQLSTATE ${error.code})`
        : `refused (${describeRejection(error)}); the server’s log has its words, which may quote rows`,
    mend: 'Correct the definition; `crossfade plan` shows every statement.',
  },
]

export const toCrossfadeError = (error: unknown, what: string): CrossfadeError =>
  translate(error, what, rules, detailsOf)

function detailsOf(error: unknown): ErrorDetails {
  if (!isPostgresError(error)) return {}
  const { code: sqlState, schema, table, column, constraint } = error
  return Object.fromEntries(
    Object.entries({ sqlState, schema, table, column, constraint }).filter(
      ([, value]) => value !== undefined,
    ),
  )
}
