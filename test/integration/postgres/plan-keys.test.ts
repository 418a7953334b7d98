import { describe, expect, test } from 'vitest'
import { openDatabase } from '../../../src/database/index.ts'
import { resolveMigration } from '../../../src/definition/index.ts'
import { makePlan } from '../../../src/plan/make-plan.ts'
import { postgresVersions, withDatabase } from '../../support/postgres.ts'

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
    ['key-nullable: ALTER TABLE public.s ALTER COLUMN b SET NOT NULL;'],
  ],
  [
    'the same, with NULL only once',
    'ALTER TABLE s ALTER a SET NOT NULL; CREATE UNIQUE INDEX i ON s (a, b) NULLS NOT DISTINCT',
    ['a', 'b'],
    ['key-nullable: ALTER TABLE public.s ALTER COLUMN b SET NOT NULL;'],
  ],
  [
    'no unique index at all',
    'ALTER TABLE s ALTER a SET NOT NULL; CREATE INDEX i ON s (a)',
    ['a'],
    ['key-not-unique: CREATE UNIQUE INDEX CONCURRENTLY ON public.s (a);'],
  ],
  [
    'a unique index of some rows',
    'ALTER TABLE s ALTER a SET NOT NULL; CREATE UNIQUE INDEX i ON s (a) WHERE b > 0',
    ['a'],
    ['key-not-unique: CREATE UNIQUE INDEX CONCURRENTLY ON public.s (a);'],
  ],
  [
    'a unique index of an expression',
    'ALTER TABLE s ALTER a SET NOT NULL; CREATE UNIQUE INDEX i ON s ((a + 1))',
    ['a'],
    ['key-not-unique: CREATE UNIQUE INDEX CONCURRENTLY ON public.s (a);'],
  ],
  [
    'a key that is checked at COMMIT',
    'ALTER TABLE s ADD PRIMARY KEY (a) DEFERRABLE INITIALLY DEFERRED',
    ['a'],
    ['key-not-unique: CREATE UNIQUE INDEX CONCURRENTLY ON public.s (a);'],
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
})
