import { describe, expect, test } from 'vitest'
import type { Activities } from '../../src/activities/contract.ts'
import { stepBytes } from '../../src/copy/step-end.ts'
import { fingerprint, resolveMigration } from '../../src/definition/index.ts'
import { isLong } from '../support/migrations.ts'
import { MortalWorker } from '../support/mortal-worker.ts'
import { postgresVersions, withDatabase } from '../support/postgres.ts'

/**
 * Danger: rows of 2 KB up to 1 MB, after many that were small. A chunk of as many rows as before would be one transaction of a hundred
 * megabytes; and whatever the rows weigh, the worker must not.
 */

const factor = isLong ? 10 : 1
const mebibyte = 1024 * 1024

const migration = resolveMigration({
  name: 'wide',
  kind: 'table',
  mappings: [
    {
      source: 'papers',
      target: 'documents',
      key: { id: 'id' },
      columns: { body: true, note: true },
      reverse: false,
    },
  ],
  expand: {
    tables: [
      {
        table: 'documents',
        columns: { id: 'bigint NOT NULL', body: 'bytea NOT NULL', note: 'text' },
        primaryKey: ['id'],
      },
    ],
  },
  // Only the weight of the rows may make a chunk end: it has all the time, and may be large.
  backfill: {
    profile: 'fast',
    rateLimitMs: 0,
    batchSize: 2_000,
    maxBatchSize: 20_000,
    targetChunkMs: 60_000,
    maxConcurrency: 1,
  },
})

const rows = `
  CREATE TABLE papers (id bigint PRIMARY KEY, body bytea NOT NULL, note text);
  ALTER TABLE papers ALTER body SET STORAGE EXTERNAL;
  INSERT INTO papers SELECT i, decode(repeat(lpad(to_hex(i), 8, '0'), 512), 'hex'), 'small' FROM generate_series(1, ${2_500 * factor}) i;
  INSERT INTO papers SELECT 1000000 + i, decode(repeat(lpad(to_hex(i), 8, '0'), 262144), 'hex'), 'large' FROM generate_series(1, ${60 * factor}) i;
  INSERT INTO papers SELECT 2000000 + i, decode(repeat(lpad(to_hex(i), 8, '0'), 512 * (1 + i % 64)), 'hex'), repeat('note ' || i, 400) FROM generate_series(1, ${600 * factor}) i;
  ANALYZE papers`

describe.each(postgresVersions())('PostgreSQL %s', (version) => {
  test('chunks are bounded by what the rows weigh, and the worker weighs what it did', async (t) => {
    const database = await withDatabase(t, version)
    const { pool } = database
    await pool.query(rows)
    const worker = new MortalWorker(t, database.url)
    const ref = { name: migration.name, database: migration.database, fingerprint: fingerprint(migration) }
    const run = async (name: keyof Activities, input: object): Promise<Record<string, unknown>> => {
      for (;;) {
        const outcome = await worker.attempt(name, input, false)
        const result = ('result' in outcome ? outcome.result : {}) as Record<string, unknown> | undefined
        if (result?.['done'] !== false) return result ?? {}
      }
    }
    await run('expand', { migration, fingerprint: ref.fingerprint })
    const before = worker.peakBytes()
    await run('planBackfill', { ...ref, settings: {} })
    await run('backfillSlice', { ...ref, settings: {}, lane: 0, lanes: 1, sliceSec: 120 })

    // Each chunk is a transaction, which the rows name.
    const { rows: chunks } = await pool.query<{ rows: number; bytes: number; most: number }>(
      `SELECT count(*)::int AS rows, sum(octet_length(body))::int AS bytes, max(octet_length(body))::int AS most FROM documents GROUP BY xmin::text ORDER BY min(id)`,
    )
    const total = chunks.reduce((sum, { bytes }) => sum + bytes, 0)
    expect(total).toBeGreaterThan(70 * mebibyte)
    for (const { bytes, most } of chunks) expect(bytes).toBeLessThanOrEqual(stepBytes + most)
    // It is the weight that cuts, not caution: small rows go by the hundred, a whole range at once.
    expect(Math.max(...chunks.map((chunk) => chunk.rows))).toBeGreaterThan(500)

    // What a chunk passed over is changed in the target alone: the comparison finds it and copies it again.
    await pool.query(
      `BEGIN; SET LOCAL crossfade.applying = 'wide'; UPDATE documents SET body = 'other' WHERE id % 7 = 0; COMMIT`,
    )
    await run('planVerify', { ...ref, direction: 'forward', begun: false })
    const verified = await run('verifySlice', {
      ...ref,
      direction: 'forward',
      lane: 0,
      lanes: 1,
      repair: true,
      sliceSec: 120,
    })
    expect(verified['counts']).toMatchObject({
      compared: 3_160 * factor,
      mismatched: Math.floor((2_500 * factor) / 7) + [...ids()].length,
    })
    await run('applyChanges', { ...ref, sliceSec: 2 })
    const { rows: different } = await pool.query(
      `SELECT id FROM papers p FULL JOIN documents d USING (id) WHERE md5(p.body) IS DISTINCT FROM md5(d.body) OR p.note IS DISTINCT FROM d.note LIMIT 5`,
    )
    expect(different).toEqual([])
    const grown = worker.peakBytes() - before
    process.stderr.write(
      `PostgreSQL ${version}: ${Math.round(total / mebibyte)} MiB in ${chunks.length} chunks of at most ${(Math.max(...chunks.map(({ bytes }) => bytes)) / mebibyte).toFixed(1)} MiB; the worker grew by ${(grown / mebibyte).toFixed(1)} MiB\n`,
    )
    expect(grown).toBeLessThan(48 * mebibyte)
    await worker.end()
  })
})

/** The large ids that are divisible by 7. */
function* ids(): Generator<number> {
  for (const [start, count] of [
    [1_000_000, 60 * factor],
    [2_000_000, 600 * factor],
  ] as const)
    for (let i = 1; i <= count; i++) if ((start + i) % 7 === 0) yield start + i
}
