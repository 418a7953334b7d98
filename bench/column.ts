import assert from 'node:assert/strict'
import pg from 'pg'
import { resolveMigration } from '../src/definition/index.ts'
import { steadyLanes } from '../src/core/lanes.ts'
import { createItems, expand, ratioOf, secondsOf, withServer, type Bench } from './support.ts'

const migration = resolveMigration({
  name: 'bench',
  kind: 'column',
  mappings: [
    {
      source: 'items',
      key: { id: 'id' },
      columns: { amount_cents: '(amount * 100)::bigint' },
      reverse: { columns: { amount: 'amount_cents / 100.0' } },
    },
  ],
  expand: { columns: [{ table: 'items', name: 'amount_cents', type: 'bigint', replaces: 'amount' }] },
  backfill: { profile: 'fast', maxConcurrency: steadyLanes },
})

/** On both sides: those of profile `fast` that do not first have to show that they help. */
const lanes = steadyLanes

/** What the adaptive chunks come to on most machines; a multiple of it changes the figure by a few percent. */
const chunkRows = 5_000

/** What a team writes by hand: the same UPDATE by ranges of the key, a transaction each, as many connections, no durable commit. */
async function chunkedUpdate(url: string, rows: number, applying = ''): Promise<number> {
  const each = Math.ceil(rows / lanes)
  const lane = async (n: number): Promise<void> => {
    const client = new pg.Client({ connectionString: url, application_name: 'bench' })
    await client.connect()
    try {
      await client.query('SET synchronous_commit = off')
      await client.query(`SELECT set_config('crossfade.applying', $1, false)`, [applying])
      for (let from = n * each; from < Math.min(rows, (n + 1) * each); from += chunkRows)
        await client.query(
          'UPDATE items SET amount_cents = (amount * 100)::bigint WHERE id > $1 AND id <= $2',
          [from, Math.min(from + chunkRows, (n + 1) * each)],
        )
    } finally {
      await client.end()
    }
  }
  return secondsOf(() => Promise.all(Array.from({ length: lanes }, (_, n) => lane(n))))
}

/** A new column filled by the lanes of profile `fast`, against the same UPDATE in chunks by hand, without any trigger. */
export const column: Bench = {
  summary: 'kind column: a new column filled, against a chunked plain UPDATE at equal lanes',
  rows: 1_000_000,
  runs: 3,
  run: ({ rows, runs, say }) =>
    withServer(async (pool, url) => {
      const samples = {
        rowsPerSec: [] as number[],
        chunkedUpdateRowsPerSec: [] as number[],
        withTriggerRowsPerSec: [] as number[],
      }
      // Every run starts from a table that nobody has written to: a second UPDATE would find the room that the first has left.
      const anew = async (): Promise<void> => {
        await pool.query('DROP TABLE IF EXISTS items')
        await createItems(pool, rows)
        await pool.query('CREATE INDEX items_code ON items (code)')
        await pool.query('CHECKPOINT')
      }
      for (let run = 1; run <= runs; run++) {
        say(`run ${run} of ${runs}`)
        await anew()
        await pool.query('ALTER TABLE items ADD COLUMN amount_cents bigint')
        samples.chunkedUpdateRowsPerSec.push(rows / (await chunkedUpdate(url, rows)))
        // The floor: a row trigger that lets our writes pass still has the server lock each row before it updates it.
        await anew()
        const captured = await expand(url, migration)
        try {
          samples.withTriggerRowsPerSec.push(rows / (await chunkedUpdate(url, rows, migration.name)))
        } finally {
          await captured.close()
        }
        await anew()
        const stage = await expand(url, migration)
        try {
          let written = 0
          samples.rowsPerSec.push(rows / (await secondsOf(async () => (written = await stage.copy()))))
          assert.equal(written, rows, 'every row is filled in every run')
        } finally {
          await stage.close()
        }
      }
      return {
        samples,
        ratios: {
          vsChunkedUpdate: ratioOf(samples.rowsPerSec, samples.chunkedUpdateRowsPerSec),
          vsWithTrigger: ratioOf(samples.rowsPerSec, samples.withTriggerRowsPerSec),
        },
      }
    }),
}
