import mysql from 'mysql2/promise'
import { describe, expect, test } from 'vitest'
import { checkDatabase, type Check } from '../../../src/cli/checks.ts'
import { resolveMigration } from '../../../src/definition/index.ts'
import { startMysql } from '../../../src/dev/mysql-server.ts'
import { createServiceCli } from '../../support/cli.ts'
import { mysqlServers, withMysql } from '../../support/mysql.ts'
import { eventually } from '../../support/wait.ts'

const people = resolveMigration({
  name: 'people',
  kind: 'table',
  mappings: [
    { reverse: false, source: 'users', target: 'people', key: { id: 'id' }, columns: { name: 'name' } },
  ],
})

const tables = `CREATE TABLE teams (id int PRIMARY KEY); CREATE TABLE users (id int PRIMARY KEY, name text, team int,
  CONSTRAINT team FOREIGN KEY (team) REFERENCES teams (id) ON DELETE SET NULL ON UPDATE CASCADE)`

/** A line of the doctor, of transactions that are older than 0.3 s. */
async function doctorSays(url: string, line: string): Promise<Check | undefined> {
  process.env['CROSSFADE_DATABASE_URL'] = url
  return (await checkDatabase('default', [people], 0.3)).find(({ name }) => name === line)
}

/** Who looks more often than every 100 ms is shown what was, as long as he does: InnoDB keeps an answer until nobody has asked. */
const untilSaid = (url: string, isSo: (line: Check) => boolean): Promise<Check> =>
  eventually(
    async () => {
      const line = await doctorSays(url, 'Long transactions')
      return line && isSo(line) && line
    },
    { intervalMs: 200 },
  )

/** The driver knows one scheme. */
const asMysql = (url: string): string => url.replace(/^mariadb:/, 'mysql:')

describe.each(mysqlServers())('the doctor on $engine', (server) => {
  const isMysql = server.engine === 'mysql'

  test('examines the server, and says that migrations do not run on it yet', async (t) => {
    const database = await withMysql(t, server)
    await database.pool.query(tables)
    const cli = createServiceCli(t, database)
    await cli.run('init', 'people')
    const { answer, exitCode } = await cli.json('doctor')
    const checks = (answer as unknown as { checks: readonly Check[] }).checks
    const line = (wanted: string): Check | undefined => checks.find(({ name }) => name === wanted)
    expect(exitCode).toBe(5)
    expect(line('Database')).toMatchObject({ state: 'passed', found: database.url })
    expect(line('Server')?.found).toMatch(isMysql ? /^MySQL \d+\.\d+\.\d+$/ : /^MariaDB \d+\.\d+\.\d+$/)
    expect(line('Migrations')).toMatchObject({
      state: 'failed',
      found: expect.stringContaining('cannot run migrations on it yet') as string,
      mend: 'Migrations run on PostgreSQL in this version.',
    })
    expect(line('Privileges')?.found).toContain(
      `GRANT SELECT ON \`${database.name}\`.\`users\` TO \`root\`@\`localhost\` /* a table of a migration */`,
    )
    expect(line('Replica lag')).toMatchObject({ state: 'passed', found: 'no replica reads from here' })
    expect(line('Long transactions')?.state).toBe('passed')
    expect(line('Capture')).toMatchObject({
      state: 'failed',
      found: `foreign key team changes rows of ${database.name}.users by ON DELETE SET NULL, ON UPDATE CASCADE, which fires no triggers`,
    })
    const plan = await cli.json('plan', 'people')
    expect(plan.exitCode).toBe(1)
    expect(JSON.stringify(plan.answer)).toContain('DATABASE.NO_MIGRATIONS')
  })

  test('a transaction that was forgotten is named, with what has locked the tables as far as the server shows it', async (t) => {
    const { pool, url } = await withMysql(t, server)
    await pool.query(tables)
    const forgotten = await mysql.createConnection({
      uri: asMysql(url),
      connectAttributes: { program_name: 'forgotten' },
    })
    t.onTestFinished(() => forgotten.end())
    await forgotten.query('START TRANSACTION')
    await forgotten.query('SELECT * FROM users')
    // Transactions of other tests on this server may be named beside it, for as long as they last.
    const ours = `pid ${forgotten.threadId} of root`
    const found = await untilSaid(url, (line) => line.found.includes(ours))
    expect(found.found).toMatch(
      isMysql
        ? new RegExp(`${ours} \\(forgotten\\), idle in transaction, \\d{1,2} s, holds locks on the tables`)
        : new RegExp(`${ours} \\(no application name\\), idle in transaction, \\d{1,2} s`),
    )
    expect(found.found.includes('cannot be seen: performance_schema is off')).toBe(!isMysql)
    expect(found.mend).toMatch(/^They hold up DDL on every table that they have read, .* KILL \d+;$/)
    await forgotten.query('ROLLBACK')
    await untilSaid(url, (line) => !line.found.includes(ours))

    // Of a branch that no session has any more, the server knows how old it is, and what ends it.
    const prepared = await mysql.createConnection(asMysql(url))
    for (const sql of [
      "XA START 'left', 'br'",
      'INSERT INTO teams VALUES (1)',
      "XA END 'left', 'br'",
      "XA PREPARE 'left', 'br'",
    ])
      await prepared.query(sql)
    await prepared.end()
    const branch = await untilSaid(url, (line) => line.found.includes('prepared transaction'))
    expect(branch.mend).toContain('XA ROLLBACK')
    await pool.query(/XA ROLLBACK [^;]+;/.exec(branch.mend ?? '')?.[0] ?? '')
    await untilSaid(url, (line) => !line.found.includes('prepared transaction'))
  })

  test('what an account may not see is said, and what is granted then is enough', async (t) => {
    const { pool, url, name } = await withMysql(t, server)
    await pool.query(`${tables}; CREATE USER '${name}'@'%'; GRANT SELECT ON ${name}.teams TO '${name}'@'%'`)
    t.onTestFinished(() => pool.query(`DROP USER '${name}'`).then(() => undefined))
    const weak = url.replace('root@', `${name}@`)
    const privileges = await doctorSays(weak, 'Privileges')
    expect(privileges?.state).toBe('failed')
    expect(privileges?.mend).toContain(`GRANT PROCESS ON *.* TO \`${name}\`@\`%\``)
    expect(await doctorSays(weak, 'Replica lag')).toMatchObject({ state: 'failed' })
    expect((await doctorSays(weak, 'Long transactions'))?.found).toContain(
      'transactions of others cannot be seen (GRANT PROCESS',
    )
    await pool.query(`${privileges?.mend ?? ''} GRANT SELECT ON ${name}.users TO '${name}'@'%'`)
    const again = await doctorSays(weak, 'Privileges')
    expect(again?.state).toBe('passed')
    expect(again?.found).toContain(`GRANT SELECT ON \`${name}\`.\`users\``)
    expect(await doctorSays(weak, 'Replica lag')).toMatchObject({ state: 'passed' })
  })

  test('a primary with a replica cannot tell the lag, the replica itself can, and is none to migrate on', async (t) => {
    const [primary, replica] = await Promise.all(
      ['1', '2'].map((id) => startMysql({ engine: server.engine, settings: { 'server-id': id } })),
    )
    t.onTestFinished(async () => {
      await Promise.all([primary?.stop('immediate'), replica?.stop('immediate')])
    })
    const here = async (url = ''): Promise<mysql.Connection> => {
      const connection = await mysql.createConnection({ uri: asMysql(url), multipleStatements: true })
      t.onTestFinished(() => connection.end())
      return connection
    }
    await (await here(primary?.url)).query(`CREATE DATABASE app; USE app; ${tables}`)
    const follower = await here(replica?.url)
    await follower.query(
      isMysql
        ? `CHANGE REPLICATION SOURCE TO SOURCE_HOST = '127.0.0.1', SOURCE_PORT = ${primary?.port}, SOURCE_USER = 'root', SOURCE_AUTO_POSITION = 1; START REPLICA`
        : `CHANGE MASTER TO MASTER_HOST = '127.0.0.1', MASTER_PORT = ${primary?.port}, MASTER_USER = 'root', MASTER_USE_GTID = slave_pos; START SLAVE`,
    )
    const app = (url = ''): string => url.replace(/\/mysql$/, '/app')
    await eventually(async () => {
      expect(await doctorSays(app(primary?.url), 'Replica lag')).toMatchObject({
        state: 'failed',
        found: '1 reader of the binary log, and a primary does not know how far they have come',
      })
      expect(await doctorSays(app(replica?.url), 'Replica lag')).toMatchObject({ state: 'passed' })
      return true
    })
    expect((await doctorSays(app(primary?.url), 'Capture'))?.found).not.toContain('replica')
    expect((await doctorSays(app(replica?.url), 'Capture'))?.found).toContain('this server is a replica')
    await follower.query(isMysql ? 'STOP REPLICA' : 'STOP SLAVE')
    expect(await doctorSays(app(replica?.url), 'Replica lag')).toMatchObject({
      state: 'failed',
      found: 'this replica does not replicate now',
    })
  })
})
