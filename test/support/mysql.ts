import mysql from 'mysql2/promise'
import { inject, type TestContext } from 'vitest'
import type { ProvidedMysql } from './global-setup.ts'
import { eventually } from './wait.ts'

export type { MysqlEngine } from '../../src/dev/mysql-binaries.ts'

export interface TestMysql extends ProvidedMysql {
  readonly name: string
  /** Closed when the test ends; what else the test connects, it must close itself. */
  readonly pool: mysql.Pool
}

/** The servers that this machine has: `describe.each(mysqlServers())('$engine', (server) => …)`. */
export function mysqlServers(): ProvidedMysql[] {
  return [inject('mysql'), inject('mariadb')].filter((server) => server !== null)
}

let count = 0

/**
 * A fresh, empty database for one test. When the test passes, it is dropped, and a connection that the test left open makes the test
 * fail; when the test fails, it stays until the servers stop, and its name is printed.
 */
export async function withMysql(t: TestContext, server: ProvidedMysql): Promise<TestMysql> {
  count += 1
  const name = `test_${process.pid}_${count}_${Date.now().toString(36)}`
  await asAdministrator(server, (connection) => connection.query(`CREATE DATABASE ${name}`))
  const url = server.url.replace(/\/mysql$/, `/${name}`)
  const pool = mysql.createPool({ ...addressOf(server.url), database: name, multipleStatements: true })
  t.onTestFinished(async ({ task }) => {
    await pool.end()
    if (task.result?.state === 'fail')
      process.stderr.write(`tests: the database of "${task.name}" was ${url}\n`)
    else await drop(server, name, task.name)
  })
  return { ...server, name, url, pool }
}

async function drop(server: ProvidedMysql, name: string, test: string): Promise<void> {
  await asAdministrator(server, async (connection) => {
    const others = async (): Promise<string[]> => {
      const [rows] = await connection.query<mysql.RowDataPacket[]>('SHOW FULL PROCESSLIST')
      return rows
        .filter((row) => row['db'] === name)
        .map((row) => `${row['Id']} (${row['Command']}): ${String(row['Info']).slice(0, 120)}`)
    }
    // A closed connection's thread needs a moment to go.
    const left = await eventually(async () => (await others()).length === 0, { timeoutMs: 3000 }).then(
      () => [],
      () => others(),
    )
    await connection.query(`DROP DATABASE ${name}`)
    if (left.length > 0)
      throw new Error(
        `"${test}" left ${left.length} connection(s) to its database open:\n  ${left.join('\n  ')}`,
      )
  })
}

const addressOf = (url: string): { host: string; port: number; user: string } => {
  const { hostname, port, username } = new URL(url)
  return { host: hostname, port: Number(port), user: username }
}

async function asAdministrator<T>(
  { url }: ProvidedMysql,
  act: (connection: mysql.Connection) => Promise<T>,
): Promise<T> {
  const connection = await mysql.createConnection(addressOf(url))
  try {
    return await act(connection)
  } finally {
    await connection.end()
  }
}
