import type { TransactionOptions } from '../database.ts'
import { quoteLiteral } from './identifiers.ts'

/**
 * What an expression's value may depend on is the same in every session of ours and in the trigger functions, so that a row
 * copied by a lane, by an applier and inside an application's statement comes out the same.
 */
export const evaluationSettings: Readonly<Record<string, string>> = {
  TimeZone: 'UTC',
  DateStyle: 'ISO, YMD',
  IntervalStyle: 'postgres',
  extra_float_digits: '1',
  bytea_output: 'hex',
  // A policy that hides rows from us must be an error, never a copy without them.
  // https://www.postgresql.org/docs/18/ddl-rowsecurity.html, "row_security"
  row_security: 'off',
  standard_conforming_strings: 'on',
}

/** Holds the migration's name while its own writes run, so that the triggers of its other direction do not send them back. */
export const applyingSetting = 'crossfade.applying'

/**
 * A worker that stands still in the middle of a transaction (a paused machine, a debugger) keeps its connection and its locks, and
 * the worker that takes over would wait for it without end. Longer than any pause of ours between two statements.
 * https://www.postgresql.org/docs/18/runtime-config-client.html#GUC-IDLE-IN-TRANSACTION-SESSION-TIMEOUT
 */
const longestStandstillMs = 10_000

/** Transaction-local settings only: nothing is left in a pooled connection. */
export function sessionSettings(options: TransactionOptions): string {
  const settings: Record<string, string> = {
    ...evaluationSettings,
    idle_in_transaction_session_timeout: String(longestStandstillMs),
    lock_timeout: String(Math.ceil(options.lockTimeoutMs ?? 50)),
    ...(options.statementTimeoutMs === undefined
      ? {}
      : { statement_timeout: String(Math.ceil(options.statementTimeoutMs)) }),
    ...(options.asynchronousCommit ? { synchronous_commit: 'off' } : {}),
    ...(options.applying ? { [applyingSetting]: options.applying } : {}),
  }
  return Object.entries(settings)
    .map(([name, value]) => `SET LOCAL ${name} = ${quoteLiteral(value)}`)
    .join('; ')
}
