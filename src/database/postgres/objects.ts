import type { Scope, SyncGroup } from '../dialect.ts'
import { createClientFunctions } from './client-functions.ts'
import { inScope } from './scope.ts'
import { fitIdentifier, quoteIdentifier, quoteList, quoteTable } from './identifiers.ts'

/**
 * Everything that a migration creates beside the user's own tables stands in one schema, `_crossfade_<name>`, so that cleaning
 * up is one statement. Only triggers stand on the user's tables; they have the same prefix and go with their functions.
 */

export { scopeOf } from './scope.ts'

export type OurTable =
  | 'journal'
  | 'tables'
  | 'ranges'
  | 'parity'
  | 'flags'
  | 'instances'
  | 'measured'
  | 'state'
  | 'columns'
  | 'pulse'
  | 'captures'
  | `changes_${string}`
  | `authored_${string}`
  | `links_${string}`
  | `outside_${string}`

export const ourTable = (scope: Scope, table: OurTable): string => inScope(scope, table)

/** The tables that do not depend on the mappings. `journal` holds what we created, so that undoing drops nothing else. */
export function createOurTables(scope: Scope): string[] {
  const t = (table: OurTable): string => ourTable(scope, table)
  return [
    `CREATE SCHEMA IF NOT EXISTS ${quoteIdentifier(scope.schema)}`,
    `CREATE TABLE IF NOT EXISTS ${t('journal')} (step text PRIMARY KEY, at timestamptz NOT NULL DEFAULT clock_timestamp())`,
    `CREATE TABLE IF NOT EXISTS ${t('tables')} (schema_name text, table_name text, oid oid NOT NULL, PRIMARY KEY (schema_name, table_name))`,
    `CREATE TABLE IF NOT EXISTS ${t('columns')} (schema_name text, table_name text, column_name text, attnum int NOT NULL, PRIMARY KEY (schema_name, table_name, column_name))`,
    `CREATE TABLE IF NOT EXISTS ${t('ranges')} (purpose text, group_id text, id int, lower_key text[], upper_key text[], cursor_key text[], ` +
      `lane int, fence bigint NOT NULL DEFAULT 0, rows_estimated bigint NOT NULL, rows_done bigint NOT NULL DEFAULT 0, ` +
      `rows_written bigint NOT NULL DEFAULT 0, done boolean NOT NULL DEFAULT false, file_id text, rows_per_page real, updated_at timestamptz NOT NULL DEFAULT clock_timestamp(), ` +
      `PRIMARY KEY (purpose, group_id, id)) WITH (fillfactor = 50)`,
    `CREATE TABLE IF NOT EXISTS ${t('parity')} (link text, source text, compared bigint NOT NULL DEFAULT 0, mismatched bigint NOT NULL DEFAULT 0, ` +
      `repaired bigint NOT NULL DEFAULT 0, explained bigint NOT NULL DEFAULT 0, updated_at timestamptz NOT NULL DEFAULT clock_timestamp(), PRIMARY KEY (link, source))`,
    `CREATE TABLE IF NOT EXISTS ${t('flags')} (key text PRIMARY KEY, percent numeric(7,4) NOT NULL, epoch bigint NOT NULL, wanted numeric(7,4), ceiling numeric(7,4))`,
    `CREATE TABLE IF NOT EXISTS ${t('instances')} (id text PRIMARY KEY, version text NOT NULL, epoch bigint NOT NULL, lease_ms int NOT NULL, seen_at timestamptz NOT NULL) WITH (fillfactor = 50)`,
    `CREATE TABLE IF NOT EXISTS ${t('measured')} (instance text, slot bigint, reads bigint NOT NULL, "readErrors" bigint NOT NULL, writes bigint NOT NULL, "writeErrors" bigint NOT NULL, ` +
      `compared bigint NOT NULL, mismatched bigint NOT NULL, "latencyDeltaMs" float8 NOT NULL, PRIMARY KEY (instance, slot)) WITH (fillfactor = 50)`,
    `CREATE TABLE IF NOT EXISTS ${t('captures')} (source text, side text, group_id text NOT NULL, PRIMARY KEY (source, side))`,
    `CREATE TABLE IF NOT EXISTS ${t('state')} (one boolean PRIMARY KEY DEFAULT true CHECK (one), primary_side text NOT NULL DEFAULT 'old', epoch bigint NOT NULL DEFAULT 0, flag_order bigint, definition text, fingerprint text, planned text)`,
    `INSERT INTO ${t('state')} DEFAULT VALUES ON CONFLICT DO NOTHING`,
    `CREATE TABLE IF NOT EXISTS ${t('pulse')} (one boolean PRIMARY KEY DEFAULT true CHECK (one), at timestamptz) WITH (fillfactor = 50)`,
    `INSERT INTO ${t('pulse')} DEFAULT VALUES ON CONFLICT DO NOTHING`,
    // The application's roles must be able to read the flags; our functions run as their owner.
    `GRANT USAGE ON SCHEMA ${quoteIdentifier(scope.schema)} TO PUBLIC`,
    `GRANT SELECT ON ${t('flags')}, ${t('state')} TO PUBLIC`,
    ...createClientFunctions(scope),
  ]
}

export const keyNames = (width: number): string[] => Array.from({ length: width }, (_, i) => `k${i + 1}`)

/** The change log of a group: the keys that were changed and still have to be copied, written with the change itself. */
// Without vacuum_truncate = false, autovacuum would take ACCESS EXCLUSIVE to give back the queue's empty end, and a trigger that must
// leave a key would fail with the application's statement. https://www.postgresql.org/docs/18/sql-createtable.html#RELOPTION-VACUUM-TRUNCATE
export function createChangeLog(scope: Scope, group: SyncGroup): string[] {
  const table = ourTable(scope, `changes_${group.id}`)
  const keys = keyNames(group.keyTypes.length).map((name, i) => `${name} ${group.keyTypes[i]}`)
  return [
    `CREATE TABLE IF NOT EXISTS ${table} (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, kind "char" NOT NULL, ${keys.join(', ')}, ` +
      `attempts int NOT NULL DEFAULT 0, due_at timestamptz NOT NULL DEFAULT '-infinity', look_after text[], reason text, ` +
      `logged_at timestamptz NOT NULL DEFAULT clock_timestamp()) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000, vacuum_truncate = false)`,
    `CREATE INDEX IF NOT EXISTS ${quoteIdentifier(`changes_${group.id}_key`)} ON ${table} (${quoteList(keyNames(group.keyTypes.length))})`,
  ]
}

/**
 * Keys whose new columns the application wrote itself so that the old ones do not say them, each with what it wrote: who writes the
 * old ones later makes the entry speak of a value that is not there any more.
 */
export function createAuthored(scope: Scope, group: SyncGroup): string[] {
  const [{ row }] = group.links
  if (row === undefined || group.direction === 'reverse') return []
  const table = ourTable(scope, `authored_${row.id}`)
  const names = keyNames(group.keyTypes.length)
  const columns = names.map((name, i) => `${name} ${group.keyTypes[i]}`).join(', ')
  const equal = [...names, 'pair', 'image'].map((name, i) => `a.${name} = $${i + 1}`).join(' AND ')
  return [
    `CREATE TABLE IF NOT EXISTS ${table} (${columns}, pair int, image text, PRIMARY KEY (${quoteList(names)}, pair, image))`,
    `CREATE OR REPLACE FUNCTION ${quoteIdentifier(scope.schema)}.${quoteIdentifier(`is_authored_${row.id}`)}(${group.keyTypes.join(', ')}, int, text) RETURNS boolean ` +
      `LANGUAGE plpgsql VOLATILE COST 1000 AS $$BEGIN RETURN EXISTS (SELECT FROM ${table} AS a WHERE ${equal}); END$$`,
  ]
}

/**
 * Statement triggers fire after everything else that a statement does. A row trigger must be the last before the row is written:
 * PostgreSQL fires them in the order of their names' bytes, and `~` is the last of ASCII.
 * https://www.postgresql.org/docs/18/trigger-definition.html
 */
export function triggerName(scope: Scope, group: SyncGroup, event: string): string {
  const [{ row }] = group.links
  return fitIdentifier(`${row ? '~' : ''}_crossfade_${scope.migration}_${row?.id ?? group.id}_${event}`)
}

/** Of the table that the group writes, so that both have the same types and orders. */
export function createOutside(scope: Scope, { id, links }: SyncGroup): string[] {
  const [{ link, row }] = links
  const { key, table, scope: filter } = link.target
  if (filter === undefined || row !== undefined) return []
  const outside = ourTable(scope, `outside_${id}`)
  return [
    `CREATE TABLE IF NOT EXISTS ${outside} AS SELECT ${key.map((column, i) => `${quoteIdentifier(column)} AS k${i + 1}`).join(', ')} FROM ${quoteTable(table)} WITH NO DATA`,
    `CREATE UNIQUE INDEX IF NOT EXISTS ${quoteIdentifier(`outside_${id}_key`)} ON ${outside} (${quoteList(keyNames(key.length))})`,
  ]
}

/** Triggers and functions of the `index`th table that a group depends on. */
export const dependencyTriggerName = (scope: Scope, group: SyncGroup, index: number, event: string): string =>
  fitIdentifier(`_crossfade_${scope.migration}_${group.id}_d${index}_${event}`)

export const dependencyFunctionName = (group: SyncGroup, index: number, event: string): string =>
  `follow_${group.id}_${index}_${event}`

export const functionName = (group: SyncGroup, watched: number, event: string): string =>
  `sync_${group.links[0].row?.id ?? group.id}_${watched}_${event}`
