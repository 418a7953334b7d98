import type { TableName } from '../../core/link.ts'
import { formatTable } from '../../core/link.ts'
import type { ColumnOperations } from '../columns.ts'
import type { DdlStep, Scope } from '../dialect.ts'
import type { Transaction } from '../database.ts'
import { dropTwinConstraints } from './column-twins.ts'
import { constraintSteps, transactional } from './ddl.ts'
import { fitIdentifier, quoteIdentifier, quoteTable } from './identifiers.ts'
import { forget, isNoted, note, read } from './journal.ts'

/**
 * Single columns of a table that is in use. Every ALTER TABLE here changes the catalogue alone: no scan and no rewrite under its
 * ACCESS EXCLUSIVE lock. https://www.postgresql.org/docs/18/sql-altertable.html#SQL-ALTERTABLE-NOTES
 */

const instant = (table: TableName): string => `ACCESS EXCLUSIVE on ${formatTable(table)} for an instant`

interface ColumnState {
  readonly notNull: boolean
  readonly default: string | undefined
}

async function stateOf(tx: Transaction, table: TableName, column: string): Promise<ColumnState | undefined> {
  const [row] = (
    await tx.query(
      `SELECT a.attnotnull, pg_get_expr(d.adbin, d.adrelid) AS expression FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum ` +
        `WHERE a.attrelid = to_regclass($1) AND a.attname = $2 AND a.attnum > 0 AND NOT a.attisdropped`,
      [quoteTable(table), column],
    )
  ).rows
  return row && { notNull: row['attnotnull'] === 't', default: row['expression'] ?? undefined }
}

const alter = (table: TableName, column: string, action: string): string =>
  `ALTER TABLE ${quoteTable(table)} ALTER COLUMN ${quoteIdentifier(column)} ${action}`

export const addColumn: ColumnOperations['addColumn'] = ({ table, name, type, replaces }) => {
  const id = `add-column ${formatTable(table)}.${name}`
  const sql = `ALTER TABLE ${quoteTable(table)} ADD COLUMN ${quoteIdentifier(name)} ${type}`
  return transactional({
    id,
    title: `Add column ${name} to ${formatTable(table)}`,
    sql: [sql],
    undo: [`ALTER TABLE IF EXISTS ${quoteTable(table)} DROP COLUMN IF EXISTS ${quoteIdentifier(name)}`],
    lock: instant(table),
    inspect: async (tx) => ((await stateOf(tx, table, name)) ? 'present' : 'absent'),
    run: async (tx) => {
      await tx.query(sql)
      for (const old of replaces ?? []) await copyColumnGrants(tx, table, old, name)
    },
  })
}

/** Grants on the table hold for every column of it; those on a column alone do not. */
export async function copyColumnGrants(
  tx: Transaction,
  table: TableName,
  from: string,
  to: string,
): Promise<void> {
  const grants = await tx.query(
    `SELECT x.privilege_type, x.is_grantable, CASE WHEN x.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(x.grantee)) END AS grantee ` +
      `FROM pg_attribute a, aclexplode(a.attacl) x WHERE a.attrelid = to_regclass($1) AND a.attname = $2`,
    [quoteTable(table), from],
  )
  for (const grant of grants.rows)
    await tx.query(
      `GRANT ${grant['privilege_type']} (${quoteIdentifier(to)}) ON ${quoteTable(table)} TO ${grant['grantee']}${grant['is_grantable'] === 't' ? ' WITH GRANT OPTION' : ''}`,
    )
}

const checkName = (column: string): string => fitIdentifier(`_crossfade_${column}_not_null`)

const requireId = (table: TableName, column: string): string => `not-null ${formatTable(table)}.${column}`

export const requireValues: ColumnOperations['requireValues'] = (table, column) => {
  const name = checkName(column)
  const isDone: DdlStep['inspect'] = async (tx) =>
    (await stateOf(tx, table, column))?.notNull ? 'present' : 'absent'
  const steps = constraintSteps(
    table,
    name,
    `CHECK (${quoteIdentifier(column)} IS NOT NULL)`,
    instant(table),
  ).map((step): DdlStep => ({
    ...step,
    inspect: async (tx, scope) =>
      (await isDone(tx, scope)) === 'present' ? 'present' : step.inspect(tx, scope),
  }))
  const drop = `ALTER TABLE ${quoteTable(table)} DROP CONSTRAINT IF EXISTS ${quoteIdentifier(name)}`
  const sql = [alter(table, column, 'SET NOT NULL'), drop]
  const last = transactional({
    id: requireId(table, column),
    title: `Set ${column} of ${formatTable(table)} NOT NULL, which its constraint has proven`,
    sql,
    undo: [alter(table, column, 'DROP NOT NULL')],
    lock: instant(table),
    inspect: isDone,
    run: async (tx, scope) => {
      for (const statement of sql) await tx.query(statement)
      await restoreName(tx, scope, table, column)
    },
  })
  return [...steps, last]
}

/** The journal's word for a NOT NULL that was taken off, with what is needed to put it back. */
const relaxedWord = 'relaxed '
const toWord = (table: TableName, column: string, constraint: string): string =>
  relaxedWord + JSON.stringify([table.schema, table.name, column, constraint])

async function relaxations(
  tx: Transaction,
  scope: Scope,
): Promise<{ word: string; table: TableName; column: string; constraint: string }[]> {
  return (await read(tx, scope))
    .filter((word) => word.startsWith(relaxedWord))
    .map((word) => {
      const [schema = '', name = '', column = '', constraint = ''] = JSON.parse(
        word.slice(relaxedWord.length),
      ) as string[]
      return { word, table: { schema, name }, column, constraint }
    })
}

/** NOT NULL is a constraint with a name from PostgreSQL 18 on; before, it has none. */
async function notNullName(tx: Transaction, table: TableName, column: string): Promise<string> {
  const result = await tx.query(
    `SELECT o.conname FROM pg_constraint o JOIN pg_attribute a ON a.attrelid = o.conrelid AND o.conkey = ARRAY[a.attnum] ` +
      `WHERE o.contype = 'n' AND o.conrelid = to_regclass($1) AND a.attname = $2`,
    [quoteTable(table), column],
  )
  return result.rows[0]?.['conname'] ?? ''
}

export const relax: ColumnOperations['relax'] = async (tx, scope, table, columns) => {
  for (const column of columns) {
    if (!(await stateOf(tx, table, column))?.notNull) continue
    const constraint = await notNullName(tx, table, column)
    await tx.query(alter(table, column, 'DROP NOT NULL'))
    await note(tx, scope, toWord(table, column, constraint))
  }
}

export const relaxed: ColumnOperations['relaxed'] = async (tx, scope) =>
  (await relaxations(tx, scope)).map(({ table, column }) => ({ table, column }))

async function restoreName(tx: Transaction, scope: Scope, table: TableName, column: string): Promise<void> {
  for (const each of await relaxations(tx, scope)) {
    if (each.column !== column || formatTable(each.table) !== formatTable(table)) continue
    const now = await notNullName(tx, table, column)
    if (now !== each.constraint)
      await tx.query(
        `ALTER TABLE ${quoteTable(table)} RENAME CONSTRAINT ${quoteIdentifier(now)} TO ${quoteIdentifier(each.constraint)}`,
      )
    await forget(tx, scope, each.word)
  }
}

/** A key that gets its columns back has proven NOT NULL under the name that they had meanwhile. */
export async function restoreNotNull(
  tx: Transaction,
  scope: Scope,
  table: TableName,
  column: string,
): Promise<void> {
  await forget(tx, scope, requireId(table, retiredColumn(column)))
  await restoreName(tx, scope, table, column)
}

export const release: ColumnOperations['release'] = async (tx, scope, table, columns) => {
  await dropTwinConstraints(tx, table, columns)
  for (const column of columns) {
    if ((await stateOf(tx, table, column)) === undefined) continue
    await tx.query(
      `ALTER TABLE ${quoteTable(table)} DROP CONSTRAINT IF EXISTS ${quoteIdentifier(checkName(column))}`,
    )
    const id = requireId(table, column)
    if (!(await isNoted(tx, scope, id))) continue
    await tx.query(alter(table, column, 'DROP NOT NULL'))
    await forget(tx, scope, id)
  }
}

export const setDefault: ColumnOperations['setDefault'] = async (tx, table, column, value) => {
  await tx.query(alter(table, column, value === undefined ? 'DROP DEFAULT' : `SET DEFAULT ${value}`))
}

export const retiredColumn: ColumnOperations['retiredColumn'] = (column) =>
  fitIdentifier(`_crossfade_retired_${column}`)

export const renameColumn: ColumnOperations['renameColumn'] = (table, column, to) =>
  transactional({
    id: `rename-column ${formatTable(table)}.${column}`,
    title: `Rename ${column} of ${formatTable(table)} to ${to}`,
    sql: [
      `ALTER TABLE ${quoteTable(table)} RENAME COLUMN ${quoteIdentifier(column)} TO ${quoteIdentifier(to)}`,
    ],
    lock: instant(table),
    inspect: async (tx) => ((await stateOf(tx, table, to)) ? 'present' : 'absent'),
  })

export const dropColumn: ColumnOperations['dropColumn'] = (table, column) =>
  transactional({
    id: `drop-column ${formatTable(table)}.${column}`,
    title: `Drop ${column} of ${formatTable(table)}`,
    sql: [`ALTER TABLE ${quoteTable(table)} DROP COLUMN ${quoteIdentifier(column)}`],
    lock: `${instant(table)}; there is no way back from here`,
    inspect: async (tx) => ((await stateOf(tx, table, column)) ? 'absent' : 'present'),
  })

export const countMissing: ColumnOperations['countMissing'] = async (tx, table, column) => {
  const result = await tx.query(
    `SELECT count(*) AS n FROM ${quoteTable(table)} WHERE ${quoteIdentifier(column)} IS NULL`,
  )
  return Number(result.rows[0]?.['n'] ?? 0)
}

export const refusedType: ColumnOperations['refusedType'] = async (tx, type) => {
  const result = await tx.query(
    `SELECT t.typtype = 'd' AND (t.typnotnull OR EXISTS (SELECT FROM pg_constraint WHERE contypid = t.oid)) AS constrained ` +
      `FROM (SELECT to_regtype($1)::oid AS oid) AS wanted LEFT JOIN pg_type t USING (oid) WHERE t.oid IS NOT NULL`,
    [type],
  )
  const [row] = result.rows
  if (row === undefined) return 'is no type here (serial types are none, either)'
  // https://www.postgresql.org/docs/18/sql-altertable.html#SQL-ALTERTABLE-NOTES: every row is checked, and so written anew.
  return row['constrained'] === 't' ? 'is a domain with constraints: adding it rewrites the table' : undefined
}

export const fixed: ColumnOperations['fixed'] = async (tx, table) => {
  const result = await tx.query(
    `SELECT attname FROM pg_attribute WHERE attrelid = to_regclass($1) AND attidentity = 'a' AND NOT attisdropped`,
    [quoteTable(table)],
  )
  return result.rows.map((row) => row['attname'] ?? '')
}

export const laterTriggers: ColumnOperations['laterTriggers'] = async (tx, scope, table) => {
  const result = await tx.query(
    // tgtype: 1 is FOR EACH ROW, 2 is BEFORE. https://www.postgresql.org/docs/18/catalog-pg-trigger.html
    `SELECT tgname FROM pg_trigger WHERE tgrelid = to_regclass($1) AND NOT tgisinternal AND tgtype & 3 = 3 AND tgname::text COLLATE "C" > $2 ` +
      `AND tgname NOT LIKE '~!_crossfade!_%' ESCAPE '!' ORDER BY 1`,
    [quoteTable(table), `~_crossfade_${scope.migration}`],
  )
  return result.rows.map((row) => row['tgname'] ?? '')
}

export const dependents: ColumnOperations['dependents'] = async (tx, table, column) => {
  const result = await tx.query(
    `SELECT DISTINCT pg_describe_object(d.classid, d.objid, d.objsubid) AS line, d.deptype, d.classid IN ('pg_rewrite'::regclass, 'pg_attrdef'::regclass) OR ` +
      `(d.classid = 'pg_class'::regclass AND d.objsubid > 0) OR (d.classid = 'pg_constraint'::regclass AND EXISTS (SELECT FROM pg_constraint o WHERE o.oid = d.objid AND o.conrelid <> d.refobjid)) AS holds ` +
      `FROM pg_depend d JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid ` +
      `LEFT JOIN pg_constraint n ON d.classid = 'pg_constraint'::regclass AND n.oid = d.objid LEFT JOIN pg_trigger t ON d.classid = 'pg_trigger'::regclass AND t.oid = d.objid ` +
      `WHERE n.contype IS DISTINCT FROM 'n' AND coalesce(t.tgname, '') NOT LIKE '~!_crossfade!_%' ESCAPE '!' AND d.refclassid = 'pg_class'::regclass AND d.refobjid = to_regclass($1) AND a.attname = $2 ` +
      // Its own default goes with it; that of another column is a generated one that reads it.
      `AND NOT (d.classid = 'pg_attrdef'::regclass AND EXISTS (SELECT FROM pg_attrdef f WHERE f.oid = d.objid AND f.adnum = a.attnum)) ORDER BY 1`,
    [quoteTable(table), column],
  )
  const lines = (holds: boolean): string[] =>
    result.rows.filter((row) => (row['holds'] === 't') === holds).map((row) => row['line'] ?? '')
  return { goes: lines(false), holds: lines(true) }
}
