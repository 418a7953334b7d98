import type { TransactionOptions } from '../database.ts'
import { quoteLiteral } from './identifiers.ts'

/**
 * What an expression's value may depend on is the same in every session of ours, so that a row copied here and there comes out the
 * same, and what would turn an error into a loss is an error. Zero dates pass: they are there already, and what becomes of them is said
 * by the plan. https://dev.mysql.com/doc/refman/9.7/en/sql-mode.html
 */
const evaluationSettings: Readonly<Record<string, string>> = {
  sql_mode: 'STRICT_ALL_TABLES,NO_AUTO_VALUE_ON_ZERO,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION',
  time_zone: '+00:00',
  character_set_client: 'utf8mb4',
  character_set_connection: 'utf8mb4',
  character_set_results: 'utf8mb4',
  collation_connection: 'utf8mb4_bin',
  lc_time_names: 'en_US',
  div_precision_increment: '4',
  default_week_format: '0',
  group_concat_max_len: '1048576',
  foreign_key_checks: '1',
  unique_checks: '1',
  sql_safe_updates: '0',
  autocommit: '1',
}

/**
 * A worker that stands still in the middle of a transaction (a paused machine, a debugger) keeps its connection and its locks, and
 * the worker that takes over would wait for it without end. Longer than any pause of ours between two statements; connections of the
 * pool that stand idle are closed before. https://dev.mysql.com/doc/refman/9.7/en/server-system-variables.html#sysvar_wait_timeout
 */
export const longestStandstillSec = 10

const isolations = { readCommitted: 'READ-COMMITTED', repeatableRead: 'REPEATABLE-READ' } as const

/**
 * The settings of a transaction, by the names of the server's variables. Waits for locks are whole seconds here, at least one:
 * who must not wait that long says NOWAIT. https://dev.mysql.com/doc/refman/9.7/en/innodb-parameters.html#sysvar_innodb_lock_wait_timeout
 */
export function sessionSettings(
  options: TransactionOptions,
  isolationVariable: string,
): Readonly<Record<string, string>> {
  const lockTimeoutSec = String(Math.max(1, Math.ceil((options.lockTimeoutMs ?? 50) / 1000)))
  return {
    ...evaluationSettings,
    wait_timeout: String(longestStandstillSec),
    lock_wait_timeout: lockTimeoutSec,
    innodb_lock_wait_timeout: lockTimeoutSec,
    [isolationVariable]: options.snapshot ? isolations.repeatableRead : isolations.readCommitted,
  }
}

export const setSession = (
  settings: Readonly<Record<string, string>>,
  applying: string | undefined,
): string =>
  `SET ${Object.entries(settings)
    .map(([name, value]) => `SESSION ${name} = ${/^\d+$/.test(value) ? value : quoteLiteral(value)}`)
    .join(', ')}, @crossfade_applying = ${applying === undefined ? 'NULL' : quoteLiteral(applying)}`

export const readSession = (settings: Readonly<Record<string, string>>): string =>
  `SELECT ${Object.keys(settings)
    .map((name) => `@@SESSION.${name} AS ${name}`)
    .join(', ')}, CONNECTION_ID() AS connection_id`

/** The names of the settings that are not what they were set to: sql_mode comes back in an order of the server's own. */
export function lostSettings(
  settings: Readonly<Record<string, string>>,
  found: Readonly<Record<string, string | null>>,
): string[] {
  const inOrder = (value: string): string => value.split(',').sort().join(',')
  return Object.entries(settings)
    .filter(([name, value]) => inOrder(found[name] ?? '') !== inOrder(value))
    .map(([name]) => name)
}
