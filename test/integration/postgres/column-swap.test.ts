import { describe, expect, test, type TestContext } from 'vitest'
import { completionSteps, undoableSteps } from '../../../src/ddl/expand-steps.ts'
import { runStep, undoStep } from '../../../src/ddl/run-step.ts'
import { valueSteps } from '../../../src/ddl/columns.ts'
import { isSwapped, swapNames } from '../../../src/ddl/swap.ts'
import { makePlan } from '../../../src/plan/make-plan.ts'
import { watch, withBothSides, type BothSides, type SmallDefinition } from '../../support/both-sides.ts'
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

const prepare = async (t: TestContext, version: PostgresVersion): Promise<BothSides> => {
  const m = await withBothSides(t, version, schema, definition)
  await m.backfill()
  for (const step of [
    ...completionSteps(m.database.dialect, m.migration),
    ...valueSteps(m.database.dialect, m.migration),
  ])
    await runStep(m.place, step, [], watch)
  return m
}

const swap = (m: BothSides, direction: 'to-new' | 'to-old'): Promise<'swapped' | 'was swapped'> =>
  m.database.transaction((tx) => swapNames(m.place, tx, m.migration, direction), {
    applying: m.place.scope.migration,
  })

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
    const uncarried = async (sql: string): Promise<string[]> => {
      await m.sql(sql)
      const plan = await makePlan(m.place, m.migration)
      return plan.findings.filter(({ rule }) => rule === 'column-uncarried').map(({ message }) => message)
    }
    expect(await uncarried('SELECT 1')).toEqual([])
    expect(await uncarried('ALTER TABLE items ADD CONSTRAINT few CHECK (qty < 1000)')).toEqual([
      expect.stringContaining('constraint few on table items'),
    ])
    expect(
      await uncarried('ALTER TABLE items DROP CONSTRAINT few; CREATE VIEW v AS SELECT qty FROM items'),
    ).toEqual([expect.stringMatching(/rule .*view v/)])
    expect(await uncarried('DROP VIEW v; CREATE INDEX items_lower ON items (lower(tags))')).toEqual([
      expect.stringContaining('index items_lower'),
    ])
    expect(
      await uncarried('DROP INDEX items_lower; CREATE INDEX items_some ON items (qty) WHERE qty > 5'),
    ).toEqual([expect.stringContaining('index items_some')])
    expect(
      await uncarried(
        'DROP INDEX items_some; ALTER TABLE items ADD FOREIGN KEY (tags) REFERENCES kinds NOT VALID',
      ),
    ).toEqual([expect.stringContaining('items_tags_fkey')])
  })
})
