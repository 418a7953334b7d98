import { describe, expect, test } from 'vitest'
import { verifyLane } from '../../src/verify/verify-lane.ts'
import { paceOf, planRanges, withBothSides, type BothSides } from '../support/both-sides.ts'
import { uncaptured } from '../support/held-users.ts'
import { isLong } from '../support/migrations.ts'
import { postgresVersions } from '../support/postgres.ts'

/**
 * Danger: a value that does not survive the way through us. A table with a column of every type, each with its awkward values, is copied
 * by chunks and by triggers; every value is compared by a query that shares nothing with ours; and a change of any one column is found.
 */

const rows = isLong ? 1_000_000 : 20_000
const patienceMs = isLong ? 1_800_000 : 240_000
/** Of a row in which every column stands twice. */
const rowsInRow = isLong ? 1_000_000 : 5_000

/** Expressions over `i`; one of the variants is always NULL as well. */
const types: Readonly<Record<string, readonly string[]>> = {
  bool: ['i % 2 = 0', 'false'],
  int2: ['-32768', '32767', '(i % 30000)::int2'],
  int4: ['-2147483648', '2147483647', 'i'],
  int8: ['-9223372036854775808', '9223372036854775807', 'i'],
  numeric: [`'NaN'`, `'Infinity'`, `'-Infinity'`, '1e-16383', '10.00', '10.0', 'i::numeric ^ 20'],
  'numeric(20,5)': ['0.00001', '-123456789012345.12345', 'i / 7.0'],
  float4: [`'NaN'`, `'-0'`, `'1e-45'`, `'3.4028235e38'`, `'-Infinity'`, '0.1'],
  float8: [
    `'NaN'`,
    `'-0'`,
    `'5e-324'`,
    `'1.7976931348623157e308'`,
    `'Infinity'`,
    '0.1::float8 + 0.2::float8',
  ],
  money: [`'-92233720368547758.08'`, '12.34'],
  text: [`''`, `'€ 𝄞 ' || i`, `E'tab\\tline\\nquote''back\\\\slash'`, `E'\\u0001'`, `'null'`],
  'varchar(20)': [`'trailing   '`, `'v' || i`],
  'char(5)': [`'a'`, `'abcde'`, `''`],
  '"char"': [`'x'`, `''`],
  name: [`'Name'`, `repeat('n', 63)`],
  bytea: [`'\\x'`, `'\\x00ff27225c'`, `decode(md5(i::text), 'hex')`],
  date: [`'infinity'`, `'-infinity'`, `'4714-11-24 BC'`, `'5874897-12-31'`, `'2024-02-29'`],
  time: [`'24:00:00'`, `'23:59:59.999999'`],
  timetz: [`'23:59:59.999999+15:59'`, `'00:00-12:30'`],
  timestamp: [`'infinity'`, `'4714-11-24 00:00:00 BC'`, `'294276-12-31 23:59:59.999999'`],
  timestamptz: [
    `'infinity'`,
    `'-infinity'`,
    `'2024-10-27 02:30:00.000001 Europe/Berlin'`,
    `'4714-11-24 00:00:00+00 BC'`,
  ],
  interval: [`'1 mon -1 day +00:00:00.000001'`, `'24:00:00'`, `'1 day'`, `'-178000000 years'`],
  uuid: [`'00000000-0000-0000-0000-000000000000'`, `md5(i::text)::uuid`],
  json: [`'{"b": 1, "a":  1, "b": 2}'`, `'null'`, `'1.0'`, `'"\\u00e9"'`],
  jsonb: [`'{"b": 1, "a": [1.0, 1.00, null, {}]}'`, `'null'`, `'1e400'`],
  jsonpath: [`'$.a[*] ? (@ > 1)'`, `'strict $'`],
  'bit(5)': [`B'10101'`, `B'00000'`],
  varbit: [`B''`, `B'0'`, `B'1111111110'`],
  inet: [`'10.0.0.1/8'`, `'::ffff:1.2.3.4'`, `'fe80::1/64'`],
  cidr: [`'10.0.0.0/8'`, `'::/0'`],
  macaddr: [`'08:00:2b:01:02:03'`],
  macaddr8: [`'08:00:2b:01:02:03:04:05'`],
  point: [`'(NaN,Infinity)'`, `point(i, -0.1)`],
  line: [`'{1,-1,0.1}'`],
  lseg: [`'[(0,0),(1,1e-300)]'`],
  box: [`'(1,1),(0,0)'`],
  path: [`'[(0,0),(1,1),(2,0)]'`, `'((0,0),(1,1))'`],
  polygon: [`'((0,0),(1,1),(2,0))'`],
  circle: [`'<(0,0),0>'`, `circle(point(i, i), 0.1)`],
  tsvector: [`''`, `to_tsvector('simple', 'a fat cat ' || i)`, `'a:1A,2B b'`],
  tsquery: [`'fat & (rat | !cat) <2> x:*'`],
  int4range: [`'empty'`, `'(,)'`, `'[1,5]'`],
  int8range: [`'[-9223372036854775808,)'`],
  numrange: [`'(0.10,0.2]'`, `'[NaN,NaN]'`],
  tsrange: [`'[-infinity,infinity)'`, `'[2024-01-01,2024-02-01)'`],
  tstzrange: [`'["2024-01-01 00:00:00.000001+00",)'`],
  daterange: [`'[2024-01-01,infinity]'`],
  int4multirange: [`'{}'`, `'{[1,3),[7,9)}'`],
  nummultirange: [`'{(,0.1),[5.50,)}'`],
  tstzmultirange: [`'{[2024-01-01 00:00+00,2024-02-01 00:00+00)}'`],
  oid: ['4294967295', '0'],
  pg_lsn: [`'FFFFFFFF/FFFFFFFF'`],
  xid8: [`'18446744073709551615'`],
  regtype: [`'int4'`],
  'int4[]': [`'{}'`, `'{1,NULL,3}'`, `'[5:6]={1,2}'`],
  'text[]': [`'{"a,b","NULL",NULL,""}'`, `'{{a,b},{c,d}}'`, `'{"quote\\"back\\\\slash"}'`],
  'numeric[]': [`'{NaN,1.0,1.00}'`],
  mood: [`'sad'`, `'happy'`, `'it''s, complicated'`],
  'mood[]': [`'{sad,"it''s, complicated"}'`],
  pair: [`'(1,"a,b")'`, `'(,)'`, `ROW(i, 'text "quoted"')::pair`],
  'pair[]': [`ARRAY[ROW(1, 'a')::pair, NULL]`],
  short: [`'abc'`, `''`],
  large: [
    `(SELECT string_agg(md5((i * 37 + n)::text), '') FROM generate_series(1, 100) n)::large`,
    `'small'`,
  ],
}

/** Types that a server may have or not. */
const optional: Readonly<Record<string, { readonly needs: string; readonly values: readonly string[] }>> = {
  hstore: { needs: 'CREATE EXTENSION hstore', values: [`'a=>1,b=>NULL,"c d"=>""'`, `''`] },
  citext: { needs: 'CREATE EXTENSION citext', values: [`'Straße'`, `'ABC' || i`] },
  xml: { needs: `SELECT '<a/>'::xml`, values: [`'<a b="1">x<!-- c --></a>'`, `'text only'`] },
}

const schemaOf = (columns: readonly (readonly [string, string])[]): string =>
  `CREATE TABLE old_side (id int PRIMARY KEY, ${columns.map(([name, type]) => `${name} ${type}`).join(', ')}, twice bigint GENERATED ALWAYS AS (id::bigint * 2) STORED);
   CREATE TABLE new_side (id int PRIMARY KEY, ${columns.map(([name, type]) => `${name} ${type}`).join(', ')}, twice bigint, own text GENERATED ALWAYS AS ('own ' || id) STORED);`

const ownTypes = `
  CREATE TYPE mood AS ENUM ('sad', 'happy', 'it''s, complicated');
  CREATE TYPE pair AS (number int, word text);
  CREATE DOMAIN short AS text CHECK (length(value) < 10);
  CREATE DOMAIN large AS text;`

/** The value of a row: one of the variants, or none. */
const valueOf = (type: string, values: readonly string[], i: string, shift: number): string => {
  const cases = values.map((value, n) => `WHEN ${n} THEN (${value.replaceAll(/\bi\b/g, `(${i})`)})::${type}`)
  return `CASE (${i} + ${shift}) % ${values.length + 1} ${cases.join(' ')} END`
}

interface Column {
  readonly name: string
  readonly type: string
  readonly values: readonly string[]
}

/** The columns that this server can have, and what makes their types. */
async function everyColumn(
  t: Parameters<typeof withBothSides>[0],
  version: '15' | '18',
): Promise<{ columns: Column[]; preparation: string }> {
  const probe = await withBothSides(
    t,
    version,
    'CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY)',
    {
      mappings: [{ source: 'a', target: 'b', key: { id: 'id' }, columns: {}, reverse: false }],
    },
  )
  const extras: Column[] = []
  const statements: string[] = []
  for (const [type, { needs, values }] of Object.entries(optional)) {
    const isThere = await probe.sql(needs).then(
      () => true,
      () => false,
    )
    process.stderr.write(isThere ? '' : `PostgreSQL ${version} has no ${type} here\n`)
    if (!isThere) continue
    if (needs.startsWith('CREATE')) statements.push(needs)
    extras.push({ name: `c_${type}`, type, values })
  }
  const columns = [
    ...Object.entries(types).map(([type, values], n) => ({ name: `c${n + 1}`, type, values })),
    ...extras,
  ]
  return { columns, preparation: `${statements.join('; ')}; ${ownTypes}` }
}

const fill = (columns: readonly Column[], count: number): string =>
  `INSERT INTO old_side (id, ${columns.map(({ name }) => name).join(', ')}) SELECT i, ${columns.map(({ type, values }, n) => valueOf(type, values, 'i', n)).join(', ')} FROM generate_series(1, ${count}) i; ANALYZE old_side`

async function withEveryType(
  t: Parameters<typeof withBothSides>[0],
  version: '15' | '18',
): Promise<{ m: BothSides; columns: Column[] }> {
  const { columns, preparation } = await everyColumn(t, version)
  const names = columns.map(({ name }) => name)
  const m = await withBothSides(
    t,
    version,
    `${preparation} ${schemaOf(columns.map(({ name, type }) => [name, type]))} ${fill(columns, rows)}`,
    {
      mappings: [
        {
          source: 'old_side',
          target: 'new_side',
          key: { id: 'id' },
          columns: { ...Object.fromEntries(names.map((name) => [name, true as const])), twice: true },
          reverse: { columns: Object.fromEntries(names.map((name) => [name, true as const])) },
        },
      ],
    },
  )
  return { m, columns }
}

/** Each column has its twin in the same row. */
const twinOf = ({ name }: Column): string => `twin_${name}`

async function withEveryTypeTwice(
  t: Parameters<typeof withBothSides>[0],
  version: '15' | '18',
): Promise<{ m: BothSides; columns: Column[] }> {
  const { columns, preparation } = await everyColumn(t, version)
  const m = await withBothSides(
    t,
    version,
    `${preparation} CREATE TABLE old_side (id int PRIMARY KEY, ${columns.map(({ name, type }) => `${name} ${type}`).join(', ')}) WITH (fillfactor = 50); ${fill(columns, rowsInRow)}`,
    {
      kind: 'column',
      mappings: [
        {
          source: 'old_side',
          key: { id: 'id' },
          columns: Object.fromEntries(columns.map((column) => [twinOf(column), column.name])),
          reverse: { columns: Object.fromEntries(columns.map((column) => [column.name, twinOf(column)])) },
        },
      ],
      expand: {
        columns: columns.map((column) => ({
          table: 'old_side',
          name: twinOf(column),
          type: column.type,
          replaces: column.name,
        })),
      },
    },
  )
  return { m, columns }
}

/** Text against text, column by column: what a person would see, and nothing of how we compare. */
async function differing(m: BothSides, columns: readonly Column[]): Promise<Record<string, unknown>[]> {
  const isInRow = m.migration.kind === 'column'
  const pairs = columns.map((column) => [column.name, isInRow ? twinOf(column) : column.name] as const)
  const counts = [...pairs, ...(isInRow ? [] : [['twice', 'twice'] as const])].map(
    ([old, fresh]) => `count(*) FILTER (WHERE o.${old}::text IS DISTINCT FROM n.${fresh}::text) AS ${old}`,
  )
  const [row = {}] = await m.sql(
    `SELECT count(*) FILTER (WHERE o.id IS NULL OR n.id IS NULL) AS rows, ${counts.join(', ')} FROM old_side o FULL JOIN ${isInRow ? 'old_side' : 'new_side'} n USING (id)`,
  )
  return Object.entries(row).flatMap(([column, count]) => (Number(count) === 0 ? [] : [{ column, count }]))
}

async function verify(
  m: BothSides,
  direction: 'forward' | 'reverse' = 'forward',
): Promise<{ compared: number; mismatched: number; repaired: number }> {
  const groups = m.groups[direction]
  await planRanges(m.place, groups, 'verify', 2)
  const { compared, mismatched, repaired, done } = await verifyLane(m.place, groups, 0, paceOf(patienceMs), {
    repair: direction === 'forward',
  })
  expect(done).toBe(true)
  return { compared, mismatched, repaired }
}

describe.each(postgresVersions())('PostgreSQL %s', (version) => {
  test('every value of every type arrives, by chunks and by triggers, and one that is changed is found', async (t) => {
    const { m, columns } = await withEveryType(t, version)
    expect(columns.length).toBeGreaterThanOrEqual(60)
    const shifted = columns
      .map(({ name, type, values }, n) => `${name} = ${valueOf(type, values, 'id', n + 1)}`)
      .join(', ')
    await m.sql(`UPDATE old_side SET ${shifted} WHERE id % 50 = 1`) // the target has none of them yet
    await m.backfill({ lanes: 2, forMs: patienceMs })
    await m.sql(`UPDATE old_side SET ${shifted} WHERE id % 50 = 2`)
    await m.sql(`DELETE FROM old_side WHERE id % 1000 = 3`)
    // One by one, so that each change stands alone.
    for (const [n, { name, type, values }] of columns.entries())
      await m.sql(
        `UPDATE old_side SET ${name} = ${valueOf(type, values, 'id', n + 1)} WHERE id = ${100 + n * 10}`,
      )
    await m.drain()
    expect(await differing(m, columns)).toEqual([])
    expect(await verify(m)).toMatchObject({ compared: rows - rows / 1000, mismatched: 0 })

    // A column after the other is made to say something else, each in a row of its own.
    const changed: number[] = []
    for (const [n, { name }] of columns.entries()) {
      const [row] = await m.sql(
        `SELECT n.id, o.id AS other FROM new_side n, old_side o WHERE n.id > ${n * 100} AND n.${name} IS NOT NULL AND n.id % 1000 <> 3 AND o.${name}::text IS DISTINCT FROM n.${name}::text AND o.id BETWEEN 1 AND 60 ORDER BY n.id, o.id LIMIT 1`,
      )
      await uncaptured(
        m,
        `UPDATE new_side SET ${name} = (SELECT ${name} FROM old_side WHERE id = ${String(row?.['other'])}) WHERE id = ${String(row?.['id'])}`,
      )
      changed.push(Number(row?.['id']))
    }
    expect(new Set(changed).size).toBe(columns.length)
    expect(await differing(m, columns)).toHaveLength(columns.length)
    expect(await verify(m)).toMatchObject({ mismatched: columns.length, repaired: columns.length })
    await m.drain() // a repair leaves its key there
    expect(await differing(m, columns)).toEqual([])

    // And the way back gives the old rows, type by type.
    expect(await verify(m, 'reverse')).toMatchObject({ compared: rows - rows / 1000, mismatched: 0 })
  })

  test('every value of every type arrives in a column of the same row, and goes back', async (t) => {
    const { m, columns } = await withEveryTypeTwice(t, version)
    /** Sets columns of these rows to the next variant of each. */
    const shift = (
      nameOf: (column: Column) => string,
      which: readonly Column[],
      where: string,
    ): Promise<unknown> =>
      m.sql(
        `UPDATE old_side SET ${which.map((column) => `${nameOf(column)} = ${valueOf(column.type, column.values, 'id', columns.indexOf(column) + 1)}`).join(', ')} WHERE ${where}`,
      )
    const name = (column: Column): string => column.name
    await shift(name, columns, 'id % 50 = 1') // before a chunk comes there
    await shift(twinOf, columns, 'id % 50 = 2') // by an application that knows the new columns already
    await m.backfill({ lanes: 2, forMs: patienceMs })
    await shift(name, columns, 'id % 50 = 3')
    await shift(twinOf, columns, 'id % 50 = 4')
    // One by one, so that each change stands alone; from either side.
    for (const [n, column] of columns.entries()) {
      await shift(name, [column], `id = ${100 + n * 10}`)
      await shift(twinOf, [column], `id = ${105 + n * 10}`)
    }
    await m.drain()
    expect(await differing(m, columns)).toEqual([])
    // A twin that had not been filled yet and is set to NULL has not changed.
    const isShifted = ({ name: old, type, values }: Column, n: number): string => {
      const shifted = `(${valueOf(type, values, 'id', n + 1)})::text`
      return `(${old}::text IS NOT DISTINCT FROM ${shifted} OR id % 50 = 2 AND ${shifted} IS NULL)`
    }
    const changed = await m.sql(
      `SELECT count(*)::int AS n FROM old_side WHERE id % 50 IN (1, 2, 3, 4) AND ${columns.map(isShifted).join(' AND ')}`,
    )
    expect(changed).toEqual([{ n: (rowsInRow / 50) * 4 }])
    expect(await verify(m)).toMatchObject({ compared: rowsInRow, mismatched: 0 })

    // A column after the other is made to say something else, each in a row of its own.
    for (const [n, column] of columns.entries()) {
      const [row] = await m.sql(
        `SELECT a.id, b.id AS other FROM old_side a, old_side b WHERE a.id > ${n * 70} AND a.${column.name} IS NOT NULL AND b.${column.name}::text IS DISTINCT FROM a.${column.name}::text AND b.id BETWEEN 1 AND 60 ORDER BY a.id, b.id LIMIT 1`,
      )
      await uncaptured(
        m,
        `UPDATE old_side SET ${twinOf(column)} = (SELECT ${column.name} FROM old_side WHERE id = ${String(row?.['other'])}) WHERE id = ${String(row?.['id'])}`,
      )
    }
    expect(await differing(m, columns)).toHaveLength(columns.length)
    expect(await verify(m)).toMatchObject({ mismatched: columns.length, repaired: columns.length })
    await m.drain()
    expect(await differing(m, columns)).toEqual([])
  })
})
