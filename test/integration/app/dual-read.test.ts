import { Writable } from 'node:stream'
import { setTimeout as delay } from 'node:timers/promises'
import { InMemoryProvider, OpenFeature } from '@openfeature/server-sdk'
import { metrics as openTelemetry } from '@opentelemetry/api'
import {
  InMemoryMetricExporter,
  MeterProvider,
  PeriodicExportingMetricReader,
  AggregationTemporality,
} from '@opentelemetry/sdk-metrics'
import { pino } from 'pino'
import { expect, test, type TestContext } from 'vitest'
import { createCrossfade, type Crossfade, type CrossfadeOptions } from '../../../src/app/index.ts'
import { allowedBy, createProvider } from '../../../src/app/openfeature.ts'
import { withBothSides, type BothSides } from '../../support/both-sides.ts'
import { usersAndPeople, usersToPeople } from '../../support/users-to-people.ts'
import { eventually } from '../../support/wait.ts'

interface Service {
  readonly m: BothSides
  readonly crossfade: Crossfade
  /** Metrics by name, with the values in order. */
  readonly metrics: Map<string, number[]>
  readonly warnings: object[]
  /** Sets the read flag, and waits until the instance acts on it. */
  reads(percent: number, primary?: 'old' | 'new'): Promise<void>
  name(id: number): Promise<string | undefined>
}

/** A repository of users with both sides, whose tables the test spoils as it likes. */
async function startService(t: TestContext, options: Partial<CrossfadeOptions> = {}): Promise<Service> {
  const m = await withBothSides(t, '18', usersAndPeople, usersToPeople)
  const metrics = new Map<string, number[]>()
  const warnings: object[] = []
  const crossfade = await createCrossfade({
    migration: 'm',
    database: m.test.pool,
    log: { warn: (details, message) => void warnings.push({ ...details, message }) },
    onMetric: (name, value) => void metrics.set(name, [...(metrics.get(name) ?? []), value]),
    ...options,
  })
  t.onTestFinished(() => crossfade.close())
  const find = (table: string) => async (id: number) =>
    (await m.sql(`SELECT name FROM ${table} WHERE id = $1`, [id]))[0]?.['name'] as string | undefined
  return {
    m,
    crossfade,
    metrics,
    warnings,
    async reads(percent, primary) {
      const epoch = await m.database.transaction((tx) =>
        m.database.dialect.flags.set(tx, m.place.scope, { 'm.new_schema_read': percent }, { primary }),
      )
      await eventually(() => crossfade.flags.epoch === epoch)
    },
    name: (id) => crossfade.read(String(id), { old: () => find('users')(id), new: () => find('people')(id) }),
  }
}

test('reads follow the flag; what the new side does not answer, the old one does', async (t) => {
  const { m, metrics, reads, name } = await startService(t, { reads: { shadowRatio: 0, timeoutMs: 300 } })
  await m.sql(`INSERT INTO users VALUES (1, 'a'), (2, 'b')`)
  await m.sql(`ALTER TABLE people DISABLE TRIGGER USER; UPDATE people SET name = 'new ' || name WHERE id = 1`)
  await m.sql(`DELETE FROM people WHERE id = 2`)
  expect(await name(1)).toBe('a')
  await reads(100)
  expect([await name(1), await name(2)]).toEqual(['new a', 'b']) // 2 is a miss
  await m.sql('ALTER TABLE people RENAME COLUMN name TO other')
  expect(await name(1)).toBe('a') // an error
  const holder = await m.session()
  await holder.query('BEGIN; ALTER TABLE people RENAME COLUMN other TO name; LOCK TABLE people')
  expect(await name(1)).toBe('a') // too slow
  await holder.query('COMMIT')
  expect(metrics.get('db.migration.m.read.fallback')).toEqual([1, 1, 1])

  await reads(0)
  expect(await name(1)).toBe('a')
  // Once the new side is primary its word counts: what it does not have is gone, whatever the old side still says.
  await reads(100, 'new')
  expect([await name(1), await name(2)]).toEqual(['new a', undefined])
})

test('a sample of reads asks both sides afterwards, and tells keys that differ twice', async (t) => {
  const { m, metrics, warnings, reads, name } = await startService(t, { reads: { shadowRatio: 1 } })
  await m.sql(`INSERT INTO users VALUES (1, 'a secret'), (2, 'b')`)
  await reads(50)
  await name(1)
  await eventually(() => metrics.get('db.migration.m.read.shadow.compared')?.length === 1)
  await m.sql(`UPDATE people SET name = 'spoilt' WHERE id = 2`)
  const startedAt = performance.now()
  expect(['b', 'spoilt']).toContain(await name(2))
  expect(performance.now() - startedAt).toBeLessThan(900) // nobody waits for the comparison
  await eventually(() => warnings.length === 1)
  expect(warnings).toEqual([{ migration: 'm', key: '2', message: 'Both sides answered differently, twice' }])
  expect(metrics.get('db.migration.m.read.shadow.mismatch')).toEqual([1])

  // What moved between the two reads and is equal a moment later is none.
  await m.sql(`UPDATE people SET name = 'late' WHERE id = 1`)
  await name(1)
  await delay(200)
  await m.sql(`UPDATE people SET name = 'a secret' WHERE id = 1`)
  await eventually(() => (metrics.get('db.migration.m.read.shadow.compared')?.length ?? 0) >= 5)
  expect(metrics.get('db.migration.m.read.shadow.mismatch')).toEqual([1])
})

test('writes go to the primary side; a hook and a logger that throw reach no request', async (t) => {
  const { m, crossfade, reads } = await startService(t, {
    onMetric: () => {
      throw new Error('the hook')
    },
  })
  const write = (id: number): Promise<unknown> =>
    crossfade.write({
      keys: [id],
      old: () => m.sql(`INSERT INTO users VALUES ($1, 'a')`, [id]),
      new: () => m.sql(`INSERT INTO people VALUES ($1, 'b')`, [id]),
    })
  await write(1)
  await reads(100, 'new')
  await write(2)
  expect(await m.sql('SELECT id, name FROM people ORDER BY id')).toEqual([
    { id: 1, name: 'a' },
    { id: 2, name: 'b' },
  ])
  await expect(write(2)).rejects.toMatchObject({ code: '23505' })
})

test('a service starts before its migration, and outlives it', async (t) => {
  const { m, crossfade } = await startService(t, { migration: 'later' })
  expect(crossfade.flags).toMatchObject({ isPresent: false, primary: 'old', epoch: -1, isFresh: true })
  expect(await crossfade.read('k', { old: async () => 'old', new: async () => 'new' })).toBe('old')
  await m.database.dialect.ddl
    .createScope()
    .apply(m.database, m.database.dialect.catalog.scope('later'), { lockTimeoutMs: 1000 })
  await eventually(() => crossfade.flags.isPresent, { timeoutMs: 3_000 })
})

test('metrics have the names that teams know, or the prefix of the definition; OpenTelemetry has what the hook has', async (t) => {
  const exporter = new InMemoryMetricExporter(AggregationTemporality.CUMULATIVE)
  const reader = new PeriodicExportingMetricReader({ exporter, exportIntervalMillis: 3_600_000 })
  const provider = new MeterProvider({ readers: [reader] })
  t.onTestFinished(async () => {
    openTelemetry.disable()
    await provider.shutdown()
  })
  const lines: string[] = []
  const log = pino(new Writable({ write: (chunk, _, done) => (lines.push(String(chunk)), done()) }))
  const { m, crossfade, metrics, reads, name } = await startService(t, { log, reads: { shadowRatio: 1 } })
  openTelemetry.setGlobalMeterProvider(provider) // later than the service: what is measured from now on arrives

  const define = (settings: object): Promise<void> => {
    const migration = { ...m.migration, metrics: { ...m.migration.metrics, ...settings } }
    return m.database.transaction((tx) =>
      m.database.dialect.definitions.save(tx, m.place.scope, 'f', JSON.stringify(migration)),
    )
  }
  await define({ prefix: 'shop' })
  await reads(100)
  // The definition is read after each epoch, and nobody waits for it.
  await eventually(async () => {
    await crossfade.read('k', { old: async () => 1, new: async () => 1 })
    return metrics.has('shop.read.duration')
  })
  await eventually(() => metrics.has('shop.read.shadow.compared'))
  for (const values of metrics.values()) values.splice(0)
  await m.sql(`INSERT INTO users VALUES (1, 'a secret')`)
  const write = (table: string) => () => m.sql(`UPDATE ${table} SET name = name || '.' WHERE id = 1`)
  await crossfade.write({ keys: [1], old: write('users'), new: write('people') })
  await name(1)
  await name(2) // a miss
  await eventually(() => (metrics.get('shop.read.shadow.compared')?.length ?? 0) >= 2)
  await m.sql('ALTER TABLE people RENAME COLUMN name TO other')
  await name(1) // an error, and so is the comparison
  await eventually(() => lines.length === 2)
  expect(lines.map((line) => JSON.parse(line) as object)).toMatchObject([
    { level: 40, migration: 'm', code: '42703', msg: 'A read of the new side failed' },
    { level: 40, migration: 'm', code: '42703', msg: 'A comparison of both sides failed' },
  ])
  expect(lines.join()).not.toContain('secret')

  await m.sql('ALTER TABLE people RENAME COLUMN other TO name')
  await reads(100, 'new')
  await crossfade.write({ keys: [1], old: write('users'), new: write('people') })
  await expect(crossfade.write({ keys: [1], old: write('users'), new: write('nobody') })).rejects.toThrow()

  await reader.forceFlush()
  const exported = exporter.getMetrics().flatMap(({ scopeMetrics }) =>
    scopeMetrics.flatMap(({ scope, metrics: all }) =>
      all.flatMap(({ descriptor, dataPoints }) =>
        dataPoints.map(({ attributes, value }) => ({
          ...{ scope: scope.name, name: descriptor.name, attributes },
          value: typeof value === 'number' ? value : value.count,
        })),
      ),
    ),
  )
  const scope = 'crossfade-db'
  const of = (metricName: string, value: unknown, more: object = {}): object => ({
    ...{ scope, name: metricName, value, attributes: { migration: 'm', ...more } },
  })
  expect(exported).toEqual(
    expect.arrayContaining([
      of('db.legacy.write.success', 1),
      of('db.new.write.success', 1),
      of('db.new.write.error', 1),
      of('shop.read.fallback', 1, { reason: 'miss' }),
      of('shop.read.fallback', 1, { reason: 'error' }),
      of('shop.read.shadow.compared', expect.any(Number)),
      of('shop.read.latency_delta', expect.any(Number)),
      of('shop.read.duration', expect.any(Number), { side: 'old' }),
      of('shop.flag.epoch', crossfade.flags.epoch),
    ]),
  )
  expect(metrics.get('shop.flag.epoch')?.at(-1)).toBe(crossfade.flags.epoch)

  await define({ enabled: false })
  await reads(50, 'new')
  const count = (): number => [...metrics.values()].flat().length
  await eventually(async () => {
    const before = count()
    await name(1)
    return count() === before
  })
})

test('OpenFeature evaluates the flags, and a team’s own provider can hold the ramp back', async (t) => {
  t.onTestFinished(() => OpenFeature.close())
  const flag = 'm.new_schema_read'
  const team = new InMemoryProvider({
    [flag]: {
      variants: { on: true, off: false },
      defaultVariant: 'off',
      disabled: false,
      contextEvaluator: ({ targetingKey }) => (targetingKey === '1' ? 'on' : 'off'),
    },
  })
  await OpenFeature.setProviderAndWait('team', team)
  let isAllowed = allowedBy(OpenFeature.getClient('team'))
  const { m, crossfade, warnings, reads, name } = await startService(t, {
    reads: { shadowRatio: 0 },
    isAllowed: (...asked) => isAllowed(...asked),
  })
  await m.sql(`INSERT INTO users VALUES (1, 'a'), (2, 'b')`)
  await m.sql(`ALTER TABLE people DISABLE TRIGGER USER; UPDATE people SET name = 'new ' || name`)
  await OpenFeature.setProviderAndWait('ours', createProvider(crossfade))
  const client = OpenFeature.getClient('ours')
  const details = (key: string, targetingKey?: string) =>
    client.getBooleanDetails(key, false, targetingKey === undefined ? {} : { targetingKey })

  await reads(0)
  expect([await name(1), await name(2)]).toEqual(['a', 'b']) // what the team allows the ramp does not begin
  await reads(50)
  for (let i = 0; i < 50; i++)
    expect((await details(flag, `user-${i}`)).value).toBe(crossfade.flags.isOn(flag, `user-${i}`))
  expect(await details(flag, 'k')).toMatchObject({
    reason: 'SPLIT',
    flagMetadata: { epoch: crossfade.flags.epoch, primary: 'old' },
  })
  expect(await details('another', 'k')).toMatchObject({ value: false, errorCode: 'FLAG_NOT_FOUND' })
  expect(await details(flag)).toMatchObject({ value: false, errorCode: 'TARGETING_KEY_MISSING' })
  expect(await client.getStringDetails(flag, 'x', { targetingKey: 'k' })).toMatchObject({
    value: 'x',
    errorCode: 'TYPE_MISMATCH',
  })

  await reads(100)
  expect([await name(1), await name(2)]).toEqual(['new a', 'b'])
  for (const [answer, says] of [
    [() => Promise.reject(Object.assign(new Error('away'), { code: 'AWAY' })), 'AWAY'],
    [() => new Promise<never>(() => undefined), 'time-out'],
  ] as const) {
    isAllowed = answer
    expect(await name(1)).toBe('a')
    expect(warnings.at(-1)).toMatchObject({ code: says })
  }
  await reads(100, 'new')
  expect(await name(2)).toBe('new b') // now the old side may be behind: nobody holds that back
})
