import { formatTable } from '../../core/link.ts'
import type { ResolvedLink, Scope, SyncGroup } from '../dialect.ts'
import type { Transaction } from '../database.ts'
import { equalKeys, numbered } from './copy.ts'
import { quoteIdentifier, quoteList, quoteLiteral } from './identifiers.ts'
import { movedMark } from './moved-mark.ts'
import { keyNames, ourTable } from './objects.ts'
import {
  deleteGone,
  insertRows,
  keyIn,
  namedTable,
  noteOutside,
  scopeOfLink,
  sourceExists,
  updateRows,
} from './projection.ts'
import { takeChunkLock } from './ranges.ts'
import { inScope } from './scope.ts'
import { applyingSetting, evaluationSettings } from './session.ts'
import { createFunction, searchPath } from './trigger-function.ts'

/**
 * Sync by the application: what its own transaction calls before COMMIT, and what it calls after it. `_keys` is a JSON array of keys,
 * each an array of texts in the order of the source's key. All functions run as their owner: the application's role needs no right here.
 */

/** A copy after the commit waits no longer for somebody who holds its rows: an applier comes for them. */
const applyWaitMs = 50

const variables = (group: SyncGroup, prefix: string): string[] =>
  group.keyTypes.map((_, i) => `_crossfade_${prefix}${i + 1}`)

const fieldsOf = (group: SyncGroup): string[] =>
  group.keyTypes.map((type, i) => `(_crossfade_j.key->>${i})::${type}`)

const keysGiven = 'jsonb_array_elements(_keys) AS _crossfade_j(key)'

const changes = (scope: Scope, group: SyncGroup): string => ourTable(scope, `changes_${group.id}`)

const names = (group: SyncGroup): string => keyNames(group.keyTypes.length).join(', ')

const primaryOf = (group: SyncGroup): 'old' | 'new' => (group.direction === 'forward' ? 'old' : 'new')

/** The source's name in the definition stands for both directions: its key is the key of either side. */
const sourceOf = ({ direction, links: [{ link }] }: SyncGroup): string =>
  formatTable(direction === 'forward' ? link.parts[0].table : link.target.table)

/**
 * Whoever wrote this side holds its table against the move of the primary side until its COMMIT, so what is read here holds until then.
 * A transaction whose snapshot is older than the move would read what was: it locks the row instead, which fails where it has changed.
 */
const assertPrimary = (scope: Scope, group: SyncGroup): string => `
  IF current_setting('transaction_isolation') = 'read committed' THEN
    SELECT epoch, primary_side INTO _crossfade_epoch, _crossfade_primary FROM ${ourTable(scope, 'state')};
  ELSE
    SELECT epoch, primary_side INTO _crossfade_epoch, _crossfade_primary FROM ${ourTable(scope, 'state')} FOR SHARE;
  END IF;
  IF _crossfade_primary <> '${primaryOf(group)}' THEN
    RAISE EXCEPTION USING ERRCODE = 'serialization_failure', CONSTRAINT = '${movedMark}',
      MESSAGE = ${quoteLiteral(`crossfade: the ${primaryOf(group)} side of ${scope.migration} is not primary any more`)},
      HINT = 'Roll back, look at the flags, and write the other side.';
  END IF;`

const captureBody = (scope: Scope, group: SyncGroup, isActive: boolean): string => `DECLARE
  _crossfade_epoch bigint; _crossfade_primary text;
BEGIN${assertPrimary(scope, group)}
  ${isActive ? `INSERT INTO ${changes(scope, group)} (kind, ${names(group)}) SELECT 'c', ${fieldsOf(group).join(', ')} FROM ${keysGiven};` : ''}
  RETURN _crossfade_epoch;
END`

/**
 * Takes the entries of the given keys, those that nobody else is about to copy, into the variables. Until this transaction ends they
 * count as pending, so that the primary side cannot move meanwhile; a rollback brings them back.
 */
function takeKeys(scope: Scope, group: SyncGroup): string {
  const given = variables(group, 'g')
  const taken = variables(group, 'v')
  const log = changes(scope, group)
  const collect = (columns: readonly string[]): string =>
    columns.map((column) => `array_agg(${column})`).join(', ')
  return `IF current_setting('transaction_isolation') <> 'read committed' THEN
    RAISE EXCEPTION USING MESSAGE = 'crossfade: what follows a commit reads anew in every statement: it needs READ COMMITTED';
  END IF;
  SELECT ${collect(fieldsOf(group))} INTO ${given.join(', ')} FROM ${keysGiven};
  WITH _crossfade_t AS (DELETE FROM ${log} WHERE id IN (SELECT id FROM ${log} WHERE kind = 'c' AND ${keyIn(given)(keyNames(group.keyTypes.length))} ORDER BY id FOR UPDATE SKIP LOCKED) RETURNING ${names(group)})
    SELECT ${collect(keyNames(group.keyTypes.length))} INTO ${taken.join(', ')} FROM (SELECT DISTINCT ${names(group)} FROM _crossfade_t) AS _crossfade_d;
  IF ${taken[0]} IS NULL THEN RETURN 0; END IF;`
}

const declare = (group: SyncGroup, prefixes: readonly string[]): string =>
  `DECLARE ${prefixes.flatMap((prefix) => variables(group, prefix).map((variable, i) => `${variable} ${group.keyTypes[i]}[];`)).join(' ')}`

/**
 * As an applier does it (copyLinkKeys in copy.ts), with one way out where that has several: what clashes raises, and everything is as
 * before. Target rows are locked before the source is read; only what was locked is updated or deleted; what was absent is inserted
 * without a conflict rule, so that a row that came meanwhile is an error and not passed over.
 */
function applyLink(scope: Scope, group: SyncGroup, link: ResolvedLink): string {
  const { target } = link.link
  const taken = variables(group, 'v')
  const standing = variables(group, 's')
  const absent = variables(group, 'a')
  const keyColumns = taken.map((_, i) => `_crossfade_k${i + 1}`)
  const columns = target.key.map((column, i) => `${quoteIdentifier(column)} AS ${keyColumns[i]}`).join(', ')
  const rows = `SELECT ${columns} FROM ${namedTable(target)} WHERE ${[keyIn(taken)(target.key), ...scopeOfLink(link)].join(' AND ')} ORDER BY ${quoteList(target.key)} FOR UPDATE`
  const collect = (isThere: string): string =>
    keyColumns
      .map(
        (column) =>
          `array_agg(_crossfade_u.${column}) FILTER (WHERE _crossfade_l.${keyColumns[0]} ${isThere})`,
      )
      .join(', ')
  const update = updateRows(link, keyIn(standing))
  return `
  WITH _crossfade_l AS MATERIALIZED (${rows})
    SELECT ${collect('IS NOT NULL')}, ${collect('IS NULL')} INTO ${[...standing, ...absent].join(', ')}
    FROM ${numbered(link, taken)} LEFT JOIN _crossfade_l ON ${equalKeys(link, '_crossfade_l', '_crossfade_u')};
  ${update === undefined ? '' : `IF ${standing[0]} IS NOT NULL THEN ${update}; END IF;`}
  IF ${absent[0]} IS NOT NULL THEN
    PERFORM ${takeChunkLock(scope)};
    ${insertRows(link, keyIn(absent))};
  END IF;
  ${noteOutside(link, keyIn(taken))
    .map((sql) => `${sql};`)
    .join(' ')}
  IF ${standing[0]} IS NOT NULL THEN ${deleteGone(link, standing)}; END IF;`
}

/** Rule 4: a key without a source row stays in the log, for the look of an applier that knows which chunks run. */
function leaveGone(scope: Scope, group: SyncGroup): string {
  const columns = group.keyTypes.map((_, i) => `_crossfade_k${i + 1}`).join(', ')
  const gone = group.links.map(({ link }) => `NOT ${sourceExists(link, '_crossfade_u')}`)
  return `INSERT INTO ${changes(scope, group)} (kind, ${names(group)}) SELECT 'c', ${columns} FROM unnest(${variables(group, 'v').join(', ')}) AS _crossfade_u(${columns}) WHERE ${gone.join(' OR ')};`
}

const applyBody = (scope: Scope, group: SyncGroup): string => `${declare(group, ['g', 'v', 's', 'a'])}
BEGIN
  PERFORM set_config('${applyingSetting}', ${quoteLiteral(scope.migration)}, true);
  ${takeKeys(scope, group)}
  ${group.links.map((link) => applyLink(scope, group, link)).join('\n')}
  ${leaveGone(scope, group)}
  RETURN cardinality(${variables(group, 'v')[0]});
END`

/** For what the application copies by a function of its own: the keys stay in the log, so that an applier has the last word. */
const holdBody = (scope: Scope, group: SyncGroup): string => `${declare(group, ['g', 'v'])}
BEGIN
  PERFORM set_config('${applyingSetting}', ${quoteLiteral(scope.migration)}, true);
  ${takeKeys(scope, group)}
  INSERT INTO ${changes(scope, group)} (kind, ${names(group)}) SELECT 'c', * FROM unnest(${variables(group, 'v').join(', ')});
  RETURN cardinality(${variables(group, 'v')[0]});
END`

const pendingBody = (scope: Scope, group: SyncGroup): string => {
  const equal = fieldsOf(group).map((field, i) => `l.k${i + 1} = ${field}`)
  const log = changes(scope, group)
  return `BEGIN
  IF _keys IS NULL THEN RETURN to_jsonb(EXISTS (SELECT FROM ${log})); END IF;
  RETURN (SELECT coalesce(jsonb_agg(_crossfade_j.key), '[]') FROM ${keysGiven}
    WHERE EXISTS (SELECT FROM ${log} l WHERE ${equal.join(' AND ')}) OR EXISTS (SELECT FROM ${log} WHERE kind = 't'));
END`
}

/** Only plans that go by the keys' indexes stay right as the tables grow (see triggers.ts). */
const planned: Readonly<Record<string, string>> = {
  plan_cache_mode: 'force_generic_plan',
  enable_seqscan: 'off',
  enable_hashjoin: 'off',
  enable_mergejoin: 'off',
}

interface ClientFunction {
  readonly name: string
  readonly sql: string
}

function clientFunctions(scope: Scope, group: SyncGroup, path: string, isActive = true): ClientFunction[] {
  const make = (
    word: string,
    returns: string,
    body: string,
    settings: Readonly<Record<string, string>>,
  ): ClientFunction => {
    const name = inScope(scope, `${word}_${group.id}`)
    return { name, sql: createFunction(`${name}(_keys jsonb) RETURNS ${returns}`, body, path, settings) }
  }
  const copies = { ...planned, ...evaluationSettings, lock_timeout: `${applyWaitMs}ms` }
  return [
    // What is waited for in the change log is short, and an error there would be the application's.
    make('capture', 'bigint', captureBody(scope, group, isActive), { lock_timeout: '0' }),
    ...(isActive
      ? [
          make('apply', 'int', applyBody(scope, group), copies),
          make('hold', 'int', holdBody(scope, group), copies),
          make('pending', 'jsonb', pendingBody(scope, group), planned),
        ]
      : []),
  ]
}

export const captureStatements = (scope: Scope, group: SyncGroup, path: string): string[] =>
  clientFunctions(scope, group, path).map(({ sql }) => sql)

export async function installCapture(tx: Transaction, scope: Scope, group: SyncGroup): Promise<void> {
  for (const statement of captureStatements(scope, group, await searchPath(tx))) await tx.query(statement)
  await tx.query(
    `INSERT INTO ${ourTable(scope, 'captures')} VALUES ($1, $2, $3) ON CONFLICT (source, side) DO UPDATE SET group_id = EXCLUDED.group_id`,
    [sourceOf(group), primaryOf(group), group.id],
  )
}

/** The function stays, and notes nothing: an instance that has not noticed yet calls it in a transaction that must not fail. */
export async function removeCapture(tx: Transaction, scope: Scope, group: SyncGroup): Promise<void> {
  await tx.query(`DELETE FROM ${ourTable(scope, 'captures')} WHERE group_id = $1`, [group.id])
  for (const { sql } of clientFunctions(scope, group, await searchPath(tx), false)) await tx.query(sql)
}

export async function checkCapture(tx: Transaction, scope: Scope, group: SyncGroup): Promise<string[]> {
  const names = clientFunctions(scope, group, '').map(({ name }) => name)
  const { rows } = await tx.query(
    `SELECT name FROM unnest($1::text[]) AS name WHERE to_regprocedure(name || '(jsonb)') IS NULL ` +
      `UNION ALL SELECT 'its line in ' || $2 WHERE NOT EXISTS (SELECT FROM ${ourTable(scope, 'captures')} WHERE group_id = $3)`,
    [names, ourTable(scope, 'captures'), group.id],
  )
  return rows.map((row) => `${row['name']} is missing, which the application calls for ${sourceOf(group)}`)
}

/** Whether applications are told to capture the group's changes. */
export async function isCaptured(tx: Transaction, scope: Scope, group: SyncGroup): Promise<boolean> {
  if (group.capture === 'triggers') return false
  const { rowCount } = await tx.query(`SELECT FROM ${ourTable(scope, 'captures')} WHERE group_id = $1`, [
    group.id,
  ])
  return rowCount > 0
}
