import { describe, expect, test } from 'vitest'
import { openDatabase } from '../../../src/database/index.ts'
import { resolveMigration, type DefinitionInput } from '../../../src/definition/index.ts'
import { makePlan } from '../../../src/plan/make-plan.ts'
import { postgresVersions, withDatabase } from '../../support/postgres.ts'

const definition = (column: object, more: Partial<DefinitionInput> = {}): unknown => ({
  name: 'm',
  kind: 'column',
  mappings: [{ source: 't', key: { id: 'id' }, columns: { b: 'a::bigint' }, reverse: false }],
  expand: { columns: [{ table: 't', name: 'b', type: 'bigint', ...column }] },
  ...more,
})

describe.each(postgresVersions())('the plan of kind column on PostgreSQL %s', (version) => {
  test('names what would go wrong, and changes nothing', async (t) => {
    const test = await withDatabase(t, version)
    const database = await openDatabase('default', { url: test.url, maxConnections: 1 })
    t.onTestFinished(() => database.close())
    const place = { database, scope: database.dialect.catalog.scope('m') }
    const inventory = (): Promise<string[]> =>
      database.transaction((tx) => database.dialect.catalog.inventory(tx))
    /** The rules of this kind that a definition meets, over a table that `sql` has made. */
    const rules = async (
      sql: string,
      column: object = {},
      more: Partial<DefinitionInput> = {},
    ): Promise<string[]> => {
      await test.pool.query(`DROP TABLE IF EXISTS t CASCADE; ${sql}`)
      const before = await inventory()
      const plan = await makePlan(place, resolveMigration(definition(column, more)))
      expect(await inventory()).toEqual(before)
      return plan.findings
        .filter(({ rule }) => rule !== 'no-way-back')
        .map(({ rule, severity, message }) => `${severity} ${rule}: ${message}`)
    }
    const plain = 'CREATE TABLE t (id int PRIMARY KEY, a int NOT NULL)'
    const noTrigger =
      'CREATE OR REPLACE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RETURN NEW; END$$'
    expect(await rules(plain, { replaces: 'a', notNull: true })).toEqual([])
    expect(
      await rules(
        `${plain}; ${noTrigger}; CREATE TRIGGER "~~" BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION f(); CREATE TRIGGER "~~after" AFTER UPDATE ON t FOR EACH ROW EXECUTE FUNCTION f()`,
      ),
    ).toEqual([
      'refusal column-trigger-order: ~~ on public.t would run after our trigger, which must be the last to see the row.',
    ])
    expect(await rules('CREATE TABLE t (id int PRIMARY KEY, a int) PARTITION BY RANGE (id)')).toEqual([
      'refusal column-partitioned: public.t is partitioned, which kind "column" does not support yet.',
    ])
    expect(await rules(plain, { type: 'bigserial' })).toEqual([
      'refusal column-type: The type bigserial of b is no type here (serial types are none, either).',
    ])
    expect(
      await rules(
        `DROP DOMAIN IF EXISTS positive; CREATE DOMAIN positive AS bigint CHECK (value > 0); ${plain}`,
        { type: 'positive' },
      ),
    ).toEqual([
      'refusal column-type: The type positive of b is a domain with constraints: adding it rewrites the table.',
    ])
    expect(await rules(plain, { replaces: 'x' })).toEqual([
      'refusal column-missing: There is no column x of public.t.',
    ])
    expect(
      await rules('CREATE TABLE t (id int UNIQUE NOT NULL, a int PRIMARY KEY)', { replaces: 'a' }),
    ).toEqual([
      'refusal column-key-replaced: a of public.t is part of the primary key, which another column takes over only with its name.',
      'warning column-takes: With a of public.t these go at the contract: constraint t_pkey on table t.',
    ])
    const key = (columns: Record<string, string>, source = 'id'): Partial<DefinitionInput> => ({
      mappings: [{ source: 't', key: { [source]: source }, columns, reverse: false }],
      cutover: { mode: 'swap' },
    })
    expect(await rules(plain, { replaces: 'id', notNull: true }, key({ b: 'id::bigint' }))).toEqual([])
    expect(await rules(plain, { replaces: 'id' }, key({ b: 'id + 1' }))).toEqual([
      'refusal column-key-nullable: b takes the place of id of public.t, which may not be NULL.',
      'refusal column-key-differs: Rows are found by id of public.t before and after the exchange of names, so b must hold the same number in a column of type smallint, integer or bigint.',
    ])
    expect(await rules('CREATE TABLE t (id int PRIMARY KEY, a int, b bigint)')).toEqual([
      'warning column-stands: public.t has a column b already: it is used as it is, and abort leaves it.',
    ])
    expect(
      await rules(`${plain}; CREATE INDEX t_a ON t (a); CREATE VIEW v AS SELECT a FROM t`, { replaces: 'a' }),
    ).toEqual([
      expect.stringMatching(
        /^warning column-held: a of public.t cannot be dropped while these use it: rule .* on view v\.$/,
      ) as string,
      'warning column-takes: With a of public.t these go at the contract: index t_a.',
    ])
    expect(
      await rules(
        plain,
        {},
        {
          expand: {
            columns: [{ table: 't', name: 'b', type: 'bigint' }],
            columnIndexes: [{ table: 't', name: 't_b', on: '(b)', unique: true }],
          },
        },
      ),
    ).toEqual([
      'warning column-unique: The unique index t_b of public.t refuses statements on the old columns, too, where two rows come out the same.',
    ])
  })
})
