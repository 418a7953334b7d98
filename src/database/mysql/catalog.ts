import { formatTable, type TableName } from '../../core/link.ts'
import type { Row, Transaction } from '../database.ts'
import type { Blocker, Examination, Privilege } from '../examination.ts'
import { isBusy, isMysqlError } from './errors.ts'
import { quoteIdentifier, quoteTable } from './identifiers.ts'
import { isMariaDb, parseVersion } from './version.ts'

type Catalog = Examination['catalog']

export const version: Catalog['version'] = async (tx) => {
  const [row] = (await tx.query('SELECT VERSION() AS version, @@version_comment AS comment')).rows
  return parseVersion(row?.['version'] ?? '', row?.['comment'] ?? '')
}

/** What a statement gives, or undefined where our account may not run it or the server does not know what it names. */
async function attempt(
  tx: Transaction,
  sql: string,
  values?: readonly unknown[],
): Promise<Row[] | undefined> {
  await tx.query('SAVEPOINT crossfade_attempt')
  try {
    return (await tx.query(sql, values)).rows
  } catch (error) {
    if (!isMysqlError(error) || error.sqlState === undefined || isBusy(error)) throw error
    await tx.query('ROLLBACK TO SAVEPOINT crossfade_attempt')
    return undefined
  }
}

/**
 * Tables as the server calls them. What a definition names without a schema is in `public`: here that is the database of the URL. Where
 * the server folds names, it knows them in lower case. https://dev.mysql.com/doc/refman/9.7/en/identifier-case-sensitivity.html
 */
async function placesOf(tx: Transaction, tables: readonly TableName[]): Promise<TableName[]> {
  const [row] = (await tx.query('SELECT DATABASE() AS place, @@lower_case_table_names AS folding')).rows
  const fold = (name: string): string => (row?.['folding'] === '0' ? name : name.toLowerCase())
  return tables.map(({ schema, name }) => ({
    schema: schema === 'public' ? (row?.['place'] ?? schema) : fold(schema),
    name: fold(name),
  }))
}

/** A condition over two columns that these tables satisfy. */
const isOneOf = (schema: string, name: string, tables: readonly TableName[]): [string, string[]] => [
  `(${schema}, ${name}) IN (${tables.map(() => '(?, ?)').join(', ')})`,
  tables.flatMap((table) => [table.schema, table.name]),
]

/** Our account as it is written in a GRANT. */
async function account(tx: Transaction): Promise<string> {
  const [row] = (await tx.query('SELECT CURRENT_USER() AS account')).rows
  const [, user = '', host = '%'] = /^(.*)@(.*)$/.exec(row?.['account'] ?? '') ?? []
  return `${user === '' ? "''" : quoteIdentifier(user)}@${quoteIdentifier(host)}`
}

const hasMariaDb = async (tx: Transaction): Promise<boolean> =>
  isMariaDb((await tx.query('SELECT VERSION() AS version')).rows[0]?.['version'] ?? '')

const replicaStatus = async (tx: Transaction): Promise<Row[] | undefined> =>
  attempt(tx, (await hasMariaDb(tx)) ? 'SHOW ALL SLAVES STATUS' : 'SHOW REPLICA STATUS')

/** What an account needs to see all that is looked at here; each is tried, because roles may give it too. */
export const privileges: Catalog['privileges'] = async (tx, tables, readOnly = []) => {
  const to = await account(tx)
  const needed: Privilege[] = []
  const need = (what: string, why: string, isGranted: boolean): void =>
    void needed.push({ grant: `GRANT ${what} TO ${to} /* ${why} */`, isGranted })
  need(
    'PROCESS ON *.*',
    'transactions of others',
    (await attempt(tx, 'SELECT 1 FROM information_schema.innodb_trx LIMIT 1')) !== undefined,
  )
  need(
    `${(await hasMariaDb(tx)) ? 'REPLICA MONITOR' : 'REPLICATION CLIENT'} ON *.*`,
    'the state of replication',
    (await replicaStatus(tx)) !== undefined,
  )
  for (const place of await placesOf(tx, [...tables, ...readOnly])) {
    const [exists] = (
      await tx.query(
        'SELECT 1 AS one FROM information_schema.tables WHERE table_schema = ? AND table_name = ?',
        [place.schema, place.name],
      )
    ).rows
    const canRead = (await attempt(tx, `SELECT 1 FROM ${quoteTable(place)} LIMIT 0`)) !== undefined
    // A table of which our account may see nothing cannot be told from one that is not there.
    if (exists && !canRead) need(`SELECT ON ${quoteTable(place)}`, 'a table of a migration', false)
    else if (canRead) need(`SELECT ON ${quoteTable(place)}`, 'a table of a migration', true)
  }
  return needed
}

/** InnoDB tells when a transaction began in the server's own time zone, whatever the session's is (test/integration/mysql). */
const ageSec = `TIMESTAMPDIFF(MICROSECOND, t.trx_started, CONVERT_TZ(UTC_TIMESTAMP(6), '+00:00', 'SYSTEM')) / 1000000`

/** A session that has a transaction, with its names and ages: `p` its process, `t` its transaction. */
const sessionColumns =
  `p.id AS pid, p.user, coalesce((SELECT max(a.attr_value) FROM performance_schema.session_connect_attrs a WHERE a.processlist_id = p.id AND a.attr_name = 'program_name'), '') AS application, ` +
  `CASE WHEN p.command = 'Sleep' THEN 'idle in transaction' ELSE coalesce(nullif(p.state, ''), p.command) END AS state, p.time AS query_age, ${ageSec} AS transaction_age`

const toSession = (row: Row): Blocker => ({
  pid: Number(row['pid']),
  user: row['user'] ?? '',
  application: row['application'] ?? '',
  queryAgeSec: Number(row['query_age']),
  transactionAgeSec: Number(row['transaction_age']),
  state: row['state'] ?? '',
})

/** Of the whole server: a transaction holds back purge for every database, and locks tables of any. */
export const longTransactions: Catalog['longTransactions'] = async (tx, olderThanSec) => {
  const sessions = await attempt(
    tx,
    `SELECT ${sessionColumns} FROM information_schema.innodb_trx t JOIN information_schema.processlist p ON p.id = t.trx_mysql_thread_id ` +
      `WHERE p.id <> CONNECTION_ID() AND ${ageSec} > ? ORDER BY t.trx_started`,
    [olderThanSec],
  )
  const prepared = await detachedTransactions(tx, olderThanSec)
  return {
    sessions: (sessions ?? []).map((row) => ({ ...toSession(row), end: `KILL ${row['pid']};` })),
    prepared: prepared ?? [],
    harm: 'DDL on every table that they have read, with all statements that come after it, and the purge of old rows',
    unseen: [
      ...(sessions === undefined
        ? [`transactions of others cannot be seen (GRANT PROCESS ON *.* TO ${await account(tx)})`]
        : []),
      ...(prepared === undefined ? ['prepared transactions cannot be seen (GRANT XA_RECOVER_ADMIN)'] : []),
      ...(await blindness(tx)),
    ],
  }
}

/** XA transactions that no session has any more. The server lists them without their ages: that of the oldest stands for all. */
async function detachedTransactions(
  tx: Transaction,
  olderThanSec: number,
): Promise<{ name: string; user: string; transactionAgeSec: number; end: string }[] | undefined> {
  const ages = await attempt(
    tx,
    `SELECT max(${ageSec}) AS age FROM information_schema.innodb_trx t WHERE t.trx_mysql_thread_id = 0`,
  )
  const age = Number(ages?.[0]?.['age'] ?? 0)
  if (age <= olderThanSec) return []
  const branches = await attempt(tx, `XA RECOVER FORMAT='SQL'`)
  const listed = branches ?? (await attempt(tx, 'XA RECOVER CONVERT XID'))
  return listed?.map((row) => {
    const name = row['data'] ?? ''
    return { name, user: '', transactionAgeSec: age, end: `XA ROLLBACK ${xid(row)};` }
  })
}

/** MariaDB gives an xid as SQL, MySQL as its bytes. */
function xid(row: Row): string {
  const data = row['data'] ?? ''
  if (!/^0x[0-9a-f]*$/i.test(data)) return data
  const cut = 2 + 2 * Number(row['gtrid_length'])
  return `X'${data.slice(2, cut)}', X'${data.slice(cut)}', ${row['formatID']}`
}

const metadataInstrument = 'wait/lock/metadata/sql/mdl'

/** What keeps us from seeing who has locked a table, with what would show it. */
async function blindness(tx: Transaction): Promise<string[]> {
  const which = 'which of them have locked the tables cannot be seen'
  const [row] = (await tx.query('SELECT @@performance_schema AS observed')).rows
  if (row?.['observed'] !== '1')
    return [`${which}: performance_schema is off (performance_schema = ON in the server’s configuration)`]
  const instrument = await attempt(
    tx,
    'SELECT enabled FROM performance_schema.setup_instruments WHERE name = ?',
    [metadataInstrument],
  )
  if (instrument?.[0] === undefined)
    return [`${which} (GRANT SELECT ON performance_schema.* TO ${await account(tx)})`]
  if (Object.values(instrument[0])[0] === 'YES') return []
  return [
    `${which} (UPDATE performance_schema.setup_instruments SET enabled = 'YES' WHERE name = '${metadataInstrument}')`,
  ]
}

/** Who holds a metadata lock on these tables now, as far as the server shows it: see `unseen` of {@link longTransactions}. */
export const blockers: Catalog['blockers'] = async (tx, tables) => {
  if (tables.length === 0) return []
  const [which, values] = isOneOf('m.object_schema', 'm.object_name', await placesOf(tx, tables))
  const holders =
    `SELECT h.processlist_id AS id FROM performance_schema.metadata_locks m JOIN performance_schema.threads h ON h.thread_id = m.owner_thread_id ` +
    `WHERE m.object_type = 'TABLE' AND m.lock_status = 'GRANTED' AND ${which}`
  const rows = await attempt(
    tx,
    `SELECT DISTINCT ${sessionColumns} FROM information_schema.processlist p JOIN (${holders}) l ON l.id = p.id ` +
      `LEFT JOIN information_schema.innodb_trx t ON t.trx_mysql_thread_id = p.id WHERE p.id <> CONNECTION_ID() ORDER BY transaction_age DESC LIMIT 5`,
    values,
  )
  return (rows ?? []).map(toSession)
}

/** Row changes that fire no trigger. https://dev.mysql.com/doc/refman/9.7/en/triggers.html */
export const captureHazards: Catalog['captureHazards'] = async (tx, tables) => {
  if (tables.length === 0) return []
  const [which, values] = isOneOf('r.constraint_schema', 'r.table_name', await placesOf(tx, tables))
  const { rows } = await tx.query(
    `SELECT r.constraint_schema AS place, r.table_name AS name, r.constraint_name AS reference, r.delete_rule AS deletes, r.update_rule AS updates ` +
      `FROM information_schema.referential_constraints r WHERE ${which} AND (r.delete_rule IN ('CASCADE', 'SET NULL') OR r.update_rule IN ('CASCADE', 'SET NULL')) ORDER BY 1, 2, 3`,
    values,
  )
  const cascades = rows.map((row) => ({
    what: `foreign key ${row['reference']} changes rows of ${formatTable({ schema: row['place'] ?? '', name: row['name'] ?? '' })} by ON DELETE ${row['deletes']}, ON UPDATE ${row['updates']}, which fires no triggers`,
    mend: 'Replace it by a key without these actions before a migration follows the table, and let the application change the rows itself.',
  }))
  const sources = await replicaStatus(tx)
  const replication = (sources ?? []).map(() => ({
    what: 'this server is a replica: the rows that replication changes fire no triggers',
    mend: 'Give the URL of the primary.',
  }))
  return [...cascades, ...replication.slice(0, 1)]
}

/** A primary knows who reads its log, not how far they have come: that is asked of the replicas. */
export const replicaLag: Catalog['replicaLag'] = async (tx) => {
  const own = await replicaStatus(tx)
  if (own === undefined)
    return { lagSec: undefined, reason: 'the state of replication cannot be read (see the privileges)' }
  for (const row of own) {
    const behind = row['Seconds_Behind_Source'] ?? row['Seconds_Behind_Master'] ?? null
    if (behind === null) return { lagSec: undefined, reason: 'this replica does not replicate now' }
    if (Number(behind) > 0) return { lagSec: Number(behind), reason: `this replica is ${behind} s behind` }
  }
  if ((await attempt(tx, 'SELECT 1 FROM information_schema.innodb_trx LIMIT 1')) === undefined)
    return {
      lagSec: undefined,
      reason: 'whether replicas read from here cannot be seen (see the privileges)',
    }
  const { rows } = await tx.query(
    `SELECT count(*) AS readers FROM information_schema.processlist WHERE command LIKE 'Binlog Dump%'`,
  )
  const readers = Number(rows[0]?.['readers'])
  if (readers === 0) return { lagSec: 0, reason: 'no replica reads from here' }
  return {
    lagSec: undefined,
    reason: `${readers} ${readers === 1 ? 'reader' : 'readers'} of the binary log, and a primary does not know how far they have come`,
  }
}
