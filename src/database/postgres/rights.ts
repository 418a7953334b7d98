import { formatTable } from '../../core/link.ts'
import type { Dialect, Privilege } from '../dialect.ts'
import { quoteIdentifier, quoteTable } from './identifiers.ts'

/**
 * What the role of the URL needs, and nothing more: our schema beside the user's, tables and renames in theirs, and for triggers to be
 * in the role that owns the table. https://www.postgresql.org/docs/18/ddl-priv.html, https://www.postgresql.org/docs/18/sql-createtrigger.html
 */
export const privileges: Dialect['catalog']['privileges'] = async (tx, tables, readOnly = []) => {
  const needed: Privilege[] = []
  const need = (grant: string, ok: string | null | undefined, why: string): void =>
    void needed.push({ grant: `${grant} /* ${why} */`, isGranted: ok === 't' })
  const [database] = (
    await tx.query(
      "SELECT current_database() AS name, has_database_privilege(current_database(), 'CREATE') AS ok, current_user AS role",
    )
  ).rows
  const role = quoteIdentifier(database?.['role'] ?? '')
  need(
    `GRANT CREATE ON DATABASE ${quoteIdentifier(database?.['name'] ?? '')} TO ${role}`,
    database?.['ok'],
    'our schema',
  )
  const schemas = await tx.query(
    `SELECT nspname AS name, has_schema_privilege(oid, 'CREATE') AS ok FROM pg_namespace WHERE nspname = ANY ($1::text[]) ORDER BY 1`,
    [tables.map(({ schema }) => schema)],
  )
  for (const { name, ok } of schemas.rows)
    need(`GRANT CREATE ON SCHEMA ${quoteIdentifier(name ?? '')} TO ${role}`, ok, 'new tables and renames')
  const owned = new Set<string>()
  for (const table of tables) {
    const [row] = (
      await tx.query(
        `SELECT pg_get_userbyid(relowner) AS owner, pg_has_role(relowner, 'USAGE') AS ok FROM pg_class WHERE oid = to_regclass($1)`,
        [quoteTable(table)],
      )
    ).rows
    const owner = row?.['owner'] ?? ''
    if (row === undefined || owned.has(owner) || owner === database?.['role']) continue
    owned.add(owner)
    need(
      `GRANT ${quoteIdentifier(owner)} TO ${role}`,
      row['ok'],
      `the owner of ${formatTable(table)}: triggers and renames`,
    )
  }
  for (const table of readOnly) {
    const [row] = (
      await tx.query(`SELECT has_table_privilege(to_regclass($1), 'SELECT') AS ok`, [quoteTable(table)])
    ).rows
    if (row?.['ok'] !== null)
      need(`GRANT SELECT ON ${quoteTable(table)} TO ${role}`, row?.['ok'], 'read beside a source')
  }
  return needed
}
