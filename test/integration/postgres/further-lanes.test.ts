import { describe, expect, test, type TestContext } from 'vitest'
import { runFurtherLane } from '../../../src/backfill/run-further-lane.ts'
import { runLane, type LaneResult } from '../../../src/backfill/run-lane.ts'
import { copyChunk } from '../../../src/copy/copy-range.ts'
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

const prepare = (t: TestContext, version: PostgresVersion, rows: number): Promise<BothSides> =>
  withBothSides(
    t,
    version,
    `CREATE TABLE s (id int PRIMARY KEY, v text); CREATE TABLE t (id int PRIMARY KEY, v text);
     INSERT INTO s SELECT i, 'v' || i FROM generate_series(1, ${rows}) i`,
    mapping({ id: 'id' }, { v: true }, { v: true }),
  )

const leave = (m: BothSides, lane: number): Promise<boolean> =>
  m.database.transaction((tx) => m.database.dialect.ranges.leave(tx, m.place.scope, 'backfill', lane, 2), {
    lockTimeoutMs: 10_000,
  })

/** A lane that rests so long after every 50 rows, and waits while `waits` says so. */
function lane(
  m: BothSides,
  run: typeof runLane,
  number: number,
  rateLimitMs: number,
  waits = (): boolean => false,
): Promise<LaneResult> {
  const small = { batchSize: 50, maxBatchSize: 50, profile: 'fast' as const, rateLimitMs }
  const settings = { ...m.migration.backfill, ...small }
  const throttle = (): Promise<string | undefined> => Promise.resolve(waits() ? 'nothing is free' : undefined)
  return run(m.place, [m.forward], number, settings, throttle, paceOf())
}

const further: typeof runLane = (...given) => runFurtherLane(...given, 300)

describe.each(postgresVersions())('lanes after the first ones on PostgreSQL %s', (version) => {
  test('leave their range where they are, to a lane that stays', async (t) => {
    const m = await prepare(t, version, 2000)
    await planRanges(m.place, [m.forward], 'backfill', 2)
    const [stays, leaves] = [await claimRange(m.place, m.forward, 0), await claimRange(m.place, m.forward, 2)]
    await copyChunk(m.place, m.forward, leaves, 100, never)
    expect(await leave(m, 2)).toBe(true)
    await expect(copyChunk(m.place, m.forward, leaves, 100, never)).rejects.toMatchObject({
      code: 'BACKFILL.FENCED',
    })
    expect((await lane(m, runLane, 0, 0)).done).toBe(true)
    expect(await m.sql(`SELECT DISTINCT lane, done FROM _crossfade_m.ranges`)).toEqual([
      { lane: 0, done: true },
    ])
    expect(await m.value(`SELECT sum(rows_done)::int FROM _crossfade_m.ranges`)).toBe(2000)
    expect(stays.id).not.toBe(leaves.id)
  })

  test('stay where nobody would come for their range, also when the last lane ends while they ask', async (t) => {
    const m = await prepare(t, version, 2000)
    await planRanges(m.place, [m.forward], 'backfill', 2)
    const [last] = [await claimRange(m.place, m.forward, 0), await claimRange(m.place, m.forward, 2)]
    const session = await m.session()
    await session.query('BEGIN')
    await session.query(`UPDATE _crossfade_m.ranges SET done = true WHERE id = ${last.id}`)
    const asked = leave(m, 2)
    await session.query('COMMIT')
    expect(await asked).toBe(false)
    expect(await m.value(`SELECT count(*)::int FROM _crossfade_m.ranges WHERE lane = 2 AND NOT done`)).toBe(1)
  })

  test('leave where the whole is no faster with them, and stay where it is', async (t) => {
    const m = await prepare(t, version, 12_000)
    await planRanges(m.place, [m.forward], 'backfill', 8)
    // The first lane stands still for as long as the further one tries to join.
    let joins = false
    const steady = lane(m, runLane, 0, 20, () => joins)
    const hinders = await lane(m, further, 2, 0, () => (joins = true))
    joins = false
    expect(hinders).toMatchObject({ done: true, rows: 0 })
    expect(await m.value(`SELECT count(*)::int FROM _crossfade_m.ranges WHERE lane = 2`)).toBe(0)
    const helps = await lane(m, further, 2, 0)
    expect(helps).toMatchObject({ done: true })
    expect(helps.rows).toBeGreaterThan(4000)
    expect((await steady).rows + helps.rows).toBe(12_000)
    expect(await m.differences('SELECT id, v FROM s', 'SELECT id, v FROM t')).toEqual([])
  })
})
