import pg from 'pg'
import { describe, expect, test, type TestContext } from 'vitest'
import { createActivities } from '../../src/activities/index.ts'
import type { Side } from '../../src/core/phases.ts'
import { openDatabase } from '../../src/database/index.ts'
import type { DefinitionInput } from '../../src/index.ts'
import { withActivityContext } from '../support/activity-context.ts'
import { readFlags } from '../support/application.ts'
import type { Call } from '../support/fake-activities.ts'
import { inventory } from '../support/inventory.ts'
import { required } from '../support/migration.ts'
import { isLong } from '../support/migrations.ts'
import { MortalWorker } from '../support/mortal-worker.ts'
import {
  withDatabase,
  postgresVersions,
  type PostgresVersion,
  type TestDatabase,
} from '../support/postgres.ts'
import { withoutHolds, workflowEnvironment } from '../support/workflow-environment.ts'

/**
 * Dangers: "DDL that ran but was not acknowledged", "a half-built index", and "a killed worker repeats or skips rows". What the workflow
 * asks for is recorded from the workflow itself, and every commit that comes of it is found by running it: after each of them the worker
 * is killed. From there the migration goes on to its end; and, in a copy of the database, it goes back.
 */

const name = 'steps'

const tables: Omit<DefinitionInput, 'name'> = {
  kind: 'table',
  mappings: [
    {
      source: 'items',
      target: 'goods',
      key: { id: 'id' },
      columns: { name: true, shop: true, price: 'price::numeric' },
      reverse: { columns: { name: true, shop: true, price: 'price::int' } },
    },
    {
      source: 'tags',
      target: 'labels',
      key: { item: 'item', tag: 'tag' },
      columns: { weight: true },
      reverse: { columns: { weight: true } },
    },
  ],
  expand: {
    tables: [
      {
        table: 'goods',
        columns: {
          id: 'bigint NOT NULL',
          name: 'text NOT NULL',
          shop: 'int NOT NULL',
          price: 'numeric NOT NULL',
        },
        primaryKey: ['id'],
        indexes: [
          { name: 'goods_name', on: '(name)' },
          { name: 'goods_once', on: '(shop, id)', unique: true },
        ],
        checks: [{ name: 'goods_price', expression: 'price >= 0' }],
        foreignKeys: [
          { name: 'goods_shop', columns: ['shop'], references: { table: 'shops', columns: ['id'] } },
        ],
      },
      {
        table: 'labels',
        columns: { item: 'int NOT NULL', tag: 'text NOT NULL', weight: 'int' },
        primaryKey: ['item', 'tag'],
      },
    ],
    sql: [
      { name: 'a-view', up: 'CREATE VIEW cheap AS SELECT * FROM goods', down: 'DROP VIEW IF EXISTS cheap' },
    ],
  },
  backfill: { maxConcurrency: 1, rateLimitMs: 0, profile: 'fast' },
  contract: { sql: [{ name: 'the-end', up: `COMMENT ON VIEW cheap IS 'of the new table'` }] },
}

const columns: Omit<DefinitionInput, 'name'> = {
  kind: 'column',
  mappings: [
    {
      source: 'items',
      key: { id: 'id' },
      columns: { cents: 'price * 100::bigint' },
      reverse: { columns: { price: '(cents / 100)::int' } },
    },
  ],
  expand: {
    columns: [{ table: 'items', name: 'cents', type: 'bigint', notNull: true, replaces: 'price' }],
    columnIndexes: [{ table: 'items', name: 'items_cents', on: '(cents)' }],
  },
  backfill: { maxConcurrency: 1, rateLimitMs: 0, profile: 'fast' },
}

/** The key itself, and what points at it. */
const wider: Omit<DefinitionInput, 'name'> = {
  kind: 'column',
  mappings: [
    {
      source: 'items',
      key: { id: 'id' },
      columns: { id2: 'id::bigint', price2: 'price::bigint' },
      reverse: { columns: { id: 'id2::int', price: 'price2::int' } },
    },
  ],
  expand: {
    columns: ['id', 'price'].map((replaces) => ({
      table: 'items',
      name: `${replaces}2`,
      type: 'bigint',
      notNull: true,
      replaces,
    })),
  },
  cutover: { mode: 'swap' },
  backfill: { maxConcurrency: 1, rateLimitMs: 0, profile: 'fast' },
}

interface Life {
  readonly name: 'swap' | 'flags' | 'column' | 'column swap'
  readonly definition: Omit<DefinitionInput, 'name'>
  readonly schema: string
  /** Where the application has its prices while this side is primary, as a column and an expression that gives it back. */
  readonly prices: Readonly<
    Record<Side, { readonly table: string; readonly column: string; readonly factor: number }>
  >
}

const schema = `
  CREATE TABLE shops (id int PRIMARY KEY);
  INSERT INTO shops VALUES (1), (2);
  CREATE TABLE items (id int PRIMARY KEY, name text NOT NULL, shop int NOT NULL REFERENCES shops, price int NOT NULL);
  CREATE INDEX items_name ON items (name);
  COMMENT ON TABLE items IS 'what we sell';
  GRANT SELECT ON items TO PUBLIC;
  INSERT INTO items SELECT i, 'name ' || i, 1 + i % 2, i % 100 FROM generate_series(1, 300) i;
  CREATE TABLE tags (item int, tag text, weight int, PRIMARY KEY (item, tag));
  INSERT INTO tags SELECT i, 'tag ' || i % 7, i FROM generate_series(1, 300) i;`

/** What points at the old table goes along with its name, and is proven afterwards. */
const pointing = `
  CREATE TABLE stock (item int CONSTRAINT stock_item REFERENCES items ON DELETE CASCADE, n int);
  INSERT INTO stock SELECT id, 1 FROM items;`

const items = { table: 'items', column: 'price', factor: 1 }

const lives: readonly Life[] = [
  {
    name: 'swap',
    definition: { ...tables, cutover: { mode: 'swap' } },
    schema: schema + pointing,
    prices: { old: items, new: items },
  },
  {
    name: 'flags',
    definition: tables,
    schema,
    prices: { old: items, new: { table: 'goods', column: 'price', factor: 1 } },
  },
  {
    name: 'column',
    definition: columns,
    schema,
    prices: { old: items, new: { table: 'items', column: 'cents', factor: 100 } },
  },
  {
    name: 'column swap',
    definition: wider,
    schema: `${schema}${pointing} ALTER TABLE items ADD CONSTRAINT items_cheap CHECK (price < 10000);`,
    prices: { old: items, new: items },
  },
]

const env = workflowEnvironment()

/** What the workflow asks for in a life without trouble, in order; the lives beside the story are left out, as nothing changes in them. */
async function recordCalls({ definition }: Life): Promise<readonly Call[]> {
  const life = await env.start({
    ...definition,
    ...withoutHolds,
    name,
    cutover: { ...withoutHolds.cutover, ...definition.cutover },
    contract: { ...withoutHolds.contract, ...definition.contract },
  })
  expect((await life.result()).outcome).toBe('done')
  return life.world.calls.filter((call) => call.name !== 'applyChanges' && call.name !== 'sampleParity')
}

async function withClient<T>(url: string, work: (client: pg.Client) => Promise<T>): Promise<T> {
  const client = new pg.Client({ connectionString: url, application_name: 'test' })
  await client.connect()
  try {
    return await work(client)
  } finally {
    await client.end()
  }
}

/** An application that changes three rows after each death, on the side that is primary then. */
class Books {
  readonly #prices = new Map(Array.from({ length: 300 }, (_, i) => [i + 1, (i + 1) % 100]))
  readonly #life: Life
  #turn = 0

  constructor(life: Life) {
    this.#life = life
  }

  async write(url: string): Promise<void> {
    const turn = ++this.#turn
    await withClient(url, async (client) => {
      const primary = (await readFlags({ pool: client }, `_crossfade_${name}`))?.primary ?? 'old'
      const { table, column, factor } = this.#life.prices[primary]
      await client.query(`INSERT INTO ${table} (id, name, shop, ${column}) VALUES ($1, 'new', 1, $2)`, [
        1000 + turn,
        turn * factor,
      ])
      await client.query(`UPDATE ${table} SET ${column} = $2 WHERE id = $1`, [turn, (500 + turn) * factor])
      await client.query(`DELETE FROM ${table} WHERE id = $1`, [301 - turn])
    })
    this.#prices.set(1000 + turn, turn)
    this.#prices.set(turn, 500 + turn)
    this.#prices.delete(301 - turn)
  }

  async expectOn(side: Side, url: string): Promise<void> {
    const { table, column, factor } = this.#life.prices[side]
    const { rows } = await withClient(url, (client) =>
      client.query<{ id: number; price: number }>(
        `SELECT id::int, (${column} / ${factor})::int AS price FROM ${table} ORDER BY id`,
      ),
    )
    const wanted = [...this.#prices].sort(([a], [b]) => a - b)
    expect(rows.map(({ id, price }) => [id, price])).toEqual(wanted)
  }
}

interface Walk {
  readonly dies: boolean
  /** Sees the database between two workers. */
  readonly onDeath?: () => Promise<void>
  readonly beforeCall?: (call: Call) => Promise<void>
}

/** Runs all calls, each until a worker has lived to its end. */
async function walk(
  worker: MortalWorker,
  calls: readonly Call[],
  { dies, onDeath, beforeCall }: Walk,
): Promise<void> {
  let token: unknown
  for (const call of calls) {
    await beforeCall?.(call)
    // The recorded plan was made up.
    const input = call.name === 'checkDrift' ? { ...call.input, token } : call.input
    for (let isDone = false; !isDone;) {
      const outcome = await worker.attempt(call.name, input, dies)
      if ('died' in outcome) {
        await onDeath?.()
        continue
      }
      const result = outcome.result as { token?: string; done?: boolean } | undefined
      if (call.name === 'plan') token = result?.token
      isDone = result?.done !== false // a slice of a lane has more to do
    }
  }
}

/** A copy of the database as it is now; nobody may be connected to it. Small files are copied faster than their WAL is written. */
async function copyOf(
  t: TestContext,
  database: TestDatabase,
  label: string,
): Promise<{ url: string; drop: () => Promise<void> }> {
  const copy = `${database.name}_${label}`
  const run = (sql: string): Promise<unknown> =>
    withClient(database.server.url, (client) => client.query(sql))
  await run(`CREATE DATABASE ${copy} TEMPLATE ${database.name} STRATEGY file_copy`)
  const drop = async (): Promise<void> => void (await run(`DROP DATABASE IF EXISTS ${copy} WITH (FORCE)`))
  t.onTestFinished(drop)
  return { url: database.url.replace(database.name, copy), drop }
}

/** Whether each key that points at the application's table is proven. */
async function stateOfKeys(url: string): Promise<string[]> {
  const { rows } = await withClient(url, (client) =>
    client.query<{ proven: string }>(
      `SELECT convalidated::text AS proven FROM pg_constraint WHERE conname = 'stock_item'`,
    ),
  )
  return rows.map((row) => row.proven)
}

const wayBack = (ref: object): Call[] => [
  { name: 'returnTraffic', input: { ...ref } },
  { name: 'windDown', input: { ...ref, cleanUp: true } },
]

async function goBack(url: string, ref: object): Promise<void> {
  const database = await openDatabase('default', { url, maxConnections: 3 })
  try {
    const activities = createActivities({ openDatabase: () => Promise.resolve(database) })
    for (const { name: activity, input } of wayBack(ref))
      await withActivityContext(
        () => (activities[activity] as (input: object) => Promise<unknown>)(input),
        () => undefined,
      )
  } finally {
    await database.close()
  }
}

async function goBackDying(t: TestContext, url: string, ref: object): Promise<void> {
  const worker = new MortalWorker(t, url)
  await walk(worker, wayBack(ref), { dies: true })
  await worker.end()
  expect(worker.deaths.length).toBeGreaterThan(10)
}

async function finishedUndisturbed(
  t: TestContext,
  version: PostgresVersion,
  life: Life,
  calls: readonly Call[],
): Promise<string[]> {
  const database = await withDatabase(t, version)
  await withClient(database.url, (client) => client.query(life.schema))
  const worker = new MortalWorker(t, database.url)
  await walk(worker, calls, { dies: false })
  await worker.end()
  return inventory(database)
}

/** From there on the old side is left behind: there is no way back, and the workflow asks for none. */
const pointOfNoReturn = 'stopDualWrite'

describe.each(postgresVersions())('PostgreSQL %s', (version) => {
  /** A commit that lives have in common is tried in the first. */
  let survived: readonly string[] = []

  // Versions differ in the catalogue, which this one only adds to.
  const tried = lives.filter(({ name: life }) => life !== 'column' || version === '18' || isLong)
  for (const life of tried)
    test(`killed after every commit: ${life.name}`, async (t) => {
      const calls = await recordCalls(life)
      const ref = required(calls.find((call) => call.name === 'checkCapture')?.input, 'a reference')
      const finished = await finishedUndisturbed(t, version, life, calls)
      const database = await withDatabase(t, version)
      await withClient(database.url, (client) => client.query(life.schema))
      const before = await inventory(database)
      const books = new Books(life)
      const worker = new MortalWorker(t, database.url, survived)
      const proven = new Set<string>()
      let canGoBack = true
      let returns = 0
      const expectBack = async (go: (url: string) => Promise<void>): Promise<void> => {
        const copy = await copyOf(t, database, String(++returns))
        await go(copy.url)
        await books.expectOn('old', copy.url)
        expect(await inventory(copy)).toEqual(before)
        await copy.drop()
      }
      await walk(worker, calls, {
        dies: true,
        onDeath: async () => {
          for (const isProven of await stateOfKeys(database.url)) proven.add(isProven)
          await books.write(database.url)
          if (canGoBack) await expectBack((url) => goBack(url, ref))
        },
        beforeCall: async ({ name: next }) => {
          if (next !== pointOfNoReturn) return
          canGoBack = false
          await worker.rest()
          // Now there is most to take back: the way back is killed after each of its own commits, too.
          await expectBack((url) => goBackDying(t, url, ref))
        },
      })
      await worker.end()
      expect(await inventory(database)).toEqual(finished)
      await books.expectOn('new', database.url)
      process.stderr.write(
        `PostgreSQL ${version}, ${life.name}: killed after ${worker.deaths.length - survived.length} commits, went back from ${returns}\n`,
      )
      for (const step of worker.steps)
        expect(
          worker.deaths.some((label) => label.startsWith(step)),
          `killed in: ${step}`,
        ).toBe(true)
      // Between the exchange of names and the proof of what points at the table it was killed, too.
      if (life.name === 'swap') expect([...proven].sort()).toEqual(['false', 'true'])
      survived = worker.deaths
    })
})
