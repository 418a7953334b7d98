import type { CrossfadeError, ErrorDetails } from '../../errors/index.ts'
import { commonRules, connectionCodes, translate, type Rule } from '../translate.ts'

/**
 * What mysql2 throws: `errno` and `sqlState` come from the server, a `code` alone from the driver.
 * https://dev.mysql.com/doc/mysql-errors/9.7/en/server-error-reference.html, https://mariadb.com/kb/en/mariadb-error-code-reference/
 */
interface MysqlError extends Error {
  readonly code?: string
  readonly errno?: number
  readonly sqlState?: string
}

export const isMysqlError = (error: unknown): error is MysqlError =>
  error instanceof Error &&
  (typeof (error as MysqlError).sqlState === 'string' ||
    /^(PROTOCOL_|HANDSHAKE_|AUTH_SWITCH_)/.test((error as MysqlError).code ?? '') ||
    isClosed(error))

/** The driver has noticed the loss between two statements: this error alone has no code. */
const isClosed = (error: Error): boolean => /connection is in closed state$/.test(error.message)

const isOneOf =
  (...numbers: readonly number[]) =>
  (error: unknown): boolean =>
    isMysqlError(error) && typeof error.sqlState === 'string' && numbers.includes(error.errno ?? 0)

/**
 * Somebody else has the lock, or we were chosen as the victim: the same statement may succeed a moment later. 1020: a row has changed
 * since the snapshot (MariaDB); 1412: a table has, in its definition; 3572: NOWAIT found a lock.
 */
export const isBusy = isOneOf(1205, 1213, 3572, 1020, 1412)

/** The row itself is not acceptable to the other side: classes 22 and 23, what a trigger raises (45), and what the servers give no class. */
export const isRejected = (error: unknown): boolean =>
  (isMysqlError(error) && /^(22|23|44|45)/.test(error.sqlState ?? '')) || isRejectedWithoutClass(error)

/** Of values cut, wrong, missing, without a partition, refused by a check (MySQL), of text that is none, of a counter at its end. */
const isRejectedWithoutClass = isOneOf(1265, 1366, 1364, 1526, 3819, 1300, 1411, 1467, 1369)

export const isUniqueViolation = isOneOf(1062, 1586, 1022, 1859)

/** The server ends, has no room for another one, or has cut us off. */
const isCutOff = isOneOf(1053, 1080, 1040, 1203, 1226, 1927, 3169, 4031, 2006, 2013, 1158, 1159, 1160, 1161)

export const isConnectionLoss = (error: unknown): boolean =>
  isCutOff(error) ||
  (error instanceof Error &&
    (connectionCodes.has((error as MysqlError).code ?? '') ||
      /^PROTOCOL_(CONNECTION_LOST|SEQUENCE_TIMEOUT|ENQUEUE_AFTER)/.test((error as MysqlError).code ?? '') ||
      isClosed(error)))

/**
 * The names of an error's message. What stands before them may be a row's value and say anything: only its end, and what the server
 * puts there, is looked at.
 */
function placeOf({ errno, message }: MysqlError): { readonly constraint?: string; readonly column?: string } {
  const last = (pattern: RegExp): string | undefined => pattern.exec(message)?.[1]
  const constraint =
    errno === 1062 || errno === 1586
      ? last(/ for key '([^']*)'$/)
      : errno === 1451 || errno === 1452 || errno === 4025
        ? last(/CONSTRAINT `([^`]*)`/)
        : errno === 3819
          ? last(/^Check constraint '([^']*)' is violated\.$/)
          : undefined
  const column =
    last(/ for column (?:[`'\w]+\.)*[`']?([^`'\s]+)[`']? at row \d+$/) ??
    last(/^Column '([^']*)' cannot be null$/)
  return { ...(constraint === undefined ? {} : { constraint }), ...(column === undefined ? {} : { column }) }
}

/** A driver's error without its row values: its number, its SQLSTATE and the names of constraint and column. */
export function describeRejection(error: unknown): string {
  if (!isMysqlError(error)) return 'unknown error'
  const { constraint, column } = placeOf(error)
  return [
    `error ${error.errno ?? error.code}`,
    error.sqlState && `SQLSTATE ${error.sqlState}`,
    constraint && `constraint ${constraint}`,
    column && `column ${column}`,
  ]
    .filter(Boolean)
    .join(', ')
}

const isLoginRefusedByServer = isOneOf(1045, 1049, 1130, 1251, 1698, 1862, 3118, 3159, 4151)
const isLoginRefused = (error: unknown): boolean =>
  isLoginRefusedByServer(error) ||
  (isMysqlError(error) && /^(HANDSHAKE_|AUTH_SWITCH_)/.test(error.code ?? ''))

/** Errors whose messages name things and never quote a row: unknown or doubled columns, tables, keys, databases. 1064 quotes the statement. */
const namesOnly = isOneOf(1050, 1051, 1054, 1060, 1061, 1072, 1091, 1109, 1146, 1193, 1231, 1305, 1792, 1846)

const textOf = (error: MysqlError): string => `${error.message} (${describeRejection(error)})`

const { unreachable, busy, rejected } = commonRules<MysqlError>({
  isConnectionLoss,
  isBusy,
  isRejected,
  describeRejection,
})

/** The first that fits. */
const rules: readonly Rule<MysqlError>[] = [
  unreachable,
  {
    when: isLoginRefused,
    kind: 'refused',
    code: 'DATABASE.LOGIN_REFUSED',
    says: (error) => `the server lets nobody in by this URL: ${textOf(error)}`,
    mend: 'Correct user, password, database or ssl-mode in the URL that the environment of this process holds, or the account on the server, and start the process again.',
  },
  busy,
  {
    when: isOneOf(1044, 1142, 1143, 1227, 1345, 1370, 1410, 1419),
    kind: 'refused',
    code: 'DATABASE.PRIVILEGE_MISSING',
    says: textOf,
    mend: 'Grant it to the user of the URL; `crossfade doctor` lists the privileges that are needed.',
  },
  rejected,
  {
    // Interrupted, too long, read-only (a failover), or out of room.
    when: isOneOf(1317, 3024, 1969, 1290, 1836, 1021, 1030, 1037, 1041, 1114, 1206),
    kind: 'unavailable',
    code: 'DATABASE.FAILED',
    says: textOf,
    mend: 'It is tried again by itself; see the server’s log if it stays.',
  },
  {
    when: isMysqlError,
    kind: 'refused',
    code: 'DATABASE.STATEMENT_REFUSED',
    says: (error) =>
      namesOnly(error)
        ? textOf(error)
        : `refused (${describeRejection(error)}); the server’s own words may quote rows, and are left out`,
    mend: 'Correct the definition; `crossfade plan` shows every statement.',
  },
]

export const toCrossfadeError = (error: unknown, what: string): CrossfadeError =>
  translate(error, what, rules, detailsOf)

function detailsOf(error: unknown): ErrorDetails {
  if (!isMysqlError(error)) return {}
  const { errno, sqlState } = error
  return Object.fromEntries(
    Object.entries({ errno, sqlState, ...placeOf(error) }).filter(([, value]) => value !== undefined),
  ) as ErrorDetails
}
