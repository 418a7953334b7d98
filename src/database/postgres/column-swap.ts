import type { TableName } from '../../core/link.ts'
import { formatTable } from '../../core/link.ts'
import { CrossfadeError } from '../../errors/index.ts'
import type { ColumnOperations, ColumnSwap } from '../columns.ts'
import type { Scope } from '../dialect.ts'
import type { Transaction } from '../database.ts'
import {
  constraintsOn,
  indexesOn,
  overNewColumns,
  spareName,
  statisticsOn,
  twinName,
  type ColumnConstraint,
} from './column-objects.ts'
import { constraintsWithoutTwin, dropConstraint, indexesWithoutTwin } from './column-twins.ts'
import { copyColumnGrants, relax, restoreNotNull, retiredColumn, setDefault } from './columns.ts'
import { proofWord } from './dependents.ts'
import { quoteIdentifier, quoteLiteral, quoteTable } from './identifiers.ts'
import {
  addIdentity,
  countAs,
  dropIdentity,
  identityOf,
  ownedSequences,
  ownSequence,
  typeOfColumn,
  type Identity,
  type OwnedSequence,
} from './identities.ts'
import { toCrossfadeError } from './errors.ts'
import { forget, note, read, relationExists } from './journal.ts'
import { ourTable } from './objects.ts'

/**
 * The exchange of two columns' names, and what goes with a name. The side that follows must never make a statement fail: what could
 * refuse it (checks, foreign keys, the primary key, NOT NULL) stands on the side that leads alone.
 */

const retiredName = retiredColumn

export const registerColumns: ColumnOperations['registerColumns'] = (table, columns) => {
  const registry = (scope: Scope): string => ourTable(scope, 'columns')
  return {
    id: `register-columns ${formatTable(table)}`,
    title: `Remember which columns of ${formatTable(table)} these are`,
    sql: [],
    lock: 'none on your tables',
    inspect: async (tx, scope) => {
      const result = await tx.query(
        `SELECT count(*) AS n FROM ${registry(scope)} WHERE schema_name = $1 AND table_name = $2`,
        [table.schema, table.name],
      )
      return Number(result.rows[0]?.['n'] ?? 0) >= columns.length ? 'present' : 'absent'
    },
    apply: (database, scope, { lockTimeoutMs }) =>
      database.transaction(
        async (tx) => {
          await tx.query(
            `INSERT INTO ${registry(scope)} SELECT $1, $2, attname, attnum FROM pg_attribute WHERE attrelid = to_regclass($3) AND attname = ANY ($4::text[]) ON CONFLICT DO NOTHING`,
            [table.schema, table.name, quoteTable(table), columns],
          )
        },
        { lockTimeoutMs },
      ),
  }
}

export const names: ColumnOperations['names'] = async (tx, scope, table) => {
  const nothing = { renamed: {}, columns: [] }
  if (!(await relationExists(tx, ourTable(scope, 'columns')))) return nothing
  const result = await tx.query(
    `SELECT c.column_name, a.attname FROM ${ourTable(scope, 'columns')} c JOIN pg_attribute a ON a.attrelid = to_regclass($1) AND a.attnum = c.attnum ` +
      `WHERE c.schema_name = $2 AND c.table_name = $3 AND NOT a.attisdropped AND a.attname <> c.column_name`,
    [quoteTable(table), table.schema, table.name],
  )
  if (result.rows.length === 0) return nothing
  const columns = await tx.query(
    'SELECT attname FROM pg_attribute WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped ORDER BY attnum',
    [quoteTable(table)],
  )
  return {
    renamed: Object.fromEntries(result.rows.map((row) => [row['column_name'] ?? '', row['attname'] ?? ''])),
    columns: columns.rows.map((row) => row['attname'] ?? ''),
  }
}

const renameColumn = (tx: Transaction, table: TableName, from: string, to: string): Promise<unknown> =>
  tx.query(
    `ALTER TABLE ${quoteTable(table)} RENAME COLUMN ${quoteIdentifier(from)} TO ${quoteIdentifier(to)}`,
  )

/** The constraint that an index backs is renamed with it. */
const renameIndex = (tx: Transaction, { schema }: TableName, from: string, to: string): Promise<unknown> =>
  tx.query(`ALTER INDEX IF EXISTS ${quoteTable({ schema, name: from })} RENAME TO ${quoteIdentifier(to)}`)

const renameStatistics = (tx: Transaction, schema: string, from: string, to: string): Promise<unknown> =>
  tx.query(`ALTER STATISTICS ${quoteTable({ schema, name: from })} RENAME TO ${quoteIdentifier(to)}`)

/** The journal's word for an exchange: what the old columns had and get back. */
const exchangeWord = (table: TableName): string => `exchanged ${formatTable(table)} `

/** What a column gives from itself: its default, its sequences, its identity, and what is said of it. */
interface Carried {
  readonly fallback: string | null
  readonly sequences: readonly OwnedSequence[]
  readonly identity?: Identity | undefined
  readonly comment?: string | null
}

interface PrimaryKey {
  readonly name: string
  /** Of its columns, those that gave their names away. */
  readonly columns: readonly string[]
  readonly comment: string | null
  readonly indexComment: string | null
}

interface Exchanged {
  /** All but the primary key's. */
  readonly indexes: readonly string[]
  readonly clustered?: string | undefined
  readonly primary?: PrimaryKey | undefined
  readonly statistics?: readonly { readonly schema: string; readonly name: string }[]
  /** By the old column's name. */
  readonly carried: Readonly<Record<string, Carried>>
}

/** Words of versions that carried less have sequences by their names alone. */
interface Kept extends Omit<Exchanged, 'carried'> {
  readonly carried: Readonly<
    Record<string, Omit<Carried, 'sequences'> & { readonly sequences: readonly (OwnedSequence | string)[] }>
  >
}

async function carriedBy(tx: Transaction, table: TableName, column: string): Promise<Carried> {
  const [row] = (
    await tx.query(
      `SELECT pg_get_expr(d.adbin, d.adrelid) AS fallback, col_description(a.attrelid, a.attnum) AS comment ` +
        `FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum WHERE a.attrelid = to_regclass($1) AND a.attname = $2`,
      [quoteTable(table), column],
    )
  ).rows
  return {
    fallback: row?.['fallback'] ?? null,
    sequences: await ownedSequences(tx, table, column),
    identity: await identityOf(tx, table, column),
    comment: row?.['comment'] ?? null,
  }
}

const oldNames = (swaps: readonly ColumnSwap[]): string[] => swaps.map((swap) => swap.old)

async function primaryKeyOn(
  tx: Transaction,
  table: TableName,
  names: readonly string[],
): Promise<PrimaryKey | undefined> {
  const primary = (await indexesOn(tx, table, names)).find((index) => index.constraint === 'p')
  if (primary === undefined) return undefined
  const columns = await tx.query(
    `SELECT a.attname FROM pg_constraint o JOIN pg_attribute a ON a.attrelid = o.conrelid AND a.attnum = ANY (o.conkey) WHERE o.conrelid = to_regclass($1) AND o.contype = 'p' AND a.attname = ANY ($2::text[])`,
    [quoteTable(table), names],
  )
  return {
    name: primary.name,
    columns: columns.rows.map((row) => row['attname'] ?? ''),
    comment: primary.constraintComment ?? null,
    indexComment: primary.comment ?? null,
  }
}

const commentOn = async (
  tx: Transaction,
  object: string,
  comment: string | null | undefined,
): Promise<void> => {
  if (comment !== null && comment !== undefined)
    await tx.query(`COMMENT ON ${object} IS ${quoteLiteral(comment)}`)
}

async function addPrimaryKey(
  tx: Transaction,
  table: TableName,
  { name, comment, indexComment }: PrimaryKey,
  index: string,
): Promise<void> {
  await tx.query(
    `ALTER TABLE ${quoteTable(table)} ADD CONSTRAINT ${quoteIdentifier(name)} PRIMARY KEY USING INDEX ${quoteIdentifier(index)}`,
  )
  await commentOn(tx, `CONSTRAINT ${quoteIdentifier(name)} ON ${quoteTable(table)}`, comment)
  await commentOn(tx, `INDEX ${quoteTable({ schema: table.schema, name })}`, indexComment)
}

async function takeOff(
  tx: Transaction,
  table: TableName,
  columns: readonly string[],
  constraints: readonly ColumnConstraint[],
  primary: PrimaryKey | undefined,
): Promise<void> {
  for (const constraint of constraints) await dropConstraint(tx, constraint.table, constraint.name)
  if (primary) await dropConstraint(tx, table, primary.name)
  for (const column of columns) if (await identityOf(tx, table, column)) await dropIdentity(tx, table, column)
}

const notCarried = (table: TableName, lines: readonly string[]): CrossfadeError =>
  new CrossfadeError({
    kind: 'refused',
    code: 'CUTOVER.NOT_CARRIED',
    message: `After the exchange of names these would still mean old columns of ${formatTable(table)}: ${lines.join(', ')}.`,
    mend: 'Resume: what can be carried is built for the new columns first. Take away what cannot, and bring it back after the swap.',
    details: { lines },
  })

async function toNew(
  tx: Transaction,
  scope: Scope,
  table: TableName,
  swaps: readonly ColumnSwap[],
): Promise<void> {
  const left = [
    ...(await strangers(tx, table, oldNames(swaps))),
    ...(await indexesWithoutTwin(tx, table, swaps)),
    ...(await constraintsWithoutTwin(tx, table, swaps)),
  ]
  if (left.length > 0) throw notCarried(table, left)
  const constraints = await constraintsOn(tx, table, swaps)
  const primary = await primaryKeyOn(tx, table, oldNames(swaps))
  const indexes = (await indexesOn(tx, table, oldNames(swaps))).filter((index) => index.constraint !== 'p')
  const statistics = await statisticsOn(tx, table, oldNames(swaps))
  const clustered = (await indexesOn(tx, table, oldNames(swaps))).find((index) => index.isClustered)?.name
  const carried: Record<string, Carried> = {}
  for (const { old } of swaps) carried[old] = await carriedBy(tx, table, old)
  const word: Exchanged = {
    indexes: indexes.map(({ name }) => name),
    clustered,
    primary,
    statistics: statistics.map(({ schema, name }) => ({ schema, name })),
    carried,
  }
  await note(tx, scope, exchangeWord(table) + JSON.stringify(word))

  await takeOff(tx, table, oldNames(swaps), constraints, primary)
  await relax(tx, scope, table, oldNames(swaps))
  for (const swap of swaps) await copyColumnGrants(tx, table, swap.old, swap.new)
  for (const swap of swaps) await giveName(tx, table, swap, carried[swap.old])
  for (const { name, comment, constraint, constraintComment } of indexes) {
    await renameIndex(tx, table, name, retiredName(name))
    await renameIndex(tx, table, twinName(name), name)
    await commentOn(tx, `INDEX ${quoteTable({ schema: table.schema, name })}`, comment)
    if (constraint)
      await commentOn(tx, `CONSTRAINT ${quoteIdentifier(name)} ON ${quoteTable(table)}`, constraintComment)
  }
  if (primary) await addPrimaryKey(tx, table, primary, twinName(primary.name))
  for (const { table: stands, name, comment } of constraints) {
    await tx.query(
      `ALTER TABLE ${quoteTable(stands)} RENAME CONSTRAINT ${quoteIdentifier(twinName(name))} TO ${quoteIdentifier(name)}`,
    )
    await commentOn(tx, `CONSTRAINT ${quoteIdentifier(name)} ON ${quoteTable(stands)}`, comment)
  }
  for (const { schema, name, comment } of statistics) {
    await renameStatistics(tx, schema, name, retiredName(name))
    await renameStatistics(tx, schema, twinName(name), name)
    await commentOn(tx, `STATISTICS ${quoteTable({ schema, name })}`, comment)
  }
  await clusterOn(tx, table, clustered)
}

const clusterOn = async (tx: Transaction, table: TableName, index: string | undefined): Promise<void> => {
  if (index !== undefined)
    await tx.query(`ALTER TABLE ${quoteTable(table)} CLUSTER ON ${quoteIdentifier(index)}`)
}

async function kept(
  tx: Transaction,
  scope: Scope,
  table: TableName,
): Promise<{ word: string; was: Exchanged }> {
  const start = exchangeWord(table)
  const word = (await read(tx, scope)).find((line) => line.startsWith(start)) ?? `${start}{}`
  const parsed = { indexes: [], carried: {}, ...(JSON.parse(word.slice(start.length)) as Partial<Kept>) }
  const carried = Object.entries(parsed.carried).map(([column, { sequences, ...other }]) => [
    column,
    {
      ...other,
      sequences: sequences.map((each) => (typeof each === 'string' ? { name: each, type: '' } : each)),
    },
  ])
  return { word, was: { ...parsed, carried: Object.fromEntries(carried) as Exchanged['carried'] } }
}

/** What stands on the names now goes back with them, whoever made it: its text, run when they mean the old columns, means those. */
async function toOld(
  tx: Transaction,
  scope: Scope,
  table: TableName,
  swaps: readonly ColumnSwap[],
): Promise<void> {
  const { word, was } = await kept(tx, scope, table)
  const constraints = await constraintsOn(tx, table, swaps)
  const identities = new Map<string, Identity | undefined>()
  for (const { old } of swaps) identities.set(old, await identityOf(tx, table, old))
  await takeOff(tx, table, oldNames(swaps), constraints, await primaryKeyOn(tx, table, oldNames(swaps)))

  for (const name of was.indexes) {
    await renameIndex(tx, table, name, twinName(name))
    await renameIndex(tx, table, retiredName(name), name)
  }
  for (const { schema, name } of was.statistics ?? []) {
    await renameStatistics(tx, schema, name, twinName(name))
    await renameStatistics(tx, schema, retiredName(name), name)
  }
  for (const swap of swaps) await takeNameBack(tx, table, swap, was.carried[swap.old])
  for (const column of was.primary?.columns ?? []) await restoreNotNull(tx, scope, table, column)
  if (was.primary) await addPrimaryKey(tx, table, was.primary, spareName(was.primary.name))
  for (const [column, identity] of identities) if (identity) await addIdentity(tx, table, column, identity)
  for (const constraint of constraints) await putBack(tx, scope, constraint)
  await clusterOn(tx, table, was.clustered)
  await forget(tx, scope, word)
}

/** From here on every write is checked; what stands is proven afterwards. What fits the new column alone keeps nobody from going back. */
async function putBack(tx: Transaction, scope: Scope, constraint: ColumnConstraint): Promise<void> {
  const { table, name, definition, isEnforced, isProven, comment } = constraint
  await tx.query('SAVEPOINT crossfade_back')
  try {
    await tx.query(
      `ALTER TABLE ${quoteTable(table)} ADD CONSTRAINT ${quoteIdentifier(name)} ${definition}${isEnforced ? ' NOT VALID' : ''}`,
    )
    await commentOn(tx, `CONSTRAINT ${quoteIdentifier(name)} ON ${quoteTable(table)}`, comment)
    if (isProven && isEnforced) await note(tx, scope, proofWord(constraint.kind, name, table))
    await tx.query('RELEASE SAVEPOINT crossfade_back')
  } catch (error) {
    await tx.query('ROLLBACK TO SAVEPOINT crossfade_back')
    // The SQLSTATEs of what a statement says, not of what is in its way: https://www.postgresql.org/docs/18/errcodes-appendix.html
    if (!/^(42|0A)/.test((error as { code?: string }).code ?? '')) throw error
  }
}

export const exchange: ColumnOperations['exchange'] = (tx, scope, table, swaps, direction) =>
  (direction === 'to-new' ? toNew : toOld)(tx, scope, table, swaps)

const nothing: Carried = { fallback: null, sequences: [] }

async function giveName(
  tx: Transaction,
  table: TableName,
  swap: ColumnSwap,
  { fallback, sequences, identity, comment }: Carried = nothing,
): Promise<void> {
  await setDefault(tx, table, swap.old, undefined)
  await renameColumn(tx, table, swap.old, retiredName(swap.old))
  await renameColumn(tx, table, swap.new, swap.old)
  const value = swap.default ?? fallback ?? undefined
  if (value !== undefined) await setDefault(tx, table, swap.old, value)
  const type = await typeOfColumn(tx, table, swap.old)
  for (const sequence of sequences) {
    await ownSequence(tx, sequence, table, swap.old)
    await countAs(tx, sequence.name, type)
  }
  if (identity) await addIdentity(tx, table, swap.old, identity)
  await commentOn(tx, `COLUMN ${quoteTable(table)}.${quoteIdentifier(swap.old)}`, comment)
}

async function takeNameBack(
  tx: Transaction,
  table: TableName,
  swap: ColumnSwap,
  { fallback, sequences }: Carried = nothing,
): Promise<void> {
  await setDefault(tx, table, swap.old, undefined)
  await copyColumnGrants(tx, table, swap.old, retiredName(swap.old))
  await renameColumn(tx, table, swap.old, swap.new)
  await renameColumn(tx, table, retiredName(swap.old), swap.old)
  if (fallback !== null) await setDefault(tx, table, swap.old, fallback)
  for (const sequence of sequences) {
    await ownSequence(tx, sequence, table, swap.old)
    await countAs(tx, sequence.name, sequence.type)
  }
}

export const keyColumnsGoingBack: ColumnOperations['keyColumnsGoingBack'] = async (tx, scope, table) =>
  ((await kept(tx, scope, table)).was.primary?.columns ?? []).map(retiredName)

export const neighbours: ColumnOperations['neighbours'] = async (tx, table, swaps) => {
  const others = (await constraintsOn(tx, table, swaps)).flatMap(({ other }) => other ?? [])
  return [...new Map(others.map((other) => [quoteTable(other), other])).values()].filter(
    (other) => quoteTable(other) !== quoteTable(table),
  )
}

/** What stands on columns and is on no list of ours. */
async function strangers(tx: Transaction, table: TableName, names: readonly string[]): Promise<string[]> {
  const result = await tx.query(
    `SELECT DISTINCT pg_describe_object(d.classid, d.objid, 0) AS line FROM pg_depend d JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid ` +
      `LEFT JOIN pg_class c ON d.classid = 'pg_class'::regclass AND c.oid = d.objid LEFT JOIN pg_constraint o ON d.classid = 'pg_constraint'::regclass AND o.oid = d.objid ` +
      `LEFT JOIN pg_trigger t ON d.classid = 'pg_trigger'::regclass AND t.oid = d.objid ` +
      `WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = to_regclass($1) AND a.attname = ANY ($2::text[]) AND coalesce(t.tgname, '') NOT LIKE '~!_crossfade!_%' ESCAPE '!' ` +
      `AND coalesce(o.contype, '-') NOT IN ('n', 'c', 'f', 'p', 'u', 'x') AND c.relkind IS DISTINCT FROM 'S' AND c.relkind IS DISTINCT FROM 'i' AND d.classid <> 'pg_statistic_ext'::regclass ` +
      `AND NOT (d.classid = 'pg_attrdef'::regclass AND EXISTS (SELECT FROM pg_attrdef f WHERE f.oid = d.objid AND f.adnum = a.attnum)) ` +
      // A view that groups by the primary key knows the key.
      `UNION SELECT pg_describe_object(d.classid, d.objid, 0) FROM pg_constraint p JOIN pg_depend d ON d.refclassid = 'pg_constraint'::regclass AND d.refobjid = p.oid AND d.classid = 'pg_rewrite'::regclass ` +
      `WHERE p.conrelid = to_regclass($1) AND p.contype = 'p' AND EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = p.conrelid AND a.attnum = ANY (p.conkey) AND a.attname = ANY ($2::text[])) ORDER BY 1`,
    [quoteTable(table), names],
  )
  return result.rows.map((row) => row['line'] ?? '')
}

/** Keys whose columns could not be compared with each other any more. https://www.postgresql.org/docs/18/catalog-pg-amop.html */
async function misfitKeys(
  tx: Transaction,
  table: TableName,
  swaps: readonly ColumnSwap[],
): Promise<string[]> {
  const typeOf = (relation: string, number: string): string =>
    `(SELECT CASE coalesce(CASE WHEN ${relation} = to_regclass($1) THEN to_regtype(($3::text[])[array_position($2::text[], a.attname::text)])::oid END, a.atttypid) ` +
    `WHEN 'varchar'::regtype THEN 'text'::regtype ELSE coalesce(CASE WHEN ${relation} = to_regclass($1) THEN to_regtype(($3::text[])[array_position($2::text[], a.attname::text)])::oid END, a.atttypid) END ` +
    `FROM pg_attribute a WHERE a.attrelid = ${relation} AND a.attnum = ${number})`
  const result = await tx.query(
    `SELECT DISTINCT conname, own::regtype AS own, other::regtype AS other FROM (SELECT o.conname, ${typeOf('o.conrelid', 'k.own')} AS own, ${typeOf('o.confrelid', 'k.other')} AS other ` +
      `FROM pg_constraint o, unnest(o.conkey, o.confkey) AS k(own, other) WHERE o.contype = 'f' AND o.conparentid = 0 AND to_regclass($1) IN (o.conrelid, o.confrelid)) AS keys ` +
      `WHERE own <> other AND NOT EXISTS (SELECT FROM pg_amop p JOIN pg_am m ON m.oid = p.amopmethod WHERE m.amname = 'btree' AND p.amopstrategy = 3 AND p.amoplefttype = other AND p.amoprighttype = own) ` +
      `AND NOT EXISTS (SELECT FROM pg_cast c WHERE c.castsource = own AND c.casttarget = other AND c.castcontext = 'i') ORDER BY 1`,
    [quoteTable(table), oldNames(swaps), swaps.map((swap) => swap.type)],
  )
  return result.rows.map(
    (row) => `constraint ${row['conname']}: ${row['own']} would reference ${row['other']}`,
  )
}

/**
 * Over one row after the other that has nothing but the number: what the definition says of a key must be the number itself.
 */
export const keepsNumbers: ColumnOperations['keepsNumbers'] = async (tx, table, column, expression) => {
  await tx.query('SAVEPOINT crossfade_numbers')
  try {
    const result = await tx.query(
      `SELECT bool_and((SELECT (${expression}) FROM jsonb_populate_record(NULL::${quoteTable(table)}, jsonb_build_object($1::text, v)) AS _crossfade_t) = v) AS same FROM unnest(ARRAY[0, 1, -1, 2, 1000, 32767, -32768]) AS v`,
      [column],
    )
    return result.rows[0]?.['same'] === 't'
  } catch (error) {
    if (toCrossfadeError(error, 'the key').kind === 'unavailable') throw error
    return false
  } finally {
    await tx.query('ROLLBACK TO SAVEPOINT crossfade_numbers')
  }
}

export const uncarried: ColumnOperations['uncarried'] = async (tx, table, swaps) => {
  const names = oldNames(swaps)
  const indexes = await indexesOn(tx, table, names)
  const constraints = await constraintsOn(tx, table, swaps)
  const statistics = await statisticsOn(tx, table, names)
  const checks = constraints.filter(({ kind }) => kind === 'check')
  const parts = [
    ...indexes.map(({ name, text }) => ({ form: 'index' as const, text, what: `index ${name}` })),
    ...checks.map(({ name, definition }) => ({
      form: 'check' as const,
      text: definition,
      what: `constraint ${name}`,
    })),
    ...statistics.map(({ name, text }) => ({
      form: 'statistics' as const,
      text,
      what: `statistics ${name}`,
    })),
  ]
  const answers = await overNewColumns(tx, table, swaps, parts)
  return [
    ...(await strangers(tx, table, names)),
    ...indexes.flatMap(({ name, obstacle }) => (obstacle ? [`index ${name}: ${obstacle}`] : [])),
    ...constraints.flatMap(({ name, obstacle }) => (obstacle ? [`constraint ${name}: ${obstacle}`] : [])),
    ...answers.flatMap((answer, i) => ('reason' in answer ? [`${parts[i]?.what}: ${answer.reason}`] : [])),
    ...(await misfitKeys(tx, table, swaps)),
  ]
}

/** An exchange widens them; one of an earlier version did not. */
export const widenSequences: ColumnOperations['widenSequences'] = async (tx, table, column) => {
  const type = await typeOfColumn(tx, table, column)
  for (const { name } of await ownedSequences(tx, table, column)) await countAs(tx, name, type)
}
