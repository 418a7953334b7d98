import { formatTable } from '../../core/link.ts'
import type { Dialect } from '../dialect.ts'
import { subscriptionsOf, toSession } from './catalog.ts'
import { quoteLiteral, quoteTable } from './identifiers.ts'

/** What a person should know of before a migration begins or while it runs, beside what the plan and the gates refuse. */

/**
 * Sessions and prepared transactions of this database that are open for longer than `olderThanSec`: they hold up DDL on what they have
 * locked, every concurrent index build, and vacuum. https://www.postgresql.org/docs/18/sql-createindex.html#SQL-CREATEINDEX-CONCURRENTLY
 */
export const longTransactions: Dialect['catalog']['longTransactions'] = async (tx, olderThanSec) => {
  const sessions = await tx.query(
    `SELECT pid, coalesce(usename, '') AS usename, coalesce(application_name, '') AS application_name, coalesce(state, '') AS state, ` +
      `coalesce(extract(epoch FROM clock_timestamp() - query_start), 0) AS query_age, extract(epoch FROM clock_timestamp() - xact_start) AS transaction_age ` +
      `FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() AND xact_start < clock_timestamp() - $1 * interval '1 second' ORDER BY xact_start`,
    [olderThanSec],
  )
  const prepared = await tx.query(
    `SELECT gid, owner, extract(epoch FROM clock_timestamp() - prepared) AS age FROM pg_prepared_xacts ` +
      `WHERE database = current_database() AND prepared < clock_timestamp() - $1 * interval '1 second' ORDER BY prepared`,
    [olderThanSec],
  )
  const hidden = await tx.query(
    `SELECT count(*) AS hidden FROM pg_stat_activity WHERE datname = current_database() AND state IS NULL AND backend_type IS NULL`,
  )
  const count = Number(hidden.rows[0]?.['hidden'])
  return {
    harm: 'concurrent index builds and vacuum, and DDL on what they have locked',
    unseen: count === 0 ? [] : [`${count} sessions cannot be seen (grant pg_monitor to the role of the URL)`],
    sessions: sessions.rows.map((row) => ({
      ...toSession(row),
      end: `SELECT pg_terminate_backend(${row['pid']});`,
    })),
    prepared: prepared.rows.map((row) => ({
      name: row['gid'] ?? '',
      user: row['owner'] ?? '',
      transactionAgeSec: Number(row['age']),
      end: `ROLLBACK PREPARED ${quoteLiteral(row['gid'] ?? '')};`,
    })),
  }
}

/**
 * Who passes by triggers on these tables. Ours fire for every session, whatever its session_replication_role is; the user's own and
 * foreign keys do not where it is `replica`. https://www.postgresql.org/docs/18/runtime-config-client.html#GUC-SESSION-REPLICATION-ROLE
 */
export const captureHazards: Dialect['catalog']['captureHazards'] = async (tx, tables) => {
  const found: { what: string; mend: string }[] = []
  for (const table of tables) {
    const name = quoteTable(table)
    for (const subscription of await subscriptionsOf(tx, table))
      found.push({
        what: `subscription ${subscription} writes ${formatTable(table)} without firing statement triggers`,
        mend: 'Migrate on the publisher, or take the table out of the publication.',
      })
    const triggers = await tx.query(
      `SELECT format('%I', tgname) AS name, tgenabled, starts_with(tgname, '_crossfade_') AS ours FROM pg_trigger WHERE tgrelid = to_regclass($1) AND NOT tgisinternal ` +
        `AND (tgenabled = 'D' OR starts_with(tgname, '_crossfade_') AND tgenabled <> 'A') ORDER BY 1`,
      [name],
    )
    for (const trigger of triggers.rows)
      found.push({
        what: `trigger ${trigger['name']} on ${formatTable(table)} is ${trigger['tgenabled'] === 'D' ? 'disabled' : 'not enabled for every session'}`,
        mend:
          trigger['ours'] === 't'
            ? `ALTER TABLE ${name} ENABLE ALWAYS TRIGGER ${trigger['name']}; what was written meanwhile is found by verification.`
            : `Is that meant? ALTER TABLE ${name} ENABLE TRIGGER ${trigger['name']};`,
      })
  }
  const replicas = await tx.query(
    `SELECT concat_ws(' in ', CASE WHEN s.setrole <> 0 THEN 'role ' || s.setrole::regrole END, CASE WHEN s.setdatabase <> 0 THEN 'database ' || d.datname END) AS who, ` +
      `concat_ws(' ', CASE WHEN s.setrole <> 0 THEN 'ROLE ' || s.setrole::regrole ELSE CASE WHEN s.setdatabase = 0 THEN 'ROLE ALL' END END, ` +
      `CASE WHEN s.setdatabase <> 0 THEN format('%sDATABASE %I', CASE WHEN s.setrole <> 0 THEN 'IN ' END, d.datname) END) AS whose ` +
      `FROM pg_db_role_setting s LEFT JOIN pg_database d ON d.oid = s.setdatabase WHERE s.setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database())) ` +
      `AND 'session_replication_role=replica' = ANY (s.setconfig) ORDER BY 1`,
  )
  for (const { who, whose } of replicas.rows)
    found.push({
      what: `sessions of ${who || 'every role'} begin with session_replication_role = replica: our triggers fire there, your own and foreign keys do not`,
      mend: `Is that meant? ALTER ${whose} RESET session_replication_role;`,
    })
  return found
}
