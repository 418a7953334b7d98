import { formatTable, type TableName } from '../../core/link.ts'
import type { Transaction } from '../database.ts'
import type { Dependent, Dependents } from '../dependents.ts'
import type { TargetTableSpec } from '../steps.ts'
import { quoteTable } from './identifiers.ts'

/** A table as far as what depends on another one would see of it. */
interface Shape {
  /** Type and collation, or undefined where they are not known yet. */
  readonly columns: ReadonlyMap<string, string | undefined>
  /** Columns of unique indexes that a foreign key may point at. */
  readonly keys: readonly (readonly string[])[]
}

/** A view may not change its columns when it is replaced, so a column that it names keeps its type to the last detail. */
export const misfits: Dependents['misfits'] = async (tx, dependents, from, to, spec) => {
  const now = await shapeOf(tx, from)
  const then = (await shapeOf(tx, to)) ?? (spec && (await plannedShape(tx, spec)))
  if (now === undefined || then === undefined) return []
  return dependents.flatMap((dependent) =>
    reasons(dependent, now, then, to).map((reason) => ({
      what: `${dependent.name}: ${reason}`,
      mend: dependent.elsewhere,
    })),
  )
}

function reasons({ kind, columns }: Dependent, now: Shape, then: Shape, to: TableName): string[] {
  const mayChange = kind === 'foreign key' || kind === 'publication' || kind === 'trigger'
  const found = columns.flatMap((name) => {
    if (!then.columns.has(name)) return [`${formatTable(to)} has no column ${name}`]
    const [type, typeThen] = [now.columns.get(name), then.columns.get(name)]
    return mayChange || typeThen === undefined || type === typeThen
      ? []
      : [`its column ${name} is ${type} and would become ${typeThen}`]
  })
  const isKey = then.keys.some(
    (key) => key.length === columns.length && columns.every((column) => key.includes(column)),
  )
  return kind === 'foreign key' && found.length === 0 && !isKey
    ? [`${formatTable(to)} has no unique index over (${columns.join(', ')})`]
    : found
}

async function shapeOf(tx: Transaction, table: TableName): Promise<Shape | undefined> {
  const columns = await tx.query(
    `SELECT attname AS name, format_type(atttypid, atttypmod) || CASE WHEN attcollation <> typcollation THEN format(' COLLATE %s', attcollation::regcollation) ELSE '' END AS type ` +
      `FROM pg_attribute a JOIN pg_type t ON t.oid = atttypid WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped`,
    [quoteTable(table)],
  )
  if (columns.rowCount === 0) return undefined
  const keys = await tx.query(
    `SELECT (SELECT json_agg(a.attname) FROM unnest(i.indkey[0:i.indnkeyatts - 1]) k JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k) AS columns FROM pg_index i ` +
      `WHERE i.indrelid = to_regclass($1) AND i.indisunique AND i.indisvalid AND i.indimmediate AND i.indpred IS NULL AND i.indexprs IS NULL`,
    [quoteTable(table)],
  )
  return {
    columns: new Map(columns.rows.map((row) => [row['name'] ?? '', row['type'] ?? ''])),
    keys: keys.rows.map((row) => JSON.parse(row['columns'] ?? '[]') as string[]),
  }
}

/** What follows the type in a column's declaration. */
const afterType =
  /\s+(not\s+null|null|default|generated|check|unique|primary|references|constraint|storage|compression)\b.*$/is
/** Anything else is left to the gate, which has the table itself to look at. */
const plainType = /^([a-z_][a-z0-9_ .]*?)\s*(\([0-9, ]+\))?((?:\[\])*)$/i

const serials: Readonly<Record<string, string>> = {
  serial: 'integer',
  bigserial: 'bigint',
  smallserial: 'smallint',
}

/** Only these are written with their length behind them and nothing else. */
const withLength: ReadonlySet<string> = new Set(['character varying', 'character', 'numeric'])

async function plannedType(tx: Transaction, declaration: string): Promise<string | undefined> {
  const [, name, length = '', array = ''] = plainType.exec(declaration.replace(afterType, '').trim()) ?? []
  if (name === undefined) return undefined
  const { rows } = await tx.query('SELECT format_type(to_regtype($1), NULL) AS name', [
    serials[name.toLowerCase()] ?? name,
  ])
  const type = rows[0]?.['name'] ?? undefined
  if (length === '') return type === 'character' || type === 'bit' ? undefined : type && `${type}${array}`
  if (type === undefined || !withLength.has(type)) return undefined
  const full = type === 'numeric' && !length.includes(',') ? length.replace(')', ',0)') : length
  return `${type}${full.replaceAll(' ', '')}${array}`
}

async function plannedShape(tx: Transaction, spec: TargetTableSpec): Promise<Shape> {
  const columns = new Map<string, string | undefined>()
  for (const [name, declaration] of Object.entries(spec.columns))
    columns.set(name, await plannedType(tx, declaration))
  const unique = spec.indexes.flatMap(({ unique: isUnique, on }) => {
    const [, list] = /^\(([^()]+)\)$/.exec(on.trim()) ?? []
    return isUnique && list !== undefined
      ? [list.split(',').map((column) => column.trim().replace(/^"(.*)"$/, '$1'))]
      : []
  })
  return { columns, keys: [spec.primaryKey, ...unique] }
}
