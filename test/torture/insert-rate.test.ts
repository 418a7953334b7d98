import { describe, expect, test } from 'vitest'
import { runLane } from '../../src/backfill/run-lane.ts'
import { isLong } from '../support/migrations.ts'
import { paceOf, planRanges, withBothSides } from '../support/both-sides.ts'
import { postgresVersions } from '../support/postgres.ts'

/**
 * Danger: a table that grows faster than it is copied. What comes after the capture is the triggers' business, so the backfill has an end
 * that was fixed when it began.
 */

const before = isLong ? 100_000 : 1_000
const insertedAtOnce = 100

describe.each(postgresVersions())('PostgreSQL %s', (version) => {
  test('a backfill ends while more rows come than it copies', async (t) => {
    const m = await withBothSides(
      t,
      version,
      `CREATE TABLE events (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, body text NOT NULL);
       CREATE TABLE records (id bigint PRIMARY KEY, body text NOT NULL);
       INSERT INTO events (body) SELECT 'event ' || i FROM generate_series(1, ${before}) i`,
      {
        mappings: [
          { source: 'events', target: 'records', key: { id: 'id' }, columns: { body: true }, reverse: false },
        ],
      },
    )
    await planRanges(m.place, m.groups.forward, 'backfill', 1)
    let inserted = 0
    let isOver = false
    const session = await m.session()
    const inserting = (async () => {
      while (!isOver) {
        await session.query(
          `INSERT INTO events (body) SELECT 'later ' || i FROM generate_series(1, ${insertedAtOnce}) i`,
        )
        inserted += insertedAtOnce
      }
    })()
    const startedAt = performance.now()
    // The lane is made slow, as a throttle would make it.
    const settings = { ...m.migration.backfill, batchSize: 50, maxBatchSize: 50, rateLimitMs: 10 }
    const free = (): Promise<undefined> => Promise.resolve(undefined)
    const lane = await runLane(
      m.place,
      m.groups.forward,
      0,
      settings,
      free,
      paceOf(isLong ? 240_000 : 15_000),
    )
    const seconds = (performance.now() - startedAt) / 1000
    isOver = true
    await inserting
    process.stderr.write(
      `PostgreSQL ${version}: ${Math.round(lane.rows / seconds)} rows/s copied, ${Math.round(inserted / seconds)} rows/s inserted, ended after ${seconds.toFixed(1)} s\n`,
    )
    expect(lane).toMatchObject({ done: true, rows: before })
    expect(inserted).toBeGreaterThan(lane.rows)
    await m.drain()
    expect(await m.differences('SELECT id, body FROM events', 'SELECT id, body FROM records')).toEqual([])
  })

  test('a table that is empty at first is through at once', async (t) => {
    const m = await withBothSides(
      t,
      version,
      `CREATE TABLE events (id int PRIMARY KEY, body text NOT NULL); CREATE TABLE records (id int PRIMARY KEY, body text NOT NULL)`,
      {
        mappings: [
          { source: 'events', target: 'records', key: { id: 'id' }, columns: { body: true }, reverse: false },
        ],
      },
    )
    expect(await m.backfill({ lanes: 2 })).toEqual({ rows: 0, written: 0, refused: 0 })
    await m.sql(`INSERT INTO events VALUES (1, 'one')`)
    await m.drain()
    expect(await m.sql('SELECT * FROM records')).toEqual([{ id: 1, body: 'one' }])
  })
})
