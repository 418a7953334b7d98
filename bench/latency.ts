import type pg from 'pg'
import { nextChunkRows, restAfterChunkMs } from '../src/core/chunk-size.ts'
import { rest } from '../src/copy/workplace.ts'
import type { Migration } from '../src/definition/index.ts'
import { runApplication } from './application.ts'
import { createItems, expandItems, ratioOf, reshaped, wearIn, withServer, type Bench } from './support.ts'

const ratePerSec = 300
const longestWindowMs = 7_000

/** What any copying costs on this machine: plain INSERT … SELECT with the pauses of the profile, no trigger, nobody to chase. */
async function copyPlainly(
  pool: pg.Pool,
  rows: number,
  settings: Migration['backfill'],
  signal: AbortSignal,
): Promise<void> {
  let chunkRows = settings.batchSize
  for (let from = 0; from < rows && !signal.aborted;) {
    const startedAt = performance.now()
    await pool.query(`INSERT INTO plain ${reshaped} WHERE id > $1 AND id <= $2`, [from, from + chunkRows])
    const tookMs = performance.now() - startedAt
    from += chunkRows
    chunkRows = nextChunkRows(
      { askedRows: chunkRows, tookMs, full: true },
      { targetChunkMs: settings.targetChunkMs, maxRows: settings.maxBatchSize },
    )
    await rest(restAfterChunkMs(tookMs, settings.profile, settings.rateLimitMs), signal)
  }
}

export const latency: Bench = {
  summary: `the application's p99 under ${ratePerSec} transactions a second: quiet, and while profile gentle copies`,
  rows: 1_000_000,
  runs: 3,
  run: ({ rows, runs, say }) =>
    withServer(async (pool, url) => {
      say(`making ${rows} rows`)
      await createItems(pool, rows)
      await wearIn(pool, rows)
      const samples = {
        quietP50Ms: [] as number[],
        quietP99Ms: [] as number[],
        plainP99Ms: [] as number[],
        p50Ms: [] as number[],
        p99Ms: [] as number[],
        chaserP99Ms: [] as number[],
        quietUnflushedP99Ms: [] as number[],
        unflushedP99Ms: [] as number[],
        chaserUnflushedP99Ms: [] as number[],
        copiedRowsPerSec: [] as number[],
      }
      const forMs = Math.min(longestWindowMs, Math.max(500, rows / 100))
      const application = { url, rows, forMs, ratePerSec }
      // Its commits do not wait for the disk: what is left are the processor and locks.
      const unflushed = { ...application, url: `${url}?options=-c%20synchronous_commit%3Doff` }
      say('warming up')
      await runApplication({ ...application, forMs: forMs / 2 })
      for (let run = 1; run <= runs; run++) {
        say(`run ${run} of ${runs}`)
        const quiet = await runApplication(application)
        samples.quietP50Ms.push(quiet.p50Ms)
        samples.quietP99Ms.push(quiet.p99Ms)
        samples.quietUnflushedP99Ms.push((await runApplication(unflushed)).p99Ms)
        const stage = await expandItems(url, 'gentle')
        try {
          const end = new AbortController()
          const copying = stage.copy(end.signal)
          const ranges = `"${stage.place.scope.schema}".ranges`
          const times = await runApplication({ ...application, ranges })
          const timesUnflushed = await runApplication({ ...unflushed, ranges })
          end.abort()
          samples.copiedRowsPerSec.push(((await copying) * 1000) / (2 * forMs))
          samples.p50Ms.push(times.p50Ms)
          samples.p99Ms.push(times.p99Ms)
          samples.chaserP99Ms.push(times.chaserP99Ms)
          samples.unflushedP99Ms.push(timesUnflushed.p99Ms)
          samples.chaserUnflushedP99Ms.push(timesUnflushed.chaserP99Ms)
        } finally {
          await stage.close()
        }
        const end = new AbortController()
        await pool.query('CREATE TABLE plain AS SELECT * FROM (' + reshaped + ') AS s LIMIT 0')
        await pool.query('ALTER TABLE plain ADD PRIMARY KEY (id)')
        const copying = copyPlainly(pool, rows, stage.migration.backfill, end.signal)
        samples.plainP99Ms.push((await runApplication(application)).p99Ms)
        end.abort()
        await copying
        await pool.query('DROP TABLE plain')
      }
      return {
        samples,
        ratios: {
          p99VsQuiet: ratioOf(samples.p99Ms, samples.quietP99Ms),
          plainP99VsQuiet: ratioOf(samples.plainP99Ms, samples.quietP99Ms),
          p99VsPlain: ratioOf(samples.p99Ms, samples.plainP99Ms),
          unflushedP99VsQuiet: ratioOf(samples.unflushedP99Ms, samples.quietUnflushedP99Ms),
        },
      }
    }),
}
