import { createHash } from 'node:crypto'
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  renameSync,
  rmSync,
  statfsSync,
  writeFileSync,
} from 'node:fs'
import { freemem } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { TestProject } from 'vitest/node'
import { isCrossfadeError } from '../../src/errors/index.ts'
import { cacheFolder, findOnPath, isExecutable } from '../../src/dev/cache-folder.ts'
import type { MysqlEngine } from '../../src/dev/mysql-binaries.ts'
import { startMysql, type MysqlServer } from '../../src/dev/mysql-server.ts'
import {
  startPostgres,
  type PostgresServer,
  type PostgresServerOptions,
} from '../../src/dev/postgres-server.ts'
import { findTemporalCli, startTemporalServer, type TemporalServer } from '../../src/dev/temporal-server.ts'

/** Where the tests find a PostgreSQL. */
export interface ProvidedPostgres {
  readonly version: '18' | '15'
  /** Superuser, database `postgres`. */
  readonly url: string
  readonly port: number
  readonly binDir: string
  readonly pgbench: string | null
}

/** Where the tests find a MySQL or a MariaDB. */
export interface ProvidedMysql {
  readonly engine: MysqlEngine
  /** User `root`, database `mysql`. */
  readonly url: string
}

declare module 'vitest' {
  export interface ProvidedContext {
    postgres18: ProvidedPostgres | null
    /** Null where this machine has none. */
    postgres15: ProvidedPostgres | null
    /** Null where this machine has none. */
    mysql: ProvidedMysql | null
    /** Null where this machine has none. */
    mariadb: ProvidedMysql | null
    temporalAddress: string | null
    temporalCli: string | null
    /** The time-skipping test server's binary. */
    temporalTestServer: string | null
    /** The bundle of src/workflows, made once per run. */
    workflowBundlePath: string | null
    chromium: string | null
    pgbouncer: string | null
    /** The folder that Python finds psycopg in. */
    psycopg: string | null
  }
}

const root = fileURLToPath(new URL('../..', import.meta.url))
const mustHaveAll = process.env['CROSSFADE_REQUIRE_ALL'] === '1'

/** What each kind of test needs; nothing else is started for it. */
type Need = 'postgres' | 'mysql' | 'temporal' | 'bundle'
const needs: Readonly<Record<string, readonly Need[]>> = {
  integration: ['postgres', 'mysql', 'temporal', 'bundle'],
  workflow: ['temporal', 'bundle'],
  replay: ['bundle'],
  torture: ['postgres', 'temporal', 'bundle'],
  e2e: ['postgres', 'mysql', 'temporal', 'bundle'],
}

/** One of each for the whole run: each project calls this file, and each loads it anew. */
interface Shared {
  users: number
  /** Where the servers' data are kept in memory, if anywhere. */
  memory?: string | undefined
  postgres18?: Promise<PostgresServer>
  postgres15?: Promise<PostgresServer | null>
  mysql?: Promise<MysqlServer | null>
  mariadb?: Promise<MysqlServer | null>
  temporal?: Promise<TemporalServer>
  bundle?: Promise<string | null>
}
const key = Symbol.for('crossfade.test.servers')
const holder = globalThis as unknown as Record<symbol, Shared | undefined>

/** Tests end by the thousand databases: what a crash of the machine would lose is of no interest here. */
const settings = {
  fsync: 'off',
  full_page_writes: 'off',
  max_wal_size: '1GB',
  shared_buffers: '256MB',
  max_prepared_transactions: '20',
}

export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  const shared = (holder[key] ??= { users: 0 })
  shared.users += 1
  const wanted = needs[project.name] ?? []
  const wants = (what: Need): boolean => wanted.includes(what)
  const teardown = async (): Promise<void> => {
    shared.users -= 1
    if (shared.users > 0) return
    holder[key] = undefined
    await Promise.allSettled([
      shared.postgres18?.then((server) => server.stop('immediate')),
      shared.postgres15?.then((server) => server?.stop('immediate')),
      shared.mysql?.then((server) => server?.stop('immediate')),
      shared.mariadb?.then((server) => server?.stop('immediate')),
      shared.temporal?.then((server) => server.stop()),
    ])
    if (shared.memory !== undefined) rmSync(shared.memory, { recursive: true, force: true })
  }
  if (wants('postgres') || wants('mysql')) shared.memory ??= folderInMemory()
  const options = (version: '18' | '15'): PostgresServerOptions => ({
    version,
    settings,
    dataDir: shared.memory && join(shared.memory, version),
  })
  try {
    const [postgres18, postgres15, mysql, mariadb, temporal, bundle] = await Promise.all([
      wants('postgres') ? (shared.postgres18 ??= startPostgres(options('18'))) : null,
      wants('postgres') ? (shared.postgres15 ??= startPostgres15(options('15'))) : null,
      wants('mysql') ? (shared.mysql ??= startMysqlOf('mysql', shared.memory)) : null,
      wants('mysql') ? (shared.mariadb ??= startMysqlOf('mariadb', shared.memory)) : null,
      wants('temporal') ? (shared.temporal ??= startTemporal()) : null,
      wants('bundle') ? (shared.bundle ??= bundleWorkflows()) : null,
    ])
    project.provide('postgres18', describePostgres(postgres18))
    project.provide('postgres15', describePostgres(postgres15))
    project.provide('mysql', mysql && { engine: mysql.engine, url: mysql.url })
    project.provide('mariadb', mariadb && { engine: mariadb.engine, url: mariadb.url })
    project.provide('temporalAddress', temporal?.address ?? null)
    project.provide('temporalCli', wants('temporal') ? findTemporalCli() : null)
    project.provide('temporalTestServer', findTestServer())
    project.provide('workflowBundlePath', bundle)
    project.provide('chromium', findChromium())
    project.provide('pgbouncer', findPgbouncer())
    project.provide('psycopg', findPsycopg())
  } catch (error) {
    await teardown()
    throw isCrossfadeError(error) ? new Error(`${error.message}\n  → ${error.mend}`, { cause: error }) : error
  }
  return teardown
}

const memory = '/dev/shm'
const inMemory = /^crossfade-tests-(\d+)-/
const roomBytes = 6 * 1024 ** 3

/**
 * A folder in memory, where there is room: nearly every test makes a database of its own, which on a disk takes a third of a second
 * of a core, and in memory a fiftieth. The long form of torture has more than belongs there. What a run that was killed has left there goes.
 */
function folderInMemory(): string | undefined {
  if (!existsSync(memory) || process.env['CROSSFADE_TORTURE'] === 'long') return undefined
  for (const name of readdirSync(memory)) {
    const owner = inMemory.exec(name)?.[1]
    if (owner !== undefined && !isAlive(Number(owner)))
      rmSync(join(memory, name), { recursive: true, force: true })
  }
  const { bavail, bsize } = statfsSync(memory)
  if (Math.min(bavail * bsize, freemem()) < roomBytes) return undefined
  const folder = mkdtempSync(join(memory, `crossfade-tests-${process.pid}-`))
  chmodSync(folder, 0o755) // PostgreSQL's user passes through it
  return folder
}

function isAlive(pid: number): boolean {
  try {
    return process.kill(pid, 0)
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM'
  }
}

async function startPostgres15(options: PostgresServerOptions): Promise<PostgresServer | null> {
  try {
    const server = await startPostgres(options)
    if (!server.hasPgbench) missing('pgbench', 'apt-get install postgresql-15')
    return server
  } catch (error) {
    if (!isCrossfadeError(error) || error.code !== 'DATABASE.NO_BINARIES') throw error
    missing('PostgreSQL 15', error.mend)
    return null
  }
}

async function startMysqlOf(engine: MysqlEngine, memory: string | undefined): Promise<MysqlServer | null> {
  try {
    return await startMysql({
      engine,
      dataDir: memory && join(memory, engine),
      // What takes a server's clock for UTC fails.
      timeZone: 'Asia/Tokyo',
      settings: { 'innodb-flush-log-at-trx-commit': '0', 'sync-binlog': '0' },
    })
  } catch (error) {
    if (!isCrossfadeError(error) || error.code !== 'DATABASE.NO_BINARIES') throw error
    missing(engine === 'mysql' ? 'MySQL' : 'MariaDB', error.mend)
    return null
  }
}

function startTemporal(): Promise<TemporalServer> {
  return startTemporalServer({
    uiPort: false,
    searchAttributes: {
      CrossfadePhase: 'Keyword',
      CrossfadeWaitingFor: 'Keyword',
      CrossfadeDatabase: 'Keyword',
    },
    // Without it the server rounds every timer and every retry up to a second.
    extraArgs: ['--dynamic-config-value', 'history.timerProcessorMaxTimeShift="10ms"'],
  })
}

async function bundleWorkflows(): Promise<string | null> {
  const workflowsPath = join(root, 'src', 'workflows', 'index.ts')
  if (!existsSync(workflowsPath)) return null
  const { bundleWorkflowCode } = await import('@temporalio/worker')
  const quiet = (): void => undefined
  const logger = { log: quiet, trace: quiet, debug: quiet, info: quiet, warn: quiet, error: quiet }
  const payloadConverterPath = join(root, 'src', 'workflows', 'payload-converter.ts')
  const { code } = await bundleWorkflowCode({ workflowsPath, payloadConverterPath, logger })
  const folder = join(cacheFolder(), 'test-bundles')
  const file = join(folder, `${createHash('sha256').update(code).digest('hex').slice(0, 16)}.js`)
  if (!existsSync(file)) {
    mkdirSync(folder, { recursive: true })
    writeFileSync(`${file}.${process.pid}`, code)
    renameSync(`${file}.${process.pid}`, file)
  }
  return file
}

function describePostgres(server: PostgresServer | null): ProvidedPostgres | null {
  if (!server) return null
  const { version, url, port, binDir, pgbench } = server
  return { version, url, port, binDir, pgbench: pgbench ?? null }
}

function findTestServer(): string | null {
  const candidates = [
    process.env['CROSSFADE_TEST_SERVER'],
    join(cacheFolder(), 'temporal-test-server', '1.40.0', 'temporal-test-server'),
  ]
  const found = candidates.find((file) => file !== undefined && isExecutable(file))
  if (!found) missing('the time-skipping Temporal test server', 'node scripts/setup.mjs --tests')
  return found ?? null
}

function findChromium(): string | null {
  const found = process.env['CROSSFADE_CHROMIUM'] ?? findOnPath('chromium') ?? findOnPath('google-chrome')
  if (!found) missing('Chromium', 'apt-get install chromium, or CROSSFADE_CHROMIUM=/path/to/chromium')
  return found ?? null
}

function findPgbouncer(): string | null {
  const found = findOnPath('pgbouncer') ?? ['/usr/sbin/pgbouncer'].find(isExecutable)
  if (!found) missing('PgBouncer', 'apt-get install pgbouncer')
  return found ?? null
}

function findPsycopg(): string | null {
  const folder = join(cacheFolder(), 'python-client')
  if (existsSync(join(folder, 'psycopg'))) return folder
  missing('psycopg', 'node scripts/setup.mjs --tests')
  return null
}

const said = new Set<string>()

/** What is missing is a failure where everything must be there, and else is said once: its tests are skipped. */
function missing(what: string, mend: string): void {
  if (mustHaveAll)
    throw new Error(`${what} is not here, and CROSSFADE_REQUIRE_ALL=1 asks for everything.\n  → ${mend}`)
  if (said.has(what)) return
  said.add(what)
  process.stderr.write(`tests: ${what} is not here, so what needs it is skipped (${mend}).\n`)
}
