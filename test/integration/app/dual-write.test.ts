import { readFileSync } from 'node:fs'
import { describe, expect, test, type TestContext } from 'vitest'
import {
  createCrossfade,
  type Crossfade,
  type CrossfadeOptions,
  type ClientOf,
} from '../../../src/app/index.ts'
import { movePrimary } from '../../../src/ddl/move-primary.ts'
import type { DefinitionInput } from '../../../src/definition/index.ts'
import { applyRound } from '../../../src/sync/apply-changes.ts'
import { watch, withBothSides, type BothSides } from '../../support/both-sides.ts'
import { postgresVersions, type PostgresVersion } from '../../support/postgres.ts'
import { eventually } from '../../support/wait.ts'
import type pg from 'pg'

interface Service {
  readonly m: BothSides
  readonly crossfade: Crossfade<ClientOf<pg.Pool>>
  /** Sums by the metric's name, with its reason where it has one. */
  readonly metrics: Map<string, number>
  readonly warnings: object[]
  set(flags: { read?: number; write?: number }): Promise<void>
  move(primary: 'old' | 'new'): Promise<void>
  /** Both tables, the new one as the old one would say it. */
  both(): Promise<{ old: unknown[]; new: unknown[] }>
}

const orders: DefinitionInput['mappings'] = [
  {
    source: 'orders',
    target: 'orders_v2',
    key: { id: 'order_id' },
    columns: { label: 'upper(name)' },
    reverse: { columns: { name: 'lower(label)' } },
  },
]

async function startService(
  t: TestContext,
  version: PostgresVersion,
  options: Partial<CrossfadeOptions<pg.Pool>> = {},
  sync: DefinitionInput['sync'] = { method: 'application' },
): Promise<Service> {
  const m = await withBothSides(
    t,
    version,
    `CREATE TABLE orders (id bigint PRIMARY KEY, name text); CREATE TABLE orders_v2 (order_id bigint PRIMARY KEY, label text CHECK (label <> 'BAD'))`,
    { sync, mappings: orders },
  )
  const metrics = new Map<string, number>()
  const warnings: object[] = []
  const crossfade = await createCrossfade({
    migration: 'm',
    database: m.test.pool,
    reads: { shadowRatio: 0 },
    log: { warn: (details, message) => void warnings.push({ ...details, message }) },
    onMetric: (name, value, { reason }) => {
      const key = reason === undefined ? name : `${name} ${reason}`
      metrics.set(key, (metrics.get(key) ?? 0) + value)
    },
    ...options,
  })
  t.onTestFinished(() => crossfade.close())
  const { flags } = m.database.dialect
  const service: Service = {
    m,
    crossfade,
    metrics,
    warnings,
    async set({ read, write }) {
      const epoch = await m.database.transaction((tx) =>
        flags.set(tx, m.place.scope, {
          ...(read === undefined ? {} : { 'm.new_schema_read': read }),
          ...(write === undefined ? {} : { 'm.new_schema_write': write }),
        }),
      )
      await eventually(() => crossfade.flags.epoch === epoch)
    },
    async move(primary) {
      for (const group of m.groups.reverse)
        await m.database.dialect.ddl
          .installTriggers(group, 'copy', m.migration.sync)
          .apply(m.database, m.place.scope, { lockTimeoutMs: 1_000 })
      await movePrimary(m.place, m.migration, m.groups, primary, watch)
    },
    both: async () => ({
      old: await m.sql('SELECT id, name FROM orders ORDER BY id'),
      new: await m.sql('SELECT order_id AS id, lower(label) AS name FROM orders_v2 ORDER BY order_id'),
    }),
  }
  await service.set({ write: 100 })
  return service
}

const rename = ({ crossfade }: Service, id: number, name: string): Promise<unknown> =>
  crossfade.write({
    keys: [id],
    old: (client) =>
      client.query(`INSERT INTO orders VALUES ($1, $2) ON CONFLICT (id) DO UPDATE SET name = excluded.name`, [
        id,
        name,
      ]),
    new: (client) =>
      client.query(
        `INSERT INTO orders_v2 VALUES ($1, upper($2)) ON CONFLICT (order_id) DO UPDATE SET label = excluded.label`,
        [id, name],
      ),
  })

const remove = ({ crossfade }: Service, id: number): Promise<unknown> =>
  crossfade.write({
    keys: [id],
    old: (client) => client.query('DELETE FROM orders WHERE id = $1', [id]),
    new: (client) => client.query('DELETE FROM orders_v2 WHERE order_id = $1', [id]),
  })

const nameOf = ({ crossfade, m }: Service, id: number): Promise<unknown> =>
  crossfade.read(id, {
    old: async () => (await m.sql('SELECT name FROM orders WHERE id = $1', [id]))[0]?.['name'],
    new: async () =>
      (await m.sql('SELECT lower(label) AS name FROM orders_v2 WHERE order_id = $1', [id]))[0]?.['name'],
  })

/** The statements of docs/protocol.md, a message each, with what the page says that they answer. */
function protocolStatements(): { text: string; answer: string | undefined }[] {
  const page = readFileSync(new URL('../../../docs/protocol.md', import.meta.url), 'utf8')
  const lines = [...page.matchAll(/```sql\n([\s\S]*?)```/g)].flatMap(([, block = '']) =>
    block.trim().split('\n'),
  )
  return lines.map((line) => ({
    text: line.replaceAll('_crossfade_orders', '_crossfade_m'),
    answer: / -- (.*)$/.exec(line)?.[1],
  }))
}

describe.each(postgresVersions())('dual write on PostgreSQL %s', (version) => {
  test('after the contract, an instance whose lease is over writes the side that is left', async (t) => {
    const service = await startService(t, version)
    await service.move('new')
    const late = await createCrossfade({ migration: 'm', database: service.m.test.pool, leaseMs: 1 })
    t.onTestFinished(() => late.close())
    await service.m.database.dialect.ddl.tidyScope(service.m.database, service.m.place.scope, {
      lockTimeoutMs: 1_000,
    })
    await service.m.sql('DROP TABLE orders')
    await rename({ ...service, crossfade: late }, 1, 'a')
    expect(await service.m.sql('SELECT * FROM orders_v2')).toEqual([{ order_id: '1', label: 'A' }])
  })

  test('every statement of docs/protocol.md says what the page says', async (t) => {
    const { m, both, crossfade } = await startService(t, version)
    await m.sql(`INSERT INTO orders VALUES (7, 'a')`)
    const session = await m.session()
    const answers = new Map<string, unknown>()
    for (const { text, answer } of protocolStatements()) {
      const found = [(await session.query(text)) as unknown].flat() as { rows: Record<string, unknown>[] }[]
      const [[name, value] = []] = found.flatMap(({ rows }) => Object.entries(rows[0] ?? {}))
      if (name !== undefined) answers.set(name, value)
      if (answer !== undefined) expect(String(value), text).toBe(answer)
    }
    const standing = {
      primary: 'old',
      epoch: crossfade.flags.epoch,
      captures: { 'public.orders': { old: 'f1' } },
    }
    expect(answers.get('announce')).toMatchObject(standing)
    expect(answers.get('standing')).toMatchObject(standing)
    expect(answers.get('capture_f1')).toBe(String(crossfade.flags.epoch))
    expect(answers.get('apply_f1')).toBe(1)
    expect(answers.get('hold_f1')).toBe(0) // nothing was left to hold
    expect(answers.get('pending_f1')).toBe(false)
    expect(await both()).toEqual({ old: [{ id: '7', name: 'b' }], new: [{ id: '7', name: 'b' }] })
  })

  test('what is written on the old side is on the new one a moment later; a delete leaves its key', async (t) => {
    const service = await startService(t, version)
    const { m, both } = service
    await rename(service, 1, 'a')
    await rename(service, 2, 'b')
    await rename(service, 1, 'c')
    await eventually(async () => (await m.log()).length === 0)
    expect(await both()).toEqual({
      old: [
        { id: '1', name: 'c' },
        { id: '2', name: 'b' },
      ],
      new: [
        { id: '1', name: 'c' },
        { id: '2', name: 'b' },
      ],
    })

    await remove(service, 1)
    await eventually(async () => (await both()).new.length === 1)
    // Whether a chunk was about to add the row, an applier finds out.
    expect(await m.log()).toMatchObject([{ kind: 'c', key: '1', attempts: 0 }])
    await applyRound(m.place, m.forward)
    expect(await m.log()).toEqual([])

    // A key that changes is two keys.
    await service.crossfade.write({
      keys: [2, 3],
      old: (client) => client.query('UPDATE orders SET id = 3 WHERE id = 2'),
      new: (client) => client.query('UPDATE orders_v2 SET order_id = 3 WHERE order_id = 2'),
    })
    await eventually(async () => JSON.stringify((await both()).new) === `[{"id":"3","name":"b"}]`)
  })

  test('what fails or is rolled back is neither written nor copied', async (t) => {
    const service = await startService(t, version)
    const { m, crossfade } = service
    await rename(service, 1, 'a')
    const failing = crossfade.write({
      keys: [1],
      old: async (client) => {
        await client.query(`UPDATE orders SET name = 'x'`)
        await client.query('SELECT 1/0')
      },
      new: () => Promise.resolve(),
    })
    await expect(failing).rejects.toMatchObject({ code: '22012' })
    // An error that the work passes over is one all the same: nothing of it is committed.
    const passing = crossfade.write({
      keys: [1],
      old: (client) => client.query('SELECT 1/0').catch(() => 'fine'),
      new: () => Promise.resolve('fine'),
    })
    await expect(passing).rejects.toMatchObject({ code: '25P02' })
    expect(await m.sql('SELECT name FROM orders')).toEqual([{ name: 'a' }])
    await eventually(async () => (await m.log()).length === 0)
  })

  test('the primary side moves under a write: it is run again for the other one, and the sides turn round', async (t) => {
    const service = await startService(t, version)
    const { m, both, crossfade, move } = service
    await rename(service, 1, 'a')
    const seen: string[] = []
    let holds: () => void = () => undefined
    const held = new Promise<void>((resolve) => (holds = resolve))
    let goOn: () => void = () => undefined
    const released = new Promise<void>((resolve) => (goOn = resolve))
    const late = crossfade.write({
      keys: [1],
      old: async (client) => {
        seen.push('old')
        holds()
        await released
        await client.query(`UPDATE orders SET name = 'late'`)
      },
      new: async (client) => {
        seen.push('new')
        await client.query(`UPDATE orders_v2 SET label = 'LATE'`)
      },
    })
    await held
    await eventually(async () => (await m.log()).length === 0)
    await move('new')
    goOn()
    await late
    expect(seen).toEqual(['old', 'new'])
    expect(crossfade.flags.primary).toBe('new')
    await eventually(async () => (await m.log(m.reverse)).length === 0)
    await rename(service, 2, 'b')
    await eventually(async () => (await both()).old.length === 2)
    expect(await both()).toEqual({
      old: [
        { id: '1', name: 'late' },
        { id: '2', name: 'b' },
      ],
      new: [
        { id: '1', name: 'late' },
        { id: '2', name: 'b' },
      ],
    })
    await move('old')
    await rename(service, 1, 'back')
    await eventually(async () => ((await both()).new[0] as { name: string }).name === 'back')
    expect(await m.log(m.reverse)).toEqual([])
  })

  test('it takes part in a transaction of the application’s, under every isolation level', async (t) => {
    const service = await startService(t, version)
    const { m, crossfade, both, move } = service
    const client = await m.test.pool.connect()
    t.onTestFinished(() => client.release())
    const write = (id: number): Promise<unknown> =>
      crossfade.write({
        client,
        old: async (own) =>
          (await own.query<{ id: string }>(`INSERT INTO orders VALUES ($1, 'a') RETURNING id`, [id])).rows,
        new: async (own) =>
          (
            await own.query<{ id: string }>(
              `INSERT INTO orders_v2 VALUES ($1, 'A') RETURNING order_id AS id`,
              [id],
            )
          ).rows,
        keys: (rows) => rows.map((row) => row.id),
      })
    await client.query('BEGIN')
    await write(1)
    expect(await nameOf(service, 1)).toBeUndefined()
    await client.query('COMMIT')
    await eventually(async () => (await both()).new.length === 1 && (await m.log()).length === 0)
    await client.query('BEGIN')
    await write(2)
    await client.query('ROLLBACK')
    await client.query('BEGIN ISOLATION LEVEL SERIALIZABLE')
    await write(3)
    await client.query('COMMIT')
    await eventually(async () => (await both()).new.length === 2)

    // A snapshot from before the move would say that the old side is primary: the write fails, as such transactions do.
    await client.query('BEGIN ISOLATION LEVEL REPEATABLE READ')
    await client.query('SELECT 1')
    await m.drain()
    await move('new')
    await expect(
      client
        .query(`INSERT INTO orders VALUES (4, 'x')`)
        .then(() => client.query(`SELECT _crossfade_m.capture_f1('[["4"]]')`)),
    ).rejects.toMatchObject({ code: '40001' })
    await client.query('ROLLBACK')
    expect(await m.value('SELECT count(*) FROM orders')).toBe('2')
  })

  test('what this instance has written and the new side lacks yet is read on the primary side', async (t) => {
    const service = await startService(t, version)
    const { m, metrics, set, crossfade } = service
    await rename(service, 1, 'a')
    await set({ read: 100 })
    await eventually(async () => (await m.log()).length === 0)
    const holder = await m.session()
    await holder.query('BEGIN; SELECT FROM orders_v2 FOR UPDATE')
    await rename(service, 1, 'b')
    expect(await nameOf(service, 1)).toBe('b')
    await eventually(() => metrics.get('db.migration.m.write.left time-out') === 1)
    expect(await nameOf(service, 1)).toBe('b')
    await holder.query('COMMIT')
    await m.drain()
    // The appliers have copied it: the library finds out, and reads the new side again.
    await m.sql(`UPDATE orders_v2 SET label = 'MARKED'`)
    await eventually(async () => (await nameOf(service, 1)) === 'marked')

    // What the new side refuses stays on the primary side, and in the log.
    await crossfade.write({
      keys: [1],
      old: (client) => client.query(`UPDATE orders SET name = 'bad'`),
      new: () => Promise.reject(new Error('not primary')),
    })
    await eventually(
      () =>
        metrics.get('db.migration.m.write.left error') === 1 ||
        metrics.get('db.migration.m.write.left rest') === 1,
    )
    expect(await nameOf(service, 1)).toBe('bad')
    expect(await m.log()).toMatchObject([{ key: '1' }])
  })

  test('a function of the application’s own writes the other side, and the mapping has the last word', async (t) => {
    const service = await startService(t, version)
    const { m, crossfade, both } = service
    await crossfade.write({
      keys: [1],
      old: (client) => client.query(`INSERT INTO orders VALUES (1, 'a')`),
      new: () => Promise.reject(new Error('not primary')),
      copy: (client) =>
        client.query({ text: `INSERT INTO orders_v2 VALUES (1, 'OWN')` }).then(() => undefined),
    })
    await eventually(async () => (await both()).new.length === 1)
    expect((await both()).new).toEqual([{ id: '1', name: 'own' }])
    await m.drain()
    expect((await both()).new).toEqual([{ id: '1', name: 'a' }])
  })

  test('triggers note the keys of whoever writes beside the library, where the definition says so', async (t) => {
    const { m } = await startService(t, version, {}, { method: 'application', alsoTriggers: true })
    await m.sql(`INSERT INTO orders VALUES (1, 'a')`)
    expect(await m.log()).toMatchObject([{ key: '1' }])
    await m.drain()
    expect(await m.sql('SELECT label FROM orders_v2')).toEqual([{ label: 'A' }])
  })
})
