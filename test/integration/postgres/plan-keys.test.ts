import { describe, expect, test } from 'vitest'
import { openDatabase } from '../../../src/database/index.ts'
import { resolveMigration, type DefinitionInput } from '../../../src/definition/index.ts'
import { makePlan } from '../../../src/plan/make-plan.ts'
import { postgresVersions, withDatabase } from '../../support/postgres.ts'

/** Nobody waits for a scan: it is the constraint that is proven, and meanwhile writers go on. */
const proven = (column: string): string =>
  [
    `ADD CONSTRAINT "_crossfade_${column}_not_null" CHECK ("${column}" IS NOT NULL) NOT VALID;`,
    `VALIDATE CONSTRAINT "_crossfade_${column}_not_null";`,
    `ALTER COLUMN "${column}" SET NOT NULL;`,
    `DROP CONSTRAINT IF EXISTS "_crossfade_${column}_not_null";`,
  ]
    .map((action) => `ALTER TABLE "public"."s" ${action}`)
    .join(' ')

/** Of a table `s` with columns a, b and v: what stands on it, the key that is named, and what the plan says of that. */
const keys: readonly (readonly [
  what: string,
  sql: string,
  key: readonly string[],
  said: readonly string[],
])[] = [
  ['a primary key', 'ALTER TABLE s ADD PRIMARY KEY (a, b)', ['a', 'b'], []],
  [
    'a unique index instead',
    'ALTER TABLE s ALTER a SET NOT NULL, ALTER b SET NOT NULL; CREATE UNIQUE INDEX i ON s (a, b)',
    ['a', 'b'],
    [],
  ],
  [
    'a unique index with other columns in it',
    'ALTER TABLE s ALTER a SET NOT NULL; CREATE UNIQUE INDEX i ON s (a) INCLUDE (v)',
    ['a'],
    [],
  ],
  [
    'columns of which one may be NULL',
    'ALTER TABLE s ALTER a SET NOT NULL; CREATE UNIQUE INDEX i ON s (a, b)',
    ['a', 'b'],
    [`key-nullable: ${proven('b')}`],
  ],
  [
    'the same, with NULL only once',
    'ALTER TABLE s ALTER a SET NOT NULL; CREATE UNIQUE INDEX i ON s (a, b) NULLS NOT DISTINCT',
    ['a', 'b'],
    [`key-nullable: ${proven('b')}`],
  ],
  [
    'no unique index at all',
    'ALTER TABLE s ALTER a SET NOT NULL; CREATE INDEX i ON s (a)',
    ['a'],
    ['key-not-unique: CREATE UNIQUE INDEX CONCURRENTLY ON "public"."s" ("a");'],
  ],
  [
    'a unique index of some rows',
    'ALTER TABLE s ALTER a SET NOT NULL; CREATE UNIQUE INDEX i ON s (a) WHERE b > 0',
    ['a'],
    ['key-not-unique: CREATE UNIQUE INDEX CONCURRENTLY ON "public"."s" ("a");'],
  ],
  [
    'a unique index of an expression',
    'ALTER TABLE s ALTER a SET NOT NULL; CREATE UNIQUE INDEX i ON s ((a + 1))',
    ['a'],
    ['key-not-unique: CREATE UNIQUE INDEX CONCURRENTLY ON "public"."s" ("a");'],
  ],
  [
    'a key that is checked at COMMIT',
    'ALTER TABLE s ADD PRIMARY KEY (a) DEFERRABLE INITIALLY DEFERRED',
    ['a'],
    ['key-not-unique: CREATE UNIQUE INDEX CONCURRENTLY ON "public"."s" ("a");'],
  ],
  [
    'an array in the key',
    'ALTER TABLE s ALTER b TYPE int[] USING ARRAY[b]; ALTER TABLE s ADD PRIMARY KEY (a, b)',
    ['a', 'b'],
    [
      'key-array: Use a unique index without it, or give the table a key of its own: a bigint identity is the plainest.',
    ],
  ],
  [
    'a part of the key',
    'ALTER TABLE s ADD PRIMARY KEY (a, b)',
    ['a'],
    ['key-not-unique: Use one of (a, b).'],
  ],
  ['another order', 'ALTER TABLE s ADD PRIMARY KEY (b, a)', ['a', 'b'], ['key-order: Write it as b, a.']],
]

describe.each(postgresVersions())('keys in a plan on PostgreSQL %s', (version) => {
  test('each is taken, or refused with its mend', async (t) => {
    const { pool, url } = await withDatabase(t, version)
    const database = await openDatabase('default', { url, maxConnections: 1 })
    t.onTestFinished(() => database.close())
    const place = { database, scope: database.dialect.catalog.scope('m') }
    for (const [what, sql, key, said] of keys) {
      await pool.query(`DROP TABLE IF EXISTS s; CREATE TABLE s (a int, b int, v text); ${sql}`)
      const plan = await makePlan(
        place,
        resolveMigration({
          name: 'm',
          kind: 'table',
          mappings: [
            {
              source: 's',
              target: 't',
              key: Object.fromEntries(key.map((column) => [column, column])),
              columns: { v: true },
              reverse: false,
            },
          ],
          expand: {
            tables: [{ table: 't', columns: { a: 'int', b: 'int', v: 'text' }, primaryKey: [...key] }],
          },
        }),
      )
      expect(
        plan.findings
          .filter(({ severity }) => severity === 'refusal')
          .map(({ rule, mend }) => `${rule}: ${mend}`),
        what,
      ).toEqual(said)
    }
  })
  test('what it says of a table with hostile names is run as it stands, and does what it says', async (t) => {
    const { pool, url, name } = await withDatabase(t, version)
    const schema = `My."Schema" %s`
    const [a, b] = [`or'der"`, '%1$I']
    const q = (text: string): string => `"${text.replaceAll('"', '""')}"`
    const source = { schema, name: `s'"` }
    const parent = { schema, name: 'l"' }
    const [s, l] = [`${q(schema)}.${q(source.name)}`, `${q(schema)}.${q(parent.name)}`]
    const role = `least'"_${name}`
    await pool.query(
      `CREATE SCHEMA ${q(schema)}; CREATE ROLE ${q(role)}; GRANT ALL ON DATABASE ${q(name)} TO ${q(role)}; GRANT ALL ON SCHEMA ${q(schema)} TO ${q(role)};
       CREATE FUNCTION public.f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'`,
    )
    t.onTestFinished(() => pool.query(`DROP OWNED BY ${q(role)}; DROP ROLE ${q(role)}`).then(() => undefined))
    const database = await openDatabase('default', {
      url: `${url}?options=${encodeURIComponent(`-c role=${role}`)}`,
      maxConnections: 1,
    })
    t.onTestFinished(() => database.close())
    const place = { database, scope: database.dialect.catalog.scope('m') }
    const mapping = { source, key: { [a]: a, [b]: b }, reverse: false as const }
    const target = { schema, name: 't' }
    const beside: DefinitionInput = {
      name: 'm',
      kind: 'table',
      mappings: [
        { ...mapping, target, columns: { v: true }, dependsOn: [{ table: parent, on: { '"id': 'v' } }] },
      ],
      expand: {
        tables: [{ table: target, columns: { [a]: 'int', [b]: 'int', v: 'int' }, primaryKey: [a, b] }],
      },
    }
    const within: DefinitionInput = {
      name: 'm',
      kind: 'column',
      mappings: [{ ...mapping, target: source, columns: { w: 'v' } }],
      expand: { columns: [{ table: source, name: 'w', type: 'text' }] },
    }
    const refused = async (definition: DefinitionInput): Promise<string[][]> =>
      (await makePlan(place, resolveMigration(definition))).findings
        .filter(({ severity }) => severity === 'refusal')
        .map(({ rule, mend }) => [rule, mend])
    /** As psql runs it. */
    const run = async (sql: string): Promise<void> => {
      const [before = '', after] = sql.split(' \\gexec ')
      if (after === undefined) {
        for (const statement of before.split(/(?<=;) /)) await pool.query(statement)
        return
      }
      for (const [statement = ''] of (await pool.query<string[]>({ text: before, rowMode: 'array' })).rows)
        await pool.query(statement)
      await pool.query(after)
    }
    const needs = ['depends-on-not-indexed', 'depends-on-not-indexed', 'key-not-unique', 'key-nullable']
    const partitions = ['"p\'""0"', 'p1'].map(
      (partition, i) =>
        `CREATE TABLE ${q(schema)}.${partition} PARTITION OF ${s} FOR VALUES WITH (MODULUS 2, REMAINDER ${i})`,
    )
    for (const [definition, sql, wanted] of [
      [beside, '', needs],
      [beside, `PARTITION BY HASH (${q(a)}); ${partitions.join(';')}`, needs],
      [
        within,
        `; ALTER TABLE ${s} ADD PRIMARY KEY (${q(a)}, ${q(b)}), ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
         CREATE TRIGGER "~~""'" BEFORE UPDATE ON ${s} FOR EACH ROW EXECUTE FUNCTION public.f()`,
        ['column-trigger-order', 'row-security'],
      ],
    ] as const) {
      await pool.query(
        `DROP TABLE IF EXISTS ${s}, ${l}; CREATE TABLE ${l} ("""id" int);
         CREATE TABLE ${s} (${q(a)} int, ${q(b)} int, v int) ${sql}; ALTER TABLE ${s} OWNER TO ${q(role)}; ALTER TABLE ${l} OWNER TO ${q(role)}`,
      )
      const found = await refused(definition)
      expect(found.map(([rule]) => rule).sort()).toEqual(wanted)
      for (const [, mend = ''] of found) await run(mend)
      expect(await refused(definition)).toEqual([])
    }
  })
})
