import { describe, expect, test, type TestContext } from 'vitest'
import { copyChunk } from '../../../src/copy/copy-range.ts'
import { runLane } from '../../../src/backfill/run-lane.ts'
import {
  claimRange,
  never,
  paceOf,
  planRanges,
  withBothSides,
  type BothSides,
} from '../../support/both-sides.ts'
import { postgresVersions, type PostgresVersion } from '../../support/postgres.ts'
import { mapping } from '../../support/shapes.ts'

const rows = 3_000

/** Keys that do not follow the file, and rows of about 250 B. */
const prepare = (t: TestContext, version: PostgresVersion): Promise<BothSides> =>
  withBothSides(
    t,
    version,
    `CREATE TABLE s (id int PRIMARY KEY, v text) WITH (autovacuum_enabled = off); CREATE TABLE t (id int PRIMARY KEY, v text);
     INSERT INTO s SELECT i, repeat('v' || i, 40) FROM generate_series(1, ${rows}) i ORDER BY md5(i::text)`,
    mapping({ id: 'id' }, { v: true }, { v: true }),
  )

const differences = (m: BothSides): Promise<Record<string, unknown>[]> =>
  m.differences('SELECT id, v FROM s', 'SELECT id, v FROM t')

const lane = (m: BothSides, number = 0): ReturnType<typeof runLane> =>
  runLane(
    m.place,
    [m.forward],
    number,
    { ...m.migration.backfill, batchSize: 100, rateLimitMs: 0, profile: 'fast' },
    () => Promise.resolve(undefined),
    paceOf(),
  )

describe.each(postgresVersions())('copying by place on PostgreSQL %s', (version) => {
  test('is chosen by what ANALYZE has found', async (t) => {
    const m = await prepare(t, version)
    await m.sql(`CREATE TABLE follows (id int PRIMARY KEY) WITH (autovacuum_enabled = off); INSERT INTO follows SELECT generate_series(1, 1000);
      CREATE TABLE cut (id int PRIMARY KEY) PARTITION BY RANGE (id)`)
    const reasonFor = (name: string): Promise<string> =>
      m.database.transaction(
        async (tx) =>
          (await m.database.dialect.ranges.orderOf(tx, { schema: 'public', name }, ['id'])).reason,
      )
    expect(await reasonFor('s')).toBe('nobody has analysed how the key follows the file')
    await m.sql('ANALYZE s; ANALYZE follows')
    expect(await reasonFor('s')).toBe('the file fits into the cache of the server')
    expect(await reasonFor('follows')).toBe('the key follows the file (correlation 1.00)')
    expect(await reasonFor('cut')).toBe('it has several files')
    expect(await reasonFor('none')).toBe('there is no such table')
  })

  test('rows that move to pages before and behind the chunk, come, go and change their key are copied once', async (t) => {
    const m = await prepare(t, version)
    await planRanges(m.place, [m.forward], 'backfill', 2, 'physical')
    await m.sql(`DELETE FROM s WHERE ctid < '(3,0)'::tid`)
    await m.sql('VACUUM s') // room at the front
    const state = await claimRange(m.place, m.forward)
    const chunk = await copyChunk(m.place, m.forward, state, 700, never)
    expect(chunk).toMatchObject({ done: false })
    await m.sql(`UPDATE s SET v = 'moved' WHERE id % 10 = 1; UPDATE s SET id = -id WHERE id % 10 = 2; DELETE FROM s WHERE id % 10 = 3;
      INSERT INTO s SELECT i, 'late' FROM generate_series(${rows + 1}, ${rows + 500}) i`)
    // Some of them before the place of the chunk, some behind the last page of the plan.
    expect(
      await m.value(`SELECT count(DISTINCT (ctid::text::point)[0] < 3)::int FROM s WHERE v = 'moved'`),
    ).toBe(2)
    expect((await lane(m)).done).toBe(true)
    await m.drain()
    expect(await differences(m)).toEqual([])
  })

  test('a table that is rewritten in the middle is planned anew by key, by whoever sees it first', async (t) => {
    const m = await prepare(t, version)
    await planRanges(m.place, [m.forward], 'backfill', 3, 'physical')
    const [first, second] = [await claimRange(m.place, m.forward, 0), await claimRange(m.place, m.forward, 1)]
    await copyChunk(m.place, m.forward, first, 300, never)
    // What was behind the first lane's place lies before it now, and the other way round.
    await m.sql(`CREATE INDEX s_turned ON s (md5(id::text) DESC); CLUSTER s USING s_turned`)
    for (const state of [first, second, first])
      expect(await copyChunk(m.place, m.forward, state, 300, never)).toMatchObject({ rows: 0, done: true })
    expect((await Promise.all([lane(m, 0), lane(m, 1)])).map(({ done }) => done)).toEqual([true, true])
    expect(await differences(m)).toEqual([])
    expect(await m.value(`SELECT sum(rows_done)::int FROM _crossfade_m.ranges`)).toBe(rows)
    expect(await m.value(`SELECT sum(rows_written)::int FROM _crossfade_m.ranges`)).toBe(rows)
  })

  test('a row that the other side refuses is found on its page, and stops nobody', async (t) => {
    const m = await prepare(t, version)
    await m.sql(`ALTER TABLE t ADD CHECK (id NOT IN (17, 1999))`)
    const done = await m.backfill({ ranges: 2, batchSize: 400, order: 'physical' })
    expect(done).toEqual({ rows, written: rows - 2, refused: 2 })
    expect((await m.log()).map(({ key }) => Number(key)).sort((a, b) => a - b)).toEqual([17, 1999])
  })

  test('of kind column the rows are filled where they lie, and none is written twice', async (t) => {
    const m = await withBothSides(
      t,
      version,
      `CREATE TABLE s (id int PRIMARY KEY, v text) WITH (autovacuum_enabled = off);
       INSERT INTO s SELECT i, repeat('v' || i, 40) FROM generate_series(1, ${rows}) i ORDER BY md5(i::text)`,
      {
        kind: 'column',
        mappings: [{ source: 's', key: { id: 'id' }, columns: { w: 'length(v)' }, reverse: false }],
        expand: { columns: [{ table: 's', name: 'w', type: 'int' }] },
      },
    )
    expect(await m.backfill({ ranges: 3, batchSize: 300, lanes: 2, order: 'physical' })).toMatchObject({
      written: rows,
      refused: 0,
    })
    expect(await m.value('SELECT count(*)::int FROM s WHERE w IS DISTINCT FROM length(v)')).toBe(0)
  })
})
