import { formatTable, type TableName } from '../../core/link.ts'
import type {
  Dialect,
  ResolvedLink,
  Scope,
  SyncGroup,
  SyncSettings,
  TriggerMode,
  Watched,
} from '../dialect.ts'
import type { Transaction } from '../database.ts'
import { subscriptionsOf } from './catalog.ts'
import { quoteIdentifier, quoteList, quoteLiteral, quoteTable } from './identifiers.ts'
import { forget, note } from './journal.ts'
import { functionName, keyNames, ourTable, triggerName } from './objects.ts'
import { deleteGone, keyIn, sourceExists, writeRows } from './projection.ts'
import { applyingSetting, evaluationSettings } from './session.ts'

/**
 * Sync by trigger: what a statement of the application meets. One trigger a statement and event, with transition tables, fired
 * for every session (ENABLE ALWAYS), after the user's row triggers. It collects the changed keys and makes the other side equal
 * to what the source says now, inside a subtransaction: an error there, or a wait longer than maxWaitMs, undoes only that
 * subtransaction and leaves the keys in the change log. The application's statement succeeds either way.
 * https://www.postgresql.org/docs/18/sql-createtrigger.html, https://www.postgresql.org/docs/18/plpgsql-control-structures.html#PLPGSQL-ERROR-TRAPPING
 */

type Event = 'insert' | 'update' | 'delete' | 'truncate'

const events: readonly Event[] = ['insert', 'update', 'delete', 'truncate']

const transitionTables: Record<Event, readonly ('_crossfade_old' | '_crossfade_new')[]> = {
  insert: ['_crossfade_new'],
  update: ['_crossfade_old', '_crossfade_new'],
  delete: ['_crossfade_old'],
  truncate: [],
}

interface FunctionSpec {
  readonly scope: Scope
  readonly group: SyncGroup
  readonly watched: Watched
  readonly event: Event
  readonly mode: TriggerMode
  readonly settings: SyncSettings
  /** Constraints of the targets that are initially deferred, as they are written in SQL. */
  readonly deferred: readonly string[]
}

/** The changed keys of the statement, old and new, each once. */
const changedKeys = ({ event, watched }: FunctionSpec): string =>
  transitionTables[event].map((table) => `SELECT ${quoteList(watched.key)} FROM ${table}`).join(' UNION ')

const logKeys = ({ scope, group }: FunctionSpec, rows: string, kind = 'c'): string =>
  `INSERT INTO ${ourTable(scope, `changes_${group.id}`)} (kind, ${keyNames(group.keyTypes.length).join(', ')}) SELECT '${kind}', _crossfade_c.* FROM (${rows}) AS _crossfade_c;`

const allKeys = (arrays: readonly string[]): string => {
  const names = arrays.map((_, i) => `_crossfade_k${i + 1}`).join(', ')
  return `SELECT ${names} FROM unnest(${arrays.join(', ')}) AS _crossfade_u(${names})`
}

/** The variables that hold the keys, one array a key column. */
const variables = (group: SyncGroup): string[] => group.keyTypes.map((_, i) => `_crossfade_v${i + 1}`)

/** Several tables make one target row: two writers that hold one of them each cannot see what the other is about to commit. */
const isJoined = (group: SyncGroup): boolean => group.links.some(({ link }) => link.parts.length > 1)

/** What keeps one target equal, for the keys in the variables. A clash with another writer raises and is caught. */
function applyLink(link: ResolvedLink, event: Event, arrays: string[]): string[] {
  // Without its row in a joined table a target row is another row, not none.
  const writes = event !== 'delete' || link.link.parts.length > 1
  return [
    ...(writes ? [`${writeRows(link, keyIn(arrays))};`] : []),
    ...(event === 'insert' && !link.link.parts.some((part) => part.where)
      ? []
      : [`${deleteGone(link, arrays)};`]),
  ]
}

/**
 * Rule 4: a delete, and a row that left the filter, always leaves its key, even when it was applied at once. So does every
 * change of a target that is joined from several tables: what is written here is fresh, and the applier makes it right.
 */
function logGone(spec: FunctionSpec, arrays: string[]): string[] {
  const { group, event } = spec
  if (isJoined(group)) return [logKeys(spec, allKeys(arrays))]
  if (event === 'insert' && !group.links.some(({ link }) => link.parts.some((part) => part.where))) return []
  const names = group.keyTypes.map((_, i) => `_crossfade_k${i + 1}`)
  const gone = group.links.map(({ link }) => `NOT ${sourceExists(link, '_crossfade_u')}`)
  return [
    logKeys(
      spec,
      `SELECT ${names.join(', ')} FROM unnest(${arrays.join(', ')}) AS _crossfade_u(${names.join(', ')}) WHERE ${gone.join(' OR ')}`,
    ),
  ]
}

/** A constraint of the new side that would only be checked at COMMIT would fail the application's COMMIT: it is checked here. */
const checkNow = (deferred: readonly string[]): string[] =>
  deferred.length === 0
    ? []
    : [
        `SET CONSTRAINTS ${deferred.join(', ')} IMMEDIATE;`,
        `SET CONSTRAINTS ${deferred.join(', ')} DEFERRED;`,
      ]

function functionBody(spec: FunctionSpec): string {
  const { group, event, mode, settings, watched } = spec
  if (event === 'truncate')
    return `BEGIN ${logKeys(spec, `SELECT ${group.keyTypes.map((type) => `NULL::${type}`).join(', ')}`, 't')} RETURN NULL; END`
  if (mode === 'watch') return `BEGIN ${logKeys(spec, changedKeys(spec))} RETURN NULL; END`
  const arrays = variables(group)
  const declare = arrays.map((variable, i) => `${variable} ${group.keyTypes[i]}[];`).join(' ')
  const collect = watched.key.map((column) => `array_agg(${quoteIdentifier(column)})`).join(', ')
  const [firstTable] = transitionTables[event]
  const apply = group.links.flatMap((link) => applyLink(link, event, arrays))
  return `DECLARE ${declare} _crossfade_outer text := coalesce(current_setting('${applyingSetting}', true), '');
BEGIN
  -- Our own writes in the other direction are not sent back.
  IF _crossfade_outer = ${quoteLiteral(spec.scope.migration)} THEN RETURN NULL; END IF;
  PERFORM FROM ${firstTable ?? '_crossfade_new'} LIMIT 1;
  IF NOT FOUND THEN RETURN NULL; END IF;
  -- A large statement, and a serializable one (our reads would take part in its conflicts), only leaves its keys.
  PERFORM FROM ${firstTable ?? '_crossfade_new'} OFFSET ${settings.inlineRows} LIMIT 1;
  IF FOUND OR current_setting('transaction_isolation') = 'serializable' THEN
    ${logKeys(spec, changedKeys(spec))}
    RETURN NULL;
  END IF;
  SELECT ${collect} INTO ${arrays.join(', ')} FROM (${changedKeys(spec)}) AS _crossfade_q;
  BEGIN
    PERFORM set_config('${applyingSetting}', ${quoteLiteral(spec.scope.migration)}, true);
    PERFORM set_config('lock_timeout', '${settings.maxWaitMs}ms', true);
    ${[...apply, ...logGone(spec, arrays), ...checkNow(spec.deferred)].join('\n    ')}
    PERFORM set_config('${applyingSetting}', _crossfade_outer, true);
  EXCEPTION WHEN OTHERS THEN
    ${logKeys(spec, allKeys(arrays))}
  END;
  RETURN NULL;
END`
}

/** The path that our own session resolves names with, so that the definition's expressions mean the same in the function. */
async function searchPath(tx: Transaction): Promise<string> {
  const result = await tx.query('SELECT unnest(current_schemas(false)) AS name')
  return [...result.rows.map((row) => quoteIdentifier(row['name'] ?? '')), 'pg_temp'].join(', ')
}

async function deferredConstraints(tx: Transaction, group: SyncGroup): Promise<string[]> {
  const result = await tx.query(
    `SELECT DISTINCT format('%I.%I', n.nspname, o.conname) AS name FROM pg_constraint o JOIN pg_namespace n ON n.oid = o.connamespace ` +
      `WHERE o.condeferred AND ARRAY[o.conrelid, o.confrelid] && ARRAY(SELECT to_regclass(t)::oid FROM unnest($1::text[]) AS t) ORDER BY 1`,
    [group.links.map(({ link }) => quoteTable(link.target.table))],
  )
  return result.rows.map((row) => row['name'] ?? '')
}

/**
 * A session plans these statements at its first write, which may be while the new side is empty, and keeps the plan: a scan of the
 * whole table or a hash of it would be the cheapest then, and cost every statement more and more as the backfill fills the table.
 * Only plans that go by the keys' indexes stay right. test/integration/postgres/trigger-plans.test.ts shows it.
 */
const plannedOnce: Readonly<Record<string, string>> = {
  enable_seqscan: 'off',
  enable_hashjoin: 'off',
  enable_mergejoin: 'off',
}

function createFunction(spec: FunctionSpec, index: number, path: string): string {
  const settings = {
    // Only the new side has a limit (see functionBody). The change log must take its key: what is waited for there is short, the
    // extension of its file for one, and an error there would be the application's.
    lock_timeout: '0',
    plan_cache_mode: 'force_generic_plan',
    ...plannedOnce,
    ...evaluationSettings,
  }
  const body = functionBody(spec)
  return (
    `CREATE OR REPLACE FUNCTION ${quoteIdentifier(spec.scope.schema)}.${quoteIdentifier(functionName(spec.group, index, spec.event))}() ` +
    `RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = ${path} ` +
    Object.entries(settings)
      .map(([name, value]) => `SET ${name} = ${quoteLiteral(value)}`)
      .join(' ') +
    ` AS ${dollarQuote(body)}`
  )
}

/** A dollar quote whose tag does not occur in the text. */
function dollarQuote(text: string): string {
  let tag = '$crossfade$'
  for (let i = 0; text.includes(tag); i++) tag = `$crossfade${i}$`
  return `${tag}${text}${tag}`
}

/** What the functions take from the session and the catalogue at the time of their installation. */
interface InstalledFrom {
  readonly path: string
  readonly deferred: readonly string[]
}

/** The statements that give a group its triggers; also what the plan shows. Functions lock nothing of the application, so they come first. */
export function triggerStatements(
  scope: Scope,
  group: SyncGroup,
  mode: TriggerMode,
  settings: SyncSettings,
  from: InstalledFrom,
): string[] {
  return [
    ...functionStatements(scope, group, mode, settings, from),
    ...group.watched.flatMap((watched, index) => attachStatements(scope, group, watched, index)),
  ]
}

function functionStatements(
  scope: Scope,
  group: SyncGroup,
  mode: TriggerMode,
  settings: SyncSettings,
  { path, deferred }: InstalledFrom,
): string[] {
  return group.watched.flatMap((watched, index) =>
    events.map((event) =>
      createFunction({ scope, group, watched, event, mode, settings, deferred }, index, path),
    ),
  )
}

/** A statement fires the triggers of the table that it names, so each table of a partition tree has the same ones. */
const treeOf = (watched: Watched): TableName[] => [watched.table, ...watched.partitions]

const attachStatements = (scope: Scope, group: SyncGroup, watched: Watched, index: number): string[] =>
  treeOf(watched).flatMap((table) => attachTo(scope, group, table, index))

function attachTo(scope: Scope, group: SyncGroup, name: TableName, index: number): string[] {
  const table = quoteTable(name)
  return events.flatMap((event) => {
    const name = quoteIdentifier(triggerName(scope, group, event))
    const referencing = transitionTables[event]
      .map((t) => `${t === '_crossfade_old' ? 'OLD' : 'NEW'} TABLE AS ${t}`)
      .join(' ')
    return [
      `CREATE OR REPLACE TRIGGER ${name} AFTER ${event.toUpperCase()} ON ${table} ${referencing && `REFERENCING ${referencing} `}` +
        `FOR EACH STATEMENT EXECUTE FUNCTION ${quoteIdentifier(scope.schema)}.${quoteIdentifier(functionName(group, index, event))}()`,
      `ALTER TABLE ${table} ENABLE ALWAYS TRIGGER ${name}`,
    ]
  })
}

/**
 * What locks the application's table is sent as one message: the lock must not be held over the round trips to a worker that is
 * busy or far away.
 */
export const install: Dialect['triggers']['install'] = async (tx, scope, group, mode, settings) => {
  const from = { path: await searchPath(tx), deferred: await deferredConstraints(tx, group) }
  for (const statement of functionStatements(scope, group, mode, settings, from)) await tx.query(statement)
  const attach = group.watched.flatMap((watched, index) => attachStatements(scope, group, watched, index))
  await tx.query(attach.join('; '))
}

export const remove: Dialect['triggers']['remove'] = async (tx, scope, group) => {
  const statements = group.watched.flatMap((watched, index) =>
    events.flatMap((event) => [
      ...treeOf(watched).map(
        (table) =>
          `DROP TRIGGER IF EXISTS ${quoteIdentifier(triggerName(scope, group, event))} ON ${quoteTable(table)}`,
      ),
      // With CASCADE: a partition that was detached meanwhile still has its triggers.
      `DROP FUNCTION IF EXISTS ${quoteIdentifier(scope.schema)}.${quoteIdentifier(functionName(group, index, event))}() CASCADE`,
    ]),
  )
  await tx.query(statements.join('; '))
}

/**
 * Two looks in two transactions, where the caller has two: the first gives the new partition its triggers and notes it, the second
 * leaves the keys of its rows, without the lock of the first.
 */
export const follow: Dialect['triggers']['follow'] = async (tx, scope, group) => {
  const found: TableName[] = []
  for (const [index, watched] of group.watched.entries()) {
    const trigger = triggerName(scope, group, 'insert')
    const result = await tx.query(
      `SELECT n, EXISTS (SELECT FROM pg_trigger WHERE tgrelid = to_regclass(t) AND tgname = $2) AS followed, ` +
        `EXISTS (SELECT FROM ${ourTable(scope, 'journal')} WHERE step = $3 || t) AS noted FROM unnest($1::text[]) WITH ORDINALITY AS p(t, n) ` +
        `WHERE EXISTS (SELECT FROM pg_trigger WHERE tgrelid = to_regclass($4) AND tgname = $2)`,
      [watched.partitions.map(quoteTable), trigger, arrived(group), quoteTable(watched.table)],
    )
    for (const row of result.rows) {
      const table = watched.partitions[Number(row['n']) - 1]
      if (table === undefined || (row['followed'] === 't' && row['noted'] === 'f')) continue
      found.push(table)
      const step = `${arrived(group)}${quoteTable(table)}`
      if (row['followed'] === 'f') {
        await tx.query(attachTo(scope, group, table, index).join('; '))
        await note(tx, scope, step)
      } else {
        await tx.query(
          `INSERT INTO ${ourTable(scope, `changes_${group.id}`)} (kind, ${keyNames(group.keyTypes.length).join(', ')}) SELECT 'c', ${quoteList(watched.key)} FROM ${quoteTable(table)}`,
        )
        await forget(tx, scope, step)
      }
    }
  }
  return found
}

/** The journal's word for a partition that has its triggers, and whose rows still have to leave their keys. */
const arrived = (group: SyncGroup): string => `partition ${group.id} `

export const check: Dialect['triggers']['check'] = async (tx, scope, group) => {
  const findings: string[] = []
  for (const watched of group.watched) {
    for (const subscription of await subscriptionsOf(tx, watched.table))
      findings.push(
        `subscription ${subscription} writes ${watched.table.schema}.${watched.table.name} without firing statement triggers`,
      )
    for (const table of treeOf(watched)) findings.push(...(await checkTable(tx, scope, group, table)))
  }
  return findings
}

async function checkTable(
  tx: Transaction,
  scope: Scope,
  group: SyncGroup,
  table: TableName,
): Promise<string[]> {
  const names = events.map((event) => triggerName(scope, group, event))
  const result = await tx.query(
    'SELECT tgname, tgenabled FROM pg_trigger WHERE tgname = ANY ($1::text[]) AND tgrelid = to_regclass($2)',
    [names, quoteTable(table)],
  )
  const enabled = new Map(result.rows.map((row) => [row['tgname'], row['tgenabled']]))
  return names.flatMap((name) =>
    enabled.get(name) === 'A'
      ? []
      : [
          enabled.has(name)
            ? `trigger ${name} on ${formatTable(table)} is not enabled for every session`
            : `trigger ${name} is missing on ${formatTable(table)}`,
        ],
  )
}
