import { formatTable, type TableName } from '../../core/link.ts'
import type { Row, Transaction } from '../database.ts'
import type { Access, CarriedColumns } from '../steps.ts'
import { createTableId, inJournal, transactional } from './ddl.ts'
import { isBusy, isConnectionLoss } from './errors.ts'
import { quoteTable } from './identifiers.ts'
import { isNoted } from './journal.ts'

/**
 * Who may do what with a table, and what else is a property of it that the application relies on without naming it. One list of
 * differences serves both: copying carries it out, the gate before cutover wants it empty.
 */

/** `exceeds`: the new table allows more, by default privileges for one. */
interface Difference {
  readonly kind: 'lacks' | 'exceeds'
  readonly what: string
  readonly sql: string
}

/** Where our role or the columns do not allow it, the table is left as it is, and the gate before cutover says so. */
export const copy: Access['copy'] = (from, to, columns) => {
  // The name of the step of earlier versions, which copied less: what they did is done.
  const id = `copy-grants ${formatTable(to)}`
  return transactional({
    id,
    title: `Give ${formatTable(to)} the access of ${formatTable(from)}`,
    sql: [
      `GRANT … ON ${quoteTable(to)} TO … -- owner, grants, policies and replica identity as ${formatTable(from)} has them`,
    ],
    lock: 'none on your tables',
    inspect: inJournal(id),
    run: async (tx, scope) => {
      // A table that stood before us keeps its own access.
      if (!(await isNoted(tx, scope, createTableId(to)))) return
      // The owner first: whatever is granted after it is granted by the owner.
      for (const look of [ownerDifference, otherDifferences])
        for (const { sql } of await look(tx, from, to, columns)) await tryStatement(tx, sql)
    },
  })
}

export const missing: Access['missing'] = async (tx, from, to, columns) =>
  [...(await ownerDifference(tx, from, to)), ...(await otherDifferences(tx, from, to, columns))]
    .filter(({ kind }) => kind === 'lacks')
    .map(({ what, sql }) => ({ what, mend: `${sql};` }))

export const lost: Access['lost'] = async (tx, from, columns) => {
  const { rows } = await tx.query(lostSql, [quoteTable(from), ...valuesOf(from, from, columns).slice(2)])
  return rows.map((row) => ({
    kind: row['kind'] as 'grant' | 'policy' | 'statistics',
    what: row['what'] ?? '',
    mend: row['mend'] ?? '',
  }))
}

async function tryStatement(tx: Transaction, sql: string): Promise<void> {
  await tx.query('SAVEPOINT crossfade_access')
  try {
    await tx.query(sql)
  } catch (error) {
    if (isBusy(error) || isConnectionLoss(error)) throw error
    await tx.query('ROLLBACK TO SAVEPOINT crossfade_access')
  }
  await tx.query('RELEASE SAVEPOINT crossfade_access')
}

const toDifference = (row: Row): Difference => ({
  kind: row['kind'] === 'exceeds' ? 'exceeds' : 'lacks',
  what: row['what'] ?? '',
  sql: row['sql'] ?? '',
})

/** `o`, the old table, and `n`, the new one, with `n.name` as it is written in SQL. */
const bothTables =
  `o AS (SELECT * FROM pg_class WHERE oid = to_regclass($1)), ` +
  `n AS (SELECT c.*, format('%I.%I', s.nspname, c.relname) AS name FROM pg_class c JOIN pg_namespace s ON s.oid = c.relnamespace WHERE c.oid = to_regclass($2))`

/** `p(o_num, n_num, o_name, n_name)`: the columns that the new table has as they are. */
const columnPairs =
  `p AS (SELECT a.attnum AS o_num, b.attnum AS n_num, a.attname AS o_name, b.attname AS n_name, a.attacl AS o_acl, b.attacl AS n_acl ` +
  `FROM unnest($3::text[], $4::text[]) AS w(o_name, n_name), o, n, pg_attribute a, pg_attribute b ` +
  `WHERE a.attrelid = o.oid AND a.attname = w.o_name AND a.attnum > 0 AND b.attrelid = n.oid AND b.attname = w.n_name AND b.attnum > 0)`

const valuesOf = (from: TableName, to: TableName, columns: CarriedColumns): unknown[] => [
  quoteTable(from),
  quoteTable(to),
  columns.map(([name]) => name),
  columns.map(([, name]) => name),
]

async function ownerDifference(tx: Transaction, from: TableName, to: TableName): Promise<Difference[]> {
  const result = await tx.query(
    `WITH ${bothTables} SELECT format('the owner %I', r.rolname) AS what, format('ALTER TABLE %s OWNER TO %I', n.name, r.rolname) AS sql ` +
      `FROM o, n, pg_roles r WHERE r.oid = o.relowner AND o.relowner <> n.relowner`,
    [quoteTable(from), quoteTable(to)],
  )
  return result.rows.map(toDifference)
}

async function otherDifferences(
  tx: Transaction,
  from: TableName,
  to: TableName,
  columns: CarriedColumns,
): Promise<Difference[]> {
  const values = valuesOf(from, to, columns)
  const differences: Difference[] = []
  for (const sql of [
    grantDifferences,
    policyDifferences,
    securityDifferences,
    identityDifferences,
    statisticsDifferences,
  ])
    differences.push(...(await tx.query(sql, values)).rows.map(toDifference))
  return differences
}

/**
 * On the table, on its columns, and on the sequences that its columns own. What the owner has of its own is left out: it may grant
 * that to itself at any time. https://www.postgresql.org/docs/18/ddl-priv.html
 */
const grantDifferences =
  `WITH ${bothTables}, ${columnPairs}, ` +
  `owned AS (SELECT d.refobjid, d.refobjsubid, c.relacl, c.relowner, format('%I.%I', s.nspname, c.relname) AS name FROM pg_depend d JOIN pg_class c ON c.oid = d.objid AND c.relkind = 'S' ` +
  `JOIN pg_namespace s ON s.oid = c.relnamespace WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')), ` +
  `objects AS (SELECT n.name AS object, '' AS part, o.relacl AS o_acl, o.relowner AS o_owner, n.relacl AS n_acl, n.relowner AS n_owner FROM o, n ` +
  `UNION ALL SELECT n.name, format(' (%I)', p.n_name), p.o_acl, o.relowner, p.n_acl, n.relowner FROM o, n, p ` +
  `UNION ALL SELECT 'SEQUENCE ' || b.name, '', a.relacl, a.relowner, b.relacl, b.relowner FROM o, n, p ` +
  `JOIN owned a ON a.refobjsubid = p.o_num JOIN owned b ON b.refobjsubid = p.n_num WHERE a.refobjid = o.oid AND b.refobjid = n.oid), ` +
  `a AS (SELECT object, part, e.grantee, e.privilege_type AS privilege, bool_or(e.is_grantable) AS option FROM objects, aclexplode(o_acl) e WHERE e.grantee <> o_owner GROUP BY 1, 2, 3, 4), ` +
  `b AS (SELECT object, part, e.grantee, e.privilege_type AS privilege, bool_or(e.is_grantable) AS option FROM objects, aclexplode(n_acl) e WHERE e.grantee <> n_owner GROUP BY 1, 2, 3, 4), ` +
  `d AS (SELECT object, privilege || part AS privilege, CASE WHEN grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END AS grantee, a.option AS o_option, b.option AS n_option ` +
  `FROM a FULL JOIN b USING (object, part, grantee, privilege) WHERE a.option IS DISTINCT FROM b.option) ` +
  `SELECT CASE WHEN o_option IS NULL OR NOT o_option AND n_option THEN 'exceeds' ELSE 'lacks' END AS kind, ` +
  `format('%s on %s for %s%s', privilege, object, grantee, CASE WHEN o_option THEN ' with grant option' END) AS what, ` +
  `CASE WHEN o_option IS NULL THEN format('REVOKE %s ON %s FROM %s', privilege, object, grantee) ` +
  `WHEN NOT o_option AND n_option THEN format('REVOKE GRANT OPTION FOR %s ON %s FROM %s', privilege, object, grantee) ` +
  `ELSE format('GRANT %s ON %s TO %s%s', privilege, object, grantee, CASE WHEN o_option THEN ' WITH GRANT OPTION' END) END AS sql FROM d ORDER BY what`

/**
 * By name, command and roles: a policy of that name on the new table may say the same in the new columns' words. The text of a
 * policy is taken over where every column that it names has kept its name; where it cannot be, the statement is for a person.
 */
const policyDifferences =
  `WITH ${bothTables}, ${columnPairs}, ` +
  `policies AS (SELECT q.*, (SELECT string_agg(CASE WHEN r = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(r)) END, ', ' ORDER BY r) FROM unnest(q.polroles) r) AS roles FROM pg_policy q) ` +
  `SELECT 'lacks' AS kind, format('policy %I', q.polname) AS what, format('CREATE POLICY %I ON %s AS %s FOR %s TO %s%s%s', q.polname, n.name, ` +
  `CASE WHEN q.polpermissive THEN 'PERMISSIVE' ELSE 'RESTRICTIVE' END, CASE q.polcmd WHEN 'r' THEN 'SELECT' WHEN 'a' THEN 'INSERT' WHEN 'w' THEN 'UPDATE' WHEN 'd' THEN 'DELETE' ELSE 'ALL' END, ` +
  `q.roles, ' USING (' || CASE WHEN k.kept THEN pg_get_expr(q.polqual, q.polrelid) WHEN q.polqual IS NOT NULL THEN '…' END || ')', ` +
  `' WITH CHECK (' || CASE WHEN k.kept THEN pg_get_expr(q.polwithcheck, q.polrelid) WHEN q.polwithcheck IS NOT NULL THEN '…' END || ')') AS sql ` +
  `FROM o, n, policies q, LATERAL (SELECT NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_policy'::regclass AND d.objid = q.oid AND d.refclassid = 'pg_class'::regclass ` +
  `AND d.refobjid = o.oid AND d.refobjsubid > 0 AND NOT EXISTS (SELECT FROM p WHERE p.o_num = d.refobjsubid AND p.n_name = p.o_name)) AS kept) k WHERE q.polrelid = o.oid ` +
  `AND NOT EXISTS (SELECT FROM policies t WHERE t.polrelid = n.oid AND (t.polname, t.polpermissive, t.polcmd, t.roles) = (q.polname, q.polpermissive, q.polcmd, q.roles)) ORDER BY q.polname`

/** After the policies: a table that is secured and has none shows nothing. */
const securityDifferences =
  `WITH ${bothTables} SELECT 'lacks' AS kind, v.what, format('ALTER TABLE %s %s ROW LEVEL SECURITY', n.name, v.word) AS sql FROM o, n, ` +
  `LATERAL (VALUES ('row-level security', 'ENABLE', o.relrowsecurity AND NOT n.relrowsecurity), ('forced row-level security', 'FORCE', o.relforcerowsecurity AND NOT n.relforcerowsecurity)) AS v(what, word, lacks) ` +
  `WHERE v.lacks AND $3::text[] IS NOT NULL AND $4::text[] IS NOT NULL`

/** An index of the new table over the same columns; where there is none and the columns are its primary key, the default is the same. */
const identityDifferences =
  `WITH ${bothTables}, ${columnPairs}, ` +
  `wanted AS (SELECT (SELECT array_agg(p.n_num ORDER BY p.n_num) FROM unnest(i.indkey::int2[]) k JOIN p ON p.o_num = k) AS columns, i.indnatts FROM o LEFT JOIN pg_index i ON i.indrelid = o.oid AND i.indisreplident), ` +
  `fitting AS (SELECT i.indisprimary, i.indisreplident, format('%I', c.relname) AS name FROM n, wanted w, pg_index i JOIN pg_class c ON c.oid = i.indexrelid WHERE i.indrelid = n.oid AND i.indisunique AND i.indimmediate ` +
  `AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL AND i.indnatts = w.indnatts AND (SELECT array_agg(k ORDER BY k) FROM unnest(i.indkey::int2[]) k) = w.columns ORDER BY i.indisreplident DESC, i.indisprimary DESC LIMIT 1), ` +
  `d AS (SELECT n.name, o.relreplident AS identity, (SELECT name FROM fitting) AS index FROM o, n WHERE CASE o.relreplident ` +
  `WHEN 'i' THEN NOT coalesce((SELECT indisreplident OR indisprimary AND n.relreplident = 'd' FROM fitting), false) ELSE o.relreplident <> n.relreplident END) ` +
  `SELECT 'lacks' AS kind, format('replica identity %s', word) AS what, format('ALTER TABLE %s REPLICA IDENTITY %s', name, word) AS sql FROM d, ` +
  `LATERAL (SELECT CASE identity WHEN 'f' THEN 'FULL' WHEN 'n' THEN 'NOTHING' WHEN 'd' THEN 'DEFAULT' ELSE 'USING INDEX ' || coalesce(index, '…') END AS word) w`

/** Extended statistics over columns that the new table has, too; expressions are not taken over, as they may mean columns that are gone. */
const statisticsDifferences =
  `WITH ${bothTables}, ${columnPairs}, ` +
  `every AS (SELECT s.*, (SELECT array_agg(k ORDER BY k) FROM unnest(s.stxkeys::int2[]) k) AS keys, (SELECT array_agg(k::text ORDER BY k::text) FROM unnest(s.stxkind) k) AS kinds FROM pg_statistic_ext s WHERE s.stxexprs IS NULL), ` +
  `wanted AS (SELECT e.stxname, e.kinds, (SELECT array_agg(p.n_num ORDER BY p.n_num) FROM unnest(e.keys) k JOIN p ON p.o_num = k) AS keys, (SELECT string_agg(format('%I', p.n_name), ', ' ORDER BY p.n_num) FROM unnest(e.keys) k JOIN p ON p.o_num = k) AS list ` +
  `FROM o, every e WHERE e.stxrelid = o.oid AND NOT EXISTS (SELECT FROM unnest(e.keys) k WHERE k NOT IN (SELECT o_num FROM p))) ` +
  `SELECT 'lacks' AS kind, format('statistics %I', w.stxname) AS what, format('CREATE STATISTICS %I.%I (%s) ON %s FROM %s', (SELECT nspname FROM pg_namespace WHERE oid = n.relnamespace), left(n.relname || '_' || w.stxname, 60), ` +
  `(SELECT string_agg(CASE k WHEN 'd' THEN 'ndistinct' WHEN 'f' THEN 'dependencies' ELSE 'mcv' END, ', ') FROM unnest(w.kinds) k), w.list, n.name) AS sql FROM n, wanted w ` +
  `WHERE NOT EXISTS (SELECT FROM every t WHERE t.stxrelid = n.oid AND t.keys = w.keys AND t.kinds @> w.kinds) ORDER BY w.stxname`

/** What names columns of `$1` that its successor has not, or not under their names: `$2` and `$3` are those that it has. */
const lostSql =
  `WITH o AS (SELECT c.*, format('%I.%I', s.nspname, c.relname) AS name FROM pg_class c JOIN pg_namespace s ON s.oid = c.relnamespace WHERE c.oid = to_regclass($1)), ` +
  `k AS (SELECT * FROM unnest($2::text[], $3::text[]) AS k(o_name, n_name)), ` +
  `named AS (SELECT d.classid, d.objid, a.attname FROM o JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = o.oid JOIN pg_attribute a ON a.attrelid = o.oid AND a.attnum = d.refobjsubid AND a.attnum > 0) ` +
  `SELECT 'policy' AS kind, format('policy %I names %s', q.polname, string_agg(DISTINCT quote_ident(m.attname), ', ')) AS what, format('DROP POLICY %I ON %s;', q.polname, o.name) AS mend ` +
  `FROM o JOIN pg_policy q ON q.polrelid = o.oid JOIN named m ON m.classid = 'pg_policy'::regclass AND m.objid = q.oid WHERE m.attname NOT IN (SELECT o_name FROM k WHERE o_name = n_name) GROUP BY q.polname, o.name ` +
  `UNION ALL SELECT 'grant', format('%s is granted on %I to %s', e.privilege_type, a.attname, r.grantee), format('REVOKE %s (%I) ON %s FROM %s;', e.privilege_type, a.attname, o.name, r.grantee) ` +
  `FROM o JOIN pg_attribute a ON a.attrelid = o.oid AND a.attnum > 0, aclexplode(a.attacl) e, LATERAL (SELECT CASE WHEN e.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(e.grantee)) END AS grantee) r ` +
  `WHERE e.grantee <> o.relowner AND a.attname NOT IN (SELECT o_name FROM k) ` +
  `UNION ALL SELECT 'statistics', format('statistics %I are over %s', s.stxname, string_agg(DISTINCT quote_ident(m.attname), ', ')), format('DROP STATISTICS %I.%I;', t.nspname, s.stxname) ` +
  `FROM o JOIN pg_statistic_ext s ON s.stxrelid = o.oid JOIN pg_namespace t ON t.oid = s.stxnamespace JOIN named m ON m.classid = 'pg_statistic_ext'::regclass AND m.objid = s.oid ` +
  `WHERE s.stxexprs IS NOT NULL OR m.attname NOT IN (SELECT o_name FROM k) GROUP BY s.stxname, t.nspname ORDER BY 1, 2`
