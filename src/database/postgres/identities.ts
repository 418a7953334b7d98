import type { TableName } from '../../core/link.ts'
import type { Transaction } from '../database.ts'
import { quoteIdentifier, quoteLiteral, quoteTable } from './identifiers.ts'

/** Where a column's numbers come from, and how that goes to another column of the table. The caller holds the table for itself. */

const bounds: Readonly<Record<string, readonly [lowest: bigint, highest: bigint]>> = {
  smallint: [-32768n, 32767n],
  integer: [-2147483648n, 2147483647n],
  bigint: [-9223372036854775808n, 9223372036854775807n],
}

export interface Identity {
  readonly always: boolean
  /** As it is written in SQL. */
  readonly sequence: string
  readonly type: string
  readonly start: string
  readonly increment: string
  readonly lowest: string
  readonly highest: string
  readonly cache: string
  readonly cycles: boolean
  readonly position: { readonly last: string; readonly isCalled: boolean }
  readonly comment: string | null
  readonly grants: readonly { readonly privilege: string; readonly to: string; readonly grantable: boolean }[]
}

export async function identityOf(
  tx: Transaction,
  table: TableName,
  column: string,
): Promise<Identity | undefined> {
  const [row] = (
    await tx.query(
      `SELECT a.attidentity = 'a' AS always, format('%I.%I', n.nspname, c.relname) AS sequence, s.seqtypid::regtype AS type, s.seqstart, s.seqincrement, s.seqmin, s.seqmax, s.seqcache, s.seqcycle, ` +
        `obj_description(c.oid, 'pg_class') AS comment, (SELECT json_agg(json_build_object('privilege', x.privilege_type, 'grantable', x.is_grantable, 'to', CASE WHEN x.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(x.grantee)) END)) ` +
        `FROM aclexplode(c.relacl) x WHERE x.grantee <> c.relowner) AS grants ` +
        `FROM pg_attribute a JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid = a.attrelid AND d.refobjsubid = a.attnum AND d.deptype = 'i' ` +
        `JOIN pg_sequence s ON s.seqrelid = d.objid JOIN pg_class c ON c.oid = s.seqrelid JOIN pg_namespace n ON n.oid = c.relnamespace WHERE a.attrelid = to_regclass($1) AND a.attname = $2 AND a.attidentity <> ''`,
      [quoteTable(table), column],
    )
  ).rows
  if (row === undefined) return undefined
  const [position] = (await tx.query(`SELECT last_value, is_called FROM ${row['sequence']}`)).rows
  return {
    always: row['always'] === 't',
    sequence: row['sequence'] ?? '',
    type: row['type'] ?? '',
    start: row['seqstart'] ?? '1',
    increment: row['seqincrement'] ?? '1',
    lowest: row['seqmin'] ?? '',
    highest: row['seqmax'] ?? '',
    cache: row['seqcache'] ?? '1',
    cycles: row['seqcycle'] === 't',
    position: { last: position?.['last_value'] ?? '1', isCalled: position?.['is_called'] === 't' },
    comment: row['comment'] ?? null,
    grants: JSON.parse(row['grants'] ?? '[]') as Identity['grants'],
  }
}

export const dropIdentity = (tx: Transaction, table: TableName, column: string): Promise<unknown> =>
  tx.query(`ALTER TABLE ${quoteTable(table)} ALTER COLUMN ${quoteIdentifier(column)} DROP IDENTITY`)

/**
 * An identity's sequence belongs to its column for good: the column that takes over gets one of the same name that goes on where the
 * other stood. Bounds that were only those of the type become those of the new type. A position that this type does not reach becomes
 * its last: whoever asks for the next number is refused then, as its column would refuse it.
 * https://www.postgresql.org/docs/18/sql-altertable.html#SQL-ALTERTABLE-DESC-GENERATED-IDENTITY
 */
export async function addIdentity(
  tx: Transaction,
  table: TableName,
  column: string,
  identity: Identity,
): Promise<void> {
  const { sequence, position } = identity
  const [lowestOfType, highestOfType] = bounds[identity.type] ?? [0n, 0n]
  const isRising = BigInt(identity.increment) > 0n
  const hasLowest = BigInt(identity.lowest) !== (isRising ? 1n : lowestOfType)
  const hasHighest = BigInt(identity.highest) !== (isRising ? highestOfType : -1n)
  const options = [
    `SEQUENCE NAME ${sequence}`,
    `START WITH ${identity.start}`,
    `INCREMENT BY ${identity.increment}`,
    hasLowest ? `MINVALUE ${identity.lowest}` : 'NO MINVALUE',
    hasHighest ? `MAXVALUE ${identity.highest}` : 'NO MAXVALUE',
    `CACHE ${identity.cache}`,
    identity.cycles ? 'CYCLE' : 'NO CYCLE',
  ]
  await tx.query(
    `ALTER TABLE ${quoteTable(table)} ALTER COLUMN ${quoteIdentifier(column)} ADD GENERATED ${identity.always ? 'ALWAYS' : 'BY DEFAULT'} AS IDENTITY (${options.join(' ')})`,
  )
  await tx.query(
    `SELECT setval(${quoteLiteral(sequence)}, least(greatest(${position.last}, s.seqmin), s.seqmax), ${position.isCalled}) FROM pg_sequence s WHERE s.seqrelid = ${quoteLiteral(sequence)}::regclass`,
  )
  if (identity.comment !== null)
    await tx.query(`COMMENT ON SEQUENCE ${sequence} IS ${quoteLiteral(identity.comment)}`)
  for (const { privilege, to, grantable } of identity.grants)
    await tx.query(
      `GRANT ${privilege} ON SEQUENCE ${sequence} TO ${to}${grantable ? ' WITH GRANT OPTION' : ''}`,
    )
}

export interface OwnedSequence {
  /** As it is written in SQL. */
  readonly name: string
  readonly type: string
}

/** https://www.postgresql.org/docs/18/sql-altersequence.html: OWNED BY goes with the column. */
export async function ownedSequences(
  tx: Transaction,
  table: TableName,
  column: string,
): Promise<OwnedSequence[]> {
  const result = await tx.query(
    `SELECT format('%I.%I', n.nspname, c.relname) AS name, q.seqtypid::regtype AS type FROM pg_attribute a JOIN pg_depend s ON s.classid = 'pg_class'::regclass AND s.refclassid = 'pg_class'::regclass ` +
      `AND s.refobjid = a.attrelid AND s.refobjsubid = a.attnum AND s.deptype = 'a' JOIN pg_class c ON c.oid = s.objid AND c.relkind = 'S' JOIN pg_sequence q ON q.seqrelid = c.oid ` +
      `JOIN pg_namespace n ON n.oid = c.relnamespace WHERE a.attrelid = to_regclass($1) AND a.attname = $2 ORDER BY 1`,
    [quoteTable(table), column],
  )
  return result.rows.map((row) => ({ name: row['name'] ?? '', type: row['type'] ?? '' }))
}

export async function ownSequence(
  tx: Transaction,
  { name }: OwnedSequence,
  table: TableName,
  column: string,
): Promise<void> {
  await tx.query(`ALTER SEQUENCE ${name} OWNED BY ${quoteTable(table)}.${quoteIdentifier(column)}`)
}

/** Lets a sequence count as far as a type does. One that is further already is left as it is. */
export async function countAs(tx: Transaction, sequence: string, type: string): Promise<void> {
  const reach = bounds[type]
  if (reach === undefined) return
  const [row] = (
    await tx.query(
      `SELECT last_value BETWEEN ${reach[0]} AND ${reach[1]} AS fits, (SELECT seqtypid::regtype::text FROM pg_sequence WHERE seqrelid = ${quoteLiteral(sequence)}::regclass) AS type FROM ${sequence}`,
    )
  ).rows
  if (row?.['fits'] === 't' && row['type'] !== type) await tx.query(`ALTER SEQUENCE ${sequence} AS ${type}`)
}

export async function typeOfColumn(tx: Transaction, table: TableName, column: string): Promise<string> {
  const result = await tx.query(
    `SELECT format_type(atttypid, NULL) AS type FROM pg_attribute WHERE attrelid = to_regclass($1) AND attname = $2`,
    [quoteTable(table), column],
  )
  return result.rows[0]?.['type'] ?? ''
}
