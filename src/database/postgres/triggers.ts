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
import { captureStatements, checkCapture, installCapture, removeCapture } from './application-capture.ts'
import { subscriptionsOf } from './catalog.ts'
import { forgetLinks, logEveryLink, logLinks, readsOthers } from './dependencies.ts'
import { quoteIdentifier, quoteList, quoteLiteral, quoteTable } from './identifiers.ts'
import { forget, note } from './journal.ts'
import {
  dependencyFunctionName,
  dependencyTriggerName,
  functionName,
  keyNames,
  ourTable,
  triggerName,
} from './objects.ts'
import { deleteGone, keyIn, noteOutside, sourceExists, writeRows } from './projection.ts'
import { checkRow, installRow, isInRow, removeRow } from './row-triggers.ts'
import { applyingSetting } from './session.ts'
import { checkNames, createTriggerFunction, searchPath } from './trigger-function.ts'

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
  readonly deferred: readonly Deferrable[]
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

/** What keeps one target equal, for the keys in the variables. A clash with another writer raises and is caught. */
function applyLink(link: ResolvedLink, event: Event, arrays: string[]): string[] {
  // Without its row in a joined table a target row is another row, not none.
  const writes = event !== 'delete' || link.link.parts.length > 1
  return [
    ...(writes
      ? [writeRows(link, keyIn(arrays)), ...noteOutside(link, keyIn(arrays))].map((sql) => `${sql};`)
      : []),
    ...(event === 'insert' && !link.link.parts.some((part) => part.where)
      ? []
      : [`${deleteGone(link, arrays)};`]),
  ]
}

/**
 * Rule 4: a delete, and a row that left the filter, always leaves its key, even when it was applied at once. So does every
 * change of a target that several tables make: two writers that hold one of them each cannot see what the other is about to
 * commit. What is written here is fresh, and the applier makes it right.
 */
function logGone(spec: FunctionSpec, arrays: string[]): string[] {
  const { group, event } = spec
  if (readsOthers(group)) return [logKeys(spec, allKeys(arrays))]
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

/** A constraint of the targets that may be checked at COMMIT only, as it is written in SQL. */
interface Deferrable {
  readonly name: string
  readonly isInitiallyDeferred: boolean
}

/**
 * A constraint of the new side that would only be checked at COMMIT would fail the application's COMMIT: it is checked here. One that
 * the application has deferred with all others (SET CONSTRAINTS ALL) was never meant by it, and stays immediate.
 */
function checkNow(deferred: readonly Deferrable[]): string[] {
  const set = (constraints: readonly Deferrable[], when: string): string[] =>
    constraints.length === 0
      ? []
      : [`SET CONSTRAINTS ${constraints.map(({ name }) => name).join(', ')} ${when};`]
  return [
    ...set(deferred, 'IMMEDIATE'),
    ...set(
      deferred.filter(({ isInitiallyDeferred }) => isInitiallyDeferred),
      'DEFERRED',
    ),
  ]
}

/** Whoever meets a row of the running chunk would wait for the chunk's end, mostly in vain: chunks last longer than maxWaitMs. */
const maxWaitForChunkMs = 2

/** How long to wait for a lock on the new side, as SQL. A shorter wait is always right: what was not waited for is in the log. */
function longestWait({ scope, group, settings: { maxWaitMs } }: FunctionSpec): string {
  if (group.direction === 'reverse') return `'${maxWaitMs}ms'`
  const isCopying = `EXISTS (SELECT FROM ${ourTable(scope, 'ranges')} WHERE purpose = 'backfill' AND NOT done)`
  return `CASE WHEN ${isCopying} THEN '${Math.min(maxWaitMs, maxWaitForChunkMs)}ms' ELSE '${maxWaitMs}ms' END`
}

function functionBody(spec: FunctionSpec): string {
  const { group, event, mode, settings, watched } = spec
  if (event === 'truncate')
    return `BEGIN ${logKeys(spec, `SELECT ${group.keyTypes.map((type) => `NULL::${type}`).join(', ')}`, 't')} RETURN NULL; END`
  if (mode === 'watch')
    return `BEGIN
  IF coalesce(current_setting('${applyingSetting}', true), '') = ${quoteLiteral(spec.scope.migration)} THEN RETURN NULL; END IF;
  ${logKeys(spec, changedKeys(spec))}
  RETURN NULL;
END`
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
    PERFORM set_config('lock_timeout', ${longestWait(spec)}, true);
    ${[...apply, ...logGone(spec, arrays), ...checkNow(spec.deferred)].join('\n    ')}
    PERFORM set_config('${applyingSetting}', _crossfade_outer, true);
  EXCEPTION WHEN OTHERS THEN
    ${logKeys(spec, allKeys(arrays))}
  END;
  RETURN NULL;
END`
}

/**
 * What a change of a table that the group depends on leaves. Nothing is written inline: how many keys it touches is not known.
 * Our own writes back to it are not the application's: the side that leads holds what they are made from.
 */
function dependencyBody(scope: Scope, group: SyncGroup, index: number, event: Event): string {
  const dependency = group.dependencies[index]
  if (!dependency) return 'BEGIN RETURN NULL; END'
  const columns = quoteList(dependency.on.map(({ column }) => column))
  const rows = transitionTables[event].map((table) => `SELECT ${columns} FROM ${table}`).join(' UNION ')
  const leave =
    event === 'truncate'
      ? logEveryLink(scope, group, index, dependency)
      : logLinks(scope, group, index, dependency, rows)
  return `BEGIN
  IF coalesce(current_setting('${applyingSetting}', true), '') = ${quoteLiteral(scope.migration)} THEN RETURN NULL; END IF;
  ${leave}
  RETURN NULL;
END`
}

/** The targets' own, and those of other tables that point at them and are deferred whoever asks. */
async function deferredConstraints(tx: Transaction, group: SyncGroup): Promise<Deferrable[]> {
  const result = await tx.query(
    `SELECT DISTINCT format('%I.%I', n.nspname, o.conname) AS name, o.condeferred FROM pg_constraint o JOIN pg_namespace n ON n.oid = o.connamespace, ` +
      `(SELECT array_agg(to_regclass(t)::oid) AS targets FROM unnest($1::text[]) AS t) w ` +
      `WHERE o.condeferrable AND (o.conrelid = ANY (targets) OR o.condeferred AND o.confrelid = ANY (targets)) ORDER BY 1`,
    [group.links.map(({ link }) => quoteTable(link.target.table))],
  )
  return result.rows.map((row) => ({
    name: row['name'] ?? '',
    isInitiallyDeferred: row['condeferred'] === 't',
  }))
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

function createSyncFunction(scope: Scope, name: string, body: string, path: string): string {
  return createTriggerFunction({ schema: scope.schema, name }, body, path, {
    // Only the new side has a limit (see functionBody). The change log must take its key: what is waited for there is short, the
    // extension of its file for one, and an error there would be the application's.
    lock_timeout: '0',
    plan_cache_mode: 'force_generic_plan',
    ...plannedOnce,
  })
}

/** What the functions take from the session and the catalogue at the time of their installation. */
interface InstalledFrom {
  readonly path: string
  readonly deferred: readonly Deferrable[]
}

/** A table that a group's triggers stand on, and how they are called. */
interface Followed {
  readonly table: TableName
  readonly partitions: readonly TableName[]
  triggerName(event: Event): string
  functionName(event: Event): string
  body(event: Event): string
  /** Leaves the keys of all rows of one of its tables. */
  leaveAll(table: TableName): string
}

type Mode = {
  readonly mode: TriggerMode
  readonly settings: SyncSettings
  readonly deferred: readonly Deferrable[]
}

const sources = (scope: Scope, group: SyncGroup, { mode, settings, deferred }: Mode): Followed[] =>
  group.watched.map((watched, index) => ({
    ...watched,
    triggerName: (event) => triggerName(scope, group, event),
    functionName: (event) => functionName(group, index, event),
    body: (event) => functionBody({ scope, group, watched, event, mode, settings, deferred }),
    leaveAll: (table) =>
      `INSERT INTO ${ourTable(scope, `changes_${group.id}`)} (kind, ${keyNames(group.keyTypes.length).join(', ')}) SELECT 'c', ${quoteList(watched.key)} FROM ${quoteTable(table)}`,
  }))

const dependencies = (scope: Scope, group: SyncGroup): Followed[] =>
  group.dependencies.map((dependency, index) => ({
    ...dependency,
    triggerName: (event) => dependencyTriggerName(scope, group, index, event),
    functionName: (event) => dependencyFunctionName(group, index, event),
    body: (event) => dependencyBody(scope, group, index, event),
    leaveAll: (table) => logLinks(scope, group, index, dependency, `SELECT * FROM ${quoteTable(table)}`),
  }))

const unused: Mode = { mode: 'copy', settings: { maxWaitMs: 1, inlineRows: 0 }, deferred: [] }

const everyFollowed = (scope: Scope, group: SyncGroup): Followed[] => [
  ...sources(scope, group, unused),
  ...dependencies(scope, group),
]

/** A stray write to the old side is one to its sources; what they depended on belongs to others. */
const followedIn = (scope: Scope, group: SyncGroup, mode: Mode): Followed[] => [
  ...sources(scope, group, mode),
  ...(mode.mode === 'copy' ? dependencies(scope, group) : []),
]

/** The statements that give a group its triggers; also what the plan shows. Functions lock nothing of the application, so they come first. */
export function triggerStatements(
  scope: Scope,
  group: SyncGroup,
  mode: TriggerMode,
  settings: SyncSettings,
  { path, deferred }: InstalledFrom,
): string[] {
  if (isInRow(group)) return ['CREATE TRIGGER … BEFORE INSERT OR UPDATE … FOR EACH ROW']
  if (mode === 'copy' && group.capture !== 'triggers')
    return [
      ...captureStatements(scope, group, path),
      ...(group.capture === 'both'
        ? triggerStatements(scope, group, 'watch', settings, { path, deferred })
        : []),
    ]
  const followed = followedIn(scope, group, { mode, settings, deferred })
  return [...functionStatements(scope, followed, path), ...attachStatements(scope, followed)]
}

const functionStatements = (scope: Scope, followed: readonly Followed[], path: string): string[] =>
  followed.flatMap((one) =>
    events.map((event) => createSyncFunction(scope, one.functionName(event), one.body(event), path)),
  )

/** A statement fires the triggers of the table that it names, so each table of a partition tree has the same ones. */
const treeOf = ({ table, partitions }: Followed): TableName[] => [table, ...partitions]

const attachStatements = (scope: Scope, followed: readonly Followed[]): string[] =>
  followed.flatMap((one) => treeOf(one).flatMap((table) => attachTo(scope, one, table)))

function attachTo(scope: Scope, followed: Followed, name: TableName): string[] {
  const table = quoteTable(name)
  return events.flatMap((event) => {
    const trigger = quoteIdentifier(followed.triggerName(event))
    const referencing = transitionTables[event]
      .map((t) => `${t === '_crossfade_old' ? 'OLD' : 'NEW'} TABLE AS ${t}`)
      .join(' ')
    return [
      `CREATE OR REPLACE TRIGGER ${trigger} AFTER ${event.toUpperCase()} ON ${table} ${referencing && `REFERENCING ${referencing} `}` +
        `FOR EACH STATEMENT EXECUTE FUNCTION ${quoteIdentifier(scope.schema)}.${quoteIdentifier(followed.functionName(event))}()`,
      `ALTER TABLE ${table} ENABLE ALWAYS TRIGGER ${trigger}`,
    ]
  })
}

/**
 * What locks the application's table is sent as one message: the lock must not be held over the round trips to a worker that is
 * busy or far away.
 */
export const install: Dialect['triggers']['install'] = async (tx, scope, group, mode, settings) => {
  if (isInRow(group)) return installRow(tx, scope, group, mode)
  if (mode === 'copy' && group.capture !== 'triggers') {
    await installCapture(tx, scope, group)
    if (group.capture === 'both') await install(tx, scope, group, 'watch', settings)
    return
  }
  const deferred = await deferredConstraints(tx, group)
  const followed = followedIn(scope, group, { mode, settings, deferred })
  for (const statement of functionStatements(scope, followed, await searchPath(tx))) await tx.query(statement)
  if (mode === 'watch') {
    await drop(tx, scope, dependencies(scope, group))
    for (const statement of forgetLinks(scope, group)) await tx.query(statement)
  }
  await tx.query(attachStatements(scope, followed).join('; '))
}

export const remove: Dialect['triggers']['remove'] = async (tx, scope, group) => {
  if (isInRow(group)) return removeRow(tx, scope, group)
  if (group.capture !== 'triggers') await removeCapture(tx, scope, group)
  await drop(tx, scope, everyFollowed(scope, group))
}

async function drop(tx: Transaction, scope: Scope, followed: readonly Followed[]): Promise<void> {
  const statements = followed.flatMap((one) =>
    events.flatMap((event) => [
      ...treeOf(one).map(
        (table) =>
          `DROP TRIGGER IF EXISTS ${quoteIdentifier(one.triggerName(event))} ON ${quoteTable(table)}`,
      ),
      // With CASCADE: a partition that was detached meanwhile still has its triggers.
      `DROP FUNCTION IF EXISTS ${quoteIdentifier(scope.schema)}.${quoteIdentifier(one.functionName(event))}() CASCADE`,
    ]),
  )
  if (statements.length > 0) await tx.query(statements.join('; '))
}

/**
 * Two looks in two transactions, where the caller has two: the first gives the new partition its triggers and notes it, the second
 * leaves the keys of its rows, without the lock of the first.
 */
export const follow: Dialect['triggers']['follow'] = async (tx, scope, group) => {
  if (isInRow(group)) return []
  const found: TableName[] = []
  for (const followed of everyFollowed(scope, group)) {
    const result = await tx.query(
      `SELECT n, EXISTS (SELECT FROM pg_trigger WHERE tgrelid = to_regclass(t) AND tgname = $2) AS followed, ` +
        `EXISTS (SELECT FROM ${ourTable(scope, 'journal')} WHERE step = $3 || t) AS noted FROM unnest($1::text[]) WITH ORDINALITY AS p(t, n) ` +
        `WHERE EXISTS (SELECT FROM pg_trigger WHERE tgrelid = to_regclass($4) AND tgname = $2)`,
      [
        followed.partitions.map(quoteTable),
        followed.triggerName('insert'),
        arrived(group),
        quoteTable(followed.table),
      ],
    )
    for (const row of result.rows) {
      const table = followed.partitions[Number(row['n']) - 1]
      if (table === undefined || (row['followed'] === 't' && row['noted'] === 'f')) continue
      found.push(table)
      const step = `${arrived(group)}${quoteTable(table)}`
      if (row['followed'] === 'f') {
        await tx.query(attachTo(scope, followed, table).join('; '))
        await note(tx, scope, step)
      } else {
        await tx.query(followed.leaveAll(table))
        await forget(tx, scope, step)
      }
    }
  }
  return found
}

/** The journal's word for a partition that has its triggers, and whose rows still have to leave their keys. */
const arrived = (group: SyncGroup): string => `partition ${group.id} `

/** In `watch` mode a group's dependencies have no triggers, and need none. */
export const check: Dialect['triggers']['check'] = async (tx, scope, group, mode = 'copy') => {
  if (isInRow(group)) return checkRow(tx, scope, group)
  const findings: string[] = []
  if (mode === 'copy' && group.capture !== 'triggers') {
    findings.push(...(await checkCapture(tx, scope, group)))
    if (group.capture === 'both') findings.push(...(await check(tx, scope, group, 'watch')))
    return findings
  }
  for (const followed of followedIn(scope, group, { ...unused, mode })) {
    const { table } = followed
    for (const subscription of await subscriptionsOf(tx, table))
      findings.push(
        `subscription ${subscription} writes ${formatTable(table)} without firing statement triggers`,
      )
    const names = events.map((event) => followed.triggerName(event))
    for (const one of treeOf(followed)) findings.push(...(await checkNames(tx, one, names)))
  }
  return findings
}
