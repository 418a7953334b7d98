import { spawn } from 'node:child_process'
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import pg from 'pg'
import { inject, type TestContext } from 'vitest'
import { freePort } from '../../src/dev/free-port.ts'
import { required } from './migration.ts'
import type { TestDatabase } from './postgres.ts'
import { eventually } from './wait.ts'

/** Debian's and most systems' user of nothing: PgBouncer refuses to be root. */
const nobody = 65534

/**
 * PgBouncer in front of a test's database, one server connection a transaction: whatever a session would keep is another client's
 * in the next moment. Ends with the test. @returns the URL of `database` for `user` through it.
 */
export async function startPgbouncer(
  t: Pick<TestContext, 'onTestFinished'>,
  database: TestDatabase,
  users: readonly string[],
): Promise<(user: string) => string> {
  const program = required(inject('pgbouncer'), 'PgBouncer')
  const port = await freePort()
  const folder = mkdtempSync(join(tmpdir(), 'crossfade-pgbouncer-'))
  const file = (name: string, text: string): string => {
    const path = join(folder, name)
    writeFileSync(path, text)
    return path
  }
  const userList = file('users.txt', users.map((user) => `"${user}" ""\n`).join(''))
  const config = file(
    'pgbouncer.ini',
    `[databases]
${database.name} = host=127.0.0.1 port=${database.server.port} dbname=${database.name}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = ${port}
unix_socket_dir =
auth_type = trust
auth_file = ${userList}
pool_mode = transaction
default_pool_size = 6
ignore_startup_parameters = extra_float_digits
`,
  )
  chmodSync(folder, 0o755)
  const isRoot = process.getuid?.() === 0
  const child = spawn(program, [config], {
    stdio: 'ignore',
    ...(isRoot ? { uid: nobody, gid: nobody } : {}),
  })
  t.onTestFinished(async () => {
    child.kill('SIGKILL')
    await eventually(() => child.exitCode !== null || child.signalCode !== null, { timeoutMs: 5_000 })
    rmSync(folder, { recursive: true })
  })
  const url = (user: string): string => `postgresql://${user}@127.0.0.1:${port}/${database.name}`
  await eventually(
    async () => {
      const client = new pg.Client({ connectionString: url(users[0] ?? '') })
      try {
        await client.connect()
        return true
      } catch {
        return false
      } finally {
        await client.end().catch(() => undefined)
      }
    },
    { timeoutMs: 10_000, what: 'PgBouncer to answer' },
  )
  return url
}
