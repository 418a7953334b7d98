import type { TableName } from '../../core/link.ts'
import { formatTable } from '../../core/link.ts'
import type { ColumnOperations, ColumnSwap } from '../columns.ts'
import type { DdlStep, Scope } from '../dialect.ts'
import type { Transaction } from '../database.ts'
import { retiredColumn, setDefault } from './columns.ts'
import { concurrentBuildWaitMs } from './ddl.ts'
import { fitIdentifier, quoteIdentifier, quoteTable } from './identifiers.ts'
import { forget, note, read, relationExists } from './journal.ts'
import { ourTable } from './objects.ts'

/** The exchange of two columns' names, and what goes with a name: its default, its sequence, its indexes. */

const retiredName = retiredColumn

const twinName = (index: string): string => fitIdentifier(`_crossfade_new_${index}`)

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

interface Index {
  readonly name: string
  readonly isValid: boolean
  /** What follows ON table, over the columns that it has, and over the replacement instead of the column. */
  readonly on: string
  readonly isUnique: boolean
}

/**
 * Indexes over plain columns of which an old one is among them, with what is needed to build them over another column: an operator class or
 * collation that is its type's default is the new type's to choose. https://www.postgresql.org/docs/18/catalog-pg-index.html
 */
async function indexesOf(
  tx: Transaction,
  table: TableName,
  swaps: readonly Pick<ColumnSwap, 'old' | 'new'>[],
): Promise<Index[]> {
  const part =
    `(quote_ident(coalesce(($3::text[])[array_position($2::text[], a.attname::text)], a.attname)) || ` +
    `CASE WHEN k.n > i.indnkeyatts THEN '' ELSE ` +
    `CASE WHEN i.indcollation[k.n - 1] NOT IN (0, a.attcollation) THEN ' COLLATE ' || i.indcollation[k.n - 1]::regcollation ELSE '' END || ` +
    `CASE WHEN o.opcdefault THEN '' ELSE ' ' || format('%I.%I', ons.nspname, o.opcname) END || ` +
    `CASE WHEN i.indoption[k.n - 1] & 1 = 1 THEN ' DESC' ELSE '' END || ` +
    `CASE WHEN am.amname <> 'btree' THEN '' WHEN i.indoption[k.n - 1] & 2 = 2 THEN ' NULLS FIRST' ELSE ' NULLS LAST' END END)`
  const list = (which: string): string =>
    `string_agg(${part}, ', ' ORDER BY k.n) FILTER (WHERE k.n ${which} i.indnkeyatts)`
  const result = await tx.query(
    `SELECT c.relname AS name, i.indisvalid AS valid, i.indisunique AS is_unique, ` +
      `format('USING %I (%s)', am.amname, l.keys) || coalesce(' INCLUDE (' || l.included || ')', '') || ` +
      `CASE WHEN to_jsonb(i)->>'indnullsnotdistinct' = 'true' THEN ' NULLS NOT DISTINCT' ELSE '' END || ` +
      `coalesce(' WITH (' || array_to_string(c.reloptions, ', ') || ')', '') || coalesce(' TABLESPACE ' || quote_ident(ts.spcname), '') || ` +
      `coalesce(' WHERE ' || pg_get_expr(i.indpred, i.indrelid), '') AS on_what ` +
      `FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am am ON am.oid = c.relam LEFT JOIN pg_tablespace ts ON ts.oid = c.reltablespace, ` +
      `LATERAL (SELECT ${list('<=')} AS keys, ${list('>')} AS included FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS k(attnum, n) ` +
      `JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum ` +
      `LEFT JOIN pg_opclass o ON o.oid = i.indclass[k.n - 1] LEFT JOIN pg_namespace ons ON ons.oid = o.opcnamespace) AS l ` +
      `WHERE i.indrelid = to_regclass($1) AND i.indexprs IS NULL AND EXISTS (SELECT FROM pg_attribute w WHERE w.attrelid = i.indrelid AND w.attname = ANY ($2::text[]) AND w.attnum = ANY (i.indkey::int2[])) ` +
      `ORDER BY c.relname`,
    [quoteTable(table), swaps.map((swap) => swap.old), swaps.map((swap) => swap.new)],
  )
  return result.rows.map((row) => ({
    name: row['name'] ?? '',
    isValid: row['valid'] === 't',
    isUnique: row['is_unique'] === 't',
    on: row['on_what'] ?? '',
  }))
}

export const twinIndexes: ColumnOperations['twinIndexes'] = (table, swaps) => {
  const id = `twin-indexes ${formatTable(table)}`
  const names = swaps.map((swap) => swap.old).join(', ')
  const inSchema = (name: string): string => quoteTable({ schema: table.schema, name })
  const state = async (tx: Transaction, name: string): Promise<'absent' | 'present' | 'broken'> => {
    const row = (
      await tx.query('SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass($1)', [inSchema(name)])
    ).rows[0]
    return row === undefined ? 'absent' : row['indisvalid'] === 't' ? 'present' : 'broken'
  }
  /** Before the exchange of names and after it, the ones that the old column has say what the new one needs. */
  const wanted = (tx: Transaction): Promise<Index[]> => indexesOf(tx, table, swaps)
  const inspect: DdlStep['inspect'] = async (tx) => {
    // After the exchange they have the names of the old ones.
    if (!(await hasColumn(tx, table, swaps[0]?.new ?? ''))) return 'present'
    for (const { name } of await wanted(tx))
      if ((await state(tx, twinName(name))) !== 'present') return 'absent'
    return 'present'
  }
  return {
    id,
    title: `Build the indexes of ${names} of ${formatTable(table)} over the new columns, concurrently`,
    sql: [`CREATE INDEX CONCURRENTLY _crossfade_new_… ON ${quoteTable(table)} … -- as ${names} has them`],
    lock: 'SHARE UPDATE EXCLUSIVE: reads and writes go on',
    inspect,
    async apply(database, scope, { signal }) {
      const options = { lockTimeoutMs: concurrentBuildWaitMs, ...(signal ? { signal } : {}) }
      await database.transaction((tx) => note(tx, scope, id))
      for (const { name, on, isUnique } of await database.transaction(wanted)) {
        const twin = twinName(name)
        const now = await database.transaction((tx) => state(tx, twin))
        if (now === 'present') continue
        if (now === 'broken')
          await database.standalone(`DROP INDEX CONCURRENTLY IF EXISTS ${inSchema(twin)}`, options)
        await database.standalone(
          `CREATE ${isUnique ? 'UNIQUE ' : ''}INDEX CONCURRENTLY ${quoteIdentifier(twin)} ON ${quoteTable(table)} ${on}`,
          options,
        )
      }
    },
    async undo(database, scope, { signal }) {
      const options = { lockTimeoutMs: concurrentBuildWaitMs, ...(signal ? { signal } : {}) }
      for (const { name } of await database.transaction(wanted))
        await database.standalone(`DROP INDEX CONCURRENTLY IF EXISTS ${inSchema(twinName(name))}`, options)
      await database.transaction((tx) => forget(tx, scope, id))
    },
  }
}

async function hasColumn(tx: Transaction, table: TableName, column: string): Promise<boolean> {
  const result = await tx.query(
    'SELECT FROM pg_attribute WHERE attrelid = to_regclass($1) AND attname = $2 AND NOT attisdropped',
    [quoteTable(table), column],
  )
  return result.rowCount > 0
}

const renameColumn = (tx: Transaction, table: TableName, from: string, to: string): Promise<unknown> =>
  tx.query(
    `ALTER TABLE ${quoteTable(table)} RENAME COLUMN ${quoteIdentifier(from)} TO ${quoteIdentifier(to)}`,
  )

const renameIndex = (tx: Transaction, { schema }: TableName, from: string, to: string): Promise<unknown> =>
  tx.query(`ALTER INDEX ${quoteTable({ schema, name: from })} RENAME TO ${quoteIdentifier(to)}`)

/** The journal's word for an exchange: what the old columns had and get back. */
const exchangeWord = (table: TableName): string => `exchanged ${formatTable(table)} `

interface Carried {
  readonly fallback: string | null
  readonly sequences: readonly string[]
}

interface Exchanged {
  readonly indexes: readonly string[]
  /** By the old column's name. */
  readonly carried: Readonly<Record<string, Carried>>
}

/** Defaults and owned sequences by column. https://www.postgresql.org/docs/18/sql-altersequence.html: OWNED BY goes with the column. */
async function carriedBy(tx: Transaction, table: TableName, column: string): Promise<Carried> {
  const [row] = (
    await tx.query(
      `SELECT pg_get_expr(d.adbin, d.adrelid) AS fallback, (SELECT json_agg(format('%I.%I', n.nspname, c.relname)) FROM pg_depend s JOIN pg_class c ON c.oid = s.objid AND c.relkind = 'S' ` +
        `JOIN pg_namespace n ON n.oid = c.relnamespace WHERE s.classid = 'pg_class'::regclass AND s.refclassid = 'pg_class'::regclass AND s.refobjid = a.attrelid AND s.refobjsubid = a.attnum AND s.deptype = 'a') AS sequences ` +
        `FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum WHERE a.attrelid = to_regclass($1) AND a.attname = $2`,
      [quoteTable(table), column],
    )
  ).rows
  return {
    fallback: row?.['fallback'] ?? null,
    sequences: JSON.parse(row?.['sequences'] ?? '[]') as string[],
  }
}

const own = async (
  tx: Transaction,
  sequences: readonly string[],
  table: TableName,
  column: string,
): Promise<void> => {
  for (const sequence of sequences)
    await tx.query(`ALTER SEQUENCE ${sequence} OWNED BY ${quoteTable(table)}.${quoteIdentifier(column)}`)
}

export const exchange: ColumnOperations['exchange'] = async (tx, scope, table, swaps, direction) => {
  const word = exchangeWord(table)
  if (direction === 'to-new') {
    const indexes = (await indexesOf(tx, table, swaps)).map(({ name }) => name)
    const carried: Record<string, Carried> = {}
    for (const { old } of swaps) carried[old] = await carriedBy(tx, table, old)
    await note(tx, scope, word + JSON.stringify({ indexes, carried } satisfies Exchanged))
    for (const swap of swaps) await giveName(tx, table, swap, carried[swap.old])
    for (const name of indexes) {
      await renameIndex(tx, table, name, retiredName(name))
      await renameIndex(tx, table, twinName(name), name)
    }
    return
  }
  const noted = (await read(tx, scope)).find((line) => line.startsWith(word))
  const { indexes, carried } = JSON.parse(noted?.slice(word.length) ?? '{}') as Exchanged
  for (const name of indexes) {
    await renameIndex(tx, table, name, twinName(name))
    await renameIndex(tx, table, retiredName(name), name)
  }
  for (const swap of swaps) await takeNameBack(tx, table, swap, carried[swap.old])
  await forget(tx, scope, noted ?? word)
}

async function giveName(
  tx: Transaction,
  table: TableName,
  swap: ColumnSwap,
  { fallback, sequences }: Carried = { fallback: null, sequences: [] },
): Promise<void> {
  await setDefault(tx, table, swap.old, undefined)
  await renameColumn(tx, table, swap.old, retiredName(swap.old))
  await renameColumn(tx, table, swap.new, swap.old)
  const value = swap.default ?? fallback ?? undefined
  if (value !== undefined) await setDefault(tx, table, swap.old, value)
  await own(tx, sequences, table, swap.old)
}

async function takeNameBack(
  tx: Transaction,
  table: TableName,
  swap: ColumnSwap,
  { fallback, sequences }: Carried = { fallback: null, sequences: [] },
): Promise<void> {
  await setDefault(tx, table, swap.old, undefined)
  await renameColumn(tx, table, swap.old, swap.new)
  await renameColumn(tx, table, retiredName(swap.old), swap.old)
  if (fallback !== null) await setDefault(tx, table, swap.old, fallback)
  await own(tx, sequences, table, swap.old)
}

export const uncarried: ColumnOperations['uncarried'] = async (tx, table, column) => {
  const plain = (await indexesOf(tx, table, [{ old: column, new: column }])).map(({ name }) => name)
  const result = await tx.query(
    `SELECT DISTINCT pg_describe_object(d.classid, d.objid, 0) AS line FROM pg_depend d JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid ` +
      `LEFT JOIN pg_class c ON d.classid = 'pg_class'::regclass AND c.oid = d.objid LEFT JOIN pg_constraint o ON d.classid = 'pg_constraint'::regclass AND o.oid = d.objid ` +
      `LEFT JOIN pg_index i ON i.indexrelid = c.oid LEFT JOIN pg_trigger t ON d.classid = 'pg_trigger'::regclass AND t.oid = d.objid ` +
      `WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = to_regclass($1) AND a.attname = $2 AND o.contype IS DISTINCT FROM 'n' AND coalesce(t.tgname, '') NOT LIKE '~!_crossfade!_%' ESCAPE '!' ` +
      // Its own default and sequence, and plain indexes, are carried; an index's predicate may name it besides.
      `AND NOT (d.classid = 'pg_attrdef'::regclass AND EXISTS (SELECT FROM pg_attrdef f WHERE f.oid = d.objid AND f.adnum = a.attnum)) ` +
      `AND c.relkind IS DISTINCT FROM 'S' AND NOT (c.relkind IS NOT DISTINCT FROM 'i' AND c.relname = ANY ($3::text[]) AND NOT i.indisprimary AND NOT i.indisreplident AND NOT i.indisexclusion ` +
      `AND (i.indpred IS NULL OR pg_get_expr(i.indpred, i.indrelid) !~ ('\\m' || regexp_replace(quote_ident($2), '([^[:alnum:]_])', '\\\\\\1', 'g')))) ORDER BY 1`,
    [quoteTable(table), column, plain],
  )
  return result.rows.map((row) => row['line'] ?? '')
}

export const widenSequences: ColumnOperations['widenSequences'] = async (tx, table, column) => {
  const { sequences } = await carriedBy(tx, table, column)
  const type = await tx.query(
    `SELECT format_type(atttypid, NULL) AS type FROM pg_attribute WHERE attrelid = to_regclass($1) AND attname = $2`,
    [quoteTable(table), column],
  )
  const name = type.rows[0]?.['type'] ?? ''
  if (!['smallint', 'integer', 'bigint'].includes(name)) return
  for (const sequence of sequences) await tx.query(`ALTER SEQUENCE ${sequence} AS ${name}`)
}
