import { describe, expect, test, type TestContext } from 'vitest'
import { resolveGroups } from '../../../src/copy/groups.ts'
import { followPartitions, captureFindings } from '../../../src/sync/capture.ts'
import type { SyncGroup } from '../../../src/database/index.ts'
import { withBothSides, type BothSides } from '../../support/both-sides.ts'
import { eventually } from '../../support/wait.ts'
import { postgresVersions, type PostgresVersion } from '../../support/postgres.ts'

/** A source partitioned by range and, below one partition, by list; a target partitioned by hash. */
const schema = `
  CREATE TABLE events (day int NOT NULL, id bigint NOT NULL, kind text NOT NULL DEFAULT 'a', v text, PRIMARY KEY (day, id, kind)) PARTITION BY RANGE (day);
  CREATE TABLE events_1 PARTITION OF events FOR VALUES FROM (0) TO (100);
  CREATE TABLE events_2 PARTITION OF events FOR VALUES FROM (100) TO (200) PARTITION BY LIST (kind);
  CREATE TABLE events_2a PARTITION OF events_2 FOR VALUES IN ('a');
  CREATE TABLE events_2b PARTITION OF events_2 DEFAULT;
  INSERT INTO events SELECT i % 200, i, CASE WHEN i % 3 = 0 THEN 'b' ELSE 'a' END, 'v' || i FROM generate_series(1, 3000) i;
  CREATE TABLE log (day int NOT NULL, id bigint NOT NULL, kind text NOT NULL, v text, PRIMARY KEY (day, id, kind)) PARTITION BY HASH (id);
  CREATE TABLE log_0 PARTITION OF log FOR VALUES WITH (MODULUS 2, REMAINDER 0);
  CREATE TABLE log_1 PARTITION OF log FOR VALUES WITH (MODULUS 2, REMAINDER 1);`

const prepare = (t: TestContext, version: PostgresVersion): Promise<BothSides> =>
  withBothSides(t, version, schema, {
    mappings: [
      {
        source: 'events',
        target: 'log',
        key: { day: 'day', id: 'id', kind: 'kind' },
        columns: { v: 'upper(v)' },
        reverse: { columns: { v: 'lower(v)' } },
      },
    ],
  })

const differences = (m: BothSides): Promise<unknown[]> =>
  m.differences('SELECT day, id, kind, upper(v) AS v FROM events', 'SELECT day, id, kind, v FROM log')

/** The group as the catalogue has it now, with partitions that came meanwhile. */
async function forwardNow({ place, migration }: BothSides): Promise<SyncGroup> {
  const { database, scope } = place
  const groups = await database.transaction((tx) => resolveGroups(tx, database.dialect, scope, migration))
  return groups.forward[0] as SyncGroup
}

describe.each(postgresVersions())('partitioned tables on PostgreSQL %s', (version) => {
  test('are copied in ranges, and every write is captured, whichever table it names', async (t) => {
    const m = await prepare(t, version)
    expect(await m.backfill({ ranges: 3, batchSize: 170, lanes: 2 })).toEqual({
      rows: 3000,
      written: 3000,
      refused: 0,
    })
    expect(await differences(m)).toEqual([])
    for (const write of [
      `UPDATE events SET v = 'parent' WHERE id < 50`,
      `UPDATE events_1 SET v = 'partition' WHERE id BETWEEN 50 AND 90`,
      `DELETE FROM events_2 WHERE id BETWEEN 100 AND 150`,
      `INSERT INTO events_2b VALUES (150, 9001, 'c', 'leaf'); DELETE FROM events_2a WHERE id BETWEEN 151 AND 170`,
      `UPDATE events SET day = day + 100 WHERE day < 5`, // rows move to another partition
      `UPDATE events_2 SET kind = 'b' WHERE kind = 'a' AND id BETWEEN 171 AND 190`,
      `TRUNCATE events_2b`,
      `INSERT INTO events VALUES (1, 9100, 'a', 'x') ON CONFLICT DO NOTHING; TRUNCATE events; INSERT INTO events VALUES (1, 9200, 'a', 'last'), (150, 9201, 'z', 'of all')`,
    ]) {
      await m.sql(write)
      await m.drain()
      expect(await differences(m), write).toEqual([])
    }
  })

  test('plain and partitioned tables are measured alike: rows, bytes, use', async (t) => {
    const m = await prepare(t, version)
    await m.sql(`CREATE TABLE plain AS SELECT * FROM events; ANALYZE plain; ANALYZE events`)
    // Sessions report their statistics up to 10 s after the fact: all three are waited for at once.
    const look = async (name: string): Promise<void> => {
      const table = { schema: 'public', name }
      const [found, before] = await m.database.transaction(async (tx) => [
        await m.database.dialect.catalog.describeTable(tx, table),
        await m.database.dialect.catalog.activity(tx, [table]),
      ])
      expect(found?.rowsEstimated, name).toBe(name === 'events_1' ? 1500 : 3000)
      expect(found?.bytes, name).toBeGreaterThan(50_000)
      await m.sql(`SELECT count(*) FROM ${name}; UPDATE ${name} SET v = 'seen' WHERE id = 50`)
      await eventually(
        async () => {
          const [after] = await m.database.transaction((tx) =>
            m.database.dialect.catalog.activity(tx, [table]),
          )
          return (
            (after?.scans ?? 0) > (before[0]?.scans ?? 0) && (after?.writes ?? 0) > (before[0]?.writes ?? 0)
          )
        },
        { what: `the use of ${name} to be seen`, timeoutMs: 20_000 },
      )
    }
    await Promise.all(['plain', 'events', 'events_1'].map(look))
  })

  test('a partition that comes later is followed, with what it came with', async (t) => {
    const m = await prepare(t, version)
    await m.backfill()
    await m.sql(`
      CREATE TABLE events_3 PARTITION OF events FOR VALUES FROM (200) TO (300); INSERT INTO events_3 VALUES (201, 1, 'a', 'direct');
      CREATE TABLE events_4 (LIKE events INCLUDING ALL); INSERT INTO events_4 SELECT 301, i, 'a', 'attached' FROM generate_series(1, 500) i;
      ALTER TABLE events ATTACH PARTITION events_4 FOR VALUES FROM (300) TO (400)`)
    const group = await forwardNow(m)
    const findings = await m.database.transaction((tx) => captureFindings(m.place, tx, [group]))
    expect(findings).toContain('trigger _crossfade_m_f1_insert is missing on public.events_3')
    await followPartitions(m.place, [group])
    expect(await m.database.transaction((tx) => captureFindings(m.place, tx, [group]))).toEqual([])
    await m.sql(`UPDATE events_3 SET v = 'later' WHERE id = 1; DELETE FROM events_4 WHERE id <= 10`)
    await m.drain(group)
    expect(await differences(m)).toEqual([])
    // Nothing is left to do: no key is left twice.
    await followPartitions(m.place, [group])
    expect(await m.log()).toEqual([])
  })

  test('a partition that is detached takes its triggers along without harm', async (t) => {
    const m = await prepare(t, version)
    await m.backfill()
    await m.sql(`ALTER TABLE events DETACH PARTITION events_1; UPDATE events_1 SET v = 'apart' WHERE id < 50`)
    await m.sql(`DELETE FROM log WHERE day < 100`)
    await m.drain()
    expect(await differences(m)).toEqual([])
    const group = await forwardNow(m)
    await m.database.transaction((tx) => m.database.dialect.triggers.remove(tx, m.place.scope, group))
    await m.sql(`UPDATE events_1 SET v = 'free'`)
    expect(await m.value(`SELECT count(*)::int FROM pg_trigger WHERE tgname LIKE '\\_crossfade%'`)).toBe(0)
  })
})
