import { spawn, spawnSync } from 'node:child_process'
import { lchownSync, mkdtempSync, readdirSync, rmSync, statSync, writeFileSync, chmodSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import pg from 'pg'
import type { TestContext } from 'vitest'
import { freePort } from '../../src/dev/free-port.ts'
import type { TestDatabase } from './postgres.ts'
import { eventually } from './wait.ts'

export interface Standby {
  readonly port: number
  /** Stops applying, and goes on receiving. */
  pause(): Promise<void>
  resume(): Promise<void>
  /** Becomes a primary of its own: it streams from nobody any more. */
  promote(): Promise<void>
  stop(): Promise<void>
}

/**
 * A streaming standby of the test's server, made by a low-level base backup. It ends with the test.
 * https://www.postgresql.org/docs/18/continuous-archiving.html#BACKUP-LOWLEVEL-BASE-BACKUP
 */
export async function startStandby(
  t: Pick<TestContext, 'onTestFinished'>,
  { pool, server }: TestDatabase,
  name: string,
): Promise<Standby> {
  const folder = mkdtempSync(join(tmpdir(), 'crossfade-standby-'))
  const data = join(folder, 'data')
  // start and stop of a backup belong to one session
  const primary = await pool.connect()
  const value = async (sql: string): Promise<string> =>
    String(Object.values((await primary.query<Record<string, unknown>>(sql)).rows[0] ?? {})[0])
  let label: string
  let owner: { uid: number; gid: number }
  let limits: string[]
  try {
    const source = await value('SHOW data_directory')
    owner = statSync(source)
    await primary.query(`SELECT pg_backup_start('${name}', true)`)
    // Files come and go under a copy of a running server; what is missed is in the WAL that follows. cp says 1 then, and goes on.
    const { status } = spawnSync('cp', ['-a', source, data], { stdio: 'ignore' })
    if (status !== 0 && status !== 1) throw new Error(`cp of ${source} ended with ${status}`)
    for (const file of ['postmaster.pid', 'postmaster.opts']) rmSync(join(data, file), { force: true })
    label = await value('SELECT labelfile FROM pg_backup_stop(false)')
    const { rows } = await primary.query<{ line: string }>(
      `SELECT name || '=' || setting AS line FROM pg_settings WHERE name IN ('max_connections', 'max_wal_senders', 'max_worker_processes', 'max_locks_per_transaction', 'max_prepared_transactions')`,
    )
    limits = rows.map(({ line }) => line)
  } finally {
    primary.release()
  }
  writeFileSync(join(data, 'backup_label'), label)
  writeFileSync(join(data, 'standby.signal'), '')
  give(folder, owner)
  chmodSync(data, 0o700)
  const port = await freePort()
  const settings = [
    ...limits,
    `port=${port}`,
    'listen_addresses=127.0.0.1',
    'unix_socket_directories=',
    'fsync=off',
    'hot_standby=on',
    `primary_conninfo=host=127.0.0.1 port=${server.port} user=postgres application_name=${name}`,
  ]
  const child = spawn(
    join(server.binDir, 'postgres'),
    ['-D', data, ...settings.flatMap((each) => ['-c', each])],
    {
      stdio: 'ignore',
      ...(process.getuid?.() === 0 ? { uid: owner.uid, gid: owner.gid } : {}),
    },
  )
  const isOver = (): boolean => child.exitCode !== null || child.signalCode !== null
  const stop = async (): Promise<void> => {
    if (!isOver()) child.kill('SIGQUIT')
    await eventually(isOver, { timeoutMs: 10_000, what: 'the standby to stop' })
  }
  t.onTestFinished(async () => {
    await stop()
    rmSync(folder, { recursive: true })
  })
  await eventually(
    async () =>
      (
        await pool.query(
          `SELECT FROM pg_stat_replication WHERE application_name = '${name}' AND state = 'streaming'`,
        )
      ).rowCount === 1,
    { timeoutMs: 30_000, what: `standby ${name} to stream` },
  )
  const run = async (sql: string): Promise<void> => {
    const client = new pg.Client({ host: '127.0.0.1', port, user: 'postgres', database: 'postgres' })
    await client.connect()
    try {
      await client.query(sql)
    } finally {
      await client.end()
    }
  }
  return {
    port,
    pause: () => run('SELECT pg_wal_replay_pause()'),
    resume: () => run('SELECT pg_wal_replay_resume()'),
    promote: () => run('SELECT pg_promote()'),
    stop,
  }
}

function give(path: string, owner: { uid: number; gid: number }): void {
  if (process.getuid?.() !== 0) return
  lchownSync(path, owner.uid, owner.gid)
  if (!statSync(path, { throwIfNoEntry: false })?.isDirectory()) return
  for (const entry of readdirSync(path)) give(join(path, entry), owner)
}
