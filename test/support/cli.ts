import { spawn, type ChildProcess } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { inject, type TestContext } from 'vitest'
import { required } from './migration.ts'
import type { TestDatabase } from './postgres.ts'
import { eventually } from './wait.ts'

const root = fileURLToPath(new URL('../..', import.meta.url))
const loader = pathToFileURL(join(root, 'node_modules', 'tsx', 'dist', 'loader.mjs')).href
const main = join(root, 'src', 'cli', 'main.ts')

export interface Ran {
  readonly stdout: string
  readonly stderr: string
  readonly exitCode: number | null
  readonly signal: NodeJS.Signals | null
}

/** The command line from the sources, as a process of its own in a folder of its own. */
export interface Cli {
  readonly cwd: string
  readonly env: Readonly<Record<string, string>>
  run(...args: string[]): Promise<Ran>
  /** Runs it with --json and returns the one object that stdout has to hold. */
  json(
    ...args: string[]
  ): Promise<{ readonly exitCode: number | null; readonly answer: Record<string, unknown> }>
  start(...args: string[]): Running
}

export interface Running {
  readonly child: ChildProcess
  readonly ended: Promise<Ran>
  /** What was written so far. */
  readonly output: { stdout: string; stderr: string }
}

/** Nothing of the developer's own environment may reach the process. */
const inherited = ['PATH', 'HOME', 'TMPDIR', 'LANG', 'CROSSFADE_CACHE'] as const

export function createCli(
  t: Pick<TestContext, 'onTestFinished'>,
  env: Readonly<Record<string, string>> = {},
): Cli {
  const cwd = mkdtempSync(join(tmpdir(), 'crossfade-cli-'))
  const own = {
    ...Object.fromEntries(
      inherited.flatMap((name) => (process.env[name] ? [[name, process.env[name]]] : [])),
    ),
    TSX_TSCONFIG_PATH: join(root, 'tsconfig.json'),
    CROSSFADE_BY: 'tester',
    ...env,
  }
  const running = new Set<ChildProcess>()
  t.onTestFinished(() => {
    for (const child of running) child.kill('SIGKILL')
    rmSync(cwd, { recursive: true, force: true })
  })
  const start = (...args: string[]): Running => {
    const child = spawn(process.execPath, ['--import', loader, main, ...args], {
      cwd,
      env: own,
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    running.add(child)
    const output = { stdout: '', stderr: '' }
    child.stdout?.setEncoding('utf8').on('data', (text: string) => (output.stdout += text))
    child.stderr?.setEncoding('utf8').on('data', (text: string) => (output.stderr += text))
    const ended = new Promise<Ran>((resolve, reject) => {
      child.once('error', reject)
      child.once('close', (exitCode, signal) => {
        running.delete(child)
        resolve({ ...output, exitCode, signal })
      })
    })
    return { child, ended, output }
  }
  return {
    cwd,
    env: own,
    start,
    run: (...args) => start(...args).ended,
    async json(...args) {
      const { stdout, stderr, exitCode } = await start(...args, '--json').ended
      try {
        return { exitCode, answer: JSON.parse(stdout) as Record<string, unknown> }
      } catch {
        throw new Error(
          `crossfade ${args.join(' ')} --json printed no JSON (exit ${exitCode}):\n${stdout}${stderr}`,
        )
      }
    },
  }
}

/** A command line that knows the test's Temporal and database, on a task queue of its own. */
export function createServiceCli(
  t: Pick<TestContext, 'onTestFinished'>,
  database: Pick<TestDatabase, 'url'>,
  env: Readonly<Record<string, string>> = {},
): Cli {
  return createCli(t, {
    TEMPORAL_ADDRESS: required(inject('temporalAddress'), 'the Temporal server'),
    CROSSFADE_TASK_QUEUE: `cli-${randomUUID()}`,
    CROSSFADE_DATABASE_URL: database.url,
    CROSSFADE_WORKFLOW_BUNDLE: required(inject('workflowBundlePath'), 'the workflow bundle'),
    ...env,
  })
}

/** `crossfade worker` as a process; it ends in good order with the test, before the test's database is dropped. */
export async function startCliWorker(t: Pick<TestContext, 'onTestFinished'>, cli: Cli): Promise<Running> {
  const worker = cli.start('worker')
  t.onTestFinished(async () => {
    worker.child.kill('SIGTERM')
    await worker.ended
  })
  await eventually(() => worker.output.stdout.includes('worker is running'), {
    what: `the worker to run:\n${worker.output.stderr}`,
    timeoutMs: 60_000,
  })
  return worker
}

/** A name that no other test has: the workflows of all tests live in one Temporal. */
export const uniqueName = (prefix: string): string => `${prefix}-${randomUUID().slice(0, 8)}`
