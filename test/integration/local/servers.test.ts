import { execFileSync, spawn } from 'node:child_process'
import { existsSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { Connection, Client } from '@temporalio/client'
import pg from 'pg'
import { describe, expect, onTestFinished, test } from 'vitest'
import { freePort } from '../../../src/dev/free-port.ts'
import { startPostgres } from '../../../src/dev/postgres-server.ts'
import { startTemporalServer } from '../../../src/dev/temporal-server.ts'
import { postgresVersions } from '../../support/postgres.ts'
import { eventually } from '../../support/wait.ts'

async function query(url: string, text: string): Promise<unknown[]> {
  const client = new pg.Client({ connectionString: url })
  // A killed server tells the query, and then the idle connection as well.
  client.on('error', () => undefined)
  await client.connect()
  try {
    return (await client.query<Record<string, unknown>>(text)).rows
  } finally {
    await client.end()
  }
}

/** A process that has ended and that nobody has waited for is not running. */
function isRunning(pid: number): boolean {
  try {
    return !execFileSync('ps', ['-p', String(pid), '-o', 'stat='], { encoding: 'utf8' }).startsWith('Z')
  } catch {
    return false
  }
}

describe.each(postgresVersions())('a local PostgreSQL %s', (version) => {
  test('keeps what was committed when it is killed under a busy backend', async () => {
    const server = await startPostgres({ version })
    onTestFinished(() => server.stop('immediate'))
    expect(
      await query(server.url, `select current_setting('server_version_num')::int / 10000 as version`),
    ).toEqual([{ version: Number(version) }])
    await query(server.url, 'create table kept (id int); insert into kept values (1), (2)')
    const busy = query(server.url, 'select count(*) from generate_series(1, 1e9)').then(
      () => 'answered',
      () => 'lost',
    )
    await eventually(
      async () =>
        (
          await query(
            server.url,
            `select 1 from pg_stat_activity where query like '%1e9%' and pid <> pg_backend_pid()`,
          )
        ).length > 0,
      { what: 'the backend to be busy' },
    )

    await server.kill()
    expect(await busy).toBe('lost')
    expect(server.isRunning()).toBe(false)
    await server.restart()
    expect(await query(server.url, 'select count(*)::int as rows from kept')).toEqual([{ rows: 2 }])
  })

  test('starts again on a folder that it is given, and leaves none of its own behind', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'crossfade-test-'))
    onTestFinished(() => rmSync(folder, { recursive: true, force: true }))
    const own = await startPostgres({ version, dataDir: join(folder, 'data'), settings: { work_mem: '7MB' } })
    expect(await query(own.url, 'show work_mem')).toEqual([{ work_mem: '7MB' }])
    await query(own.url, 'create table kept (id int)')
    await own.stop()
    const again = await startPostgres({ version, dataDir: join(folder, 'data') })
    expect(await query(again.url, 'select * from kept')).toEqual([])
    await again.stop()
    // Not always in `folder`: where PostgreSQL's user cannot reach that, another place stands in for it.
    rmSync(again.dataDir, { recursive: true })

    const temporary = await startPostgres({ version })
    expect(existsSync(temporary.dataDir)).toBe(true)
    await temporary.stop()
    expect(existsSync(temporary.dataDir)).toBe(false)
  })
})

test('a PostgreSQL does not take a port that is in use', async () => {
  const server = await startPostgres()
  onTestFinished(() => server.stop('immediate'))
  await expect(startPostgres({ port: server.port })).rejects.toMatchObject({
    code: 'DATABASE.NO_SERVER',
    message: expect.stringContaining(String(server.port)) as string,
  })
})

test('a setting that PostgreSQL refuses is shown in its own words', async () => {
  await expect(startPostgres({ settings: { wal_level: 'nonsense' } })).rejects.toMatchObject({
    code: 'DATABASE.NO_SERVER',
    message: expect.stringContaining('invalid value for parameter "wal_level": "nonsense"') as string,
  })
})

test('a local Temporal with a file keeps a workflow when it is killed', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'crossfade-test-'))
  const options = {
    dbFilename: join(folder, 'temporal.db'),
    port: await freePort(),
    uiPort: false as const,
    searchAttributes: { CrossfadePhase: 'Keyword' as const },
  }
  const first = await startTemporalServer(options)
  onTestFinished(async () => {
    await first.kill()
    rmSync(folder, { recursive: true, force: true })
  })
  const start = await Connection.connect({ address: first.address })
  await new Client({ connection: start }).workflow.start('anything', {
    taskQueue: 'nobody',
    workflowId: 'kept',
  })
  await start.close()
  await first.kill()
  expect(first.isRunning()).toBe(false)

  const second = await startTemporalServer(options)
  onTestFinished(() => second.stop())
  const connection = await Connection.connect({ address: second.address })
  onTestFinished(() => connection.close())
  const described = await new Client({ connection }).workflow.getHandle('kept').describe()
  expect(described.status.name).toBe('RUNNING')
  const { customAttributes } = await connection.operatorService.listSearchAttributes({ namespace: 'default' })
  expect(Object.keys(customAttributes)).toContain('CrossfadePhase')
})

test('local servers end with their parent, also when it is killed', async () => {
  const program = fileURLToPath(new URL('programs/start-and-hang.ts', import.meta.url))
  const parent = spawn(process.execPath, ['--import', 'tsx', program], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  onTestFinished(() => {
    parent.kill('SIGKILL')
  })
  const [line] =
    (await createInterface(parent.stdout)[Symbol.asyncIterator]().next()).value?.toString().split('\n') ?? []
  const pids = JSON.parse(line ?? '') as { postgres: number; temporal: number; dataDir: string }
  expect(isRunning(pids.postgres) && isRunning(pids.temporal)).toBe(true)

  parent.kill('SIGKILL')
  await eventually(() => !isRunning(pids.postgres) && !isRunning(pids.temporal), {
    what: 'the servers to end',
  })
  await eventually(() => !existsSync(pids.dataDir), { timeoutMs: 20_000, what: 'the temporary data to go' })
})
