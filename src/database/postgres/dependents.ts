import { formatTable, type TableName } from '../../core/link.ts'
import type { Row, Transaction } from '../database.ts'
import type { Dependent, Dependents } from '../dependents.ts'
import type { Scope } from '../steps.ts'
import { isBusy, isConnectionLoss } from './errors.ts'
import { quoteIdentifier, quoteLiteral, quoteTable } from './identifiers.ts'
import { forget, note, read as readJournal } from './journal.ts'
import { ourTable } from './objects.ts'

/**
 * What knows a table by its oid. The server writes each of them down with the table's name, while it has that name; the same text,
 * run when another table has it, means that table. Views and functions are replaced, not made anew: they keep their oid, their
 * owner, their grants and what depends on them in turn. https://www.postgresql.org/docs/18/catalog-pg-depend.html
 */

/** The table `$1` and every table below it. */
const tree = `tree AS (SELECT to_regclass($1)::oid AS oid UNION SELECT relid::oid FROM pg_partition_tree(to_regclass($1)))`

const qualified = (namespace: string, name: string): string => `format('%I.%I', ${namespace}, ${name})`

const elsewhere =
  'Use cutover.mode "flags", or take it away before the swap and bring it back on the new table after it.'

const takenApart = (away: string, again: string): string =>
  `Use cutover.mode "flags", or take it away before the swap: ${away} After it, bring it back: ${again}`

export const read: Dependents['read'] = async (tx, table, leftAs = table) => {
  const version = Number(
    (await tx.query(`SELECT current_setting('server_version_num') AS n`)).rows[0]?.['n'] ?? 0,
  )
  return [
    ...(await foreignKeys(tx, table, version)),
    ...(await views(tx, table)),
    ...(await functions(tx, table)),
    ...(await policies(tx, table)),
    ...(await publications(tx, table, leftAs, version)),
    ...(await others(tx, table)),
    ...(await ownThings(tx, table)),
    ...(await triggers(tx, table, leftAs)),
  ]
}

const isTrue = (value: string | null | undefined): boolean => value === 't'

const namesIn = (json: string | null | undefined): string[] => JSON.parse(json ?? '[]') as string[]

/** Follows where our role may change it and nothing else is in the way. */
function follower(
  row: Row,
  dependent: Omit<Dependent, 'fate' | 'mend' | 'columns' | 'elsewhere'> & { readonly elsewhere?: string },
  obstacle: string | undefined,
): Dependent {
  const isOurs = isTrue(row['ours'])
  return {
    elsewhere,
    ...dependent,
    columns: namesIn(row['columns']),
    fate: isOurs && obstacle === undefined ? 'follows' : 'stuck',
    mend: obstacle ?? `GRANT ${row['owner']} TO ${row['role']}; (the owner of ${dependent.name})`,
  }
}

const ownership = (owner: string): string =>
  `pg_has_role(${owner}, 'USAGE') AS ours, quote_ident(pg_get_userbyid(${owner})) AS owner, quote_ident(current_user) AS role`

/** The columns of `$1` that an object of the catalogue `class` names. */
const namedColumns = (classId: string, objectId: string): string =>
  `(SELECT json_agg(DISTINCT a.attname ORDER BY a.attname) FROM pg_depend d JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid ` +
  `WHERE d.classid = '${classId}'::regclass AND d.objid = ${objectId} AND d.refclassid = 'pg_class'::regclass AND d.refobjid = to_regclass($1) AND d.refobjsubid > 0) AS columns`

/** Of other tables. The clones that a key has on partitions go with it. */
async function foreignKeys(tx: Transaction, table: TableName, version: number): Promise<Dependent[]> {
  const result = await tx.query(
    `WITH ${tree} SELECT o.conname, n.nspname, c.relname, c.relkind, o.convalidated, pg_get_constraintdef(o.oid) AS definition, o.confrelid = to_regclass($1) AS direct, ` +
      `obj_description(o.oid, 'pg_constraint') AS comment, (SELECT json_agg(a.attname ORDER BY k.n) FROM unnest(o.confkey) WITH ORDINALITY k(attnum, n) ` +
      `JOIN pg_attribute a ON a.attrelid = o.confrelid AND a.attnum = k.attnum) AS columns, ${ownership('c.relowner')} ` +
      `FROM pg_constraint o JOIN pg_class c ON c.oid = o.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace ` +
      `WHERE o.contype = 'f' AND o.conparentid = 0 AND o.confrelid IN (SELECT oid FROM tree) AND o.conrelid NOT IN (SELECT oid FROM tree) ORDER BY 2, 3, 1`,
    [quoteTable(table)],
  )
  return result.rows.map((row) => {
    const child = { schema: row['nspname'] ?? '', name: row['relname'] ?? '' }
    const constraint = quoteIdentifier(row['conname'] ?? '')
    const alter = `ALTER TABLE ${quoteTable(child)}`
    const isProven = isTrue(row['convalidated'])
    const { comment } = row
    return follower(
      row,
      {
        name: `foreign key ${row['conname']} of ${formatTable(child)}`,
        kind: 'foreign key',
        table: child,
        isProven,
        lock: lockOfTable(child),
        move: [
          `${alter} DROP CONSTRAINT ${constraint}`,
          `${alter} ADD CONSTRAINT ${constraint} ${row['definition']}${isProven ? ' NOT VALID' : ''}`,
          ...(comment === null || comment === undefined
            ? []
            : [`COMMENT ON CONSTRAINT ${constraint} ON ${quoteTable(child)} IS ${quoteLiteral(comment)}`]),
        ],
      },
      !isTrue(row['direct'])
        ? elsewhere
        : row['relkind'] === 'p' && version < 180_000
          ? `Before PostgreSQL 18 a key of a partitioned table cannot be added without reading all of it. ${elsewhere}`
          : undefined,
    )
  })
}

/** Views on views follow by themselves: they know the view, which stays the same one. Rules are replaced as views are. */
async function views(tx: Transaction, table: TableName): Promise<Dependent[]> {
  const result = await tx.query(
    `WITH ${tree} SELECT DISTINCT ON (1, 2, 3) n.nspname, c.relname, r.rulename, c.relkind, ${qualified('n.nspname', 'c.relname')} AS name, array_to_string(c.reloptions, ', ') AS options, ` +
      `CASE WHEN r.rulename = '_RETURN' THEN rtrim(pg_get_viewdef(c.oid), ';') ELSE pg_get_ruledef(r.oid) END AS definition, c.oid IN (SELECT oid FROM tree) AS own, ` +
      `d.refobjid = to_regclass($1) AS direct, ${hangingOn('c')} AS more, NOT c.relispopulated AS empty, ${namedColumns('pg_rewrite', 'r.oid')}, ${ownership('c.relowner')} ` +
      `FROM pg_depend d JOIN pg_rewrite r ON r.oid = d.objid JOIN pg_class c ON c.oid = r.ev_class JOIN pg_namespace n ON n.oid = c.relnamespace ` +
      `WHERE d.classid = 'pg_rewrite'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid IN (SELECT oid FROM tree) ORDER BY 1, 2, 3, direct`,
    [quoteTable(table)],
  )
  return result.rows.map((row) => (row['rulename'] === '_RETURN' ? toView(row) : toRule(row)))
}

function toView(row: Row): Dependent {
  const name = row['name'] ?? ''
  const isView = row['relkind'] === 'v'
  const type = isView ? 'VIEW' : 'MATERIALIZED VIEW'
  const body = `${name}${row['options'] ? ` WITH (${row['options']})` : ''} AS ${row['definition']}`
  const again = `CREATE ${type} ${body}${isTrue(row['empty']) ? ' WITH NO DATA' : ''}; ALTER ${type} ${name} OWNER TO ${row['owner']};${row['more'] ? ` ${row['more']}` : ''}`
  const apart = takenApart(`DROP ${type} ${name};`, again)
  return follower(
    row,
    {
      name: `${type.toLowerCase()} ${row['nspname']}.${row['relname']}`,
      kind: isView ? 'view' : 'other',
      elsewhere: apart,
      // Changes nothing but takes the view's lock, and of nothing below it, as LOCK TABLE would.
      lock: lockOfView(row),
      move: [`CREATE OR REPLACE VIEW ${body}`],
    },
    isView && isTrue(row['direct']) ? undefined : apart,
  )
}

/** A rule that is replaced keeps its comment, and whether it is enabled. One of the table itself goes on meaning that one. */
function toRule(row: Row): Dependent {
  const of = { schema: row['nspname'] ?? '', name: row['relname'] ?? '' }
  const definition = row['definition'] ?? ''
  const apart = takenApart(
    `DROP RULE ${quoteIdentifier(row['rulename'] ?? '')} ON ${row['name']};`,
    definition,
  )
  return follower(
    row,
    {
      name: `rule ${row['rulename']} of ${formatTable(of)}`,
      kind: 'rule',
      table: of,
      elsewhere: apart,
      lock: row['relkind'] === 'v' ? lockOfView(row) : lockOfTable(of),
      move: [definition.replace(/^CREATE RULE/, 'CREATE OR REPLACE RULE')],
    },
    isTrue(row['direct']) && !isTrue(row['own']) ? undefined : apart,
  )
}

const lockOfView = (row: Row): string => `ALTER VIEW ${row['name']} OWNER TO ${row['owner']}`

const lockOfTable = (table: TableName): string => `LOCK TABLE ${quoteTable(table)} IN ACCESS EXCLUSIVE MODE`

/** What makes a view that is made anew the same one: grants, comments, defaults of its columns, indexes. */
function hangingOn(relation: string): string {
  const name = qualified('n.nspname', `${relation}.relname`)
  const grants = (acl: string, part: string): string =>
    `SELECT format('GRANT %s%s ON %s TO %s%s;', e.privilege_type, ${part}, ${name}, CASE WHEN e.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(e.grantee)) END, ` +
    `CASE WHEN e.is_grantable THEN ' WITH GRANT OPTION' END) AS line FROM aclexplode(${acl}) e WHERE e.grantee <> ${relation}.relowner`
  const columns = `pg_attribute a WHERE a.attrelid = ${relation}.oid AND a.attnum > 0`
  return `(SELECT string_agg(line, ' ' ORDER BY line) FROM (${[
    grants(`${relation}.relacl`, "''"),
    `SELECT g.line FROM pg_attribute a, LATERAL (${grants('a.attacl', "format(' (%I)', a.attname)")}) g WHERE a.attrelid = ${relation}.oid`,
    `SELECT format('COMMENT ON %s %s IS %L;', CASE ${relation}.relkind WHEN 'v' THEN 'VIEW' ELSE 'MATERIALIZED VIEW' END, ${name}, obj_description(${relation}.oid, 'pg_class')) WHERE obj_description(${relation}.oid, 'pg_class') IS NOT NULL`,
    `SELECT format('COMMENT ON COLUMN %s.%I IS %L;', ${name}, a.attname, col_description(a.attrelid, a.attnum)) FROM ${columns} AND col_description(a.attrelid, a.attnum) IS NOT NULL`,
    `SELECT format('ALTER VIEW %s ALTER COLUMN %I SET DEFAULT %s;', ${name}, a.attname, pg_get_expr(f.adbin, f.adrelid)) FROM pg_attrdef f JOIN pg_attribute a ON a.attrelid = f.adrelid AND a.attnum = f.adnum WHERE f.adrelid = ${relation}.oid`,
    `SELECT pg_get_indexdef(i.indexrelid) || ';' FROM pg_index i WHERE i.indrelid = ${relation}.oid`,
  ].join(' UNION ALL ')}) AS lines)`
}

/** Those of other tables. */
async function policies(tx: Transaction, table: TableName): Promise<Dependent[]> {
  const result = await tx.query(
    `WITH ${tree} SELECT DISTINCT ON (1, 2, 3) n.nspname, c.relname, p.polname, d.refobjid = to_regclass($1) AS direct, pg_get_expr(p.polqual, p.polrelid) AS shows, ` +
      `pg_get_expr(p.polwithcheck, p.polrelid) AS checks, ${namedColumns('pg_policy', 'p.oid')}, ${ownership('c.relowner')} ` +
      `FROM pg_depend d JOIN pg_policy p ON p.oid = d.objid JOIN pg_class c ON c.oid = p.polrelid JOIN pg_namespace n ON n.oid = c.relnamespace ` +
      `WHERE d.classid = 'pg_policy'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid IN (SELECT oid FROM tree) AND p.polrelid NOT IN (SELECT oid FROM tree) ORDER BY 1, 2, 3, direct`,
    [quoteTable(table)],
  )
  return result.rows.map((row) => {
    const of = { schema: row['nspname'] ?? '', name: row['relname'] ?? '' }
    const shows = row['shows'] ? ` USING (${row['shows']})` : ''
    const checks = row['checks'] ? ` WITH CHECK (${row['checks']})` : ''
    return follower(
      row,
      {
        name: `policy ${row['polname']} of ${formatTable(of)}`,
        kind: 'policy',
        table: of,
        lock: lockOfTable(of),
        move: [`ALTER POLICY ${quoteIdentifier(row['polname'] ?? '')} ON ${quoteTable(of)}${shows}${checks}`],
      },
      isTrue(row['direct']) ? undefined : elsewhere,
    )
  })
}

/** Those whose body the server has parsed (BEGIN ATOMIC); the text of others is read when they run. */
async function functions(tx: Transaction, table: TableName): Promise<Dependent[]> {
  const result = await tx.query(
    `WITH ${tree} SELECT DISTINCT ON (name) p.oid::regprocedure::text AS name, pg_get_functiondef(p.oid) AS definition, d.refobjid = to_regclass($1) AS direct, ` +
      `${namedColumns('pg_proc', 'p.oid')}, ${ownership('p.proowner')} FROM pg_depend d JOIN pg_proc p ON p.oid = d.objid ` +
      `WHERE d.classid = 'pg_proc'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid IN (SELECT oid FROM tree) ORDER BY name, direct`,
    [quoteTable(table)],
  )
  return result.rows.map((row) =>
    follower(
      row,
      {
        name: `function ${row['name']}`,
        kind: 'function',
        lock: undefined,
        move: [row['definition'] ?? ''],
      },
      isTrue(row['direct']) ? undefined : elsewhere,
    ),
  )
}

/** Columns and filters came with 15: https://www.postgresql.org/docs/15/sql-createpublication.html */
async function publications(
  tx: Transaction,
  table: TableName,
  leftAs: TableName,
  version: number,
): Promise<Dependent[]> {
  const isNew = version >= 150_000
  const result = await tx.query(
    `SELECT p.pubname, quote_ident(p.pubname) AS name, ${namedColumns('pg_publication_rel', 'r.oid')}, ${ownership('p.pubowner')}, ` +
      (isNew
        ? `(SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum) FROM unnest(r.prattrs) k JOIN pg_attribute a ON a.attrelid = r.prrelid AND a.attnum = k) AS list, pg_get_expr(r.prqual, r.prrelid) AS filter `
        : `NULL AS list, NULL AS filter `) +
      `FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid WHERE r.prrelid = to_regclass($1) ORDER BY 1`,
    [quoteTable(table)],
  )
  const covering = await tx.query(
    `SELECT pubname FROM pg_publication WHERE puballtables ` +
      (isNew
        ? `UNION SELECT p.pubname FROM pg_publication_namespace s JOIN pg_publication p ON p.oid = s.pnpubid JOIN pg_class c ON c.relnamespace = s.pnnspid WHERE c.oid = to_regclass($1) ORDER BY 1`
        : `AND $1::text IS NOT NULL ORDER BY 1`),
    [quoteTable(table)],
  )
  return [
    ...result.rows.map((row) => {
      const list = row['list'] ? ` (${row['list']})` : ''
      const filter = row['filter'] ? ` WHERE (${row['filter']})` : ''
      return follower(
        row,
        {
          name: `publication ${row['pubname']}`,
          kind: 'publication',
          lock: undefined,
          move: [
            `ALTER PUBLICATION ${row['name']} DROP TABLE ${quoteTable(leftAs)}`,
            `ALTER PUBLICATION ${row['name']} ADD TABLE ${quoteTable(table)}${list}${filter}`,
          ],
        },
        undefined,
      )
    }),
    ...covering.rows.map((row) =>
      standing('publication', 'stays', `publication ${row['pubname']}, which covers both tables`),
    ),
  ]
}

const standing = (
  kind: Dependent['kind'],
  fate: Dependent['fate'],
  name: string,
  mend = elsewhere,
): Dependent => ({ kind, fate, name, mend, elsewhere: mend, columns: [], lock: undefined, move: [] })

/**
 * Everything else that the server says depends on the table, or on its row type, and is neither a part of it nor in one of the
 * lists above: whatever it is, it is not passed over.
 */
async function others(tx: Transaction, table: TableName): Promise<Dependent[]> {
  const inTree = (column: string): string => `${column} IN (SELECT oid FROM tree)`
  const isIn = (catalogue: string, condition: string): string =>
    `d.classid = '${catalogue}'::regclass AND EXISTS (SELECT FROM ${catalogue} x WHERE x.oid = d.objid AND (${condition}))`
  const result = await tx.query(
    `WITH ${tree}, wanted AS (SELECT 'pg_class'::regclass AS class, oid FROM tree UNION ALL SELECT 'pg_type'::regclass, t.oid FROM pg_type t WHERE ${inTree('t.typrelid')} ` +
      `UNION ALL SELECT 'pg_type'::regclass, t.typarray FROM pg_type t WHERE ${inTree('t.typrelid')}) ` +
      `SELECT DISTINCT pg_describe_object(d.classid, d.objid, d.objsubid) AS name FROM wanted w JOIN pg_depend d ON d.refclassid = w.class AND d.refobjid = w.oid ` +
      `WHERE d.deptype IN ('n', 'a') AND NOT coalesce(${[
        isIn('pg_class', `${inTree('x.oid')} OR x.relkind IN ('i', 'I', 'S')`),
        isIn('pg_constraint', `${inTree('x.conrelid')} OR x.contype = 'f'`),
        isIn('pg_attrdef', inTree('x.adrelid')),
        isIn('pg_trigger', `${inTree('x.tgrelid')} OR x.tgisinternal`),
        isIn('pg_statistic_ext', inTree('x.stxrelid')),
        `d.classid IN ('pg_publication_rel'::regclass, 'pg_rewrite'::regclass)`,
        `d.classid IN ('pg_proc'::regclass, 'pg_policy'::regclass) AND w.class = 'pg_class'::regclass`,
      ].join(' OR ')}, false) ORDER BY 1`,
    [quoteTable(table)],
  )
  const parents = await tx.query(
    `SELECT i.inhparent::regclass::text AS name, ${qualified('n.nspname', 'c.relname')} AS child FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid JOIN pg_namespace n ON n.oid = c.relnamespace WHERE i.inhrelid = to_regclass($1) AND NOT c.relispartition ORDER BY 1`,
    [quoteTable(table)],
  )
  return [
    ...result.rows.map((row) => standing('other', 'stuck', row['name'] ?? '')),
    ...parents.rows.map((row) =>
      standing(
        'inheritance',
        'stuck',
        `table ${row['name']}, from which it inherits`,
        takenApart(
          `ALTER TABLE ${row['child']} NO INHERIT ${row['name']};`,
          `ALTER TABLE ${row['child']} INHERIT ${row['name']};`,
        ),
      ),
    ),
  ]
}

/** What is a part of the table and stays with it: a table that takes its place needs its own. */
async function ownThings(tx: Transaction, table: TableName): Promise<Dependent[]> {
  const result = await tx.query(
    `SELECT 'setting' AS kind, 'its comment' AS name WHERE obj_description(to_regclass($1), 'pg_class') IS NOT NULL ` +
      `UNION ALL SELECT 'setting', format('the comment of column %s', attname) FROM pg_attribute WHERE attrelid = to_regclass($1) AND attnum > 0 AND col_description(attrelid, attnum) IS NOT NULL ` +
      `UNION ALL SELECT 'setting', format('storage parameter %s', o) FROM pg_class, unnest(reloptions) o WHERE oid = to_regclass($1) ` +
      `UNION ALL SELECT 'foreign key', format('foreign key %s', conname) FROM pg_constraint WHERE conrelid = to_regclass($1) AND contype = 'f' AND conparentid = 0 ORDER BY 1, 2`,
    [quoteTable(table)],
  )
  return result.rows.map((row) =>
    standing(row['kind'] as Dependent['kind'], 'stays', row['name'] ?? '', 'Give the new table its own.'),
  )
}

/** Of the user. They stay, unless the definition takes them along: the body of their functions nobody can read for columns that are gone. */
async function triggers(tx: Transaction, table: TableName, leftAs: TableName): Promise<Dependent[]> {
  const result = await tx.query(
    `SELECT t.tgname, pg_get_triggerdef(t.oid) AS definition, t.tgenabled, obj_description(t.oid, 'pg_trigger') AS comment, ${namedColumns('pg_trigger', 't.oid')} ` +
      `FROM pg_trigger t WHERE t.tgrelid = to_regclass($1) AND NOT t.tgisinternal AND t.tgname NOT LIKE '\\_crossfade\\_%' ORDER BY 1`,
    [quoteTable(table)],
  )
  const states: Readonly<Record<string, string>> = { D: 'DISABLE', A: 'ENABLE ALWAYS', R: 'ENABLE REPLICA' }
  return result.rows.map((row) => {
    const name = quoteIdentifier(row['tgname'] ?? '')
    const state = states[row['tgenabled'] ?? '']
    const { comment } = row
    return {
      ...standing('trigger', 'stays', row['tgname'] ?? ''),
      columns: namesIn(row['columns']),
      move: [
        `DROP TRIGGER ${name} ON ${quoteTable(leftAs)}`,
        row['definition'] ?? '',
        ...(state === undefined ? [] : [`ALTER TABLE ${quoteTable(table)} ${state} TRIGGER ${name}`]),
        ...(comment === null || comment === undefined
          ? []
          : [`COMMENT ON TRIGGER ${name} ON ${quoteTable(table)} IS ${quoteLiteral(comment)}`]),
      ],
    }
  })
}

/** The journal's words: what an exchange of names took along, and the foreign keys that are to be validated. */
const moved = (name: string): string => `moved ${name}`
const toProve = (name: string): string => `prove ${name}`

export const move: Dependents['move'] = async (tx, scope, dependents) => {
  // One message: writers of all these tables wait.
  if (dependents.length > 0) await tx.query(dependents.flatMap((each) => each.move).join(';\n'))
  for (const each of dependents) {
    await note(tx, scope, moved(each.name))
    if (each.isProven) await note(tx, scope, toProve(each.name))
  }
}

export const moveBack: Dependents['moveBack'] = async (tx, scope, dependents) => {
  const steps = new Set(await readJournal(tx, scope))
  for (const each of dependents) {
    if (!steps.has(moved(each.name))) continue
    await tx.query('SAVEPOINT crossfade_move')
    try {
      await tx.query(each.move.join(';\n'))
      if (each.isProven) await note(tx, scope, toProve(each.name))
      await forget(tx, scope, moved(each.name))
    } catch (error) {
      if (isBusy(error) || isConnectionLoss(error)) throw error
      await tx.query('ROLLBACK TO SAVEPOINT crossfade_move')
    }
    await tx.query('RELEASE SAVEPOINT crossfade_move')
  }
}

/** The journal's word for a constraint that holds for every write, and has to be proven for the rows that stand. */
export const proofWord = (kind: 'check' | 'foreign key', name: string, table: TableName): string =>
  toProve(`${kind} ${name} of ${formatTable(table)}`)

export const unproven: Dependents['unproven'] = async (tx, scope) => {
  const result = await tx.query(
    `SELECT j.step, o.conname, n.nspname, c.relname FROM ${ourTable(scope, 'journal')} j JOIN pg_constraint o ON o.contype IN ('f', 'c') AND NOT o.convalidated AND o.conparentid = 0 ` +
      `JOIN pg_class c ON c.oid = o.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace AND j.step = format('prove %s %s of %s.%s', CASE o.contype WHEN 'f' THEN 'foreign key' ELSE 'check' END, o.conname, n.nspname, c.relname) ORDER BY j.at, j.step`,
  )
  return result.rows.map((row) => proof(scope, row))
}

function proof(scope: Scope, row: Row): Awaited<ReturnType<Dependents['unproven']>>[number] {
  const child = { schema: row['nspname'] ?? '', name: row['relname'] ?? '' }
  const id = row['step'] ?? ''
  const sql = `ALTER TABLE ${quoteTable(child)} VALIDATE CONSTRAINT ${quoteIdentifier(row['conname'] ?? '')}`
  return {
    id,
    title: `Validate ${id.startsWith('prove check') ? 'constraint' : 'foreign key'} ${row['conname']} of ${formatTable(child)}`,
    sql: [sql],
    lock: 'SHARE UPDATE EXCLUSIVE: reads and writes go on',
    inspect: async (tx) => ((await readJournal(tx, scope)).includes(id) ? 'absent' : 'present'),
    apply: (database, _, { lockTimeoutMs }) =>
      database.transaction(
        async (tx) => {
          await tx.query(sql)
          await forget(tx, scope, id)
        },
        { lockTimeoutMs },
      ),
  }
}
