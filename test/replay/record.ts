import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { setTimeout as delay } from 'node:timers/promises'
import { Client, Connection } from '@temporalio/client'
import { historyToJSON } from '@temporalio/common/lib/proto-utils.js'
import pg from 'pg'
import { pino } from 'pino'
import { connectCrossfade, type CrossfadeClient, type MigrationHandle } from '../../src/client.ts'
import type { PersonGate } from '../../src/core/gates.ts'
import type { StatusView } from '../../src/core/state.ts'
import { startPostgres } from '../../src/dev/postgres-server.ts'
import { startTemporalServer } from '../../src/dev/temporal-server.ts'
import type { DefinitionInput } from '../../src/index.ts'
import { createWorker } from '../../src/worker.ts'
import { searchAttributeNames } from '../../src/workflows/search-attributes.ts'
import { workflowIdOf } from '../../src/workflows/messages.ts'
import { keepCode } from './keep-code.ts'

/**
 * Records the histories that `replay.test.ts` replays: `npm run record-histories -- [version [case…]]`. Each case is a real migration of a
 * small table on real servers. Without a version they are those of the code under test, which change with it until it is released.
 */

const [version = 'next', ...wanted] = process.argv.slice(2)
const folder = fileURLToPath(new URL('histories/', import.meta.url))

const definition = (name: string, change: Partial<DefinitionInput> = {}): DefinitionInput => ({
  name,
  kind: 'table',
  mappings: [
    {
      source: `${name}_old`,
      target: `${name}_new`,
      key: { id: 'id' },
      columns: { full_name: "first || ' ' || last" },
      reverse: { columns: { first: "split_part(full_name, ' ', 1)", last: "split_part(full_name, ' ', 2)" } },
    },
  ],
  expand: {
    tables: [
      {
        table: `${name}_new`,
        columns: { id: 'bigint NOT NULL', full_name: 'text NOT NULL' },
        primaryKey: ['id'],
        indexes: [{ name: `${name}_full_name`, on: '(full_name)' }],
      },
    ],
  },
  cutover: {
    ramp: [
      { percent: 10, hold: '200ms' },
      { percent: 100, hold: '200ms' },
    ],
  },
  retire: { soak: '500ms' },
  contract: { observe: '2s', soak: '200ms' },
  ...change,
})

async function until(handle: MigrationHandle, is: (detail: StatusView) => boolean): Promise<StatusView> {
  for (let i = 0; i < 1200; i++) {
    const { detail } = await handle.status()
    if (detail && is(detail)) return detail
    await delay(50)
  }
  throw new Error(`${handle.name} never got there: ${JSON.stringify((await handle.status()).detail)}`)
}

async function approve(handle: MigrationHandle, ...gates: PersonGate[]): Promise<void> {
  for (const gate of gates) {
    const { gate: open } = await until(handle, (detail) => detail.gate?.gate === gate)
    await handle.approve({
      gate,
      by: 'recorder',
      ...(open?.token === undefined ? {} : { token: open.token }),
    })
  }
}

type Case = (client: CrossfadeClient, name: string, pool: pg.Pool) => Promise<void>

const cases: Readonly<Record<string, Case>> = {
  async flags(client, name) {
    const handle = await client.start(definition(name))
    await approve(handle, 'expand', 'cutover', 'retire', 'contract')
    await handle.result()
  },
  async swap(client, name) {
    const handle = await client.start(
      definition(name, {
        cutover: { mode: 'swap' },
        mappings: [
          {
            source: `${name}_old`,
            target: `${name}_new`,
            key: { id: 'id' },
            columns: { full_name: "first || ' ' || last" },
            reverse: {
              columns: { first: "split_part(full_name, ' ', 1)", last: "split_part(full_name, ' ', 2)" },
            },
          },
        ],
      }),
    )
    await approve(handle, 'expand', 'cutover', 'retire', 'contract')
    await handle.result()
  },
  async 'pause-configure-abort'(client, name) {
    const handle = await client.start(
      definition(name, { backfill: { batchSize: 10, maxBatchSize: 10, maxConcurrency: 2 } }),
    )
    await approve(handle, 'expand')
    await until(handle, (detail) => detail.phase === 'backfill' && detail.backfill.rangesTotal > 0)
    await handle.pause({ by: 'recorder' })
    await handle.configure({ by: 'recorder', maxConcurrency: 1 })
    await handle.resume({ by: 'recorder' })
    await handle.abort({ by: 'recorder', reason: 'recorded' })
    await handle.result()
  },
  async 'abort-after-retire'(client, name) {
    const handle = await client.start(definition(name, { retire: { soak: '1h' } }))
    await approve(handle, 'expand', 'cutover', 'retire')
    await until(handle, (detail) => detail.primary === 'new')
    await handle.abort({ by: 'recorder' })
    await handle.result()
  },
  async 'trouble-resume'(client, name) {
    const handle = await client.start(
      definition(name, {
        cutover: { ramp: [{ percent: 100, hold: '100ms' }], queries: [{ name: 'none', sql: 'SELECT 1' }] },
      }),
    )
    await approve(handle, 'expand')
    await until(handle, (detail) => detail.trouble !== undefined)
    await handle.resume({ by: 'recorder' })
    await until(handle, (detail) => detail.trouble !== undefined)
    await handle.abort({ by: 'recorder' })
    await handle.result()
  },
  async 'ramp-rolled-back'(client, name, pool) {
    const handle = await client.start(definition(name, { cutover: { ramp: [{ percent: 100, hold: '1h' }] } }))
    await approve(handle, 'expand', 'cutover')
    await until(handle, (detail) => detail.readPercent === 100)
    // As if somebody wrote to the new side behind everybody's back.
    await pool.query(
      `SET session_replication_role = replica; UPDATE "${name}_new" SET full_name = 'wrong'; SET session_replication_role = DEFAULT`,
    )
    await until(handle, (detail) => detail.trouble?.code === 'CUTOVER.BREACH')
    await handle.resume({ by: 'recorder' })
    await until(handle, (detail) => detail.gate?.gate === 'cutover')
    await handle.abort({ by: 'recorder' })
    await handle.result()
  },
  async 'dry-run'(client, name) {
    await (await client.start(definition(name, { safety: { dryRunMode: true } }))).result()
  },
  async 'continue-as-new'(client, name) {
    const handle = await client.start(definition(name), { continueAfterEvents: 40 })
    await approve(handle, 'expand', 'cutover', 'retire', 'contract')
    await handle.result()
  },
}

const postgres = await startPostgres({ settings: { fsync: 'off' } })
const temporal = await startTemporalServer({
  uiPort: false,
  searchAttributes: Object.fromEntries(searchAttributeNames.map((name) => [name, 'Keyword' as const])),
})
const pool = new pg.Pool({ connectionString: postgres.url })
const worker = await createWorker({
  address: temporal.address,
  databaseUrls: { default: postgres.url },
  log: pino({ level: 'silent' }),
})
const client = await connectCrossfade({ address: temporal.address })
const connection = await Connection.connect({ address: temporal.address })
const raw = new Client({ connection })
mkdirSync(folder, { recursive: true })
if (version !== 'next') keepCode(version)
try {
  for (const [name, run] of Object.entries(cases)) {
    if (wanted.length > 0 && !wanted.includes(name)) continue
    const migration = `recorded-${name}`
    await pool.query(
      `CREATE TABLE "${migration}_old" (id int PRIMARY KEY, first text NOT NULL, last text NOT NULL)`,
    )
    await pool.query(
      `INSERT INTO "${migration}_old" SELECT i, 'first' || i, 'last' || i FROM generate_series(1, 2000) i`,
    )
    await run(client, migration, pool)
    let earlier = 0
    for await (const { runId } of raw.workflow.list({ query: `WorkflowId = '${workflowIdOf(migration)}'` })) {
      const history = await raw.workflow.getHandle(workflowIdOf(migration), runId).fetchHistory()
      const file = `migration-${version}-${name}${earlier === 0 ? '' : `-${earlier}`}.json`
      writeFileSync(join(folder, file), `${JSON.stringify(JSON.parse(historyToJSON(history)))}\n`)
      process.stderr.write(`recorded ${file}: ${history.events?.length ?? 0} events\n`)
      earlier += 1
    }
  }
} finally {
  await client.close()
  await connection.close()
  await worker.stop()
  await pool.end()
  await temporal.stop()
  await postgres.stop()
}
