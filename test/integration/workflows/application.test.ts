import { randomUUID } from 'node:crypto'
import { setTimeout as delay } from 'node:timers/promises'
import { isDeepStrictEqual } from 'node:util'
import { describe, expect, inject, test, type TestContext } from 'vitest'
import { createCrossfade, type ClientOf, type Crossfade } from '../../../src/app/index.ts'
import type { MigrationHandle } from '../../../src/client.ts'
import { openDatabase } from '../../../src/database/index.ts'
import type { DefinitionInput } from '../../../src/index.ts'
import { isBefore } from '../../../src/core/phases.ts'
import { startService } from '../../support/migration.ts'
import { untilDetail } from '../../support/migrations.ts'
import { startPythonService } from '../../support/python-service.ts'
import {
  postgresVersions,
  withDatabase,
  type PostgresVersion,
  type TestDatabase,
} from '../../support/postgres.ts'
import { eventually } from '../../support/wait.ts'
import type pg from 'pg'

const rows = 5_000

const definition = (name: string): DefinitionInput => ({
  name,
  kind: 'table',
  sync: { method: 'application' },
  mappings: [
    {
      source: 'counters',
      target: 'tallies',
      key: { id: 'id' },
      columns: { tally: 'n' },
      reverse: { columns: { n: 'tally' } },
    },
  ],
  expand: {
    tables: [{ table: 'tallies', columns: { id: 'bigint NOT NULL', tally: 'bigint' }, primaryKey: ['id'] }],
  },
  cutover: {
    ramp: [
      { percent: 50, hold: '300ms' },
      { percent: 100, hold: '300ms' },
    ],
  },
  retire: { soak: '1s' },
  contract: { observe: '1s', soak: '100ms' },
  backfill: { profile: 'fast' },
  safety: { requireApproval: false },
})

interface Application {
  readonly crossfade: Crossfade<ClientOf<pg.Pool>>
  /** Increments that a client was told of. */
  readonly done: () => number
  readonly failed: unknown[]
  stop(): Promise<void>
}

/** Clients that add one to counters, one after another, until they are stopped. */
async function startApplication(database: TestDatabase, migration: string): Promise<Application> {
  const crossfade = await createCrossfade({ migration, database: database.pool, reads: { shadowRatio: 0 } })
  const failed: unknown[] = []
  let done = 0
  let isStopped = false
  const increment = (id: number): Promise<unknown> =>
    crossfade.write({
      keys: [id],
      old: (client) => client.query('UPDATE counters SET n = n + 1 WHERE id = $1', [id]),
      new: (client) => client.query('UPDATE tallies SET tally = tally + 1 WHERE id = $1', [id]),
    })
  const clients = Array.from({ length: 4 }, async (_, client) => {
    for (let i = 0; !isStopped; i++) {
      await increment(1 + ((i * 7 + client) % 40)).then(
        () => (done += 1),
        (error: unknown) => failed.push(error),
      )
      await delay(2)
    }
  })
  return {
    crossfade,
    done: () => done,
    failed,
    async stop() {
      isStopped = true
      await Promise.all(clients)
      await crossfade.close()
    },
  }
}

async function start(
  t: TestContext,
  version: PostgresVersion,
): Promise<{ database: TestDatabase; handle: MigrationHandle; application: Application }> {
  const { database, handle } = await startWithNobody(t, version)
  const application = await startApplication(database, handle.name)
  t.onTestFinished(() => application.stop())
  await handle.resume({ by: 'test' })
  return { database, handle, application }
}

/** Stands before its dual-write, because nobody captures. */
async function startWithNobody(
  t: TestContext,
  version: PostgresVersion,
): Promise<{ database: TestDatabase; handle: MigrationHandle }> {
  const database = await withDatabase(t, version)
  await database.pool.query(
    `CREATE TABLE counters (id bigint PRIMARY KEY, n bigint NOT NULL); INSERT INTO counters SELECT i, 0 FROM generate_series(1, ${rows}) i`,
  )
  const { client } = await startService(t, database)
  const name = `app_${randomUUID().slice(0, 8)}`
  const handle = await client.start(definition(name))
  await untilDetail(handle, 'that nobody captures', ({ trouble }) => trouble?.code === 'SYNC.NO_INSTANCE', {
    evenInTrouble: true,
  })
  return { database, handle }
}

/** The next epoch, by a brake that holds nothing up. */
async function touchFlags({ url }: TestDatabase, migration: string): Promise<void> {
  const database = await openDatabase('default', { url })
  const { catalog, flags } = database.dialect
  await database
    .transaction((tx) => flags.hold(tx, catalog.scope(migration), { [`${migration}.new_schema_read`]: 100 }))
    .finally(() => database.close())
}

describe.each(postgresVersions())('PostgreSQL %s', (version) => {
  test('an application that captures its own writes lives through every phase; whoever writes beside it is found', async (t) => {
    const { database, handle, application } = await start(t, version)
    // Rows that nobody captures, and that come after the backfill's end.
    let beside = rows
    let isCompared = false
    const bypassing = (async () => {
      for (; !isCompared; await delay(5))
        await database.pool.query('INSERT INTO counters VALUES ($1, 0)', [++beside])
    })()
    await untilDetail(handle, 'the comparison', ({ phase }) => !isBefore(phase, 'verify')).finally(
      () => (isCompared = true),
    )
    await bypassing
    const { outcome, status } = await handle.result()
    expect(status.trouble).toBeUndefined()
    expect(outcome).toBe('done')
    await application.stop()
    expect(application.failed).toEqual([])
    expect((await handle.audit()).map(({ what }) => what)).toContainEqual(
      expect.stringContaining('something writes public.counters without the library'),
    )
    expect(application.crossfade.flags.primary).toBe('new')
    expect(application.done()).toBeGreaterThan(100)
    const { rows: left } = await database.pool.query(
      `SELECT sum(tally)::int AS sum, count(*)::int AS rows, to_regclass('counters') AS old FROM tallies`,
    )
    expect(left).toEqual([{ sum: application.done(), rows: beside, old: null }])
  })

  test('an abort takes back what instances call only after all of them know', async (t) => {
    const { database, handle, application } = await start(t, version)
    await untilDetail(handle, 'the ramp', ({ phase }) => phase === 'cutover')
    await handle.abort({ by: 'test' })
    expect((await handle.result()).outcome).toBe('aborted')
    await application.stop()
    expect(application.failed).toEqual([])
    const { rows: left } = await database.pool.query(
      `SELECT sum(n)::int AS sum, to_regclass('tallies') AS fresh, to_regnamespace('_crossfade_' || $1) AS ours FROM counters`,
      [handle.name],
    )
    expect(left).toEqual([{ sum: application.done(), fresh: null, ours: null }])
  })
})

// The other version would only show again what the tests above show of it.
describe.runIf(inject('psycopg'))('docs/protocol.md', () => {
  test('a client in Python is one of the instances: a gate waits for it, and its writes and reads live through every phase', async (t) => {
    const { database, handle } = await startWithNobody(t, '18')
    const python = await startPythonService(t, database, {
      migration: handle.name,
      instance: 'in Python',
      leaseSec: 60,
    })
    const application = await startApplication(database, handle.name)
    t.onTestFinished(() => application.stop())

    python.kill('SIGSTOP')
    await touchFlags(database, handle.name)
    await handle.resume({ by: 'test' })
    await eventually(
      async () =>
        (await handle.status()).activities.some(({ progress }) =>
          isDeepStrictEqual((progress as { waitingFor?: unknown } | undefined)?.waitingFor, ['in Python']),
        ),
      { what: 'a gate that waits for the instance in Python', timeoutMs: 20_000 },
    )
    python.kill('SIGCONT')
    python.begin()

    const { outcome } = await handle.result()
    expect(outcome).toBe('done')
    const counted = await python.end()
    await application.stop()
    expect(application.failed).toEqual([])
    expect(counted).toMatchObject({ failed: [], wrong: [] })
    for (const side of ['old write', 'new write', 'old read', 'new read'] as const)
      expect(counted[side], side).toBeGreaterThan(20)
    expect((await handle.audit()).map(({ what }) => what)).not.toContainEqual(
      expect.stringContaining('without the library'),
    )
    const { rows: left } = await database.pool.query(`SELECT sum(tally)::int AS sum FROM tallies`)
    expect(left).toEqual([{ sum: application.done() + counted.done }])
  })
})
