import { spawn } from 'node:child_process'
import { hostname } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { inject, type TestContext } from 'vitest'
import { required } from './migration.ts'
import { eventually } from './wait.ts'

/** `src/worker.ts` as a process of its own: what production runs, and what can be killed. */
export interface WorkerProcess {
  readonly pid: number
  /** As Temporal names it in pending activities. */
  readonly identity: string
  /** The application name of its sessions, which no other's have. */
  readonly application: string
  isRunning(): boolean
  /** Resolves when it polls; fails with its log when it ends before. */
  ready(): Promise<void>
  /** SIGKILL: no handler runs, no heartbeat says goodbye. */
  kill(): Promise<void>
  /** SIGSTOP: it keeps its connections and its transaction, and does not know that time passes. */
  freeze(): void
  thaw(): void
  /** SIGTERM, as a deploy does. */
  stop(): Promise<{ readonly exitCode: number | null; readonly tookMs: number }>
  log(): string
}

export interface WorkerProcessOptions {
  readonly address: string
  readonly taskQueue: string
  readonly databaseUrl: string
}

const root = fileURLToPath(new URL('../..', import.meta.url))

type Finishing = Pick<TestContext, 'onTestFinished'>

let count = 0

/** Starts one; it ends with the test at the latest. */
export function startWorkerProcess(t: Finishing, options: WorkerProcessOptions): WorkerProcess {
  const application = `worker ${++count}`
  const databaseUrl = new URL(options.databaseUrl)
  databaseUrl.searchParams.set('application_name', application)
  const loader = pathToFileURL(join(root, 'node_modules', 'tsx', 'dist', 'loader.mjs')).href
  const child = spawn(process.execPath, ['--import', loader, join(root, 'src', 'worker.ts')], {
    cwd: root,
    stdio: ['ignore', 'pipe', 'pipe'],
    env: {
      ...process.env,
      TSX_TSCONFIG_PATH: join(root, 'tsconfig.json'),
      TEMPORAL_ADDRESS: options.address,
      CROSSFADE_TASK_QUEUE: options.taskQueue,
      CROSSFADE_DATABASE_URL: databaseUrl.href,
      CROSSFADE_WORKFLOW_BUNDLE: required(inject('workflowBundlePath'), 'the workflow bundle'),
      CROSSFADE_LOG_LEVEL: 'info',
    },
  })
  let output = ''
  child.stdout.on('data', (chunk: Buffer) => (output += chunk.toString()))
  child.stderr.on('data', (chunk: Buffer) => (output += chunk.toString()))
  let exit: { readonly code: number | null } | undefined
  const ended = new Promise<void>((resolve) => {
    child.once('exit', (code) => {
      exit = { code }
      resolve()
    })
    child.once('error', (error) => {
      output += error.message
      exit = { code: null }
      resolve()
    })
  })
  const end = async (signal: NodeJS.Signals): Promise<void> => {
    child.kill(signal)
    await ended
  }
  t.onTestFinished(() => end('SIGKILL'))
  return {
    pid: child.pid ?? 0,
    identity: `${child.pid}@${hostname()}`,
    application,
    isRunning: () => exit === undefined,
    async ready() {
      await eventually(() => output.includes('worker is running') || exit !== undefined, {
        timeoutMs: 60_000,
        what: `a worker to run; it said:\n${output}`,
      })
      if (exit !== undefined) throw new Error(`The worker ended before it ran:\n${output}`)
    },
    kill: () => end('SIGKILL'),
    freeze: () => void child.kill('SIGSTOP'),
    thaw: () => void child.kill('SIGCONT'),
    async stop() {
      const startedAt = performance.now()
      await end('SIGTERM')
      return { exitCode: exit?.code ?? null, tookMs: performance.now() - startedAt }
    },
    log: () => output,
  }
}

/** Worker processes that share a task queue, of which one is killed now and then. */
export class Fleet {
  readonly #t: Finishing
  readonly #options: WorkerProcessOptions
  #workers: WorkerProcess[] = []
  /** Until this is awaited, replacements may still be starting. */
  #starting: Promise<unknown> = Promise.resolve()
  kills = 0

  private constructor(t: Finishing, options: WorkerProcessOptions) {
    this.#t = t
    this.#options = options
  }

  static async start(t: Finishing, options: WorkerProcessOptions, size = 2): Promise<Fleet> {
    const fleet = new Fleet(t, options)
    for (let i = 0; i < size; i++) fleet.#add()
    await fleet.complete()
    return fleet
  }

  get workers(): readonly WorkerProcess[] {
    return this.#workers
  }

  /** All of them poll. */
  async complete(): Promise<void> {
    await this.#starting
  }

  find(identity: string | undefined): WorkerProcess | undefined {
    return this.#workers.find((worker) => worker.identity === identity)
  }

  /** SIGKILL to one, and another in its place, which needs some seconds to start. */
  async kill(worker: WorkerProcess): Promise<void> {
    this.kills += 1
    this.#workers = this.#workers.filter((other) => other !== worker)
    await worker.kill()
    this.#add()
  }

  /** SIGTERM to one, and another in its place. */
  async end(worker: WorkerProcess): Promise<{ readonly exitCode: number | null; readonly tookMs: number }> {
    this.#workers = this.#workers.filter((other) => other !== worker)
    const ended = worker.stop()
    this.#add()
    return ended
  }

  #add(): void {
    const worker = startWorkerProcess(this.#t, this.#options)
    this.#workers = [...this.#workers, worker]
    this.#starting = Promise.all([this.#starting, worker.ready()])
    this.#starting.catch(() => undefined) // whoever awaits complete() sees it
  }
}
