import type { TableName } from '../../core/link.ts'
import { formatTable } from '../../core/link.ts'
import type { DdlStep, Dialect, Scope, SyncGroup, TriggerMode } from '../dialect.ts'
import type { Database, Transaction } from '../database.ts'
import { isCaptured } from './application-capture.ts'
import { createLinkLogs } from './dependencies.ts'
import { fitIdentifier, quoteIdentifier, quoteList, quoteLiteral, quoteTable } from './identifiers.ts'
import { forget, isNoted, note, relationExists } from './journal.ts'
import {
  createAuthored,
  createChangeLog as changeLogSql,
  createOurTables,
  createOutside,
  ourTable,
  triggerName,
  type OurTable,
} from './objects.ts'
import { handOnSequences } from './sequences.ts'
import { check as checkTriggers, install, remove, triggerStatements } from './triggers.ts'

/**
 * The DDL steps. Each looks at the catalogue first and is safe to run twice; what it created is noted in the journal in the same
 * transaction, so that undoing takes back that and nothing else. Locks are those of "Explicit Locking" in PostgreSQL's manual:
 * https://www.postgresql.org/docs/18/explicit-locking.html
 */

type Options = { readonly lockTimeoutMs: number; readonly signal?: AbortSignal }

/** A concurrent build waits for every older snapshot, and lock_timeout counts that wait; nobody queues behind it meanwhile. */
export const concurrentBuildWaitMs = 30 * 60_000

/** A step whose statements and journal entry are one transaction. */
export function transactional(step: {
  id: string
  title: string
  sql: readonly string[]
  lock: string
  undo?: readonly string[]
  inspect: DdlStep['inspect']
  run?: (tx: Transaction, scope: Scope) => Promise<void>
  revert?: (tx: Transaction, scope: Scope) => Promise<void>
}): DdlStep {
  const { id, title, sql, lock, inspect, undo } = step
  const run = step.run ?? ((tx: Transaction): Promise<void> => runAll(tx, sql))
  const revert = step.revert ?? (undo && ((tx: Transaction): Promise<void> => runAll(tx, undo)))
  return {
    id,
    title,
    sql,
    lock,
    inspect,
    apply: (database, scope, { lockTimeoutMs }) =>
      database.transaction(
        async (tx) => {
          await run(tx, scope)
          await note(tx, scope, id)
        },
        { lockTimeoutMs },
      ),
    ...(revert === undefined
      ? {}
      : {
          undo: (database: Database, scope: Scope, { lockTimeoutMs }: Options) =>
            database.transaction(
              async (tx) => {
                if (!(await isNoted(tx, scope, id))) return
                await revert(tx, scope)
                await forget(tx, scope, id)
              },
              { lockTimeoutMs },
            ),
        }),
  }
}

async function runAll(tx: Transaction, sql: readonly string[]): Promise<void> {
  for (const statement of sql) await tx.query(statement)
}

export const inJournal =
  (id: string): DdlStep['inspect'] =>
  async (tx, scope) =>
    (await isNoted(tx, scope, id)) ? 'present' : 'absent'

export const createScope: Dialect['ddl']['createScope'] = () => ({
  id: 'create-scope',
  title: 'Create the schema that holds the change log, checkpoints and flags',
  sql: ['CREATE SCHEMA _crossfade_<name>'],
  lock: 'none on your tables',
  inspect: async (tx, scope) => ((await relationExists(tx, ourTable(scope, 'state'))) ? 'present' : 'absent'),
  apply: (database, scope, { lockTimeoutMs }) =>
    database.transaction((tx) => runAll(tx, createOurTables(scope)), { lockTimeoutMs }),
})

export const createTableId = (table: TableName): string => `create-table ${formatTable(table)}`

export const createTable: Dialect['ddl']['createTable'] = (spec) => {
  const columns = Object.entries(spec.columns).map(([name, type]) => `${quoteIdentifier(name)} ${type}`)
  const table = quoteTable(spec.table)
  return transactional({
    id: createTableId(spec.table),
    title: `Create ${formatTable(spec.table)}`,
    sql: [
      `CREATE TABLE ${table} (${[...columns, `PRIMARY KEY (${quoteList(spec.primaryKey)})`].join(', ')})`,
    ],
    undo: [`DROP TABLE IF EXISTS ${table}`],
    lock: 'none on your tables',
    inspect: async (tx) => ((await relationExists(tx, table)) ? 'present' : 'absent'),
  })
}

export const createIndex: Dialect['ddl']['createIndex'] = (spec, index) => {
  const id = `create-index ${spec.table.schema}.${index.name}`
  const name = quoteTable({ schema: spec.table.schema, name: index.name })
  const sql = `CREATE ${index.unique ? 'UNIQUE ' : ''}INDEX CONCURRENTLY ${quoteIdentifier(index.name)} ON ${quoteTable(spec.table)} ${index.on}`
  const drop = `DROP INDEX CONCURRENTLY IF EXISTS ${name}`
  const inspect: DdlStep['inspect'] = async (tx) => {
    const row = (await tx.query('SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass($1)', [name]))
      .rows[0]
    return row === undefined ? 'absent' : row['indisvalid'] === 't' ? 'present' : 'broken'
  }
  const standalone = (signal: AbortSignal | undefined): { lockTimeoutMs: number; signal?: AbortSignal } => ({
    lockTimeoutMs: concurrentBuildWaitMs,
    ...(signal ? { signal } : {}),
  })
  return {
    id,
    title: `Build index ${index.name} on ${formatTable(spec.table)} concurrently`,
    sql: [sql],
    lock: 'SHARE UPDATE EXCLUSIVE: reads and writes go on',
    inspect,
    async apply(database, scope, { signal }) {
      await database.transaction((tx) => note(tx, scope, id))
      // A build that was cut off leaves an index that is maintained but never used: take it away first.
      if ((await database.transaction((tx) => inspect(tx, scope))) === 'broken')
        await database.standalone(drop, standalone(signal))
      await database.standalone(sql, standalone(signal))
    },
    async undo(database, scope, { signal }) {
      if (!(await database.transaction((tx) => isNoted(tx, scope, id)))) return
      await database.standalone(drop, standalone(signal))
      await database.transaction((tx) => forget(tx, scope, id))
    },
  }
}

export function constraintSteps(table: TableName, name: string, definition: string, lock: string): DdlStep[] {
  const qualified = quoteTable(table)
  const state = async (tx: Transaction): Promise<'absent' | 'valid' | 'unproven'> => {
    const row = (
      await tx.query(
        'SELECT convalidated FROM pg_constraint WHERE conrelid = to_regclass($1) AND conname = $2',
        [qualified, name],
      )
    ).rows[0]
    return row === undefined ? 'absent' : row['convalidated'] === 't' ? 'valid' : 'unproven'
  }
  return [
    transactional({
      id: `add-constraint ${formatTable(table)}.${name}`,
      title: `Add constraint ${name} to ${formatTable(table)}, not valid yet`,
      sql: [`ALTER TABLE ${qualified} ADD CONSTRAINT ${quoteIdentifier(name)} ${definition} NOT VALID`],
      undo: [`ALTER TABLE IF EXISTS ${qualified} DROP CONSTRAINT IF EXISTS ${quoteIdentifier(name)}`],
      lock,
      inspect: async (tx) => ((await state(tx)) === 'absent' ? 'absent' : 'present'),
    }),
    transactional({
      id: `validate-constraint ${formatTable(table)}.${name}`,
      title: `Validate constraint ${name} of ${formatTable(table)}`,
      sql: [`ALTER TABLE ${qualified} VALIDATE CONSTRAINT ${quoteIdentifier(name)}`],
      lock: 'SHARE UPDATE EXCLUSIVE: reads and writes go on',
      inspect: async (tx) => ((await state(tx)) === 'valid' ? 'present' : 'absent'),
    }),
  ]
}

export const addCheck: Dialect['ddl']['addCheck'] = (spec, check) =>
  constraintSteps(
    spec.table,
    check.name,
    `CHECK (${check.expression})`,
    'ACCESS EXCLUSIVE on the new table for an instant',
  )

export const addForeignKey: Dialect['ddl']['addForeignKey'] = (spec, key) =>
  constraintSteps(
    spec.table,
    key.name,
    `FOREIGN KEY (${quoteList(key.columns)}) REFERENCES ${quoteTable(key.references.table)} (${quoteList(key.references.columns)}) ON DELETE ${key.onDelete.toUpperCase()}`,
    `SHARE ROW EXCLUSIVE on both tables for an instant: writers of ${formatTable(key.references.table)} wait for it`,
  )

export const ownStatement: Dialect['ddl']['ownStatement'] = (statement) =>
  transactional({
    id: `own ${statement.name}`,
    title: `Run your statement ${statement.name}`,
    sql: [statement.up],
    ...(statement.down === undefined ? {} : { undo: [statement.down] }),
    lock: 'as the statement takes it',
    inspect: inJournal(`own ${statement.name}`),
  })

const logsSql = (scope: Scope, group: SyncGroup): string[] => [
  ...changeLogSql(scope, group),
  ...createLinkLogs(scope, group),
  ...createAuthored(scope, group),
  ...createOutside(scope, group),
]

export const createChangeLog: Dialect['ddl']['createChangeLog'] = (group) => ({
  id: `create-change-log ${group.id}`,
  title: `Create the change log of ${group.watched.map((watched) => formatTable(watched.table)).join(', ')}`,
  sql: logsSql({ migration: '<name>', schema: '_crossfade_<name>' }, group),
  lock: 'none on your tables',
  inspect: async (tx, scope) =>
    (await relationExists(tx, ourTable(scope, `changes_${group.id}`))) ? 'present' : 'absent',
  apply: (database, scope, { lockTimeoutMs }) =>
    database.transaction((tx) => runAll(tx, logsSql(scope, group)), { lockTimeoutMs }),
})

const watchedNames = (group: SyncGroup): string =>
  [...group.watched, ...group.dependencies].map(({ table }) => formatTable(table)).join(', ')

const installWords = (group: SyncGroup, mode: TriggerMode): Pick<DdlStep, 'title' | 'lock'> => {
  const lock = `SHARE ROW EXCLUSIVE on ${watchedNames(group)} for an instant: waits for running writers`
  if (mode === 'watch') return { title: `Note whoever still writes to ${watchedNames(group)}`, lock }
  if (group.capture === 'triggers')
    return { title: `Capture every change of ${watchedNames(group)} from here on`, lock }
  return {
    title: `Let the application capture every change of ${watchedNames(group)}`,
    lock: group.capture === 'both' ? lock : 'none on your tables',
  }
}

export const installTriggers: Dialect['ddl']['installTriggers'] = (group, mode, settings) =>
  transactional({
    id: `triggers ${group.id} ${mode}`,
    ...installWords(group, mode),
    sql: triggerStatements({ migration: '<name>', schema: '_crossfade_<name>' }, group, mode, settings, {
      path: '…',
      deferred: [],
    }),
    inspect: async (tx, scope) => {
      if ((await inJournal(`triggers ${group.id} ${mode}`)(tx, scope)) === 'absent') return 'absent'
      return (await checkTriggers(tx, scope, group, mode)).length === 0 ? 'present' : 'broken'
    },
    run: async (tx, scope) => {
      for (const other of ['copy', 'watch']) await forget(tx, scope, `triggers ${group.id} ${other}`)
      await install(tx, scope, group, mode, settings)
    },
    revert: (tx, scope) => remove(tx, scope, group),
  })

export const removeTriggers: Dialect['ddl']['removeTriggers'] = (group) => ({
  id: `remove-triggers ${group.id}`,
  title: `Stop following ${watchedNames(group)}`,
  sql: [`DROP TRIGGER … ON ${watchedNames(group)}`],
  lock: `ACCESS EXCLUSIVE on ${watchedNames(group)} for an instant`,
  inspect: async (tx, scope) => {
    const { rowCount } = await tx.query(`SELECT FROM pg_trigger WHERE tgname LIKE $1 ESCAPE '!'`, [
      `${triggerName(scope, group, '').replaceAll('_', '!_')}%`,
    ])
    return rowCount > 0 || (await isCaptured(tx, scope, group)) ? 'absent' : 'present'
  },
  apply: (database, scope, { lockTimeoutMs }) =>
    database.transaction(
      async (tx) => {
        for (const mode of ['copy', 'watch']) await forget(tx, scope, `triggers ${group.id} ${mode}`)
        await remove(tx, scope, group)
      },
      { lockTimeoutMs },
    ),
})

/** What a retired table is called until it is dropped. */
export const retiredName: Dialect['ddl']['retiredName'] = (table) =>
  fitIdentifier(`_crossfade_retired_${table.name}`)

export const rename: Dialect['ddl']['rename'] = async (tx, table, to) => {
  await tx.query(`ALTER TABLE ${quoteTable(table)} RENAME TO ${quoteIdentifier(to)}`)
}

export const renameTable: Dialect['ddl']['renameTable'] = (table, to) => {
  const renamed = { schema: table.schema, name: to }
  return transactional({
    id: `rename ${formatTable(table)}`,
    title: `Rename ${formatTable(table)} to ${to}`,
    sql: [`ALTER TABLE ${quoteTable(table)} RENAME TO ${quoteIdentifier(to)}`],
    undo: [`ALTER TABLE IF EXISTS ${quoteTable(renamed)} RENAME TO ${quoteIdentifier(table.name)}`],
    lock: `ACCESS EXCLUSIVE on ${formatTable(table)} for an instant`,
    inspect: async (tx) => ((await relationExists(tx, quoteTable(renamed))) ? 'present' : 'absent'),
  })
}

export const dropTable: Dialect['ddl']['dropTable'] = (table) =>
  transactional({
    id: `drop-table ${formatTable(table)}`,
    title: `Drop ${formatTable(table)}`,
    sql: [`DROP TABLE ${quoteTable(table)}`],
    run: async (tx) => {
      await handOnSequences(tx, table)
      await tx.query(`DROP TABLE ${quoteTable(table)}`)
    },
    lock: `ACCESS EXCLUSIVE on ${formatTable(table)}; there is no way back from here`,
    inspect: async (tx) => ((await relationExists(tx, quoteTable(table))) ? 'absent' : 'present'),
  })

export const registerTables: Dialect['ddl']['registerTables'] = (tables) => ({
  id: 'register-tables',
  title: 'Remember which tables these are',
  sql: [],
  lock: 'none on your tables',
  inspect: async (tx, scope) =>
    Number((await tx.query(`SELECT count(*) AS n FROM ${ourTable(scope, 'tables')}`)).rows[0]?.['n'] ?? 0) >=
    tables.length
      ? 'present'
      : 'absent',
  apply: (database, scope, { lockTimeoutMs }) =>
    database.transaction(
      async (tx) => {
        for (const table of tables)
          await tx.query(
            `INSERT INTO ${ourTable(scope, 'tables')} (schema_name, table_name, oid) VALUES ($1, $2, to_regclass($3)) ON CONFLICT DO NOTHING`,
            [table.schema, table.name, quoteTable(table)],
          )
      },
      { lockTimeoutMs },
    ),
})

/**
 * What depends on the tables comes first: whoever uses a view locks the view before the table below it. In one message, and within
 * one lock_timeout, because a session that waits for the first lock while we wait for the last must not reach its deadlock_timeout.
 */
export const lockExclusively: Dialect['ddl']['lockExclusively'] = async (tx, tables, dependents = []) => {
  const statements = [
    ...dependents.flatMap(({ lock }) => (lock === undefined ? [] : [lock])),
    ...tables.map((table) => `LOCK TABLE ${quoteTable(table)} IN ACCESS EXCLUSIVE MODE`),
  ]
  const body = `DECLARE
  whole int := (SELECT setting FROM pg_settings WHERE name = 'lock_timeout');
  until timestamptz := clock_timestamp() + whole * interval '1 millisecond';
  statement text;
BEGIN
  FOREACH statement IN ARRAY ARRAY[${statements.map(quoteLiteral).join(', ')}] LOOP
    PERFORM set_config('lock_timeout', greatest(1, extract(epoch FROM until - clock_timestamp()) * 1000)::int::text, true);
    EXECUTE statement;
  END LOOP;
  PERFORM set_config('lock_timeout', whole::text, true);
END`
  await tx.query(`DO ${quoteLiteral(body)}`)
}

export const lockAgainstWrites: Dialect['ddl']['lockAgainstWrites'] = async (tx, tables) => {
  await tx.query(`LOCK TABLE ${tables.map(quoteTable).join(', ')} IN SHARE ROW EXCLUSIVE MODE`)
}

export const dropScope: Dialect['ddl']['dropScope'] = async (database, scope, { lockTimeoutMs }) => {
  // Triggers first and alone: a statement of the application that fires one must still find its change log.
  await database.transaction(
    async (tx) => {
      const triggers = await tx.query(
        `SELECT format('%I ON %s', t.tgname, t.tgrelid::regclass) AS name FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid ` +
          `JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname = $1 AND NOT t.tgisinternal ORDER BY 1`,
        [scope.schema],
      )
      for (const trigger of triggers.rows) await tx.query(`DROP TRIGGER ${trigger['name']}`)
    },
    { lockTimeoutMs },
  )
  await database.transaction(
    async (tx) => {
      await tx.query(`DROP SCHEMA IF EXISTS ${quoteIdentifier(scope.schema)} CASCADE`)
    },
    { lockTimeoutMs },
  )
}

/** What stays after the contract: applications may still read the flags, and a retry must still find the definition. */
const keptTables: readonly OurTable[] = ['flags', 'state', 'journal', 'tables']

export const tidyScope: Dialect['ddl']['tidyScope'] = async (database, scope, { lockTimeoutMs }) => {
  await database.transaction(
    async (tx) => {
      const functions = await tx.query(
        'SELECT p.oid::regprocedure::text AS name FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname = $1',
        [scope.schema],
      )
      for (const row of functions.rows) await tx.query(`DROP FUNCTION ${row['name']} CASCADE`) // and with it its triggers
      const tables = await tx.query(
        'SELECT tablename FROM pg_tables WHERE schemaname = $1 AND NOT tablename = ANY ($2::text[])',
        [scope.schema, keptTables],
      )
      for (const row of tables.rows)
        await tx.query(`DROP TABLE ${quoteTable({ schema: scope.schema, name: row['tablename'] ?? '' })}`)
    },
    { lockTimeoutMs },
  )
}

export const analyze: Dialect['ddl']['analyze'] = async (database, table) => {
  await database.standalone(`ANALYZE ${quoteTable(table)}`, { lockTimeoutMs: 5_000 })
}
