import { verifyLane } from '../src/verify/verify-lane.ts'
import { createItems, expandItems, ratioOf, reshaped, secondsOf, withServer, type Bench } from './support.ts'

/** As large as those of the lane: the baseline is not slowed down by more round trips. */
const rangeRows = 100_000

/** One verifying lane, against the bare FULL JOIN of the same ranges on one connection. */
export const verify: Bench = {
  summary: 'a full comparison, against a bare FULL JOIN per range',
  rows: 1_000_000,
  runs: 3,
  run: ({ rows, runs, say }) =>
    withServer(async (pool, url) => {
      say(`making and copying ${rows} rows`)
      await createItems(pool, rows)
      const stage = await expandItems(url, 'fast')
      try {
        await stage.copy()
        await stage.complete()
        await pool.query('VACUUM (ANALYZE) items_new')
        const { database, scope } = stage.place
        const { ranges } = database.dialect
        const samples = { rowsPerSec: [] as number[], fullJoinRowsPerSec: [] as number[] }
        for (let run = 1; run <= runs; run++) {
          say(`run ${run} of ${runs}`)
          samples.fullJoinRowsPerSec.push(
            rows /
              (await secondsOf(async () => {
                for (let from = 1; from <= rows; from += rangeRows)
                  await pool.query(bareJoin, [from, from + rangeRows - 1])
              })),
          )
          await database.transaction(async (tx) => {
            await ranges.reset(tx, scope, 'verify')
            for (const group of stage.groups.forward) await ranges.plan(tx, scope, group, 'verify', 8)
          })
          const pace = { signal: new AbortController().signal, until: Infinity, report: () => undefined }
          const seconds = await secondsOf(() =>
            verifyLane(stage.place, stage.groups.forward, 0, pace, { repair: false }),
          )
          samples.rowsPerSec.push(rows / seconds)
        }
        return {
          samples,
          ratios: { vsFullJoin: ratioOf(samples.rowsPerSec, samples.fullJoinRowsPerSec) },
        }
      } finally {
        await stage.close()
      }
    }),
}

const between = 'WHERE id BETWEEN $1 AND $2'
const bareJoin =
  `SELECT count(*) FILTER (WHERE s.id IS NULL OR t.id IS NULL OR s.code IS DISTINCT FROM t.code ` +
  `OR s.amount_cents IS DISTINCT FROM t.amount_cents OR s.note IS DISTINCT FROM t.note OR s.updated_at IS DISTINCT FROM t.updated_at) ` +
  `FROM (${reshaped} ${between}) AS s FULL JOIN (SELECT * FROM items_new ${between}) AS t ON s.id = t.id`
