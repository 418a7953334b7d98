import { expect, test } from 'vitest'
import type { ResolvedLink } from '../dialect.ts'
import {
  deleteGone,
  everything,
  insertRows,
  keyArrays,
  keyBetween,
  keyIn,
  linkRows,
  onTarget,
  rowKey,
  rowsDiffer,
  updateRows,
  writeRows,
} from './projection.ts'

const table = (name: string): { schema: string; name: string } => ({ schema: 'public', name })

const single: ResolvedLink = {
  link: {
    id: 'users → people',
    direction: 'forward',
    parts: [
      {
        table: table('users'),
        key: ['id'],
        columns: [
          { to: 'full_name', expression: 'first || last' },
          { to: 'email', column: 'email' },
        ],
        where: 'active OR id > 0',
      },
    ],
    target: { table: table('people'), key: ['pid'] },
  },
  keyTypes: ['bigint'],
  partitions: [[]],
  dependencies: [],
  keyOrders: [undefined],
  targetTypes: { pid: 'bigint', full_name: 'character varying(40)', email: 'character(9)' },
}

test('an expression stands in a SELECT over its own table only', () => {
  expect(linkRows(single, everything)).toBe(
    'SELECT "id" AS _crossfade_k1, (first || last) AS "full_name", "email" AS "email" FROM "public"."users" WHERE (active OR id > 0) AND true',
  )
})

test('keys are an array for one column and tuples for several', () => {
  expect(keyIn(['$1::bigint[]'])(['id'])).toBe('"id" = ANY ($1::bigint[])')
  expect(keyIn(['$1::int[]', '$2::text[]'])(['a', 'b'])).toBe(
    '("a", "b") IN (SELECT _crossfade_k1, _crossfade_k2 FROM unnest($1::int[], $2::text[]) AS _crossfade_u(_crossfade_k1, _crossfade_k2))',
  )
  expect(
    keyArrays(
      [
        ['1', 'x'],
        ['2', 'y'],
      ],
      ['integer', 'text'],
    ),
  ).toEqual({
    arrays: ['$1::integer[]', '$2::text[]'],
    values: [
      ['1', '2'],
      ['x', 'y'],
    ],
  })
  expect(rowKey({ _crossfade_k1: '1', _crossfade_k2: 'x' }, 2)).toEqual(['1', 'x'])
})

test('a range compares rows, and binds every value', () => {
  const { condition, values } = keyBetween({ after: ['1', 'a'], upTo: ['2', 'b'] }, ['integer', 'text'])
  expect(condition(['a', 'b'])).toBe(
    '("a", "b") > ($1::integer, $2::text) AND ("a", "b") <= ($3::integer, $4::text)',
  )
  expect(values).toEqual(['1', 'a', '2', 'b'])
  expect(keyBetween({ after: undefined, upTo: undefined }, ['integer']).condition(['a'])).toBe('true')
  expect(keyBetween({ after: undefined, upTo: ['9'] }, ['integer']).condition(['a'])).toBe(
    '"a" <= $1::integer',
  )
})

test('where the sides order their keys differently, each is compared in the order that was meant', () => {
  const ordered: ResolvedLink = {
    ...single,
    keyTypes: ['text'],
    keyOrders: [{ source: 'pg_catalog."C"', target: 'pg_catalog."en-x-icu"' }],
  }
  const { condition } = keyBetween({ after: ['a'], upTo: undefined }, ['text'])
  expect(onTarget(ordered, condition)).toBe('"pid" COLLATE pg_catalog."C" > $1::text')
  expect(onTarget(single, condition)).toBe('"pid" > $1::text')
  expect(linkRows(ordered, condition)).toContain('SELECT "id" COLLATE pg_catalog."en-x-icu" AS _crossfade_k1')
  expect(linkRows(ordered, condition)).toContain('"id" > $1::text')
})

test('lengths are taken off the types that rows are compared in, because a cast would cut', () => {
  const types: Record<string, string> = {
    a: 'character varying(5)',
    b: 'character varying(5)[]',
    c: 'character(5)',
    d: 'character(5)[]',
    e: 'bit(3)',
    f: 'bit varying(3)',
    g: 'numeric(10,2)',
    h: 'timestamp(3) without time zone',
    i: 'json',
  }
  const link: ResolvedLink = {
    ...single,
    targetTypes: types,
    link: {
      ...single.link,
      parts: [
        { ...single.link.parts[0], columns: Object.keys(types).map((column) => ({ to: column, column })) },
      ],
    },
  }
  const images = (row: string): string =>
    `ROW(${row}."b"::character varying[], ${row}."d"::bpchar[]::text[], ${row}."e"::bit varying, ${row}."f"::bit varying, ` +
    `${row}."g"::numeric(10,2), ${row}."i"::json)::record`
  expect(rowsDiffer(link, 's', 't').split(' OR ')).toEqual([
    's."a"::character varying COLLATE "C" IS DISTINCT FROM t."a"::character varying COLLATE "C"',
    's."c"::bpchar::text COLLATE "C" IS DISTINCT FROM t."c"::bpchar::text COLLATE "C"',
    's."h"::timestamp(3) without time zone IS DISTINCT FROM t."h"::timestamp(3) without time zone',
    `${images('s')} *<> ${images('t')}`,
  ])
})

test('only types that are equal where their bytes are equal are compared by their operator', () => {
  const byOperator = (type: string): boolean =>
    !rowsDiffer({ ...single, targetTypes: { full_name: type, email: 'text' } }, 's', 't').includes('*<>')
  expect(
    [
      'smallint',
      'integer',
      'bigint',
      'boolean',
      'uuid',
      'date',
      'bytea',
      'text',
      'time(3) without time zone',
    ].filter((type) => !byOperator(type)),
  ).toEqual([])
  expect(
    [
      'numeric',
      'real',
      'double precision',
      'interval',
      'time with time zone',
      'json',
      'jsonb',
      'citext',
      'point',
      'text[]',
      'inet',
      'money',
      'int4range',
    ].filter(byOperator),
  ).toEqual([])
})

test('a trigger writes what stands and inserts the rest in one statement, equal or not', () => {
  const sql = writeRows(single, keyIn(['v']))
  expect(sql).toMatch(
    /^WITH _crossfade_written AS \(UPDATE "public"."people" AS _crossfade_t SET .* RETURNING _crossfade_t."pid" AS _crossfade_k1\) INSERT INTO /,
  )
  expect(sql).not.toContain('IS DISTINCT FROM')
  expect(sql).not.toContain('ON CONFLICT')
  expect(updateRows(single, keyIn(['v']))).toContain('IS DISTINCT FROM')
})

test('a link of keys alone has nothing to update, and its trigger locks what stands', () => {
  const bare: ResolvedLink = {
    ...single,
    link: { ...single.link, parts: [{ ...single.link.parts[0], columns: [] }] },
  }
  expect(updateRows(bare, everything)).toBeUndefined()
  expect(writeRows(bare, everything)).toContain('FOR NO KEY UPDATE')
  expect(insertRows(bare, everything)).toContain(
    'INSERT INTO "public"."people" AS _crossfade_t ("pid") OVERRIDING SYSTEM VALUE',
  )
})

test('a delete asks for the source in the same statement, and stays within the scope', () => {
  const scoped: ResolvedLink = {
    ...single,
    link: { ...single.link, target: { ...single.link.target, scope: 'active' } },
  }
  const exists =
    'NOT EXISTS (SELECT FROM "public"."users" WHERE (active OR id > 0) AND "id" = _crossfade_u._crossfade_k1)'
  expect(deleteGone(single, ['v'])).toBe(
    `DELETE FROM "public"."people" AS _crossfade_t USING unnest(v) AS _crossfade_u(_crossfade_k1) WHERE _crossfade_t."pid" = _crossfade_u._crossfade_k1 AND ${exists}`,
  )
  expect(deleteGone(scoped, ['v'])).toContain(
    'AND EXISTS (SELECT FROM "public"."people" WHERE (active) AND "pid" = _crossfade_u._crossfade_k1)',
  )
})
