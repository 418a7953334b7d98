import { spawn } from 'node:child_process'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import pg from 'pg'
import { dieWithParent } from '../src/dev/die-with-parent.ts'
import { Latencies } from '../src/demo/latencies.ts'
import { CrossfadeError } from '../src/errors/index.ts'

/** An application in a process of its own, so that its times are those of the server and not of our event loop. */

export interface ApplicationOptions {
  readonly url: string
  readonly rows: number
  readonly forMs: number
  /** Single-row updates of any row, a second. */
  readonly ratePerSec: number
  /** Where chunks leave their place: then {@link chasesPerSec} more updates hit the rows that the running chunk reads. */
  readonly ranges?: string | undefined
}

export interface ApplicationTimes {
  readonly p50Ms: number
  readonly p99Ms: number
  readonly chaserP99Ms: number
}

export const chasesPerSec = 50
const chasedRows = 5_000

/** Runs it until its time is over. */
export async function runApplication(options: ApplicationOptions): Promise<ApplicationTimes> {
  const script = fileURLToPath(import.meta.url)
  const child = spawn(process.execPath, [...process.execArgv, script, JSON.stringify(options)], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  const release = child.pid === undefined ? undefined : dieWithParent(child.pid, 'SIGKILL')
  let output = ''
  child.stdout.on('data', (text: Buffer) => (output += text.toString()))
  const code = await new Promise((resolve) => child.once('close', resolve))
  release?.()
  if (code === 0) return JSON.parse(output) as ApplicationTimes
  throw new CrossfadeError({
    kind: 'bug',
    code: 'INTERNAL.UNEXPECTED',
    message: `The process of the bench's application ended with ${String(code)}.`,
    mend: 'What it wrote stands above.',
  })
}

/** Writes at a steady rate, timed from when each was due: a stall counts for all that it held up. */
export async function writeSteadily(
  ratePerSec: number,
  signal: AbortSignal,
  write: () => Promise<unknown>,
): Promise<Latencies> {
  const latencies = new Latencies()
  const startedAt = performance.now()
  const running: Promise<void>[] = []
  for (let n = 0; !signal.aborted; n++) {
    const due = startedAt + (n * 1000) / ratePerSec
    if (due > performance.now()) await delay(due - performance.now())
    running.push(write().then(() => latencies.add(performance.now() - due)))
  }
  await Promise.all(running)
  return latencies
}

/** Updates of single rows. */
const update = (
  pool: pg.Pool,
  ratePerSec: number,
  signal: AbortSignal,
  key: () => number,
): Promise<Latencies> =>
  writeSteadily(ratePerSec, signal, () =>
    pool.query('UPDATE items SET amount = amount + 1, updated_at = now() WHERE id = $1', [key()]),
  )

/** Tells where a lane is, again and again. */
async function followLane(
  pool: pg.Pool,
  ranges: string,
  signal: AbortSignal,
  tell: (key: number) => void,
): Promise<void> {
  while (!signal.aborted) {
    const { rows } = await pool.query<{ at: string | null }>(
      `SELECT (coalesce(cursor_key, lower_key))[1] AS at FROM ${ranges} WHERE purpose = 'backfill' AND lane IS NOT NULL AND NOT done ORDER BY random() LIMIT 1`,
    )
    const at = rows[0]?.at
    if (at) tell(Number(at))
    await delay(10)
  }
}

async function main({ url, rows, forMs, ratePerSec, ranges }: ApplicationOptions): Promise<ApplicationTimes> {
  const pool = new pg.Pool({ connectionString: url, max: 32, application_name: 'bench application' })
  // Who connects meanwhile would pay for it in its first times.
  await Promise.all(Array.from({ length: 32 }, () => pool.query('SELECT pg_sleep(0.1)')))
  const signal = AbortSignal.timeout(forMs)
  let place = 0
  const chased = (): number => Math.min(rows, place + 1 + Math.floor(Math.random() * chasedRows))
  const [all, chasers] = await Promise.all([
    update(pool, ratePerSec, signal, () => 1 + Math.floor(Math.random() * rows)),
    ...(ranges === undefined
      ? []
      : [
          update(pool, chasesPerSec, signal, chased),
          followLane(pool, ranges, signal, (key) => (place = key)),
        ]),
  ])
  await pool.end()
  return {
    p50Ms: all.percentile(50),
    p99Ms: all.percentile(99),
    chaserP99Ms: chasers?.percentile(99) ?? 0,
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url))
  process.stdout.write(JSON.stringify(await main(JSON.parse(process.argv[2] ?? '') as ApplicationOptions)))
