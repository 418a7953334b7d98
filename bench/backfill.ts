import assert from 'node:assert/strict'
import type pg from 'pg'
import { createItems, expandItems, ratioOf, reshaped, secondsOf, withServer, type Bench } from './support.ts'

const target =
  'CREATE TABLE plain (id bigint PRIMARY KEY, code text NOT NULL, amount_cents bigint NOT NULL, note text NOT NULL, updated_at timestamptz NOT NULL)'
const index = 'CREATE INDEX plain_code ON plain (code)'
const insert = `INSERT INTO plain ${reshaped}`

/** One statement after the other on one connection, in a table that was not there; a checkpoint first, so that all start alike. */
async function oneShot(pool: pg.Pool, before: readonly string[], timed: readonly string[]): Promise<number> {
  for (const sql of ['DROP TABLE IF EXISTS plain', target, ...before, 'CHECKPOINT']) await pool.query(sql)
  const seconds = await secondsOf(async () => {
    for (const sql of timed) await pool.query(sql)
  })
  await pool.query('DROP TABLE plain')
  return seconds
}

/** The lanes of profile `fast` plus the concurrent index build, against one statement that does the same and blocks. */
export const backfill: Bench = {
  summary: 'copy plus concurrent index build, against one-shot INSERT … SELECT',
  rows: 1_000_000,
  runs: 3,
  run: ({ rows, runs, say }) =>
    withServer(async (pool, url) => {
      say(`making ${rows} rows`)
      await createItems(pool, rows)
      const samples = {
        rowsPerSec: [] as number[],
        copyOnlyRowsPerSec: [] as number[],
        oneShotIndexedRowsPerSec: [] as number[],
        blockingIdealRowsPerSec: [] as number[],
      }
      for (let run = 1; run <= runs; run++) {
        say(`run ${run} of ${runs}`)
        samples.oneShotIndexedRowsPerSec.push(rows / (await oneShot(pool, [index], [insert])))
        samples.blockingIdealRowsPerSec.push(rows / (await oneShot(pool, [], [insert, index])))
        const stage = await expandItems(url, 'fast')
        try {
          await pool.query('CHECKPOINT')
          let written = 0
          const copying = await secondsOf(async () => (written = await stage.copy()))
          assert.equal(written, rows, 'every row is copied in every run')
          const building = await secondsOf(() => stage.complete())
          samples.copyOnlyRowsPerSec.push(rows / copying)
          samples.rowsPerSec.push(rows / (copying + building))
        } finally {
          await stage.close()
        }
      }
      return {
        samples,
        ratios: {
          vsOneShotIndexed: ratioOf(samples.rowsPerSec, samples.oneShotIndexedRowsPerSec),
          vsBlockingIdeal: ratioOf(samples.rowsPerSec, samples.blockingIdealRowsPerSec),
        },
      }
    }),
}
