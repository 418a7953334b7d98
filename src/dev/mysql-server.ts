import { spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { cpSync, existsSync, mkdirSync, mkdtempSync, renameSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join, resolve } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import mysql from 'mysql2/promise'
import { CrossfadeError } from '../errors/index.ts'
import { cacheFolder } from './cache-folder.ts'
import { freePort } from './free-port.ts'
import { findMysql, type MysqlBinaries, type MysqlEngine } from './mysql-binaries.ts'
import { startServerProcess, type ServerProcess } from './server-process.ts'

export interface MysqlServerOptions {
  readonly engine: MysqlEngine
  /** Where the data are kept; an existing one is started as it is. Without it a temporary one is made, and removed by `stop`. */
  readonly dataDir?: string | undefined
  /** Settings beside {@link defaultSettings}, as options without their dashes. */
  readonly settings?: Readonly<Record<string, string>> | undefined
  /** The operating system's time zone as the server sees it; default: that of this process. */
  readonly timeZone?: string | undefined
  /** How long it may take to answer; it needs about a second and a half. Default 60 000. */
  readonly timeoutMs?: number | undefined
}

export interface MysqlServer {
  readonly engine: MysqlEngine
  /** User `root`, no password, database `mysql`. */
  readonly url: string
  readonly port: number
  readonly pid: number
  isRunning(): boolean
  /** `fast` (the default) ends in good order, `immediate` is a crash with recovery at the next start. */
  stop(mode?: 'fast' | 'immediate'): Promise<void>
}

/** Fit for every kind of sync, and closed to other machines. */
const defaultSettings: Readonly<Record<string, string>> = {
  'bind-address': '127.0.0.1',
  'server-id': '1',
  'log-bin': 'binlog',
  'max-connections': '200',
  'secure-file-priv': '',
}
const settingsOf: Readonly<Record<MysqlEngine, Readonly<Record<string, string>>>> = {
  mysql: { mysqlx: 'OFF', 'gtid-mode': 'ON', 'enforce-gtid-consistency': 'ON' },
  mariadb: { 'binlog-format': 'ROW' },
}

/**
 * Starts a MySQL or MariaDB on 127.0.0.1 and waits until it answers. It ends with this process, also when this process is killed.
 * @throws DATABASE.NO_BINARIES, DATABASE.NO_SERVER
 */
export async function startMysql(options: MysqlServerOptions): Promise<MysqlServer> {
  const binaries = findMysql(options.engine)
  const temporary =
    options.dataDir === undefined ? mkdtempSync(join(tmpdir(), `crossfade-${options.engine}-`)) : undefined
  const dataDir = temporary ? join(temporary, 'data') : resolve(options.dataDir ?? '')
  const removeTemporary = (): void => {
    if (temporary) rmSync(temporary, { recursive: true, force: true })
  }
  try {
    if (!existsSync(dataDir)) copyTemplate(binaries, dataDir)
    const { server, port } = await startOnSomePort(binaries, dataDir, options, temporary)
    return {
      engine: options.engine,
      url: urlOf(options.engine, port),
      port,
      pid: server.pid,
      isRunning: () => server.isRunning(),
      async stop(mode = 'fast') {
        await server.end(mode === 'fast' ? 'SIGTERM' : 'SIGKILL')
        removeTemporary()
      },
    }
  } catch (error) {
    removeTemporary()
    throw error
  }
}

const urlOf = (engine: MysqlEngine, port: number): string => `${engine}://root@127.0.0.1:${port}/mysql`

/** Making a data folder takes MySQL eight seconds: it is done once per version, and copied. */
function copyTemplate(binaries: MysqlBinaries, dataDir: string): void {
  const hash = createHash('sha256').update(binaries.version).digest('hex').slice(0, 12)
  const template = join(cacheFolder(), 'data-folders', `${binaries.engine}-${hash}`)
  if (!existsSync(template)) {
    mkdirSync(dirname(template), { recursive: true })
    const work = mkdtempSync(`${template}-`)
    try {
      initialise(binaries, join(work, 'data'))
      // A server's own identity: each copy makes its own.
      rmSync(join(work, 'data', 'auto.cnf'), { force: true })
      renameSync(join(work, 'data'), template)
    } catch (error) {
      // Another process was quicker: its folder is as good.
      if (!existsSync(template)) throw error
    } finally {
      rmSync(work, { recursive: true, force: true })
    }
  }
  cpSync(template, dataDir, { recursive: true })
}

const asRoot = (): string[] => (process.getuid?.() === 0 ? ['--user=root'] : [])

function initialise({ engine, server, installer, placeOptions }: MysqlBinaries, dataDir: string): void {
  const [program = '', ...args] =
    engine === 'mysql'
      ? [...server, '--no-defaults', ...placeOptions, '--initialize-insecure', '--skip-log-bin']
      : [
          installer ?? '',
          '--no-defaults',
          '--auth-root-authentication-method=normal',
          '--skip-test-db',
          '--innodb-log-file-size=8M',
        ]
  const result = spawnSync(program, [...args, ...asRoot(), `--datadir=${dataDir}`], {
    encoding: 'utf8',
    timeout: 120_000,
  })
  if (!result.error && result.status === 0) return
  const said = [result.error?.message, result.stdout, result.stderr].filter(Boolean).join('\n').trim()
  throw noServer(`A data folder of ${engine} could not be made in ${dataDir}:\n${said}`, result.error)
}

async function startOnSomePort(
  binaries: MysqlBinaries,
  dataDir: string,
  options: MysqlServerOptions,
  temporary: string | undefined,
): Promise<{ server: ServerProcess; port: number }> {
  // Between choosing a free port and binding it somebody else may take it: then another one is chosen.
  for (let attempt = 1; ; attempt++) {
    const port = await freePort()
    try {
      return { port, server: await startOnce(binaries, dataDir, port, options, temporary) }
    } catch (error) {
      const isClash = error instanceof Error && /Can't start server: Bind|already in use/i.test(error.message)
      if (!isClash || attempt === 5) throw error
    }
  }
}

async function startOnce(
  { engine, server: command, placeOptions }: MysqlBinaries,
  dataDir: string,
  port: number,
  options: MysqlServerOptions,
  temporary: string | undefined,
): Promise<ServerProcess> {
  const [program = '', ...before] = command
  const settings = {
    ...defaultSettings,
    ...settingsOf[engine],
    ...options.settings,
    datadir: dataDir,
    port: String(port),
    socket: join(dataDir, 'socket'),
    'pid-file': join(dataDir, 'pid'),
  }
  const server = await startServerProcess({
    program,
    args: [
      ...before,
      '--no-defaults',
      ...placeOptions,
      ...asRoot(),
      ...Object.entries(settings).map(([name, value]) => `--${name}=${value}`),
    ],
    cwd: dataDir,
    env: { ...process.env, ...(options.timeZone === undefined ? {} : { TZ: options.timeZone }) },
    cannotStart: (reason) => noServer(`${program} could not be started: ${reason}.`),
    onParentDeath: 'SIGKILL',
    temporaryFolder: temporary,
  })
  try {
    await waitUntilReady(server, engine, port, options.timeoutMs ?? 60_000)
  } catch (error) {
    await server.end('SIGKILL')
    throw error
  }
  return server
}

async function waitUntilReady(
  server: ServerProcess,
  engine: MysqlEngine,
  port: number,
  timeoutMs: number,
): Promise<void> {
  const deadline = Date.now() + timeoutMs
  let last: unknown
  while (Date.now() < deadline) {
    const ending = server.ending()
    if (ending !== undefined)
      throw noServer(`The ${engine} server on port ${port} ${ending}:\n${server.logTail()}`)
    try {
      const connection = await mysql.createConnection({
        host: '127.0.0.1',
        port,
        user: 'root',
        connectTimeout: 2000,
      })
      await connection.end()
      return
    } catch (error) {
      last = error
    }
    await delay(25)
  }
  throw noServer(
    `The ${engine} server on port ${port} did not answer within ${timeoutMs / 1000} s${last instanceof Error ? ` (${last.message})` : ''}:\n${server.logTail()}`,
    last,
  )
}

function noServer(message: string, cause?: unknown): CrossfadeError {
  return new CrossfadeError({
    kind: 'unavailable',
    code: 'DATABASE.NO_SERVER',
    message,
    mend: 'Mend what its log says, then try again.',
    cause,
  })
}
