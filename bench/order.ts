import assert from 'node:assert/strict'
import { createItems, expandItems, ratioOf, secondsOf, withServer, type Bench } from './support.ts'

const orders = ['key', 'physical'] as const

/** The same lanes over the same table, whose key does not follow its file and which is larger than the server's cache. */
export const order: Bench = {
  summary: 'copying a table whose key does not follow its file: by key, and as it lies there',
  rows: 2_000_000,
  runs: 3,
  run: ({ rows, runs, say }) =>
    withServer(
      async (pool, url) => {
        say(`making ${rows} rows`)
        await createItems(pool, rows, 'random')
        const samples = { key: [] as number[], physical: [] as number[] }
        for (let run = 1; run <= runs; run++)
          for (const each of orders) {
            say(`run ${run} of ${runs}, order ${each}`)
            const stage = await expandItems(url, 'fast', each)
            try {
              await pool.query('CHECKPOINT')
              let written = 0
              const seconds = await secondsOf(async () => (written = await stage.copy()))
              assert.equal(written, rows, 'every row is copied in every run')
              samples[each].push(rows / seconds)
            } finally {
              await stage.close()
            }
          }
        const { key, physical } = samples
        return {
          samples: { keyRowsPerSec: key, physicalRowsPerSec: physical },
          ratios: { physicalVsKey: ratioOf(physical, key) },
        }
      },
      { shared_buffers: '128MB' },
    ),
}
