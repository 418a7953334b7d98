import { describe, expect, test, type TestContext } from 'vitest'
import type { Key, SyncGroup } from '../../../src/database/index.ts'
import { toKeys, withBothSides, type BothSides } from '../../support/both-sides.ts'
import { postgresVersions, type PostgresVersion } from '../../support/postgres.ts'
import { splitTables, splitUsers } from '../../support/split-users.ts'
import { mapping, shapes, type Shape } from '../../support/shapes.ts'

async function totals({
  database,
  place,
}: BothSides): Promise<{ ranges: number; rangesDone: number; rowsDone: number; rowsWritten: number }> {
  const { ranges, rangesDone, rowsDone, rowsWritten } = await database.transaction((tx) =>
    database.dialect.ranges.totals(tx, place.scope, 'backfill'),
  )
  return { ranges, rangesDone, rowsDone, rowsWritten }
}

const prepare = (t: TestContext, version: PostgresVersion, shape: Shape): Promise<BothSides> =>
  withBothSides(t, version, shape.schema, shape.definition)

describe.each(postgresVersions())('copying on PostgreSQL %s', (version) => {
  describe.each(shapes)('a key of $name', (shape) => {
    test('is copied in chunks that add up to the row', async (t) => {
      const m = await prepare(t, version, shape)
      const done = await m.backfill({ ranges: 3, batchSize: 170, lanes: 2 })
      expect(done).toEqual({ rows: shape.rows, written: shape.written ?? shape.rows, refused: 0 })
      const { ranges, rangesDone, ...rows } = await totals(m)
      expect(rows).toEqual({ rowsDone: shape.rows, rowsWritten: done.written })
      expect(rangesDone).toBe(ranges)
      if (shape.name.includes('ignores case')) await copy(m, toKeys('K1'))
      expect(await m.differences(shape.source, shape.target)).toEqual([])
      // Once more: nothing is missing, so nothing is written.
      expect(await m.backfill({ ranges: 1, batchSize: 500 })).toEqual({
        rows: shape.rows,
        written: 0,
        refused: 0,
      })
      // And page by page, where a table is one file.
      const [{ table }] = m.forward.watched as [SyncGroup['watched'][number]]
      await m.sql(`TRUNCATE "${m.forward.links[0].link.target.table.name}"`)
      expect(await m.backfill({ ranges: 3, batchSize: 170, lanes: 2, order: 'physical' })).toMatchObject({
        rows: shape.rows,
        refused: 0,
      })
      expect(await m.value(`SELECT bool_or(file_id IS NOT NULL) FROM _crossfade_m.ranges`)).toBe(
        await m.value(`SELECT relkind = 'r' FROM pg_class WHERE relname = $1`, [table.name]),
      )
      if (shape.name.includes('ignores case')) await copy(m, toKeys('K1'))
      expect(await m.differences(shape.source, shape.target)).toEqual([])
      expect(await m.backfill({ ranges: 1, batchSize: 3, order: 'physical' })).toMatchObject({ written: 0 })
    })

    test('is compared by range, and copied by key to what the source says now', async (t) => {
      const m = await prepare(t, version, shape)
      await m.backfill({ ranges: 1, batchSize: 1000 })
      // Behind the triggers' back, so that copyKeys alone brings it over.
      const tables = m.forward.watched[0]?.table
      await m.sql(`ALTER TABLE "${tables?.schema}"."${tables?.name}" DISABLE TRIGGER USER; ${shape.change}`)
      const link = m.forward.links[0]
      const compare = (): Promise<number> =>
        m.database.transaction(async (tx) => {
          let differences = 0
          let range = { after: undefined as Key | undefined, upTo: undefined as Key | undefined }
          for (;;) {
            const end = await m.database.dialect.copy.chunkEnd(tx, m.forward, range, 300)
            const look = await m.database.dialect.compare.range(
              tx,
              link,
              { after: range.after, upTo: end },
              100,
            )
            differences += look.differences
            if (end === undefined) return differences
            range = { after: end, upTo: undefined }
          }
        })
      const keys = [...shape.changed, ...shape.gone]
      expect(await compare()).toBe(shape.differences?.byRange ?? keys.length)
      const look = await m.database.transaction((tx) => m.database.dialect.compare.keys(tx, link, keys))
      expect(look.differences).toBe(shape.differences?.byKey ?? keys.length)
      expect(await copy(m, keys)).toEqual({ copied: shape.changed, gone: shape.gone, busy: [], chunks: [] })
      expect(await m.differences(shape.source, shape.target)).toEqual([])
      expect(await compare()).toBe(shape.differences?.left ?? 0)
      expect(await copy(m, keys)).toEqual({ copied: shape.changed, gone: shape.gone, busy: [], chunks: [] })
    })

    test('is kept equal by the triggers at once', async (t) => {
      const m = await prepare(t, version, shape)
      await m.backfill({ ranges: 1, batchSize: 1000 })
      if (shape.name.includes('ignores case')) await copy(m, toKeys('K1'))
      await m.sql(shape.change)
      expect(await m.differences(shape.source, shape.target)).toEqual([])
      expect((await m.log()).every((entry) => entry.kind === 'c')).toBe(true)
      expect((await m.log()).map((entry) => entry.key)).toEqual(shape.gone.map((key) => key.join('|')))
      await m.drain()
      expect(await m.differences(shape.source, shape.target)).toEqual([])
    })
  })

  test('a split fills both targets in one pass', async (t) => {
    const m = await withBothSides(
      t,
      version,
      `${splitTables}
       INSERT INTO users SELECT i, 'n' || i, CASE WHEN i % 2 = 0 THEN 'c' || i END FROM generate_series(1, 1000) i`,
      splitUsers('city IS NOT NULL'),
    )
    expect(await m.backfill({ batchSize: 90 })).toEqual({ rows: 1000, written: 1500, refused: 0 })
    await m.sql(
      `UPDATE users SET city = NULL WHERE id = 2; UPDATE users SET city = 'new' WHERE id = 3; DELETE FROM users WHERE id = 4`,
    )
    expect(await m.differences('SELECT id, name FROM users', 'SELECT id, name FROM people')).toEqual([])
    expect(
      await m.differences(
        'SELECT id, city FROM users WHERE city IS NOT NULL',
        'SELECT person, city FROM addresses',
      ),
    ).toEqual([])
    await m.drain()
    expect(
      await m.differences(
        'SELECT id, city FROM users WHERE city IS NOT NULL',
        'SELECT person, city FROM addresses',
      ),
    ).toEqual([])
  })

  test('what is too long for the target is refused, never cut, and stops nobody else', async (t) => {
    const m = await withBothSides(
      t,
      version,
      `CREATE TABLE s (id int PRIMARY KEY, v text); CREATE TABLE t (id int PRIMARY KEY, v varchar(5));
       INSERT INTO s SELECT i, 'v' || i FROM generate_series(1, 999) i; INSERT INTO s VALUES (1000, 'much too long')`,
      mapping({ id: 'id' }, { v: true }, { v: true }),
    )
    expect(await m.backfill({ ranges: 1, batchSize: 400 })).toEqual({ rows: 1000, written: 999, refused: 1 })
    expect(await m.log()).toEqual([
      { kind: 'c', key: '1000', attempts: 1, waits: false, reason: 'SQLSTATE 22001' },
    ])
    const state = await m.database.transaction((tx) =>
      m.database.dialect.changeLog.state(tx, m.place.scope, m.forward),
    )
    expect(state).toMatchObject({ pending: 1, stuck: 1, reason: 'SQLSTATE 22001' })
    // The cut value would look equal to a comparison that casts to varchar(5).
    await m.sql(`INSERT INTO t VALUES (1000, 'much ')`)
    const link = m.forward.links[0]
    const look = await m.database.transaction((tx) =>
      m.database.dialect.compare.range(tx, link, { after: undefined, upTo: undefined }, 10),
    )
    expect(look).toEqual({ compared: 1000, differences: 1, different: toKeys(1000) })
    await m.sql(`UPDATE s SET v = 'short' WHERE id = 1000`)
    await m.drain()
    expect(await m.differences('SELECT id, v FROM s', 'SELECT id, v FROM t')).toEqual([])
  })

  test('ranges hold about the same number of rows, however the keys are distributed', async (t) => {
    const m = await withBothSides(
      t,
      version,
      // Nine tenths of the rows in a thousandth of the key space, and an order on disk that has nothing to do with the key.
      `CREATE TABLE s (id bigint PRIMARY KEY, v text); CREATE TABLE t (id bigint PRIMARY KEY, v text);
       INSERT INTO s SELECT id, repeat('x', 60) FROM (SELECT CASE WHEN i <= 108000 THEN i ELSE i * 1000000::bigint END AS id FROM generate_series(1, 120000) i) q ORDER BY id % 1009, id`,
      mapping({ id: 'id' }, { v: true }, { v: true }),
    )
    const rowsByRange = async (): Promise<number[]> => {
      await m.database.transaction(async (tx) => {
        await m.database.dialect.ranges.reset(tx, m.place.scope, 'backfill')
        await m.database.dialect.ranges.plan(tx, m.place.scope, m.forward, 'backfill', 8)
      })
      const rows = await m.sql(
        `SELECT (SELECT count(*)::int FROM s WHERE (r.lower_key IS NULL OR id > (r.lower_key)[1]::bigint) AND (r.upper_key IS NULL OR id <= (r.upper_key)[1]::bigint)) AS n FROM _crossfade_m.ranges r ORDER BY id`,
      )
      return rows.map((row) => Number(row['n']))
    }
    for (const analysed of [false, true]) {
      if (analysed) await m.sql('ANALYZE s')
      const rows = await rowsByRange()
      expect(rows).toHaveLength(8)
      expect(rows.reduce((a, b) => a + b)).toBe(120_000)
      expect(Math.max(...rows)).toBeLessThan(1.7 * 15_000)
      expect(Math.min(...rows)).toBeGreaterThan(0.4 * 15_000)
    }
  })
})

async function copy(m: BothSides, keys: readonly Key[]): Promise<unknown> {
  return m.database.transaction(
    (tx) => m.database.dialect.copy.copyKeys(tx, m.place.scope, m.forward, keys, 'skip'),
    { applying: m.place.scope.migration },
  )
}
