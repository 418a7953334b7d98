import { describe, expect, test, type TestContext } from 'vitest'
import type { ParityCounts } from '../../../src/database/index.ts'
import { sampleParity } from '../../../src/verify/sample.ts'
import { settle } from '../../../src/verify/settle.ts'
import { verifyLane, type VerifyResult } from '../../../src/verify/verify-lane.ts'
import { never, paceOf, planRanges, toKeys, withBothSides, type BothSides } from '../../support/both-sides.ts'
import { postgresVersions, type PostgresVersion } from '../../support/postgres.ts'
import { eventually } from '../../support/wait.ts'

const rows = 5000

const prepare = async (t: TestContext, version: PostgresVersion): Promise<BothSides> => {
  const m = await withBothSides(
    t,
    version,
    `CREATE TABLE users (id int PRIMARY KEY, name text, tags json, score numeric, active boolean NOT NULL DEFAULT true);
     CREATE TABLE people (id bigint PRIMARY KEY, name text, tags json, score numeric(10, 2));
     INSERT INTO users SELECT i, CASE WHEN i % 4 > 0 THEN 'n' || i END, json_build_object('n', i), i / 4.0, i <= ${rows} FROM generate_series(1, ${rows} + 100) i`,
    {
      mappings: [
        {
          source: 'users',
          target: 'people',
          key: { id: 'id' },
          columns: { name: true, tags: true, score: true },
          where: 'active',
          reverse: { columns: { name: true, tags: true, score: true } },
        },
      ],
    },
  )
  await m.backfill({ batchSize: 2000 })
  return m
}

async function verify(m: BothSides, options = { repair: true }, ranges = 3): Promise<VerifyResult> {
  const { database, scope } = m.place
  await planRanges(m.place, m.groups.forward, 'verify', ranges)
  await database.transaction((tx) =>
    database.dialect.parity.reset(
      tx,
      scope,
      'full',
      m.forward.links.map(({ link }) => link.id),
    ),
  )
  return verifyLane(m.place, m.groups.forward, 0, paceOf(), options)
}

const parity = async (m: BothSides, of: 'full' | 'sample'): Promise<ParityCounts[]> =>
  (await m.database.transaction((tx) => m.database.dialect.parity.read(tx, m.place.scope))).flatMap(
    ({ link: _, source, ...counts }) => (source === of ? [counts] : []),
  )

const differences = (m: BothSides): Promise<Record<string, unknown>[]> =>
  m.differences(
    'SELECT id, name, tags::text, score::numeric(10, 2) FROM users WHERE active',
    'SELECT id, name, tags::text, score FROM people',
  )

describe.each(postgresVersions())('verification on PostgreSQL %s', (version) => {
  test('finds nothing where both sides are equal, and has looked at every row', async (t) => {
    const m = await prepare(t, version)
    expect(await verify(m)).toEqual({ compared: rows, mismatched: 0, repaired: 0, explained: 0, done: true })
    expect(await parity(m, 'full')).toEqual([{ compared: rows, mismatched: 0, repaired: 0, explained: 0 }])
    const totals = await m.database.transaction((tx) =>
      m.database.dialect.ranges.totals(tx, m.place.scope, 'verify'),
    )
    expect(totals).toMatchObject({ ranges: 3, rangesDone: 3, rowsDone: rows })
  })

  const sorts: {
    readonly name: string
    readonly damage: string
    readonly key: string
    readonly extra?: number
  }[] = [
    { name: 'a missing row', damage: 'DELETE FROM people WHERE id = 5', key: '5' },
    { name: 'a row too many', damage: `INSERT INTO people VALUES (-7, 'ghost')`, key: '-7', extra: 1 },
    {
      name: 'a row that the filter leaves out',
      damage: `INSERT INTO people VALUES (${rows + 1}, 'n')`,
      key: String(rows + 1),
      extra: 1,
    },
    { name: 'another value', damage: `UPDATE people SET name = 'x' WHERE id = 5`, key: '5' },
    {
      name: 'a value that differs only in case',
      damage: `UPDATE people SET name = 'N5' WHERE id = 5`,
      key: '5',
    },
    {
      name: 'a value that differs in a space at its end',
      damage: `UPDATE people SET name = 'n5 ' WHERE id = 5`,
      key: '5',
    },
    { name: 'NULL instead of a value', damage: 'UPDATE people SET name = NULL WHERE id = 5', key: '5' },
    { name: 'a value instead of NULL', damage: `UPDATE people SET name = '' WHERE id = 4`, key: '4' },
    { name: 'another json', damage: `UPDATE people SET tags = '{"n":6}' WHERE id = 6`, key: '6' },
    { name: 'NULL instead of a json', damage: 'UPDATE people SET tags = NULL WHERE id = 6', key: '6' },
    {
      name: 'a number that is off in its last place',
      damage: 'UPDATE people SET score = score + 0.01 WHERE id = 6',
      key: '6',
    },
    {
      name: 'a changed source that nobody captured',
      damage: `BEGIN; SET LOCAL crossfade.applying = 'm'; UPDATE users SET name = 'late' WHERE id = 5; COMMIT`,
      key: '5',
    },
    {
      name: 'a source row that went uncaptured',
      damage: `BEGIN; SET LOCAL crossfade.applying = 'm'; DELETE FROM users WHERE id = 5; COMMIT`,
      key: '5',
    },
  ]
  for (const { name, damage, key, extra = 0 } of sorts)
    test(`finds ${name}, confirms it and repairs it`, async (t) => {
      const m = await prepare(t, version)
      await m.sql(damage)
      const found = await verify(m)
      expect(found).toEqual({ compared: rows + extra, mismatched: 1, repaired: 1, explained: 0, done: true })
      expect(await m.log()).toMatchObject([{ kind: 'c', key }])
      await m.drain()
      expect(await differences(m)).toEqual([])
      expect(await verify(m)).toMatchObject({ mismatched: 0 })
    })

  test('only finds where it is not to repair', async (t) => {
    const m = await prepare(t, version)
    await m.sql('DELETE FROM people WHERE id = 5')
    expect(await verify(m, { repair: false })).toMatchObject({ mismatched: 1, repaired: 0 })
    expect(await m.log()).toEqual([])
  })

  test('counts and repairs every row of a damage that is larger than one look hands on', async (t) => {
    const m = await prepare(t, version)
    await m.sql(
      `DELETE FROM people WHERE id <= 3100; INSERT INTO people SELECT -i, 'ghost' FROM generate_series(1, 2500) i`,
    )
    // Nobody applies meanwhile: what was found stays different, and is still counted once.
    expect(await verify(m, { repair: true }, 1)).toMatchObject({
      compared: rows + 2500,
      mismatched: 5600,
      repaired: 5600,
      explained: 0,
    })
    await m.drain()
    expect(await differences(m)).toEqual([])
  })

  test('a row whose key waits in the change log is explained, not a mismatch', async (t) => {
    const m = await prepare(t, version)
    const reader = await m.session('reader')
    await reader.query('BEGIN; SELECT FROM people WHERE id = 5 FOR UPDATE')
    await m.sql(`UPDATE users SET name = 'new' WHERE id = 5`)
    expect(await m.log()).toHaveLength(1)
    const verifier = await m.open({}, 'verifier')
    const looked = settle(verifier, m.forward, m.forward.links[0], toKeys(5), never)
    await eventually(
      () =>
        m.value(
          `SELECT count(*) > 0 FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'verifier' AND state = 'idle' AND query = 'COMMIT'`,
        ),
      {
        what: 'the first look to end',
        intervalMs: 3,
      },
    )
    await reader.query('COMMIT')
    await m.drain()
    expect(await looked).toEqual({ confirmed: [], explained: 1 })
  })

  test('a truncation that is not applied yet explains every row', async (t) => {
    const m = await prepare(t, version)
    await m.sql('TRUNCATE users')
    const looked = settle(m.place, m.forward, m.forward.links[0], toKeys(1, 2), never)
    await m.drain()
    expect(await looked).toEqual({ confirmed: [], explained: 2 })
  })

  test('what stays pending when it is told to stop counts as a mismatch', async (t) => {
    const m = await prepare(t, version)
    await m.sql(`ALTER TABLE people ADD CONSTRAINT no_x CHECK (name <> 'x')`)
    await m.sql(`UPDATE users SET name = 'x' WHERE id = 5`)
    expect(await settle(m.place, m.forward, m.forward.links[0], toKeys(5, 6), AbortSignal.abort())).toEqual({
      confirmed: toKeys(5),
      explained: 1,
    })
  })

  test('a row that somebody is changing is neither waited for nor a mismatch', async (t) => {
    const m = await prepare(t, version)
    const writer = await m.session('writer')
    await writer.query(`BEGIN; UPDATE users SET name = 'new' WHERE id <= 50; DELETE FROM users WHERE id = 60`)
    const startedAt = performance.now()
    expect(await verify(m)).toMatchObject({ compared: rows, mismatched: 0, explained: 0 })
    expect(await settle(m.place, m.forward, m.forward.links[0], toKeys(1, 60), never)).toEqual({
      confirmed: [],
      explained: 2,
    })
    expect(performance.now() - startedAt).toBeLessThan(5000)
    // And the other way round: while a check has looked, the application's statement does not wait.
    await m.database.transaction(
      async (tx) => {
        await m.database.dialect.compare.keys(tx, m.forward.links[0], toKeys(70))
        await m.sql(`SET lock_timeout = 50; UPDATE users SET name = 'new' WHERE id = 70; RESET lock_timeout`)
      },
      { snapshot: true, readOnly: true },
    )
    await writer.query('COMMIT')
    await m.drain()
    expect(await verify(m)).toMatchObject({ mismatched: 0 })
  })

  test('under writers and an applier no healthy row is reported', async (t) => {
    const m = await prepare(t, version)
    let isOver = false
    let writes = 0
    const writers = [0, 1].map(async (writer) => {
      const session = await m.session(`writer ${writer}`)
      for (let i = 0; !isOver; i++) {
        const id = 1 + ((i * 37 + writer) % rows)
        await session.query('BEGIN')
        await session.query(
          i % 5 === 4
            ? `DELETE FROM users WHERE id = $1`
            : `INSERT INTO users VALUES ($1, 'w${i}', '{}', 1) ON CONFLICT (id) DO UPDATE SET name = EXCLUDED.name, active = NOT users.active`,
          [id],
        )
        await session.query(i % 11 === 10 ? 'ROLLBACK' : 'COMMIT')
        writes += 1
      }
    })
    const applier = (async () => {
      while (!isOver) await m.drain()
    })()
    for (let pass = 0; pass < 6; pass++) expect(await verify(m)).toMatchObject({ mismatched: 0, repaired: 0 })
    isOver = true
    await Promise.all([...writers, applier])
    expect(writes).toBeGreaterThan(100)
  })

  test('sampling from both sides finds what stands on one side only, and stops at a breach', async (t) => {
    const m = await prepare(t, version)
    // On every page, so that any sample meets some.
    await m.sql(
      `DELETE FROM people WHERE id % 10 = 0; INSERT INTO people SELECT -i, 'ghost' FROM generate_series(1, 500) i`,
    )
    let rounds = 0
    const { breach } = await sampleParity(
      m.place,
      m.groups.forward,
      paceOf(),
      () => Promise.resolve((rounds += 1) === 2 ? 'too many' : undefined),
      never,
    )
    expect(breach).toBe('too many')
    const [counts] = await parity(m, 'sample')
    expect(counts?.compared).toBe(600)
    expect(counts?.mismatched).toBeGreaterThan(10)
    const repaired = new Set((await m.log()).map((entry) => Number(entry.key) < 0))
    expect(repaired).toEqual(new Set([true, false]))
  })
})
