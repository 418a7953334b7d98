import { spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import {
  chmodSync,
  chownSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join, resolve } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import pg from 'pg'
import { CrossfadeError } from '../errors/index.ts'
import { freePort, isPortFree } from './free-port.ts'
import { findPostgres, type PostgresBinaries, type PostgresVersion } from './postgres-binaries.ts'
import { startServerProcess, type ServerProcess } from './server-process.ts'

export interface PostgresServerOptions {
  /** Default '18'. */
  readonly version?: PostgresVersion | undefined
  /**
   * Where the data are kept; an existing one is started as it is. Without it a temporary one is made, and removed by
   * `stop`. Where PostgreSQL's user cannot reach the folder (a root's home), one in the temporary folder stands in for
   * it: the server's `dataDir` tells.
   */
  readonly dataDir?: string | undefined
  /** Default: a free one. */
  readonly port?: number | undefined
  /** Settings beside {@link defaultSettings}, as in postgresql.conf. */
  readonly settings?: Readonly<Record<string, string>> | undefined
  readonly logFile?: string | undefined
  /** How long it may take to answer; it needs about a second. Default 60 000. */
  readonly timeoutMs?: number | undefined
}

export interface PostgresServer {
  /** Superuser `postgres`, database `postgres`, no password. */
  readonly url: string
  readonly port: number
  readonly dataDir: string
  readonly version: PostgresVersion
  readonly binDir: string
  /** True where `pgbench` is among the binaries of this machine. */
  readonly hasPgbench: boolean
  readonly pgbench: string | undefined
  readonly pid: number
  isRunning(): boolean
  /** `fast` (the default) ends transactions in good order, `immediate` is a crash with recovery at the next start. */
  stop(mode?: 'fast' | 'immediate'): Promise<void>
  /** Starts it again on the same port and data, after a stop (it stops first where it runs) or a kill. */
  restart(): Promise<void>
  /** SIGKILL to the postmaster and its backends: what a crash of the machine looks like. The data stay, for `restart`. */
  kill(): Promise<void>
}

/** Fit for every kind of sync, and closed to other machines. */
const defaultSettings: Readonly<Record<string, string>> = {
  listen_addresses: '127.0.0.1',
  unix_socket_directories: '',
  wal_level: 'logical',
  max_connections: '200',
  max_replication_slots: '20',
  max_wal_senders: '20',
  log_min_messages: 'warning',
}

/**
 * Starts a PostgreSQL on 127.0.0.1 and waits until it answers. It ends with this process, also when this process is killed.
 * @throws DATABASE.NO_BINARIES, DATABASE.NO_SERVER
 */
export async function startPostgres(options: PostgresServerOptions = {}): Promise<PostgresServer> {
  const version = options.version ?? '18'
  const binaries = findPostgres(version)
  const isTemporary = options.dataDir === undefined
  const dataDir = isTemporary ? makeTemporaryFolder(binaries) : makeFolder(options.dataDir, binaries)
  const removeTemporary = (): void => {
    if (isTemporary) rmSync(dirname(dataDir), { recursive: true, force: true })
  }

  let running: { server: ServerProcess; port: number }
  try {
    initialise(dataDir, binaries)
    running = await startOnSomePort(binaries, dataDir, options)
  } catch (error) {
    removeTemporary()
    throw error
  }
  const port = running.port

  const end = (signal: NodeJS.Signals): Promise<void> => running.server.end(signal)
  return {
    url: urlOf(port),
    port,
    dataDir,
    version,
    binDir: binaries.binDir,
    hasPgbench: binaries.pgbench !== undefined,
    pgbench: binaries.pgbench,
    get pid() {
      return running.server.pid
    },
    isRunning: () => running.server.isRunning(),
    async stop(mode = 'fast') {
      await end(mode === 'fast' ? 'SIGINT' : 'SIGQUIT')
      removeTemporary()
    },
    async restart() {
      await end('SIGINT')
      if (!existsSync(dataDir)) {
        throw noServer(
          `${dataDir} is gone: it was a temporary one, and the server was stopped.`,
          'Give startPostgres a dataDir to stop and start again.',
        )
      }
      running = { port, server: await startAgain(binaries, dataDir, port, options) }
    },
    async kill() {
      // The postmaster first: it would answer the death of a backend with a restart of its own.
      const backends = childrenOf(running.server.pid)
      await end('SIGKILL')
      for (const pid of backends) killQuietly(pid)
    },
  }
}

function childrenOf(parent: number): number[] {
  const { stdout } = spawnSync('ps', ['-A', '-o', 'pid=,ppid='], { encoding: 'utf8' })
  return (stdout ?? '')
    .split('\n')
    .map((line) => line.trim().split(/\s+/).map(Number))
    .filter(([, ppid]) => ppid === parent)
    .flatMap(([pid]) => (pid === undefined ? [] : [pid]))
}

function killQuietly(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL')
  } catch {
    // it has ended by itself
  }
}

const urlOf = (port: number): string => `postgres://postgres@127.0.0.1:${port}/postgres`

function makeTemporaryFolder(binaries: PostgresBinaries): string {
  const folder = mkdtempSync(join(tmpdir(), `crossfade-pg${binaries.version}-`))
  chmodSync(folder, 0o755)
  return ownedFolder(join(folder, 'data'), binaries)
}

function makeFolder(wanted: string, binaries: PostgresBinaries): string {
  const folder = resolve(wanted)
  mkdirSync(dirname(folder), { recursive: true })
  const user = binaries.user
  if (user !== undefined && !canReach(dirname(folder), user)) {
    const name = createHash('sha256').update(folder).digest('hex').slice(0, 12)
    return ownedFolder(join(tmpdir(), `crossfade-data-${name}`), binaries)
  }
  return ownedFolder(folder, binaries)
}

function ownedFolder(folder: string, binaries: PostgresBinaries): string {
  if (!existsSync(folder)) {
    mkdirSync(folder, { mode: 0o700 })
    if (binaries.user) chownSync(folder, binaries.user.uid, binaries.user.gid)
  } else if (binaries.user && statSync(folder).uid !== binaries.user.uid) {
    throw noServer(
      `${folder} belongs to user ${statSync(folder).uid}; PostgreSQL would run as user ${binaries.user.uid}.`,
      `Take another folder, or hand it over: chown -R ${binaries.user.uid} ${folder}`,
    )
  }
  return folder
}

function canReach(folder: string, user: { uid: number; gid: number }): boolean {
  // The working directory is entered as that user, so that this fails where a parent folder is closed to it.
  const result = spawnSync('/bin/sh', ['-c', 'cd "$1"', 'sh', folder], { cwd: '/', ...user })
  return result.error === undefined && result.status === 0
}

function initialise(dataDir: string, binaries: PostgresBinaries): void {
  const versionFile = join(dataDir, 'PG_VERSION')
  if (existsSync(versionFile)) {
    const found = readFileSync(versionFile, 'utf8').trim()
    if (found === binaries.version) return
    throw noServer(
      `${dataDir} is of PostgreSQL ${found}, and ${binaries.version} was asked for.`,
      `Take another folder, or remove this one: rm -r ${dataDir}`,
    )
  }
  const locale = process.platform === 'linux' ? 'C.UTF-8' : 'C'
  const args = [
    '-D',
    dataDir,
    '-U',
    'postgres',
    '-A',
    'trust',
    '-E',
    'UTF8',
    `--locale=${locale}`,
    '--no-sync',
    '--no-instructions',
  ]
  const result = spawnSync(join(binaries.binDir, 'initdb'), args, {
    cwd: dataDir,
    env: environment(dataDir),
    encoding: 'utf8',
    timeout: 120_000,
    ...(binaries.user ?? {}),
  })
  if (result.error || result.status !== 0) {
    const said = [result.error?.message, result.stdout, result.stderr].filter(Boolean).join('\n').trim()
    throw noServer(
      `initdb of PostgreSQL ${binaries.version} in ${dataDir} failed:\n${said}`,
      'Mend what it says, then try again.',
      result.error,
    )
  }
}

/** No PG… variable of the user's shell may change what is started here. */
function environment(dataDir: string): NodeJS.ProcessEnv {
  const own = Object.entries(process.env).filter(([name]) => !name.startsWith('PG'))
  return { ...Object.fromEntries(own), HOME: dataDir }
}

async function startOnSomePort(
  binaries: PostgresBinaries,
  dataDir: string,
  options: PostgresServerOptions,
): Promise<{ server: ServerProcess; port: number }> {
  if (options.port !== undefined) {
    if (!(await isPortFree(options.port))) {
      throw noServer(
        `Port ${options.port} of 127.0.0.1 is in use, so no PostgreSQL can be started on it.`,
        'Stop what listens there, or take another port.',
      )
    }
    return { port: options.port, server: await startOnce(binaries, dataDir, options.port, options) }
  }
  // Between choosing a free port and binding it somebody else may take it: then another one is chosen.
  for (let attempt = 1; ; attempt++) {
    const port = await freePort()
    try {
      return { port, server: await startOnce(binaries, dataDir, port, options) }
    } catch (error) {
      const isClash = error instanceof Error && /could not bind|address already in use/i.test(error.message)
      if (!isClash || attempt === 5) throw error
    }
  }
}

/**
 * Backends notice the death of a killed postmaster only when they next wait for something; until the last of them has
 * ended, a new one refuses to start on the same data.
 */
async function startAgain(
  binaries: PostgresBinaries,
  dataDir: string,
  port: number,
  options: PostgresServerOptions,
): Promise<ServerProcess> {
  const deadline = Date.now() + 30_000
  for (;;) {
    try {
      return await startOnce(binaries, dataDir, port, options)
    } catch (error) {
      const isTooEarly =
        error instanceof Error && /pre-existing shared memory block|could not bind/i.test(error.message)
      if (!isTooEarly || Date.now() > deadline) throw error
      await delay(50)
    }
  }
}

async function startOnce(
  binaries: PostgresBinaries,
  dataDir: string,
  port: number,
  options: PostgresServerOptions,
): Promise<ServerProcess> {
  const settings = { ...defaultSettings, ...options.settings, port: String(port) }
  const args = [
    '-D',
    dataDir,
    ...Object.entries(settings).flatMap(([name, value]) => ['-c', `${name}=${value}`]),
  ]
  const program = join(binaries.binDir, 'postgres')
  const server = await startServerProcess({
    program,
    args,
    cwd: dataDir,
    env: environment(dataDir),
    logFile: options.logFile,
    user: binaries.user,
    cannotStart: (reason) =>
      noServer(`${program} could not be started: ${reason}.`, `Try it by hand: ${program} --version`),
    onParentDeath: 'SIGQUIT',
    temporaryFolder: options.dataDir === undefined ? dirname(dataDir) : undefined,
  })
  try {
    await waitUntilReady(server, port, binaries.version, options.timeoutMs ?? 60_000)
  } catch (error) {
    await server.end('SIGQUIT', 10_000)
    throw error
  }
  return server
}

/** Ready is: it answers a query (after a crash it accepts connections only to refuse them until recovery is over). */
async function waitUntilReady(
  server: ServerProcess,
  port: number,
  version: string,
  timeoutMs: number,
): Promise<void> {
  const deadline = Date.now() + timeoutMs
  let last: unknown
  while (Date.now() < deadline) {
    const ending = server.ending()
    if (ending !== undefined) {
      throw noServer(
        `PostgreSQL ${version} on port ${port} ${ending}:\n${server.logTail()}`,
        'Mend what its log says, then try again.',
      )
    }
    const client = new pg.Client({ connectionString: urlOf(port), connectionTimeoutMillis: 2000 })
    client.on('error', () => undefined)
    try {
      await client.connect()
      await client.query('select 1')
      return
    } catch (error) {
      last = error
    } finally {
      await client.end().catch(() => undefined)
    }
    await delay(25)
  }
  throw noServer(
    `PostgreSQL ${version} on port ${port} did not answer within ${timeoutMs / 1000} s${last instanceof Error ? ` (${last.message})` : ''}:\n${server.logTail()}`,
    'Look at its log above; on a slow machine give it more time.',
    last,
  )
}

function noServer(message: string, mend: string, cause?: unknown): CrossfadeError {
  return new CrossfadeError({ kind: 'unavailable', code: 'DATABASE.NO_SERVER', message, mend, cause })
}
