import type { Dialect } from '../dialect.ts'
import { leavesOf, quoteTable } from './identifiers.ts'

/**
 * What the server is busy with, from its own statistics. Without pg_monitor (or pg_read_all_stats) the sessions of others have no
 * state and no type: then nothing is known of them, which is not the same as nothing going on.
 * https://www.postgresql.org/docs/18/monitoring-stats.html#MONITORING-PG-STAT-ACTIVITY-VIEW
 */
export const load: Dialect['catalog']['load'] = async (tx, tables) => {
  const sessions = await tx.query(
    `SELECT count(*) FILTER (WHERE state = 'active') AS active, count(*) FILTER (WHERE state IS NULL) AS hidden, ` +
      `coalesce(max(extract(epoch FROM clock_timestamp() - xact_start)), 0) AS longest ` +
      `FROM pg_stat_activity WHERE coalesce(backend_type, 'client backend') = 'client backend' AND pid <> pg_backend_pid()`,
  )
  const vacuums = await tx.query(
    `SELECT v.relid::regclass::text AS name FROM pg_stat_progress_vacuum v JOIN pg_stat_activity a USING (pid) WHERE a.backend_type = 'autovacuum worker' ` +
      `AND v.relid IN (SELECT l.oid FROM unnest($1::text[]) t, LATERAL ${leavesOf('to_regclass(t)')} l) ORDER BY 1`,
    [tables.map(quoteTable)],
  )
  const rows = await tx.query(
    `SELECT to_regclass(t)::text AS name, sum(s.n_live_tup) AS live, sum(s.n_dead_tup) AS dead FROM unnest($1::text[]) t, LATERAL ${leavesOf('to_regclass(t)')} l ` +
      `JOIN pg_stat_all_tables s ON s.relid = l.oid GROUP BY 1 ORDER BY 1`,
    [[...new Set(tables.map(quoteTable))]],
  )
  const wal = await tx.query(`SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0') AS bytes`)
  const slots = await tx.query(
    `SELECT slot_name, active, coalesce(wal_status, 'lost') AS status, coalesce(pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn), 0) AS retained ` +
      `FROM pg_replication_slots WHERE NOT temporary ORDER BY 4 DESC, 1`,
  )
  const row = sessions.rows[0] ?? {}
  return {
    activeSessions: Number(row['active']),
    longestTransactionSec: Number(row['longest']),
    hiddenSessions: Number(row['hidden']),
    autovacuums: vacuums.rows.map((vacuum) => vacuum['name'] ?? ''),
    deadRows: rows.rows.map((table) => ({
      table: table['name'] ?? '',
      live: Number(table['live']),
      dead: Number(table['dead']),
    })),
    walBytes: Number(wal.rows[0]?.['bytes']),
    slots: slots.rows.map((slot) => ({
      name: slot['slot_name'] ?? '',
      isActive: slot['active'] === 't',
      status: slot['status'] ?? '',
      retainedBytes: Number(slot['retained']),
    })),
  }
}

export const evaluate: Dialect['catalog']['evaluate'] = async (tx, sql) => {
  const [row] = (await tx.query(sql)).rows
  const value = row === undefined ? null : (Object.values(row)[0] ?? null)
  return value === null || value.trim() === '' || Number.isNaN(Number(value)) ? undefined : Number(value)
}
