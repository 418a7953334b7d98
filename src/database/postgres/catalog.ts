import { formatTable, type Dependency, type TableName } from '../../core/link.ts'
import { CrossfadeError } from '../../errors/index.ts'
import type { Blocker, Dialect, FollowedDependency, TableDescription } from '../dialect.ts'
import type { Row, Transaction } from '../database.ts'
import { toCrossfadeError } from './errors.ts'
import { linkQuery } from './dependencies.ts'
import { leavesOf, quoteTable } from './identifiers.ts'
import { evaluationSql } from './in-row.ts'
import { ourTable } from './objects.ts'
import { everything, linkRows, targetColumns } from './projection.ts'

/** CREATE OR REPLACE TRIGGER came with 14: https://www.postgresql.org/docs/14/sql-createtrigger.html */
const oldest = { text: 'PostgreSQL 14', number: 140_000 }

export const version: Dialect['catalog']['version'] = async (tx) => {
  const result = await tx.query(
    `SELECT current_setting('server_version') AS text, current_setting('server_version_num') AS number, ` +
      `(SELECT setting FROM pg_settings WHERE name = 'deadlock_timeout') AS deadlock`,
  )
  const row = result.rows[0] ?? {}
  return {
    text: `PostgreSQL ${row['text'] ?? '?'}`,
    number: Number(row['number'] ?? 0),
    oldest,
    deadlockTimeoutMs: Number(row['deadlock'] ?? 1000),
  }
}

const isTrue = (value: string | null | undefined): boolean => value === 't'

export const describeTable: Dialect['catalog']['describeTable'] = async (tx, table) => {
  const relation = (
    await tx.query(
      `SELECT c.oid, c.relkind, c.relispartition, ${rowsEstimated('c.oid')} AS rows, (SELECT sum(pg_table_size(l.oid)) FROM ${leavesOf('c.oid')} l) AS bytes, ` +
        `(SELECT count(*) FROM pg_inherits WHERE inhparent = c.oid) AS inheritors, ` +
        `CASE WHEN row_security_active(c.oid) THEN CASE WHEN pg_has_role(c.relowner, 'USAGE') THEN format('ALTER TABLE %I.%I NO FORCE ROW LEVEL SECURITY;', n.nspname, c.relname) ` +
        `ELSE format('ALTER ROLE %I BYPASSRLS;', current_user) END END AS hides_rows_until ` +
        `FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relname = $2`,
      [table.schema, table.name],
    )
  ).rows[0]
  if (!relation) return undefined
  const oid = relation['oid']
  const indexes = await tx.query(
    `SELECT c.relname, i.indisprimary, (SELECT json_agg(a.attname ORDER BY k.n) FROM unnest(i.indkey[0:i.indnkeyatts - 1]) WITH ORDINALITY k(attnum, n) ` +
      `JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum) AS columns FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid ` +
      `WHERE i.indrelid = $1 AND i.indisunique AND i.indisvalid AND i.indimmediate AND i.indpred IS NULL AND i.indexprs IS NULL ORDER BY i.indisprimary DESC, c.relname`,
    [oid],
  )
  const searchable = await tx.query(
    `SELECT json_agg(a.attname ORDER BY k.n) AS columns FROM pg_index i CROSS JOIN LATERAL unnest(i.indkey[0:i.indnkeyatts - 1]) WITH ORDINALITY k(attnum, n) ` +
      `JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum WHERE i.indrelid = $1 AND i.indisvalid AND i.indpred IS NULL ` +
      `AND k.n < coalesce((SELECT min(e.n) FROM unnest(i.indkey[0:i.indnkeyatts - 1]) WITH ORDINALITY e(attnum, n) WHERE e.attnum = 0), 1000) GROUP BY i.indexrelid`,
    [oid],
  )
  const triggers = await tx.query(
    'SELECT tgname FROM pg_trigger WHERE tgrelid = $1 AND NOT tgisinternal ORDER BY tgname',
    [oid],
  )
  return {
    table,
    subscriptions: await subscriptionsOf(tx, table),
    kind: tableKind(relation),
    rowsEstimated: Math.max(0, Number(relation['rows'])),
    bytes: Number(relation['bytes']),
    inheritors: Number(relation['inheritors']),
    hidesRowsUntil: relation['hides_rows_until'] ?? undefined,
    columns: await describeColumns(tx, table),
    uniqueIndexes: indexes.rows.map((row) => ({
      name: row['relname'] ?? '',
      primary: isTrue(row['indisprimary']),
      columns: JSON.parse(row['columns'] ?? '[]') as string[],
    })),
    indexes: searchable.rows.map((row) => JSON.parse(row['columns'] ?? '[]') as string[]),
    triggers: triggers.rows.map((row) => row['tgname'] ?? ''),
  }
}

async function partitionsOf(tx: Transaction, table: TableName): Promise<TableName[]> {
  const result = await tx.query(
    `SELECT n.nspname, c.relname FROM pg_partition_tree(to_regclass($1)) p JOIN pg_class c ON c.oid = p.relid ` +
      `JOIN pg_namespace n ON n.oid = c.relnamespace WHERE p.level > 0 ORDER BY 1, 2`,
    [quoteTable(table)],
  )
  return result.rows.map((row) => ({ schema: row['nspname'] ?? '', name: row['relname'] ?? '' }))
}

/** https://www.postgresql.org/docs/18/logical-replication-architecture.html: the apply process fires row triggers only. */
export async function subscriptionsOf(tx: Transaction, table: TableName): Promise<string[]> {
  const result = await tx.query(
    'SELECT s.subname FROM pg_subscription_rel r JOIN pg_subscription s ON s.oid = r.srsubid WHERE r.srrelid = to_regclass($1) ORDER BY 1',
    [quoteTable(table)],
  )
  return result.rows.map((row) => row['subname'] ?? '')
}

/** In their order; none where there is no such table. */
async function describeColumns(tx: Transaction, table: TableName): Promise<TableDescription['columns']> {
  const columns = await tx.query(
    `SELECT attname, format_type(atttypid, atttypmod) AS type, attnotnull, attgenerated <> '' AS generated, attidentity <> '' AS identity, ` +
      `CASE WHEN attcollation NOT IN (0, (SELECT oid FROM pg_collation WHERE collname = 'default')) THEN attcollation::regcollation::text END AS collation ` +
      `FROM pg_attribute WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped ORDER BY attnum`,
    [quoteTable(table)],
  )
  return columns.rows.map((row) => ({
    name: row['attname'] ?? '',
    type: row['type'] ?? '',
    notNull: isTrue(row['attnotnull']),
    collation: row['collation'] ?? undefined,
    generated: isTrue(row['generated']),
    identity: isTrue(row['identity']),
  }))
}

/** The estimate of a table with all that is below it. */
const rowsEstimated = (oid: string): string =>
  `(SELECT sum(greatest(r.reltuples, 0))::bigint FROM ${leavesOf(oid)} l JOIN pg_class r USING (oid))`

function tableKind(relation: Row): 'table' | 'partitioned' | 'partition' | 'view' | 'other' {
  if (relation['relkind'] === 'p') return 'partitioned'
  if (relation['relkind'] === 'r') return isTrue(relation['relispartition']) ? 'partition' : 'table'
  return relation['relkind'] === 'v' || relation['relkind'] === 'm' ? 'view' : 'other'
}

/**
 * One line an object, in the server's own words, for comparing before and after: relations with their columns, indexes,
 * constraints, triggers, functions, sequences, views, policies and grants, outside of the system's schemas.
 */
export const inventory: Dialect['catalog']['inventory'] = async (tx) => {
  const user = `n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast') AND n.nspname NOT LIKE 'pg\\_temp%' AND n.nspname NOT LIKE 'pg\\_toast%'`
  const result = await tx.query(`
    SELECT concat_ws(' ', 'schema', nspname, nspacl::text) AS line FROM pg_namespace n WHERE ${user}
    UNION ALL SELECT concat_ws(' ', 'relation', relkind, c.oid::regclass, relacl::text, reloptions::text, 'owner', relowner::regrole, 'identity', relreplident,
      'rls', relrowsecurity, relforcerowsecurity, 'persistence', relpersistence, obj_description(c.oid, 'pg_class'))
      FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace WHERE ${user}
    UNION ALL SELECT concat_ws(' ', 'column', attrelid::regclass || '.' || attname, format_type(atttypid, atttypmod), 'not null', attnotnull, 'identity', attidentity,
      'generated', attgenerated, 'collation', attcollation::regcollation, pg_get_expr(adbin, adrelid), attacl::text, col_description(attrelid, attnum))
      FROM pg_attribute a JOIN pg_class c ON c.oid = attrelid JOIN pg_namespace n ON n.oid = relnamespace LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
      WHERE attnum > 0 AND NOT attisdropped AND relkind IN ('r', 'p', 'v', 'm', 'f') AND ${user}
    UNION ALL SELECT concat_ws(' ', 'index', pg_get_indexdef(indexrelid), 'valid', indisvalid, 'primary', indisprimary, 'identity', indisreplident)
      FROM pg_index JOIN pg_class c ON c.oid = indrelid JOIN pg_namespace n ON n.oid = relnamespace WHERE ${user}
    UNION ALL SELECT concat_ws(' ', 'constraint', conrelid::regclass, conname, pg_get_constraintdef(o.oid), 'valid', convalidated, obj_description(o.oid, 'pg_constraint'))
      FROM pg_constraint o JOIN pg_namespace n ON n.oid = connamespace WHERE conrelid <> 0 AND ${user}
    UNION ALL SELECT concat_ws(' ', 'trigger', pg_get_triggerdef(t.oid), tgenabled)
      FROM pg_trigger t JOIN pg_class c ON c.oid = tgrelid JOIN pg_namespace n ON n.oid = relnamespace WHERE NOT tgisinternal AND ${user}
    UNION ALL SELECT concat_ws(' ', 'function', p.oid::regprocedure, md5(coalesce(pg_get_function_sqlbody(p.oid), prosrc)), 'owner', proowner::regrole, proacl::text) FROM pg_proc p JOIN pg_namespace n ON n.oid = pronamespace WHERE ${user}
    UNION ALL SELECT concat_ws(' ', 'sequence', seqrelid::regclass, seqtypid::regtype, seqincrement)
      FROM pg_sequence JOIN pg_class c ON c.oid = seqrelid JOIN pg_namespace n ON n.oid = relnamespace WHERE ${user}
    UNION ALL SELECT concat_ws(' ', 'view', c.oid::regclass, pg_get_viewdef(c.oid)) FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace WHERE relkind IN ('v', 'm') AND ${user}
    UNION ALL SELECT concat_ws(' ', 'policy', schemaname || '.' || tablename, policyname, permissive, roles::text, cmd, qual, with_check) FROM pg_policies
    UNION ALL SELECT concat_ws(' ', 'publication', to_jsonb(t)::text) FROM pg_publication_tables t
    UNION ALL SELECT concat_ws(' ', 'statistics', pg_get_statisticsobjdef(s.oid)) FROM pg_statistic_ext s`)
  return result.rows.map((row) => row['line'] ?? '').sort()
}

export const locate: Dialect['catalog']['locate'] = async (tx, scope, tables) => {
  const registry = await tx.query('SELECT to_regclass($1) IS NOT NULL AS there', [ourTable(scope, 'tables')])
  if (!isTrue(registry.rows[0]?.['there'])) return [...tables]
  const rows = await tx.query(
    `SELECT t.schema_name, t.table_name, n.nspname, c.relname FROM ${ourTable(scope, 'tables')} t JOIN pg_class c ON c.oid = t.oid JOIN pg_namespace n ON n.oid = c.relnamespace`,
  )
  const now = new Map(
    rows.rows.map((row) => [
      `${row['schema_name']}.${row['table_name']}`,
      { schema: row['nspname'] ?? '', name: row['relname'] ?? '' },
    ]),
  )
  return tables.map((table) => now.get(formatTable(table)) ?? table)
}

async function columnTypes(tx: Transaction, table: TableName): Promise<Record<string, string>> {
  const columns = await describeColumns(tx, table)
  if (columns.length === 0)
    throw new CrossfadeError({
      kind: 'input',
      code: 'PLAN.TABLE_MISSING',
      message: `There is no table ${formatTable(table)} in this database.`,
      mend: 'Correct its name in the definition, or create it with expand.tables or expand.sql.',
      details: { table: formatTable(table) },
    })
  return Object.fromEntries(columns.map((column) => [column.name, column.type]))
}

function typeOf(types: Record<string, string>, table: TableName, column: string): string {
  const type = types[column]
  if (type !== undefined) return type
  throw new CrossfadeError({
    kind: 'input',
    code: 'PLAN.COLUMN_MISSING',
    message: `There is no column "${column}" in ${formatTable(table)}.`,
    mend: `Correct the mapping; the table has ${Object.keys(types).join(', ')}.`,
    details: { table: formatTable(table), column },
  })
}

/** Types without lengths, and collations as they are written in SQL, of columns that are there. */
async function keyColumns(
  tx: Transaction,
  table: TableName,
  columns: readonly string[],
): Promise<{ type: string; collation: string | undefined }[]> {
  const result = await tx.query(
    `SELECT format_type(a.atttypid, -1) AS type, CASE WHEN o.oid IS NOT NULL THEN format('%I.%I', n.nspname, o.collname) END AS collation ` +
      `FROM unnest($2::text[]) WITH ORDINALITY AS wanted(name, n) JOIN pg_attribute a ON a.attrelid = to_regclass($1) AND a.attname = wanted.name ` +
      `LEFT JOIN pg_collation o ON o.oid = a.attcollation LEFT JOIN pg_namespace n ON n.oid = o.collnamespace ORDER BY wanted.n`,
    [quoteTable(table), columns],
  )
  return result.rows.map((row) => ({ type: row['type'] ?? '', collation: row['collation'] ?? undefined }))
}

export const resolveLink: Dialect['catalog']['resolveLink'] = async (tx, link) => {
  const [driving] = link.parts
  const sourceTypes = await columnTypes(tx, driving.table)
  const targetTypes = await columnTypes(tx, link.target.table)
  for (const part of link.parts) {
    const types = part === driving ? sourceTypes : await columnTypes(tx, part.table)
    for (const column of part.key) typeOf(types, part.table, column)
  }
  for (const column of link.target.key) typeOf(targetTypes, link.target.table, column)
  const partitions: TableName[][] = []
  for (const part of link.parts) partitions.push(await partitionsOf(tx, part.table))
  const dependencies: FollowedDependency[] = []
  for (const dependency of link.dependsOn ?? [])
    dependencies.push(await resolveDependency(tx, driving.table, dependency))
  const source = await keyColumns(tx, driving.table, driving.key)
  const target = await keyColumns(tx, link.target.table, link.target.key)
  return {
    link,
    partitions,
    dependencies,
    keyTypes: source.map((column) => column.type),
    keyOrders: source.map(({ collation }, i) => {
      const other = target[i]?.collation
      return collation === undefined || other === undefined || collation === other
        ? undefined
        : { source: collation, target: other }
    }),
    targetTypes: Object.fromEntries(
      [...link.target.key, ...targetColumns(link)].map((column) => [
        column,
        typeOf(targetTypes, link.target.table, column),
      ]),
    ),
  }
}

export const outside: Dialect['catalog']['outside'] = async (tx, scope, groupId) => {
  const table = { schema: scope.schema, name: `outside_${groupId}` }
  const found = await tx.query('SELECT to_regclass($1) IS NOT NULL AS there', [quoteTable(table)])
  return isTrue(found.rows[0]?.['there']) ? table : undefined
}

async function resolveDependency(
  tx: Transaction,
  driving: TableName,
  dependency: Dependency,
): Promise<FollowedDependency> {
  const { table, on } = dependency
  const [types, drivingTypes] = [await columnTypes(tx, table), await columnTypes(tx, driving)]
  for (const pair of on) {
    typeOf(types, table, pair.column)
    typeOf(drivingTypes, driving, pair.driving)
  }
  const own = await keyColumns(
    tx,
    table,
    on.map(({ column }) => column),
  )
  const read = await keyColumns(
    tx,
    driving,
    on.map((pair) => pair.driving),
  )
  return {
    ...dependency,
    // In the order of the driving column, so that the two can be compared whatever the other table says.
    types: own.map(({ type, collation }, i) =>
      collation === undefined || read[i]?.collation === undefined
        ? type
        : `${type} COLLATE ${read[i].collation}`,
    ),
    partitions: await partitionsOf(tx, table),
  }
}

export const activity: Dialect['catalog']['activity'] = async (tx, tables) => {
  await tx.query('SELECT pg_stat_clear_snapshot()')
  const result: { table: TableName; scans: number; writes: number }[] = []
  for (const table of tables) {
    const row = (
      await tx.query(
        `SELECT sum(coalesce(seq_scan, 0) + coalesce(idx_scan, 0)) AS scans, sum(n_tup_ins + n_tup_upd + n_tup_del) AS writes ` +
          `FROM pg_stat_all_tables WHERE relid IN ${leavesOf('to_regclass($1)')}`,
        [quoteTable(table)],
      )
    ).rows[0]
    result.push({ table, scans: Number(row?.['scans'] ?? 0), writes: Number(row?.['writes'] ?? 0) })
  }
  return result
}

/** Who holds a lock on these tables now, the longest transaction first: what a waiting DDL statement waits for. */
export const blockers: Dialect['catalog']['blockers'] = async (tx, tables) => {
  const result = await tx.query(
    `SELECT DISTINCT a.pid, coalesce(a.usename, '') AS usename, coalesce(a.application_name, '') AS application_name, coalesce(a.state, '') AS state, ` +
      `coalesce(extract(epoch FROM clock_timestamp() - a.query_start), 0) AS query_age, coalesce(extract(epoch FROM clock_timestamp() - a.xact_start), 0) AS transaction_age ` +
      `FROM pg_locks l JOIN pg_stat_activity a USING (pid) WHERE l.granted AND l.relation = ANY (ARRAY(SELECT to_regclass(t)::oid FROM unnest($1::text[]) t)) ` +
      `AND a.pid <> pg_backend_pid() ORDER BY transaction_age DESC LIMIT 5`,
    [tables.map(quoteTable)],
  )
  return result.rows.map(toSession)
}

/** A session of pg_stat_activity, its ages in seconds. */
export const toSession = (row: Row): Blocker => ({
  pid: Number(row['pid']),
  user: row['usename'] ?? '',
  application: row['application_name'] ?? '',
  queryAgeSec: Number(row['query_age']),
  transactionAgeSec: Number(row['transaction_age']),
  state: row['state'] ?? '',
})

export const explainLink: Dialect['catalog']['explainLink'] = async (tx, resolved) => {
  await tx.query('SAVEPOINT crossfade_explain')
  try {
    if (resolved.link.inRow) return await tablesRead(tx, evaluationSql(resolved))
    for (const dependency of resolved.link.dependsOn ?? [])
      await tx.query(`EXPLAIN ${linkQuery(resolved.link.parts[0].table, dependency)}`)
    return await tablesRead(tx, linkRows(resolved, everything))
  } catch (error) {
    const reason = toCrossfadeError(error, `The mapping ${resolved.link.id}`)
    throw new CrossfadeError({
      ...reason.toJSON(),
      kind: 'input',
      code: 'PLAN.MAPPING_REFUSED',
      mend: 'Correct the expressions of this mapping.',
    })
  } finally {
    await tx.query('ROLLBACK TO SAVEPOINT crossfade_explain')
  }
}

async function tablesRead(tx: Transaction, query: string): Promise<TableName[]> {
  const result = await tx.query(`EXPLAIN (VERBOSE, FORMAT JSON) ${query}`)
  const [explained] = JSON.parse(result.rows[0]?.['QUERY PLAN'] ?? '[]') as { Plan: PlanNode }[]
  const read: string[] = []
  const walk = (node: PlanNode): void => {
    const { Schema: schema, 'Relation Name': name, Plans } = node
    if (schema !== undefined && name !== undefined) read.push(quoteTable({ schema, name }))
    Plans?.forEach(walk)
  }
  if (explained) walk(explained.Plan)
  const roots = await tx.query(
    `SELECT DISTINCT n.nspname, c.relname FROM unnest($1::text[]) t JOIN pg_class c ON c.oid = coalesce(pg_partition_root(to_regclass(t)), to_regclass(t)) ` +
      `JOIN pg_namespace n ON n.oid = c.relnamespace ORDER BY 1, 2`,
    [read],
  )
  return roots.rows.map((row) => ({ schema: row['nspname'] ?? '', name: row['relname'] ?? '' }))
}

interface PlanNode {
  readonly Schema?: string
  readonly 'Node Type': string
  readonly 'Index Name'?: string
  readonly 'Relation Name'?: string
  readonly Plans?: readonly PlanNode[]
}

/** Runs the query with its times, and rolls back what it did. */
export const explainQuery: Dialect['catalog']['explainQuery'] = async (tx, sql) => {
  await tx.query('SAVEPOINT crossfade_explain')
  try {
    const result = await tx.query(`EXPLAIN (ANALYZE, FORMAT JSON) ${sql}`)
    const [explained] = JSON.parse(result.rows[0]?.['QUERY PLAN'] ?? '[]') as { Plan: PlanNode }[]
    const indexes: string[] = []
    const sequentialScans: string[] = []
    const walk = (node: PlanNode): void => {
      if (node['Index Name'] !== undefined) indexes.push(node['Index Name'])
      if (node['Node Type'] === 'Seq Scan') sequentialScans.push(node['Relation Name'] ?? '')
      node.Plans?.forEach(walk)
    }
    if (explained) walk(explained.Plan)
    return { indexes, sequentialScans }
  } finally {
    await tx.query('ROLLBACK TO SAVEPOINT crossfade_explain')
  }
}

/**
 * The slowest standby that streams from here. A row whose state we may not see (no pg_monitor) cannot be told from one that lags.
 * https://www.postgresql.org/docs/18/monitoring-stats.html#MONITORING-PG-STAT-REPLICATION-VIEW
 */
export const replicaLag: Dialect['catalog']['replicaLag'] = async (tx) => {
  const result = await tx.query(
    `SELECT coalesce(application_name, '') AS name, state, CASE WHEN state IS NULL THEN NULL WHEN replay_lsn >= pg_current_wal_lsn() THEN 0 ` +
      `WHEN replay_lag IS NULL AND replay_lsn IS NULL THEN NULL ELSE coalesce(extract(epoch FROM replay_lag), 0) END AS lag FROM pg_stat_replication ` +
      `WHERE state IS DISTINCT FROM 'backup'`,
  )
  let worst = {
    lagSec: 0 as number | undefined,
    reason: result.rows.length === 0 ? 'no standby streams from here' : 'every standby keeps up',
  }
  for (const row of result.rows) {
    const lag = row['lag']
    if (lag === null || lag === undefined)
      return {
        lagSec: undefined,
        reason: `the lag of standby ${row['name'] || '?'} cannot be read (grant pg_monitor, or see its state)`,
      }
    if (Number(lag) > (worst.lagSec ?? 0))
      worst = {
        lagSec: Number(lag),
        reason: `standby ${row['name'] || '?'} is ${Number(lag).toFixed(1)} s behind`,
      }
  }
  return worst
}
