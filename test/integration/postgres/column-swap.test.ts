import { describe, expect, test, type TestContext } from 'vitest'
import { completionSteps, undoableSteps } from '../../../src/ddl/expand-steps.ts'
import { runStep, undoStep } from '../../../src/ddl/run-step.ts'
import { releaseColumns, restoreColumns, valueSteps, withKeysProven } from '../../../src/ddl/columns.ts'
import { proveKeys } from '../../../src/ddl/prove-keys.ts'
import { isSwapped, swapNames } from '../../../src/ddl/swap.ts'
import { resolveMigration, type DefinitionInput } from '../../../src/definition/index.ts'
import { makePlan } from '../../../src/plan/make-plan.ts'
import {
  backfillAll,
  expand,
  watch,
  withBothSides,
  type BothSides,
  type SmallDefinition,
} from '../../support/both-sides.ts'
import { postgresVersions, type PostgresVersion } from '../../support/postgres.ts'

const schema = `CREATE TABLE items (id bigint PRIMARY KEY, qty int NOT NULL DEFAULT 1, serial_no serial, tags text);
  INSERT INTO items SELECT i, i, i + 100, 'a,' || i FROM generate_series(1, 50) i;
  SELECT setval('items_serial_no_seq', 500);
  CREATE INDEX items_qty ON items (qty DESC NULLS LAST) INCLUDE (tags) WITH (fillfactor = 70) WHERE id > 0;
  CREATE UNIQUE INDEX items_both ON items (serial_no, id)`

const definition: SmallDefinition = {
  kind: 'column',
  mappings: [
    {
      source: 'items',
      key: { id: 'id' },
      columns: { qty2: 'qty::bigint', serial2: 'serial_no::bigint', tags2: "string_to_array(tags, ',')" },
      reverse: {
        columns: { qty: 'qty2::int', serial_no: 'serial2::int', tags: "array_to_string(tags2, ',')" },
      },
    },
  ],
  expand: {
    columns: [
      { table: 'items', name: 'qty2', type: 'bigint', notNull: true, replaces: 'qty' },
      { table: 'items', name: 'serial2', type: 'bigint', notNull: true, replaces: 'serial_no' },
      { table: 'items', name: 'tags2', type: 'text[]', replaces: 'tags' },
    ],
  },
  cutover: { mode: 'swap' },
}

const keySchema = `CREATE TABLE kinds (id int PRIMARY KEY); INSERT INTO kinds SELECT generate_series(0, 4);
  CREATE TABLE things (id int GENERATED ALWAYS AS IDENTITY (CACHE 5) CONSTRAINT things_pk PRIMARY KEY,
    kind int NOT NULL CONSTRAINT to_kind REFERENCES kinds ON UPDATE CASCADE DEFERRABLE,
    qty int CONSTRAINT few CHECK (qty < 1000), pos int CONSTRAINT one_place UNIQUE DEFERRABLE INITIALLY DEFERRED,
    parent int CONSTRAINT to_parent REFERENCES things ON DELETE SET NULL, "Odd name" text,
    CONSTRAINT both_of_them CHECK (qty + kind < 5000 AND "Odd name" IS DISTINCT FROM 'qty'), CONSTRAINT one_odd UNIQUE (kind, "Odd name", id) INCLUDE (qty));
  INSERT INTO things (kind, qty, pos, parent) SELECT i % 5, i, i, nullif(i / 2, 0) FROM generate_series(1, 50) i;
  ALTER TABLE things ADD CONSTRAINT later CHECK (qty > -7) NOT VALID;
  CREATE INDEX things_sum ON things ((qty + kind), abs(qty), "Odd name" COLLATE "C" text_pattern_ops) WITH (fillfactor = 80) WHERE qty > 5;
  CREATE INDEX things_pos ON things USING brin (pos); ALTER TABLE things CLUSTER ON one_odd;
  CREATE STATISTICS things_stats (ndistinct, mcv) ON qty, kind FROM things; CREATE STATISTICS things_half ON (qty / 2) FROM things;
  CREATE TABLE parts (item int CONSTRAINT to_thing REFERENCES things ON DELETE CASCADE); INSERT INTO parts SELECT generate_series(1, 50);
  COMMENT ON CONSTRAINT few ON things IS 'it''s few'; COMMENT ON COLUMN things.qty IS 'how many'; COMMENT ON INDEX things_sum IS 'the sum';
  COMMENT ON CONSTRAINT things_pk ON things IS 'the key'; COMMENT ON CONSTRAINT to_thing ON parts IS 'whole'; COMMENT ON STATISTICS things_stats IS 'counted';
  GRANT SELECT (qty), UPDATE (id) ON things TO PUBLIC; GRANT USAGE ON SEQUENCE things_id_seq TO PUBLIC`

const widened = ['id', 'kind', 'qty', 'pos']

const keyDefinition: SmallDefinition = {
  kind: 'column',
  mappings: [
    {
      source: 'things',
      key: { id: 'id' },
      columns: Object.fromEntries(widened.map((name) => [`${name}2`, `${name}::bigint`])),
      reverse: { columns: Object.fromEntries(widened.map((name) => [name, `${name}2::int`])) },
    },
  ],
  expand: {
    columns: widened.map((name) => ({
      table: 'things',
      name: `${name}2`,
      type: 'bigint',
      notNull: name === 'id' || name === 'kind',
      replaces: name,
    })),
  },
  cutover: { mode: 'swap' },
}

/** What stands on the tables, in the server's words, but for what is ours. */
const objects = async (m: BothSides): Promise<string[]> =>
  (
    await m.sql(
      `SELECT line FROM (SELECT conrelid::regclass || ' ' || conname || ': ' || pg_get_constraintdef(oid) || ' ' || convalidated || ' ' || condeferrable || condeferred || coalesce(obj_description(oid, 'pg_constraint'), '') AS line
         FROM pg_constraint WHERE conrelid IN ('things'::regclass, 'parts'::regclass) AND contype <> 'n' AND conname NOT LIKE '\\_crossfade%'
       UNION ALL SELECT pg_get_indexdef(indexrelid) || indisclustered || indisprimary || coalesce(obj_description(indexrelid, 'pg_class'), '') FROM pg_index WHERE indrelid = 'things'::regclass AND pg_get_indexdef(indexrelid) NOT LIKE '%INDEX \\_crossfade%'
       UNION ALL SELECT stxname || stxkind::text || coalesce(obj_description(oid, 'pg_statistic_ext'), '') FROM pg_statistic_ext WHERE stxname NOT LIKE '\\_crossfade%'
       UNION ALL SELECT attname || coalesce(attacl::text, '') || coalesce(col_description(attrelid, attnum), '') FROM pg_attribute WHERE attrelid = 'things'::regclass AND attname = ANY ($1::text[])
       UNION ALL SELECT relname || relacl::text FROM pg_class WHERE relname = 'things_id_seq') AS lines WHERE line NOT LIKE '%things_late%' ORDER BY 1`,
      [widened],
    )
  ).map(({ line }) => String(line))

type Prepared = Pick<BothSides, 'place' | 'migration' | 'database'>

const prepared = async (m: Prepared): Promise<void> => {
  for (const step of [
    ...completionSteps(m.database.dialect, m.migration),
    ...valueSteps(m.database.dialect, m.migration),
  ])
    await runStep(m.place, step, [], watch)
}

const prepare = async (t: TestContext, version: PostgresVersion): Promise<BothSides> => {
  const m = await withBothSides(t, version, schema, definition)
  await m.backfill()
  await prepared(m)
  return m
}

const swap = (m: Prepared, direction: 'to-new' | 'to-old'): Promise<'swapped' | 'was swapped'> =>
  m.database.transaction((tx) => swapNames(m.place, tx, m.migration, direction), {
    applying: m.place.scope.migration,
  })

const swapBack = (m: Prepared): Promise<'swapped' | 'was swapped'> =>
  withKeysProven(m.place, m.migration, watch, () => swap(m, 'to-old'))

const indexes = async (m: BothSides): Promise<unknown> =>
  (
    await m.sql(
      `SELECT pg_get_indexdef(indexrelid) AS d FROM pg_index WHERE indrelid = 'items'::regclass AND pg_get_indexdef(indexrelid) !~ '_crossfade_' ORDER BY 1`,
    )
  ).map(({ d }) => d)

const columns = (m: BothSides): Promise<Record<string, unknown>[]> =>
  m.sql(
    `SELECT attname AS name, format_type(atttypid, NULL) AS type, attnotnull AS required, pg_get_expr(adbin, adrelid) AS fallback, pg_get_serial_sequence('items', attname) AS sequence
     FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum WHERE attrelid = 'items'::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum`,
  )

const inventory = (m: BothSides): Promise<string[]> =>
  m.database.transaction((tx) => m.database.dialect.catalog.inventory(tx))

describe.each(postgresVersions())('the swap of column names on PostgreSQL %s', (version) => {
  test('carries indexes, defaults, NOT NULL and sequences, and both sides go on in step', async (t) => {
    const m = await prepare(t, version)
    const before = await indexes(m)
    expect(await swap(m, 'to-new')).toBe('swapped')
    expect(await swap(m, 'to-new')).toBe('was swapped')
    expect(await m.database.transaction((tx) => isSwapped(m.place, tx, m.migration))).toBe(true)
    const sequence = 'public.items_serial_no_seq'
    const retired = { required: false, fallback: null, sequence: null }
    expect(await columns(m)).toEqual([
      { name: 'id', type: 'bigint', required: true, fallback: null, sequence: null },
      { name: '_crossfade_retired_qty', type: 'integer', ...retired },
      { name: '_crossfade_retired_serial_no', type: 'integer', ...retired },
      { name: '_crossfade_retired_tags', type: 'text', ...retired },
      { name: 'qty', type: 'bigint', required: true, fallback: '1', sequence: null },
      {
        name: 'serial_no',
        type: 'bigint',
        required: true,
        fallback: `nextval('items_serial_no_seq'::regclass)`,
        sequence,
      },
      { name: 'tags', type: 'text[]', required: false, fallback: null, sequence: null },
    ])
    expect(await indexes(m)).toEqual(before)

    // The application goes on with the names that it knows; what the old type cannot hold fails nothing.
    await m.sql(
      `INSERT INTO items (id, tags) VALUES (60, '{x,y}'); UPDATE items SET qty = qty + 1, tags = array_append(tags, 'z') WHERE id = 1`,
    )
    await m.sql('UPDATE items SET qty = 5000000000 WHERE id = 2')
    expect(
      await m.sql(
        `SELECT id::int, qty, serial_no, tags, _crossfade_retired_qty AS q, _crossfade_retired_serial_no AS s, _crossfade_retired_tags AS t FROM items WHERE id IN (1, 2, 60) ORDER BY id`,
      ),
    ).toEqual([
      { id: 1, qty: '2', serial_no: '101', tags: ['a', '1', 'z'], q: 2, s: 101, t: 'a,1,z' },
      { id: 2, qty: '5000000000', serial_no: '102', tags: ['a', '2'], q: 2, s: 102, t: 'a,2' },
      { id: 60, qty: '1', serial_no: '501', tags: ['x', 'y'], q: 1, s: 501, t: 'x,y' },
    ])
    expect((await m.log(m.reverse)).map(({ key }) => key)).toEqual(['2'])
    await m.sql('UPDATE items SET qty = 7 WHERE id = 2')

    expect(await swap(m, 'to-old')).toBe('swapped')
    expect(await indexes(m)).toEqual(before)
    expect(await m.sql('SELECT qty, serial_no, tags FROM items WHERE id IN (1, 2, 60) ORDER BY id')).toEqual([
      { qty: 2, serial_no: 101, tags: 'a,1,z' },
      { qty: 7, serial_no: 102, tags: 'a,2' },
      { qty: 1, serial_no: 501, tags: 'x,y' },
    ])
    await m.sql(`INSERT INTO items (id, tags) VALUES (61, 'q'); UPDATE items SET qty = 9 WHERE id = 3`)
    expect(await m.sql('SELECT qty2, serial2, tags2 FROM items WHERE id IN (3, 61) ORDER BY id')).toEqual([
      { qty2: '9', serial2: '103', tags2: ['a', '3'] },
      { qty2: '1', serial2: '502', tags2: ['q'] },
    ])
  })

  test('is not done while a key of the change log is refused', async (t) => {
    const m = await prepare(t, version)
    const before = await columns(m)
    await m.sql(`BEGIN; SET LOCAL crossfade.applying = 'm'; UPDATE items SET qty2 = NULL WHERE false; COMMIT`)
    await m.sql(
      `INSERT INTO _crossfade_m.changes_f1 (kind, k1, due_at, reason) VALUES ('c', 1, now() + interval '1 hour', 'held')`,
    )
    await expect(swap(m, 'to-new')).rejects.toMatchObject({ code: 'CUTOVER.NOT_DRAINED' })
    expect(await columns(m)).toEqual(before)
  })

  test('comes back from a crash before its commit, and everything can be taken back', async (t) => {
    const m = await withBothSides(t, version, schema, definition)
    const steps = undoableSteps(m.database.dialect, m.migration, m.groups)
    await m.backfill()
    for (const step of completionSteps(m.database.dialect, m.migration))
      await runStep(m.place, step, [], watch)
    const withTwins = (await inventory(m)).filter((line) => !line.includes('_crossfade_m.'))
    await expect(
      m.database.transaction(
        async (tx) => {
          await swapNames(m.place, tx, m.migration, 'to-new')
          throw new Error('crash')
        },
        { applying: 'm' },
      ),
    ).rejects.toThrow('crash')
    expect((await inventory(m)).filter((line) => !line.includes('_crossfade_m.'))).toEqual(withTwins)
    for (const step of steps) await undoStep(m.place, step, [], watch)
    const left = (await inventory(m)).filter(
      (line) =>
        /items/.test(line) && /2|_crossfade_(new|retired)/.test(line) && !line.includes('_crossfade_m'),
    )
    expect(left).toEqual([])
  })

  test('is refused where something would stay with the old column', async (t) => {
    const m = await withBothSides(
      t,
      version,
      `${schema}; CREATE TABLE kinds (name text PRIMARY KEY);`,
      definition,
    )
    const uncarried = async (sql: string): Promise<string> => {
      await m.sql(sql)
      const plan = await makePlan(m.place, m.migration)
      return plan.findings
        .filter(({ rule }) => rule === 'column-uncarried')
        .map(({ message }) => message)
        .join()
    }
    expect(await uncarried('ALTER TABLE items ADD CONSTRAINT few CHECK (qty < 1000)')).toBe('')
    expect(await uncarried('CREATE VIEW v AS SELECT qty FROM items')).toMatch(/: rule .*view v\.$/)
    expect(await uncarried('DROP VIEW v; CREATE INDEX items_lower ON items (lower(tags))')).toMatch(
      /: index items_lower: .*SQLSTATE 42883/,
    )
    expect(
      await uncarried(
        'DROP INDEX items_lower; ALTER TABLE items ADD CONSTRAINT apart EXCLUDE USING btree (qty WITH =)',
      ),
    ).toMatch(/: index apart: an exclusion constraint/)
    expect(
      await uncarried(
        'ALTER TABLE items DROP CONSTRAINT apart; ALTER TABLE items ADD FOREIGN KEY (tags) REFERENCES kinds NOT VALID',
      ),
    ).toMatch(/: constraint items_tags_fkey: text\[\] would reference text\.$/)
    // What came after the plan is seen under the lock.
    await m.sql('ALTER TABLE items DROP CONSTRAINT items_tags_fkey')
    await m.backfill()
    await prepared(m)
    await m.sql('CREATE INDEX items_late ON items (abs(qty))')
    await expect(swap(m, 'to-new')).rejects.toMatchObject({
      code: 'CUTOVER.NOT_CARRIED',
      details: { lines: ['items_late'] },
    })
    await prepared(m)
    expect(await swap(m, 'to-new')).toBe('swapped')
  })

  test('carries keys, constraints, foreign keys of both sides, statistics, comments and grants', async (t) => {
    const m = await withBothSides(t, version, keySchema, keyDefinition)
    await m.backfill()
    await prepared(m)
    const before = await objects(m)
    expect(before).toHaveLength(20)
    expect(await swap(m, 'to-new')).toBe('swapped')
    expect(await objects(m)).toEqual(before)
    expect(
      await m.sql(
        `SELECT attname AS name, format_type(atttypid, NULL) AS type, attidentity AS identity FROM pg_attribute WHERE attrelid = 'things'::regclass AND attname IN ('id', 'kind', 'pos', 'qty') ORDER BY 1`,
      ),
    ).toEqual(
      ['id', 'kind', 'pos', 'qty'].map((name) => ({
        name,
        type: 'bigint',
        identity: name === 'id' ? 'a' : '',
      })),
    )

    const refused = (sql: string): Promise<unknown> =>
      m.sql(sql).then(
        () => 'done',
        (error: unknown) => (error as { code?: string }).code,
      )
    const next = Number(await m.value('INSERT INTO things (kind, qty) VALUES (1, 9) RETURNING id'))
    expect(next).toBeGreaterThan(50)
    expect(await m.sql('SELECT _crossfade_retired_id AS id FROM things WHERE id = $1', [next])).toEqual([
      { id: next },
    ])
    expect(await refused('INSERT INTO parts VALUES (9999)')).toBe('23503')
    expect(await refused('INSERT INTO things (kind, qty) VALUES (77, 9)')).toBe('23503')
    expect(await refused('INSERT INTO things (kind, qty) VALUES (1, 1000)')).toBe('23514')
    expect(await refused('INSERT INTO things (id, kind, qty) OVERRIDING SYSTEM VALUE VALUES (1, 1, 9)')).toBe(
      '23505',
    )
    await m.sql('BEGIN; UPDATE things SET pos = pos + 1; DELETE FROM things WHERE id = 2; COMMIT')
    expect(await m.value('SELECT count(*)::int FROM parts WHERE item = 2')).toBe(0)
    // A key that the old type cannot hold is the new side's alone, and there is no way back while it stands.
    await m.sql(
      'INSERT INTO things (id, kind, qty) OVERRIDING SYSTEM VALUE VALUES (5000000000, 2, 9); INSERT INTO kinds VALUES (9)',
    )
    expect((await m.log(m.reverse)).map(({ key }) => key)).toEqual(['5000000000'])
    await expect(swapBack(m)).rejects.toMatchObject({ code: 'CUTOVER.INCOMPLETE' })
    await m.sql('DELETE FROM things WHERE id = 5000000000')
    await m.sql(
      'CREATE INDEX things_late ON things (kind); ALTER TABLE things ADD CONSTRAINT late CHECK (kind < 90)',
    )

    // Where the names do not go back after all, the key of the old side may be empty again.
    await expect(
      withKeysProven(m.place, m.migration, watch, () => Promise.reject(new Error('no'))),
    ).rejects.toThrow('no')
    await m.sql(
      'INSERT INTO things (id, kind, qty) OVERRIDING SYSTEM VALUE VALUES (5000000000, 2, 9); DELETE FROM things WHERE id = 5000000000',
    )
    expect(await swapBack(m)).toBe('swapped')
    expect(await refused('INSERT INTO parts VALUES (9999)')).toBe('23503')
    await restoreColumns(m.place, watch)
    expect(await proveKeys(m.place, watch)).toEqual([])
    await m.sql('ALTER TABLE things DROP CONSTRAINT late')
    expect(await objects(m)).toEqual(before)
    expect(
      Number(await m.value('INSERT INTO things (kind, qty) VALUES (1, 8) RETURNING id')),
    ).toBeGreaterThan(next)
    // And there again.
    await prepared(m)
    expect(await swap(m, 'to-new')).toBe('swapped')
    expect(await objects(m)).toEqual(before)
  })

  test('of a key leaves the catalogue as it was when all of it is taken back', async (t) => {
    const test = await withBothSides(t, version, 'CREATE TABLE items (id int PRIMARY KEY, qty int)', {
      ...definition,
      mappings: [{ source: 'items', key: { id: 'id' }, columns: { qty2: 'qty' }, reverse: false }],
      expand: { columns: [{ table: 'items', name: 'qty2', type: 'int' }] },
      cutover: { mode: 'flags' },
    })
    await test.sql(keySchema)
    const before = await inventory(test)
    const migration = resolveMigration({ name: 'k', ...keyDefinition } as DefinitionInput)
    const place = { ...test.place, scope: test.database.dialect.catalog.scope('k') }
    for (const isThere of [false, true]) {
      const groups = await expand(place, migration)
      await backfillAll(place, groups, migration)
      const m = { ...test, place, migration, groups }
      await prepared(m)
      if (isThere) {
        await swap(m, 'to-new')
        await swapBack(m)
      }
      await releaseColumns(place, migration, watch)
      for (const group of [...groups.forward, ...groups.reverse])
        await test.database.dialect.ddl
          .removeTriggers(group)
          .apply(test.database, place.scope, { lockTimeoutMs: 1000 })
      await restoreColumns(place, watch)
      await proveKeys(place, watch)
      for (const step of undoableSteps(test.database.dialect, migration, groups))
        await undoStep(place, step, [], watch)
      await test.database.dialect.ddl.dropScope(test.database, place.scope, { lockTimeoutMs: 1000 })
      expect(await inventory(test)).toEqual(before)
    }
  })
})
