import { spawn, type ChildProcess } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { TestContext } from 'vitest'
import { required } from './migration.ts'
import type { TestDatabase } from './postgres.ts'

/**
 * pgbench: a program that none of us wrote, which knows nothing of a migration. It keeps the books of a bank: whatever happens,
 * the sums of accounts, branches, tellers and of the history are equal.
 */
export interface PgbenchResult {
  readonly transactions: number
  readonly failed: number
  readonly latencyMs: number
  readonly output: string
}

export interface Pgbench {
  /** Ends it as the end of its time would: it counts and reports. Fails where it had died or a client was aborted. */
  stop(): Promise<PgbenchResult>
  isRunning(): boolean
  output(): string
}

export interface PgbenchOptions {
  readonly scale: number
  readonly clients?: number
  /** Instead of the built-in TPC-B. */
  readonly script?: string
  readonly protocol?: 'simple' | 'extended' | 'prepared'
  /** Transactions a second at most. Default: as many as it can, which takes all that the machine has. */
  readonly tps?: number | undefined
}

interface Finished {
  readonly code: number | null
  readonly signal: NodeJS.Signals | null
}

/** `pgbench -i`: four tables, 100 000 accounts a unit of scale. */
export async function initialisePgbench(database: TestDatabase, scale: number): Promise<void> {
  const run = launch(database, ['-i', '-q', '-s', String(scale)])
  const { code } = await run.finished
  if (code !== 0) throw new Error(`pgbench -i failed:\n${run.output()}`)
}

/** Runs until it is stopped; it ends with the test at the latest. */
export function startPgbench(
  t: Pick<TestContext, 'onTestFinished'>,
  database: TestDatabase,
  { scale, clients = 4, script, protocol = 'simple', tps }: PgbenchOptions,
): Pgbench {
  const folder = mkdtempSync(join(tmpdir(), 'crossfade-pgbench-'))
  const file = join(folder, 'script.sql')
  if (script !== undefined) writeFileSync(file, script)
  // -n: else it would empty its history at the start.
  const args = ['-n', '-c', String(clients), '-j', '1', '-T', '3600', '-M', protocol, '-s', String(scale)]
  if (tps !== undefined) args.push('-R', String(tps))
  const run = launch(database, script === undefined ? args : [...args, '-f', file])
  let hasEnded = false
  void run.finished.then(() => (hasEnded = true))
  t.onTestFinished(async () => {
    run.child.kill('SIGKILL')
    await run.finished
    rmSync(folder, { recursive: true, force: true })
  })
  return {
    isRunning: () => !hasEnded,
    output: () => run.output(),
    async stop() {
      // The signal by which its own timer tells it that time is up: every client ends its transaction, then it reports.
      if (!hasEnded) run.child.kill('SIGALRM')
      const { code, signal } = await run.finished
      const output = run.output()
      if (code !== 0)
        throw new Error(`pgbench ended with ${code ?? signal}, and not because it was told to:\n${output}`)
      return {
        transactions: figure(output, /transactions actually processed: (\d+)/),
        failed: figure(output, /failed transactions: (\d+)/),
        latencyMs: figure(output, /latency average = ([\d.]+) ms/),
        output,
      }
    },
  }
}

function figure(output: string, pattern: RegExp): number {
  const found = pattern.exec(output)?.[1]
  if (found === undefined) throw new Error(`pgbench did not report ${pattern.source}:\n${output}`)
  return Number(found)
}

function launch(
  database: TestDatabase,
  args: readonly string[],
): { readonly child: ChildProcess; readonly finished: Promise<Finished>; output(): string } {
  const url = new URL(database.url)
  const child = spawn(
    required(database.server.pgbench, 'pgbench'),
    [...args, '-h', url.hostname, '-p', url.port, '-U', 'postgres', database.name],
    { stdio: ['ignore', 'pipe', 'pipe'], env: { ...process.env, PGAPPNAME: 'pgbench' } },
  )
  let output = ''
  child.stdout.on('data', (chunk: Buffer) => (output += chunk.toString()))
  child.stderr.on('data', (chunk: Buffer) => (output += chunk.toString()))
  const finished = new Promise<Finished>((resolve) => {
    child.once('close', (code, signal) => resolve({ code, signal }))
    child.once('error', (error) => {
      output += error.message
      resolve({ code: null, signal: null })
    })
  })
  return { child, finished, output: () => output }
}
