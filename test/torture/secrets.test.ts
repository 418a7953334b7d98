import { randomUUID } from 'node:crypto'
import { Client, Connection } from '@temporalio/client'
import { describe, expect, inject, test, type TestContext } from 'vitest'
import { connectCrossfade, type MigrationHandle } from '../../src/client.ts'
import type { DefinitionInput } from '../../src/index.ts'
import { required } from '../support/migration.ts'
import { approve, untilDetail } from '../support/migrations.ts'
import { postgresVersions, withDatabase } from '../support/postgres.ts'
import { eventually } from '../support/wait.ts'
import { startWorkerProcess } from '../support/worker-process.ts'

/**
 * Danger: "secrets in history, logs, errors, the UI". A password stands in the URL, and a mark in every row; then everything goes wrong
 * whose message the server decorates with values. All that can be read outside of the database is searched for both.
 */

const mark = 'PRIVATE7f3a'
const password = 'hunter2SECRET'

const definition = (name: string, change: Partial<DefinitionInput> = {}): DefinitionInput => ({
  name,
  kind: 'table',
  mappings: [
    {
      source: 'people',
      target: 'persons',
      key: { id: 'id' },
      // Not every text is a number: the server's message would quote it.
      columns: { name: true, age: `CASE WHEN id % 50 = 7 THEN name::int ELSE 1 END` },
      reverse: false,
    },
  ],
  expand: {
    tables: [
      {
        table: 'persons',
        columns: { id: 'int NOT NULL', name: 'text NOT NULL UNIQUE', age: 'int' },
        primaryKey: ['id'],
        // Its message would quote the whole row.
        checks: [{ name: 'no_nine', expression: 'id % 50 <> 9' }],
      },
    ],
  },
  // Each refused row is found by halving chunks: without rests between them.
  backfill: { profile: 'fast', rateLimitMs: 0 },
  ...change,
})

/** Every text in it, payloads in clear. */
function textOf(value: unknown): string {
  if (value instanceof Uint8Array) return Buffer.from(value).toString('utf8')
  if (typeof value === 'object' && value !== null)
    return Object.entries(value)
      .map(([key, each]) => `${key}: ${textOf(each)}`)
      .join('\n')
  return String(value)
}

async function temporal(t: TestContext): Promise<Client> {
  const connection = await Connection.connect({ address: inject('temporalAddress') ?? '' })
  t.onTestFinished(() => connection.close())
  return new Client({ connection })
}

describe.each(postgresVersions())('PostgreSQL %s', (version) => {
  test('no value of a row and no password leaves the database, whatever fails', async (t) => {
    const database = await withDatabase(t, version)
    await database.pool.query(`
      CREATE TABLE people (id int PRIMARY KEY, name text NOT NULL);
      INSERT INTO people SELECT i, '${mark} ' || i FROM generate_series(1, 500) i`)
    const withPassword = new URL(database.url)
    withPassword.password = password
    process.env['CROSSFADE_DATABASE_NOWHERE_URL'] = `postgres://${mark}:${password}@127.0.0.1:9/nowhere`
    t.onTestFinished(() => void delete process.env['CROSSFADE_DATABASE_NOWHERE_URL'])
    process.env['CROSSFADE_LOG_LEVEL'] = 'debug'
    t.onTestFinished(() => void delete process.env['CROSSFADE_LOG_LEVEL'])

    const address = required(inject('temporalAddress'), 'the Temporal server')
    const taskQueue = `secrets-${randomUUID()}`
    const worker = startWorkerProcess(t, { address, taskQueue, databaseUrl: withPassword.href })
    await worker.ready()
    const client = await connectCrossfade({ address, taskQueue })
    t.onTestFinished(() => client.close())
    const raw = await temporal(t)
    const name = `secrets-${randomUUID().slice(0, 8)}`
    const seen: string[] = []
    const look = async (handle: MigrationHandle): Promise<void> => {
      seen.push(
        textOf((await raw.workflow.getHandle(handle.workflowId).describe()).raw),
        textOf(await handle.status()),
        textOf(await handle.audit()),
      )
    }

    // Rows that are refused in chunks, by a cast and by a check; and one by a trigger, while the application writes.
    const refused = await client.start(definition(name))
    await approve(refused, 'expand')
    const { backfill } = await untilDetail(refused, 'the verification', ({ phase }) => phase === 'verify')
    expect(backfill.refused).toBe(20)
    await database.pool.query(`UPDATE people SET name = '${mark} again' WHERE id IN (7, 9)`)
    await look(refused)
    await refused.abort({ by: 'the test' })
    await refused.result()
    await look(refused)

    // A statement of the author's that fails with a value in its message: it needs a person, and everybody reads why.
    const up = `DO $$ BEGIN RAISE EXCEPTION 'not with %', (SELECT name FROM people LIMIT 1) USING ERRCODE = 'UX001'; END $$`
    const failing = await client.start(
      definition(`${name}-sql`, { expand: { sql: [{ name: 'fails', up, down: 'SELECT 1' }] } }),
    )
    await approve(failing, 'expand')
    const { trouble } = await untilDetail(failing, 'the failure', (detail) => detail.trouble !== undefined, {
      evenInTrouble: true,
    })
    expect(trouble?.message).toContain('SQLSTATE UX001')
    await look(failing)
    await failing.abort({ by: 'the test' })
    expect((await failing.result()).outcome).toBe('aborted')

    // A database that does not answer: its URL is what the driver would like to tell.
    const nowhere = await client.start(definition(`${name}-nowhere`, { database: 'nowhere' }))
    await eventually(async () => (await nowhere.status()).activities.some(({ attempt }) => attempt > 1), {
      timeoutMs: 60_000,
      what: 'the plan to have failed once',
    })
    await look(nowhere)
    await nowhere.abort({ by: 'the test' }).catch(() => undefined)
    await raw.workflow.getHandle(nowhere.workflowId).terminate('the test is over')

    for (const handle of [refused, failing, nowhere])
      seen.push(textOf(await raw.workflow.getHandle(handle.workflowId).fetchHistory()))
    seen.push(worker.log())
    const all = seen.join('\n')
    // What must be there, so that the search is one: names, codes, and the definition's own text.
    expect(all).toContain('name::int')
    expect(all).toContain('persons')
    for (const secret of [mark, password])
      expect(
        all
          .split('\n')
          .filter((line) => line.includes(secret))
          .map((line) => line.slice(0, 300)),
      ).toEqual([])
  })
})
