import type pg from 'pg'
import { setTimeout as delay } from 'node:timers/promises'
import { Latencies } from '../src/demo/latencies.ts'
import { createItems, expandItems, median, withServer, type Bench, type Stage } from './support.ts'

const ratePerSec = 300
const chasesPerSec = 50
const windowMs = 10_000

/** Single-row updates at a steady rate, timed from when each was due: a stall counts for all that it held up. */
async function load(pool: pg.Pool, rate: number, signal: AbortSignal, key: () => number): Promise<Latencies> {
  const latencies = new Latencies()
  const startedAt = performance.now()
  const running: Promise<void>[] = []
  for (let n = 0; !signal.aborted; n++) {
    const due = startedAt + (n * 1000) / rate
    if (due > performance.now()) await delay(due - performance.now())
    running.push(
      pool
        .query('UPDATE items SET amount = amount + 1, updated_at = now() WHERE id = $1', [key()])
        .then(() => latencies.add(performance.now() - due)),
    )
  }
  await Promise.all(running)
  return latencies
}

const anyOf = (rows: number) => (): number => 1 + Math.floor(Math.random() * rows)

/** A number just ahead of where a lane is: the rows that the running chunk reads. */
async function followLane(
  stage: Stage,
  pool: pg.Pool,
  rows: number,
  signal: AbortSignal,
  set: (key: number) => void,
): Promise<void> {
  const ranges = `"${stage.place.scope.schema}".ranges`
  while (!signal.aborted) {
    const { rows: found } = await pool.query<{ at: string | null }>(
      `SELECT (coalesce(cursor_key, lower_key))[1] AS at FROM ${ranges} WHERE purpose = 'backfill' AND lane IS NOT NULL AND NOT done ORDER BY random() LIMIT 1`,
    )
    const at = found[0]?.at
    if (at) set(Math.min(rows, Number(at)))
    await delay(10)
  }
}

export const latency: Bench = {
  summary: `the application's p99 under ${ratePerSec} transactions a second, quiet and while gentle copies`,
  rows: 1_000_000,
  runs: 3,
  run: ({ rows, runs, say }) =>
    withServer(async (pool, url) => {
      say(`making ${rows} rows`)
      await createItems(pool, rows)
      const samples = { quietP99Ms: [] as number[], p99Ms: [] as number[], chaserP99Ms: [] as number[] }
      const during = Math.min(windowMs, Math.max(500, rows / 100))
      say('warming up')
      await load(pool, ratePerSec, AbortSignal.timeout(during / 2), anyOf(rows))
      for (let run = 1; run <= runs; run++) {
        say(`run ${run} of ${runs}`)
        samples.quietP99Ms.push(
          (await load(pool, ratePerSec, AbortSignal.timeout(during), anyOf(rows))).percentile(99),
        )
        const stage = await expandItems(url, 'gentle')
        try {
          const end = new AbortController()
          let place = 1
          const copying = stage.copy(end.signal).finally(() => end.abort())
          const timer = setTimeout(() => end.abort(), during)
          const [all, chasers] = await Promise.all([
            load(pool, ratePerSec, end.signal, anyOf(rows)),
            load(pool, chasesPerSec, end.signal, () =>
              Math.min(rows, place + Math.floor(Math.random() * 5_000)),
            ),
            followLane(stage, pool, rows, end.signal, (key) => (place = key)),
            copying,
          ])
          clearTimeout(timer)
          samples.p99Ms.push(all.percentile(99))
          samples.chaserP99Ms.push(chasers.percentile(99))
        } finally {
          await stage.close()
        }
      }
      return { samples, ratios: { p99VsQuiet: median(samples.p99Ms) / median(samples.quietP99Ms) } }
    }),
}
