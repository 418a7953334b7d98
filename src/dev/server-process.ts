import { spawn } from 'node:child_process'
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import type { CrossfadeError } from '../errors/index.ts'
import { dieWithParent } from './die-with-parent.ts'

export interface ServerProcess {
  readonly pid: number
  isRunning(): boolean
  /** Sends `signal` and waits for the end; after `timeoutMs` (30 000) it sends SIGKILL. */
  end(signal: NodeJS.Signals, timeoutMs?: number): Promise<void>
  /** The last lines that the server logged. */
  logTail(): string
  /** How it ended, for an error message; undefined while it runs. */
  ending(): string | undefined
}

export interface ServerProcessOptions {
  readonly program: string
  readonly args: readonly string[]
  readonly cwd: string
  readonly env: NodeJS.ProcessEnv
  /** The output is appended to it; without it the output goes to a temporary file, removed when the server ends. */
  readonly logFile?: string | undefined
  /** Makes the error for a program that cannot even be started. */
  readonly cannotStart: (reason: string) => CrossfadeError
  /** Run as this user (PostgreSQL refuses to be root). */
  readonly user?: { readonly uid: number; readonly gid: number } | undefined
  /** What a watchdog sends when this process dies. */
  readonly onParentDeath: 'SIGKILL' | 'SIGQUIT'
  /** A folder that is of no use without this process: removed when it dies before the server. */
  readonly temporaryFolder?: string | undefined
}

/** Starts a server in a process group of its own (a Ctrl-C in the terminal does not reach it), which ends with this process. */
export async function startServerProcess(options: ServerProcessOptions): Promise<ServerProcess> {
  const ownFolder = options.logFile === undefined ? mkdtempSync(join(tmpdir(), 'crossfade-log-')) : undefined
  const logFile = options.logFile ?? join(ownFolder ?? tmpdir(), 'server.log')
  const log = openSync(logFile, 'a')
  const child = spawn(options.program, options.args, {
    cwd: options.cwd,
    env: options.env,
    stdio: ['ignore', log, log],
    detached: true,
    ...(options.user ?? {}),
  })
  closeSync(log)

  let ending: string | undefined
  let tail: string | undefined
  const readTail = (): string => {
    try {
      return readFileSync(logFile, 'utf8').trimEnd().split('\n').slice(-20).join('\n')
    } catch {
      return ''
    }
  }
  const ended = new Promise<void>((resolve) => {
    const settle = (how: string): void => {
      ending = how
      tail = readTail()
      if (ownFolder) rmSync(ownFolder, { recursive: true, force: true })
      resolve()
    }
    child.once('error', (error) => settle(error.message))
    child.once('exit', (code, signal) =>
      settle(signal ? `ended by ${signal}` : `ended with exit code ${code ?? 'unknown'}`),
    )
  })
  const pid = child.pid
  if (pid === undefined) {
    await ended
    throw options.cannotStart(ending ?? 'no reason was given')
  }
  child.unref()
  const folders = [ownFolder, options.temporaryFolder].filter((folder) => folder !== undefined)
  const release = dieWithParent(pid, options.onParentDeath, folders)
  void ended.then(release)

  return {
    pid,
    isRunning: () => ending === undefined,
    ending: () => ending,
    logTail: () => tail ?? readTail(),
    async end(signal, timeoutMs = 30_000) {
      if (ending !== undefined) return
      child.ref()
      child.kill(signal)
      const patience = new AbortController()
      await Promise.race([
        ended,
        delay(timeoutMs, undefined, { signal: patience.signal }).catch(() => undefined),
      ])
      patience.abort()
      if (ending === undefined) {
        child.kill('SIGKILL')
        await ended
      }
    },
  }
}
