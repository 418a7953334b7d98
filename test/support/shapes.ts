import type { Key } from '../../src/database/index.ts'
import { toKeys, type SmallDefinition } from './both-sides.ts'

/** One way to key a table. The target is filled by a chunked backfill, then rows are changed behind the triggers' back and copied by key. */
export interface Shape {
  readonly name: string
  readonly schema: string
  readonly definition: SmallDefinition
  /** The same columns of both sides, as text. */
  readonly source: string
  readonly target: string
  /** Rows that a backfill must pass over and write; the same where nothing is filtered out. */
  readonly rows: number
  readonly written?: number
  /** Changes of the source, and the keys that they touched. */
  readonly change: string
  readonly changed: readonly Key[]
  readonly gone: readonly Key[]
  /** Differences that a comparison by range finds after the change, and one by key; the same as keys where it says nothing. */
  readonly differences?: { readonly byRange: number; readonly byKey: number; readonly left: number }
}

const longName = 'ä'.repeat(31) + 'x' // 63 bytes

export const shapes: readonly Shape[] = [
  {
    name: 'int',
    schema: `CREATE TABLE s (id int PRIMARY KEY, v text); CREATE TABLE t (id bigint PRIMARY KEY, w text NOT NULL);
      INSERT INTO s SELECT i, 'v' || i FROM generate_series(1, 2000) i`,
    definition: mapping({ id: 'id' }, { w: 'upper(v)' }, { v: 'lower(w)' }),
    source: 'SELECT id::text, upper(v) FROM s',
    target: 'SELECT id::text, w FROM t',
    rows: 2000,
    change: `UPDATE s SET v = 'new' WHERE id = 7; DELETE FROM s WHERE id = 8; INSERT INTO s VALUES (2001, 'more')`,
    changed: toKeys(7, 2001),
    gone: toKeys(8),
  },
  {
    name: 'bigint with negative keys, gaps and both ends of its range',
    schema: `CREATE TABLE s (id bigint PRIMARY KEY, v text); CREATE TABLE t (id bigint PRIMARY KEY, v text);
      INSERT INTO s SELECT i * 7919 - 4000000, md5(i::text) FROM generate_series(1, 1500) i;
      INSERT INTO s VALUES (9223372036854775807, 'max'), (-9223372036854775808, 'min'), (9007199254740993, 'no double')`,
    definition: mapping({ id: 'id' }, { v: true }, { v: true }),
    source: 'SELECT id::text, v FROM s',
    target: 'SELECT id::text, v FROM t',
    rows: 1503,
    change: `UPDATE s SET v = NULL WHERE id = 9007199254740993; DELETE FROM s WHERE id = -9223372036854775808`,
    changed: toKeys('9007199254740993'),
    gone: toKeys('-9223372036854775808'),
  },
  {
    name: '(int, text)',
    schema: `CREATE TABLE s (tenant int, code text, v int, PRIMARY KEY (tenant, code)); CREATE TABLE t (org int, slug text, v int, PRIMARY KEY (org, slug));
      INSERT INTO s SELECT i % 7, 'c' || i, i FROM generate_series(1, 1400) i; INSERT INTO s VALUES (3, '', 0), (3, 'it''s "q\\', 1), (3, '用户', 2), (3, 'a,b|{}', 3)`,
    definition: mapping({ tenant: 'org', code: 'slug' }, { v: true }, { v: true }),
    source: 'SELECT tenant::text, code, v FROM s',
    target: 'SELECT org::text, slug, v FROM t',
    rows: 1404,
    change: `UPDATE s SET v = 9 WHERE code IN ('', 'it''s "q\\', 'a,b|{}'); DELETE FROM s WHERE code = '用户'`,
    changed: [
      ['3', ''],
      ['3', `it's "q\\`],
      ['3', 'a,b|{}'],
    ],
    gone: [['3', '用户']],
  },
  {
    name: 'uuid',
    schema: `CREATE TABLE s (id uuid PRIMARY KEY, v text); CREATE TABLE t (id uuid PRIMARY KEY, v text);
      INSERT INTO s SELECT md5(i::text)::uuid, i::text FROM generate_series(1, 1200) i; INSERT INTO s VALUES ('00000000-0000-0000-0000-000000000000', 'zero')`,
    definition: mapping({ id: 'id' }, { v: true }, { v: true }),
    source: 'SELECT id::text, v FROM s',
    target: 'SELECT id::text, v FROM t',
    rows: 1201,
    change: `DELETE FROM s WHERE v = 'zero'; UPDATE s SET v = 'x' WHERE id = md5('1')::uuid`,
    changed: toKeys('c4ca4238-a0b9-2382-0dcc-509a6f75849b'),
    gone: toKeys('00000000-0000-0000-0000-000000000000'),
  },
  ...(['"C"', '"en-x-icu"', '"default"'] as const).flatMap((from) =>
    (['"C"', '"en-x-icu"'] as const).map((to): Shape => ({
      name: `text ordered by ${from}, target ordered by ${to}`,
      schema: `CREATE TABLE s (id text COLLATE ${from} PRIMARY KEY, v int); CREATE TABLE t (id text COLLATE ${to} PRIMARY KEY, v int);
        INSERT INTO s SELECT chr(97 + i % 26) || CASE WHEN i % 2 = 0 THEN upper(md5(i::text)) ELSE md5(i::text) END || i, i FROM generate_series(1, 1200) i;
        INSERT INTO s VALUES ('Ä', 1), ('a', 2), ('B', 3), ('é', 4), ('', 5), ('-', 6)`,
      definition: mapping({ id: 'id' }, { v: true }, { v: true }),
      source: 'SELECT id COLLATE "C", v FROM s',
      target: 'SELECT id COLLATE "C", v FROM t',
      rows: 1206,
      change: `UPDATE s SET v = 0 WHERE id IN ('Ä', ''); DELETE FROM s WHERE id = 'B'`,
      changed: toKeys('Ä', ''),
      gone: toKeys('B'),
    })),
  ),
  {
    name: 'text that ignores case (as citext does) on the target',
    schema: `CREATE COLLATION ci (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
      CREATE TABLE s (id text PRIMARY KEY, v text COLLATE ci); CREATE TABLE t (id text COLLATE ci PRIMARY KEY, v text COLLATE ci);
      INSERT INTO s SELECT 'K' || i, 'Value' || i FROM generate_series(1, 1100) i; INSERT INTO t VALUES ('k1', 'vALUE1')`,
    definition: mapping({ id: 'id' }, { v: true }, { v: true }),
    source: 'SELECT lower(id) COLLATE "C", v COLLATE "C" FROM s',
    target: 'SELECT lower(id) COLLATE "C", v COLLATE "C" FROM t',
    rows: 1100,
    written: 1099,
    // Equal to the collation's operator and yet another value: it must be copied.
    change: `UPDATE s SET v = 'VALUE2' WHERE id = 'K2'; DELETE FROM s WHERE id = 'K3'`,
    changed: toKeys('K1', 'K2'),
    gone: toKeys('K3'),
    // 'k1' stands in another range than 'K1' in the order of the source: a suspect twice, and settled by key.
    differences: { byRange: 4, byKey: 3, left: 2 },
  },
  ...(['ci', '"C"'] as const).map((to): Shape => ({
    name: `text that ignores case on the source, target ordered by ${to}`,
    schema: `CREATE COLLATION ci (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
      CREATE TABLE s (id text COLLATE ci PRIMARY KEY, v text); CREATE TABLE t (id text COLLATE ${to} PRIMARY KEY, v text);
      INSERT INTO s SELECT CASE WHEN i % 2 = 0 THEN 'Key' ELSE 'kEY' END || i, 'v' || i FROM generate_series(1, 1100) i;
      INSERT INTO s VALUES ('Straße', 'x'), ('É', 'y'), ('e', 'z')`,
    definition: mapping({ id: 'id' }, { v: true }, { v: true }),
    source: 'SELECT id COLLATE "C", v FROM s',
    target: 'SELECT id COLLATE "C", v FROM t',
    rows: 1103,
    change: `UPDATE s SET v = 'changed' WHERE id IN ('KEY5', 'é'); DELETE FROM s WHERE id = 'key6'`,
    changed: toKeys('kEY5', 'É'),
    gone: toKeys('Key6'),
  })),
  {
    name: 'a domain and a range, by an index that descends',
    schema: `CREATE DOMAIN code AS text CHECK (value <> ''); CREATE TABLE s (a code NOT NULL, b int NOT NULL, c int4range NOT NULL, v int); CREATE UNIQUE INDEX ON s (a DESC, b, c DESC);
      CREATE TABLE t (a code, b int, c int4range, v int, PRIMARY KEY (a, b, c));
      INSERT INTO s SELECT 'c' || i % 5, i, int4range(i, i + 3), i FROM generate_series(1, 1100) i`,
    definition: mapping({ a: 'a', b: 'b', c: 'c' }, { v: true }, { v: true }),
    source: 'SELECT a::text, b, c, v FROM s',
    target: 'SELECT a::text, b, c, v FROM t',
    rows: 1100,
    change: `UPDATE s SET v = 0 WHERE b = 5; DELETE FROM s WHERE b = 6`,
    changed: [['c0', '5', '[5,8)']],
    gone: [['c1', '6', '[6,9)']],
  },
  {
    name: 'numeric whose scale differs on the other side',
    schema: `CREATE TABLE s (id numeric(12, 1) PRIMARY KEY, v numeric); CREATE TABLE t (id numeric(14, 3) PRIMARY KEY, v numeric(10, 2));
      INSERT INTO s SELECT i + 0.5, i / 8.0 FROM generate_series(1, 1100) i`,
    definition: mapping({ id: 'id' }, { v: true }, { v: true }),
    source: 'SELECT id::numeric(14, 3)::text, v::numeric(10, 2) FROM s',
    target: 'SELECT id::text, v FROM t',
    rows: 1100,
    change: `UPDATE s SET v = 1.005 WHERE id = 1.5; DELETE FROM s WHERE id = 2.5`,
    changed: toKeys('1.5'),
    gone: toKeys('2.5'),
  },
  {
    name: 'reserved, quoted and 63-byte names',
    schema: `CREATE SCHEMA "My.Schema"; CREATE TABLE "My.Schema"."select" ("order" int PRIMARY KEY, "Group ""By""" text, "${longName}" text);
      CREATE TABLE public."${longName}" ("user" int PRIMARY KEY, "WHERE" text, "${longName}" text);
      INSERT INTO "My.Schema"."select" SELECT i, 'v' || i, 'w' FROM generate_series(1, 1100) i`,
    definition: {
      mappings: [
        {
          source: { schema: 'My.Schema', name: 'select' },
          target: longName,
          key: { order: 'user' },
          columns: { WHERE: `"Group ""By"""`, [longName]: true },
          reverse: { columns: { 'Group "By"': '"WHERE"', [longName]: true } },
        },
      ],
    },
    source: `SELECT "order"::text, "Group ""By""", "${longName}" FROM "My.Schema"."select"`,
    target: `SELECT "user"::text, "WHERE", "${longName}" FROM public."${longName}"`,
    rows: 1100,
    change: `UPDATE "My.Schema"."select" SET "Group ""By""" = 'x' WHERE "order" = 5; DELETE FROM "My.Schema"."select" WHERE "order" = 6`,
    changed: toKeys(5),
    gone: toKeys(6),
  },
  {
    name: 'generated always as identity on both sides',
    schema: `CREATE TABLE s (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v text); CREATE TABLE t (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v text);
      INSERT INTO s (v) SELECT 'v' || i FROM generate_series(1, 1100) i`,
    definition: mapping({ id: 'id' }, { v: true }, { v: true }),
    source: 'SELECT id::text, v FROM s',
    target: 'SELECT id::text, v FROM t',
    rows: 1100,
    change: `UPDATE s SET v = 'x' WHERE id = 5; DELETE FROM s WHERE id = 6`,
    changed: toKeys(5),
    gone: toKeys(6),
  },
  {
    name: 'a filter',
    schema: `CREATE TABLE s (id int PRIMARY KEY, v text, deleted_at timestamptz); CREATE TABLE t (id int PRIMARY KEY, v text);
      INSERT INTO s SELECT i, 'v' || i, CASE WHEN i % 3 = 0 THEN now() END FROM generate_series(1, 1200) i; INSERT INTO t VALUES (2, 'v2')`,
    definition: {
      mappings: [{ ...only({ id: 'id' }, { v: true }, { v: true }), where: 'deleted_at IS NULL' }],
    },
    source: 'SELECT id::text, v FROM s WHERE deleted_at IS NULL',
    target: 'SELECT id::text, v FROM t',
    rows: 1200,
    written: 799,
    change: `UPDATE s SET deleted_at = NULL WHERE id = 3; UPDATE s SET deleted_at = now() WHERE id = 4; UPDATE s SET v = 'x' WHERE id = 5`,
    changed: toKeys(3, 5),
    gone: toKeys(4),
  },
  {
    name: 'json, jsonb, arrays and bytea, where equality has no operator',
    schema: `CREATE TABLE s (id int PRIMARY KEY, j json, b jsonb, a varchar(5)[], y bytea, x xml); CREATE TABLE t (id int PRIMARY KEY, j json, b jsonb, a varchar(5)[], y bytea, x xml);
      INSERT INTO s SELECT i, json_build_object('n', i), jsonb_build_object('n', i, 'big', 9007199254740993), ARRAY[i::text, NULL], decode(md5(i::text), 'hex'), '<a/>' FROM generate_series(1, 1100) i`,
    definition: mapping(
      { id: 'id' },
      { j: true, b: true, a: true, y: true, x: true },
      { j: true, b: true, a: true, y: true, x: true },
    ),
    source: 'SELECT id::text, j::text, b, a, y, x::text FROM s',
    target: 'SELECT id::text, j::text, b, a, y, x::text FROM t',
    rows: 1100,
    change: `UPDATE s SET j = '{"n":  5}' WHERE id = 5; UPDATE s SET y = '\\x00ff00' WHERE id = 6; UPDATE s SET x = '<b/>', j = NULL WHERE id = 7; DELETE FROM s WHERE id = 8`,
    changed: toKeys(5, 6, 7),
    gone: toKeys(8),
  },
  {
    name: 'char(n), padded on one side',
    schema: `CREATE TABLE s (id char(8) PRIMARY KEY, v char(6)); CREATE TABLE t (id varchar(8) PRIMARY KEY, v char(10));
      INSERT INTO s SELECT 'k' || i, 'v' || i FROM generate_series(1, 1100) i`,
    definition: mapping({ id: 'id' }, { v: true }, { v: true }),
    source: 'SELECT id::text, v::text FROM s',
    target: 'SELECT id::text, v::text FROM t',
    rows: 1100,
    change: `UPDATE s SET v = 'x' WHERE id = 'k5'; DELETE FROM s WHERE id = 'k6'`,
    changed: toKeys('k5'),
    gone: toKeys('k6'),
  },
  {
    name: 'timestamptz with microseconds',
    schema: `CREATE TABLE s (id timestamptz PRIMARY KEY, v int); CREATE TABLE t (id timestamptz PRIMARY KEY, v int);
      INSERT INTO s SELECT '2020-01-01 00:00:00.000001+00'::timestamptz + i * interval '1 microsecond', i FROM generate_series(1, 1100) i; INSERT INTO s VALUES ('infinity', 0), ('-infinity', 1)`,
    definition: mapping({ id: 'id' }, { v: true }, { v: true }),
    source: 'SELECT id::text, v FROM s',
    target: 'SELECT id::text, v FROM t',
    rows: 1102,
    change: `UPDATE s SET v = 5 WHERE id = 'infinity'; DELETE FROM s WHERE id = '-infinity'`,
    changed: toKeys('infinity'),
    gone: toKeys('-infinity'),
  },
  {
    name: 'an enum, whose order is not that of its text, and bytea',
    schema: `CREATE TYPE stage AS ENUM ('zeta', 'alpha', 'midst'); CREATE TABLE s (a stage, b bytea, v int, PRIMARY KEY (a, b)); CREATE TABLE t (a stage, b bytea, v int, PRIMARY KEY (a, b));
      INSERT INTO s SELECT (ARRAY['alpha', 'zeta', 'midst']::stage[])[1 + i % 3], decode(md5(i::text), 'hex'), i FROM generate_series(1, 1100) i;
      INSERT INTO s VALUES ('zeta', '', 0), ('alpha', '\\x00', 1), ('midst', '\\xff00ff', 2)`,
    definition: mapping({ a: 'a', b: 'b' }, { v: true }, { v: true }),
    source: 'SELECT a::text, b, v FROM s',
    target: 'SELECT a::text, b, v FROM t',
    rows: 1103,
    change: `UPDATE s SET v = 9 WHERE b = ''; DELETE FROM s WHERE b = '\\xff00ff'`,
    changed: [['zeta', '\\x']],
    gone: [['midst', '\\xff00ff']],
  },
  {
    name: 'citext on both sides, and no primary key but a unique index',
    schema: `CREATE EXTENSION citext; CREATE TABLE s (id citext NOT NULL, v text); CREATE UNIQUE INDEX s_id ON s (id); CREATE TABLE t (id citext NOT NULL, v text); CREATE UNIQUE INDEX t_id ON t (id);
      INSERT INTO s SELECT CASE WHEN i % 2 = 0 THEN 'Key' ELSE 'kEY' END || i, 'v' || i FROM generate_series(1, 1100) i`,
    definition: mapping({ id: 'id' }, { v: true }, { v: true }),
    source: 'SELECT id::text, v FROM s',
    target: 'SELECT id::text, v FROM t',
    rows: 1100,
    change: `UPDATE s SET v = 'x' WHERE id = 'key5'; DELETE FROM s WHERE id = 'KEY6'`,
    changed: toKeys('kEY5'),
    gone: toKeys('Key6'),
  },
  {
    name: 'numeric with NaN, infinities and more digits than any number of JavaScript',
    schema: `CREATE TABLE s (id numeric PRIMARY KEY, v int); CREATE TABLE t (id numeric PRIMARY KEY, v int);
      INSERT INTO s SELECT i + 0.1234567890123456789012345, i FROM generate_series(-550, 549) i; INSERT INTO s VALUES ('NaN', 1), ('Infinity', 2), ('-Infinity', 3)`,
    definition: mapping({ id: 'id' }, { v: true }, { v: true }),
    source: 'SELECT id::text, v FROM s',
    target: 'SELECT id::text, v FROM t',
    rows: 1103,
    change: `UPDATE s SET v = 9 WHERE id IN ('NaN', '-Infinity', 1.1234567890123456789012345); DELETE FROM s WHERE id = 'Infinity'`,
    changed: toKeys('NaN', '-Infinity', '1.1234567890123456789012345'),
    gone: toKeys('Infinity'),
  },
  {
    name: 'dates, floats, booleans and network addresses together',
    schema: `CREATE TABLE s (d date, f float8, o boolean, n inet, v int, PRIMARY KEY (d, f, o, n)); CREATE TABLE t (d date, f float8, o boolean, n inet, v int, PRIMARY KEY (d, f, o, n));
      INSERT INTO s SELECT date '2020-02-28' + i % 5, i / 3.0, i % 2 = 0, '10.0.0.0'::inet + i, i FROM generate_series(1, 1100) i;
      INSERT INTO s VALUES ('infinity', 'NaN', true, '::1', 1), ('-infinity', '-Infinity', false, '10.0.0.0/8', 2), ('0044-03-15 BC', '1e-300', false, '1.1.1.1', 3)`,
    definition: mapping({ d: 'd', f: 'f', o: 'o', n: 'n' }, { v: true }, { v: true }),
    source: 'SELECT d::text, f, o, n, v FROM s',
    target: 'SELECT d::text, f, o, n, v FROM t',
    rows: 1103,
    change: `UPDATE s SET v = 9 WHERE d = '0044-03-15 BC'; DELETE FROM s WHERE d = 'infinity'`,
    changed: [['0044-03-15 BC', '1e-300', 'false', '1.1.1.1/32']],
    gone: [['infinity', 'NaN', 'true', '::1/128']],
  },
  {
    name: 'nothing but its key',
    schema: `CREATE TABLE s (a int, b int, PRIMARY KEY (a, b)); CREATE TABLE t (a int, b int, PRIMARY KEY (a, b));
      INSERT INTO s SELECT i, i FROM generate_series(1, 1100) i; INSERT INTO t VALUES (4, 4)`,
    definition: mapping({ a: 'a', b: 'b' }, {}, {}),
    source: 'SELECT a::text, b FROM s',
    target: 'SELECT a::text, b FROM t',
    rows: 1100,
    written: 1099,
    change: `DELETE FROM s WHERE a = 5; INSERT INTO s VALUES (0, 0)`,
    changed: [
      ['0', '0'],
      ['4', '4'],
    ],
    gone: [['5', '5']],
    differences: { byRange: 2, byKey: 2, left: 0 },
  },
]

function only(
  key: Record<string, string>,
  columns: Record<string, string | true>,
  reverse: Record<string, string | true>,
): SmallDefinition['mappings'][number] {
  return { source: 's', target: 't', key, columns, reverse: { columns: reverse } }
}

export function mapping(
  key: Record<string, string>,
  columns: Record<string, string | true>,
  reverse: Record<string, string | true>,
): SmallDefinition {
  return { mappings: [only(key, columns, reverse)] }
}
