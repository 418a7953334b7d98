import type { TableName } from '../../core/link.ts'
import type { ColumnSwap } from '../columns.ts'
import type { Row, Transaction } from '../database.ts'
import { toCrossfadeError } from './errors.ts'
import { fitIdentifier, quoteIdentifier, quoteTable } from './identifiers.ts'

/**
 * What stands on columns that give their names away, and the same over the columns that take them. Text with expressions is never
 * edited: the server reads it over a bare copy of the table in which the new column has the old name, and writes it down again after
 * the copy's columns are renamed. So quoting, defaults of the new type and what that type cannot do are the server's own answer.
 */

type Swap = Pick<ColumnSwap, 'old' | 'new' | 'type'>

/** Built over the new columns before the exchange, and named as the old one in it. */
export const twinName = (name: string): string => fitIdentifier(`_crossfade_new_${name}`)

/** A second unique index of a primary key's old columns: the key goes with its index, and this one is there for the way back. */
export const spareName = (name: string): string => fitIdentifier(`_crossfade_back_${name}`)

export interface ColumnIndex {
  readonly name: string
  readonly isUnique: boolean
  readonly isClustered: boolean
  readonly constraint: 'p' | 'u' | 'x' | undefined
  /** What follows the table's name in CREATE INDEX. */
  readonly text: string
  readonly deferral: string
  readonly comment: string | undefined
  readonly constraintComment: string | undefined
  /** Why it cannot be carried. */
  readonly obstacle: string | undefined
}

export interface ColumnConstraint {
  readonly name: string
  readonly kind: 'check' | 'foreign key'
  /** Where it stands; a foreign key of another table stands there. */
  readonly table: TableName
  /** The other table of a foreign key. */
  readonly other: TableName | undefined
  readonly definition: string
  /** Over the new columns; of a CHECK only the server can say it. */
  readonly twin: string | undefined
  readonly isProven: boolean
  readonly isEnforced: boolean
  readonly comment: string | undefined
  readonly obstacle: string | undefined
}

export interface ColumnStatistics {
  readonly schema: string
  readonly name: string
  /** `(ndistinct)`, or nothing where it has all kinds or only one expression. */
  readonly kinds: string
  /** What follows ON. */
  readonly text: string
  readonly target: string | undefined
  readonly comment: string | undefined
}

const isTrue = (value: string | null | undefined): boolean => value === 't'

/** The columns `$2` of the table `$1`, by number. */
const columns = `cols AS (SELECT array_agg(attnum) AS nums FROM pg_attribute WHERE attrelid = to_regclass($1) AND attname = ANY ($2::text[]) AND NOT attisdropped)`

/** What follows the table's name: a prefix of a known form is cut off, not looked for. The server leaves the tablespace out. */
const indexText = (index: string): string =>
  `(SELECT CASE WHEN w.place IS NULL THEN w.text WHEN w.clause IS NULL THEN w.text || w.place WHEN right(w.text, length(w.clause)) = w.clause THEN left(w.text, -length(w.clause)) || w.place || w.clause ELSE w.text END ` +
  `FROM (SELECT substr(pg_get_indexdef(ic.oid), length(format('CREATE %sINDEX %I ON %I.%I ', CASE WHEN ii.indisunique THEN 'UNIQUE ' ELSE '' END, ic.relname, ` +
  `CASE WHEN tn.oid = pg_my_temp_schema() AND current_setting('server_version_num')::int >= 150000 THEN 'pg_temp' ELSE tn.nspname END, tc.relname)) + 1) AS text, ` +
  `' WHERE ' || pg_get_expr(ii.indpred, ii.indrelid) AS clause, ' TABLESPACE ' || quote_ident(ts.spcname) AS place ` +
  `FROM pg_index ii JOIN pg_class ic ON ic.oid = ii.indexrelid JOIN pg_class tc ON tc.oid = ii.indrelid JOIN pg_namespace tn ON tn.oid = tc.relnamespace ` +
  `LEFT JOIN pg_tablespace ts ON ts.oid = ic.reltablespace WHERE ic.oid = ${index}) AS w)`

/** https://www.postgresql.org/docs/18/catalog-pg-index.html; an index that backs a constraint depends on its columns through that. */
export async function indexesOn(
  tx: Transaction,
  table: TableName,
  names: readonly string[],
): Promise<ColumnIndex[]> {
  const result = await tx.query(
    `WITH ${columns} SELECT c.relname AS name, i.indisunique, i.indisclustered, i.indisreplident, o.contype, ${indexText('i.indexrelid')} AS text, ` +
      `concat_ws(' ', CASE WHEN o.condeferrable THEN 'DEFERRABLE' END, CASE WHEN o.condeferred THEN 'INITIALLY DEFERRED' END) AS deferral, to_jsonb(o)->>'conperiod' AS period, ` +
      `obj_description(c.oid, 'pg_class') AS comment, obj_description(o.oid, 'pg_constraint') AS constraint_comment ` +
      `FROM cols, pg_index i JOIN pg_class c ON c.oid = i.indexrelid ` +
      `LEFT JOIN pg_constraint o ON o.conindid = i.indexrelid AND o.conrelid = i.indrelid AND o.contype IN ('p', 'u', 'x') ` +
      `WHERE i.indrelid = to_regclass($1) AND c.relname NOT LIKE '\\_crossfade\\_back\\_%' AND EXISTS (SELECT FROM pg_depend d WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = i.indrelid ` +
      `AND d.refobjsubid = ANY (cols.nums) AND ((d.classid = 'pg_class'::regclass AND d.objid = i.indexrelid) OR (d.classid = 'pg_constraint'::regclass AND d.objid = o.oid))) ORDER BY c.relname`,
    [quoteTable(table), names],
  )
  return result.rows.map((row) => ({
    name: row['name'] ?? '',
    isUnique: isTrue(row['indisunique']),
    isClustered: isTrue(row['indisclustered']),
    constraint: (row['contype'] ?? undefined) as ColumnIndex['constraint'],
    text: row['text'] ?? '',
    deferral: row['deferral'] ?? '',
    comment: row['comment'] ?? undefined,
    constraintComment: row['constraint_comment'] ?? undefined,
    obstacle: indexObstacle(row),
  }))
}

function indexObstacle(row: Row): string | undefined {
  if (row['contype'] === 'x') return 'an exclusion constraint cannot be given an index that is there already'
  if (row['period'] === 'true') return 'it is WITHOUT OVERLAPS'
  if (isTrue(row['indisreplident'])) return 'it is the replica identity'
  if (row['contype'] === 'p' && row['deferral'] !== '')
    return 'a primary key that is deferrable cannot be prepared: its index would refuse what may wait until COMMIT'
  return undefined
}

/** Columns of a key in its order; those of `$1` among them under their new names. */
const keyList = (numbers: string, relation: string): string =>
  `(SELECT string_agg(quote_ident(CASE WHEN ${relation} = to_regclass($1) THEN coalesce(($3::text[])[array_position($2::text[], a.attname::text)], a.attname) ELSE a.attname END), ', ' ORDER BY k.n) ` +
  `FROM unnest(${numbers}) WITH ORDINALITY AS k(attnum, n) JOIN pg_attribute a ON a.attrelid = ${relation} AND a.attnum = k.attnum)`

const onChange = (event: string, code: string, columnList = `''`): string =>
  `CASE ${code} WHEN 'r' THEN ' ON ${event} RESTRICT' WHEN 'c' THEN ' ON ${event} CASCADE' WHEN 'n' THEN ' ON ${event} SET NULL' || ${columnList} WHEN 'd' THEN ' ON ${event} SET DEFAULT' || ${columnList} ELSE '' END`

/** PostgreSQL 14 has no such column. */
const setColumns = `(SELECT array_agg(v::int2) FROM jsonb_array_elements_text(coalesce(nullif(to_jsonb(o)->'confdelsetcols', 'null'), '[]')) AS v)`

/** https://www.postgresql.org/docs/18/catalog-pg-constraint.html: a foreign key has no expressions, so it is put together again. */
const foreignKeyText =
  `'FOREIGN KEY (' || ${keyList('o.conkey', 'o.conrelid')} || ') REFERENCES ' || format('%I.%I', rn.nspname, r.relname) || ' (' || ${keyList('o.confkey', 'o.confrelid')} || ')' || ` +
  `CASE o.confmatchtype WHEN 'f' THEN ' MATCH FULL' ELSE '' END || ${onChange('UPDATE', 'o.confupdtype')} || ` +
  `${onChange('DELETE', 'o.confdeltype', `coalesce(' (' || ${keyList(setColumns, 'o.conrelid')} || ')', '')`)} || ` +
  `CASE WHEN o.condeferrable THEN ' DEFERRABLE' ELSE '' END || CASE WHEN o.condeferred THEN ' INITIALLY DEFERRED' ELSE '' END || CASE WHEN to_jsonb(o)->>'conenforced' = 'false' THEN ' NOT ENFORCED' ELSE '' END`

/** CHECKs, foreign keys of the columns, and foreign keys of any table that name the columns. */
export async function constraintsOn(
  tx: Transaction,
  table: TableName,
  swaps: readonly Pick<Swap, 'old' | 'new'>[],
): Promise<ColumnConstraint[]> {
  const result = await tx.query(
    `WITH ${columns} SELECT o.conname, o.contype, n.nspname, c.relname, c.relkind, rn.nspname AS other_schema, r.relname AS other_name, o.convalidated, ` +
      `to_jsonb(o)->>'conenforced' AS enforced, to_jsonb(o)->>'conperiod' AS period, obj_description(o.oid, 'pg_constraint') AS comment, ` +
      `CASE WHEN pg_get_constraintdef(o.oid) LIKE '% NOT VALID' THEN left(pg_get_constraintdef(o.oid), -10) ELSE pg_get_constraintdef(o.oid) END AS definition, ` +
      `CASE o.contype WHEN 'f' THEN ${foreignKeyText} END AS twin, ` +
      `pg_has_role(c.relowner, 'USAGE') AND coalesce(pg_has_role(r.relowner, 'USAGE'), true) AS ours ` +
      `FROM cols, pg_constraint o JOIN pg_class c ON c.oid = o.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace ` +
      `LEFT JOIN pg_class r ON r.oid = o.confrelid LEFT JOIN pg_namespace rn ON rn.oid = r.relnamespace ` +
      `WHERE o.contype IN ('c', 'f') AND o.conparentid = 0 AND o.conname NOT LIKE '\\_crossfade\\_%' AND ((o.conrelid = to_regclass($1) AND o.conkey && cols.nums) OR (o.confrelid = to_regclass($1) AND o.confkey && cols.nums)) ` +
      `ORDER BY 3, 4, 1`,
    [quoteTable(table), swaps.map((swap) => swap.old), swaps.map((swap) => swap.new)],
  )
  return result.rows.map((row) => {
    const stands = { schema: row['nspname'] ?? '', name: row['relname'] ?? '' }
    const referenced = { schema: row['other_schema'] ?? '', name: row['other_name'] ?? '' }
    const isKey = row['contype'] === 'f'
    return {
      name: row['conname'] ?? '',
      kind: isKey ? 'foreign key' : 'check',
      table: stands,
      other: !isKey ? undefined : quoteTable(stands) === quoteTable(table) ? referenced : stands,
      definition: row['definition'] ?? '',
      twin: row['twin'] ?? undefined,
      isProven: isTrue(row['convalidated']),
      isEnforced: row['enforced'] !== 'false',
      comment: row['comment'] ?? undefined,
      obstacle:
        row['period'] === 'true'
          ? 'it is a key over a PERIOD'
          : row['relkind'] === 'p'
            ? 'a foreign key of a partitioned table cannot be added without reading all of it'
            : isTrue(row['ours'])
              ? undefined
              : 'its tables are not all owned by our role',
    }
  })
}

const statisticsKinds = `(SELECT CASE WHEN bool_or(k IN ('d', 'f', 'm')) THEN '(' || string_agg(CASE k WHEN 'd' THEN 'ndistinct' WHEN 'f' THEN 'dependencies' WHEN 'm' THEN 'mcv' END, ', ') || ')' ELSE '' END FROM unnest(s.stxkind) AS k)`

export async function statisticsOn(
  tx: Transaction,
  table: TableName,
  names: readonly string[],
): Promise<ColumnStatistics[]> {
  const result = await tx.query(
    `WITH ${columns} SELECT n.nspname, s.stxname, ${statisticsKinds} AS kinds, pg_get_statisticsobjdef_columns(s.oid) AS text, nullif(s.stxstattarget, -1) AS target, obj_description(s.oid, 'pg_statistic_ext') AS comment ` +
      `FROM cols, pg_statistic_ext s JOIN pg_namespace n ON n.oid = s.stxnamespace WHERE s.stxrelid = to_regclass($1) AND EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_statistic_ext'::regclass AND d.objid = s.oid ` +
      `AND d.refclassid = 'pg_class'::regclass AND d.refobjid = s.stxrelid AND d.refobjsubid = ANY (cols.nums)) ORDER BY 1, 2`,
    [quoteTable(table), names],
  )
  return result.rows.map((row) => ({
    schema: row['nspname'] ?? '',
    name: row['stxname'] ?? '',
    kinds: row['kinds'] ?? '',
    text: row['text'] ?? '',
    target: row['target'] ?? undefined,
    comment: row['comment'] ?? undefined,
  }))
}

/** What a text is made of, and how it is read back from the copy. */
interface Form {
  create(name: string, text: string): string
  readonly read: string
}

const copy = 'pg_temp._crossfade_copy'

const forms = {
  index: {
    create: (name, text) => `CREATE INDEX ${name} ON ${copy} ${text}`,
    read: indexText(`to_regclass('pg_temp.' || $1)`),
  },
  check: {
    create: (name, text) => `ALTER TABLE ${copy} ADD CONSTRAINT ${name} ${text}`,
    read: `(SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = to_regclass('${copy}') AND conname = $1)`,
  },
  statistics: {
    create: (name, text) => `CREATE STATISTICS pg_temp.${name} ON ${text} FROM ${copy}`,
    read: `(SELECT pg_get_statisticsobjdef_columns(oid) FROM pg_statistic_ext WHERE stxrelid = to_regclass('${copy}') AND stxname = $1)`,
  },
} satisfies Record<string, Form>

export interface Written {
  readonly form: keyof typeof forms
  readonly text: string
}

/** The texts over the new columns, or why the server does not take one. Nothing of it is left; columns that do not stand yet are added. */
export async function overNewColumns(
  tx: Transaction,
  table: TableName,
  swaps: readonly Swap[],
  written: readonly Written[],
): Promise<({ readonly text: string } | { readonly reason: string })[]> {
  if (written.length === 0) return []
  const rename = (from: string, to: string): Promise<unknown> =>
    tx.query(`ALTER TABLE ${copy} RENAME COLUMN ${quoteIdentifier(from)} TO ${quoteIdentifier(to)}`)
  await tx.query('SAVEPOINT crossfade_copy')
  try {
    await tx.query(`CREATE TEMPORARY TABLE _crossfade_copy (LIKE ${quoteTable(table)})`)
    for (const { new: name, type } of swaps)
      await tx.query(`ALTER TABLE ${copy} ADD COLUMN IF NOT EXISTS ${quoteIdentifier(name)} ${type}`)
    for (const [i, swap] of swaps.entries()) {
      await rename(swap.old, `_crossfade_${i}`)
      await rename(swap.new, swap.old)
    }
    const reasons: (string | undefined)[] = []
    for (const [i, { form, text }] of written.entries())
      reasons.push(await reasonAgainst(tx, forms[form].create(`_crossfade_w${i}`, text)))
    for (const [i, swap] of swaps.entries()) {
      await rename(swap.old, swap.new)
      await rename(`_crossfade_${i}`, swap.old)
    }
    const texts: ({ text: string } | { reason: string })[] = []
    for (const [i, { form }] of written.entries()) {
      const reason = reasons[i]
      const text = async (): Promise<string> =>
        (await tx.query(`SELECT ${forms[form].read} AS text`, [`_crossfade_w${i}`])).rows[0]?.['text'] ?? ''
      texts.push(reason === undefined ? { text: await text() } : { reason })
    }
    return texts
  } finally {
    await tx.query('ROLLBACK TO SAVEPOINT crossfade_copy')
  }
}

async function reasonAgainst(tx: Transaction, sql: string): Promise<string | undefined> {
  await tx.query('SAVEPOINT crossfade_object')
  try {
    await tx.query(sql)
    return undefined
  } catch (error) {
    await tx.query('ROLLBACK TO SAVEPOINT crossfade_object')
    const failed = toCrossfadeError(error, 'over the new column')
    if (failed.kind === 'unavailable') throw error
    return failed.message
  }
}
