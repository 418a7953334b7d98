import { fork } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { describe, expect, test, type TestContext } from 'vitest'
import { openApplicationSide } from '../../../src/database/application.ts'
import { buckets, createBucketOf } from '../../../src/flags/bucket.ts'
import { createFlagStore, type FlagStore } from '../../../src/flags/flag-store.ts'
import { withBothSides, type BothSides } from '../../support/both-sides.ts'
import { postgresVersions, type PostgresVersion } from '../../support/postgres.ts'
import { createCli } from '../../support/cli.ts'
import { usersAndPeople, usersToPeople } from '../../support/users-to-people.ts'
import { eventually } from '../../support/wait.ts'

const read = 'm.new_schema_read'

const prepare = (t: TestContext, version: PostgresVersion): Promise<BothSides> =>
  withBothSides(t, version, usersAndPeople, usersToPeople)

async function startInstance(
  t: TestContext,
  m: BothSides,
  { id = 'a', leaseMs = 5_000 } = {},
): Promise<FlagStore> {
  const side = openApplicationSide(m.test.pool, 'm')
  const store = await createFlagStore({ side, salt: 'm', instance: { id, version: '1.2.3', leaseMs } })
  t.onTestFinished(async () => {
    await store.close()
    await side.close()
  })
  return store
}

const set = (m: BothSides, percent: number, primary?: 'old' | 'new'): Promise<number> =>
  m.database.transaction((tx) =>
    m.database.dialect.flags.set(tx, m.place.scope, { [read]: percent }, { primary }),
  )

const instances = (m: BothSides) =>
  m.database.transaction((tx) => m.database.dialect.flags.instances(tx, m.place.scope))

describe.each(postgresVersions())('flags on PostgreSQL %s', (version) => {
  test('a key’s bucket is the same in SQL, and a growing ramp loses no key', async (t) => {
    const m = await prepare(t, version)
    const keys = ['', 'é', '🙂', 'x'.repeat(200), ...Array.from({ length: 2000 }, (_, i) => `user-${i}`)]
    const rows = await m.sql(
      `SELECT k, "_crossfade_m".bucket('m', k) AS bucket FROM unnest($1::text[]) AS k`,
      [keys],
    )
    const bucketOf = createBucketOf('m')
    expect(rows).toEqual(keys.map((k) => ({ k, bucket: bucketOf(k) })))

    const store = await startInstance(t, m)
    const on = async (percent: number): Promise<string[]> => {
      const epoch = await set(m, percent)
      await eventually(() => store.epoch === epoch)
      return keys.filter((key) => store.isOn(read, key))
    }
    const first = await on(10)
    const second = await on(25)
    expect(second).toEqual(expect.arrayContaining(first))
    expect(second).toEqual(keys.filter((key) => bucketOf(key) < buckets / 4))
    expect(await on(0.01)).toEqual(keys.filter((key) => bucketOf(key) < 100))
    expect(await on(100)).toEqual(keys)
    expect(await on(0)).toEqual([])
  })

  test('a flip arrives by notification, and within a second where the listening connection was killed', async (t) => {
    const m = await prepare(t, version)
    const store = await startInstance(t, m)
    const flip = async (percent: number): Promise<number> => {
      const before = performance.now()
      const epoch = await set(m, percent)
      await eventually(() => store.epoch === epoch, { intervalMs: 1 })
      const tookMs = performance.now() - before
      // What it acts on is published at once: a gate need not wait for the next poll.
      await eventually(async () => (await instances(m))[0]?.epoch === epoch, { timeoutMs: 500 })
      return tookMs
    }
    const isListening = `FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%'`
    await eventually(async () => (await m.sql(`SELECT ${isListening}`)).length === 1)
    expect(Math.min(await flip(100), await flip(0), await flip(100))).toBeLessThan(300)
    await m.sql(`SELECT pg_terminate_backend(pid) ${isListening}`)
    expect(await flip(0)).toBeLessThan(1_500)
    await eventually(async () => (await m.sql(`SELECT ${isListening}`)).length === 1)
  })

  test('cut off from the flags it keeps them for the lease, and then takes the side that is primary', async (t) => {
    const m = await prepare(t, version)
    await set(m, 100)
    const store = await startInstance(t, m, { leaseMs: 1_500 })
    expect(store.isOn(read, 'k')).toBe(true)
    const holder = await m.session()
    await holder.query('BEGIN; LOCK TABLE "_crossfade_m".instances, "_crossfade_m".flags')
    expect(store.isOn(read, 'k')).toBe(true)
    await eventually(() => !store.isFresh)
    expect(store.isOn(read, 'k')).toBe(false)
    await holder.query('ROLLBACK')
    await eventually(() => store.isOn(read, 'k'))

    await set(m, 100, 'new')
    await eventually(() => store.primary === 'new')
    await holder.query('BEGIN; LOCK TABLE "_crossfade_m".instances, "_crossfade_m".flags')
    await eventually(() => !store.isFresh)
    expect(store.isOn(read, 'k')).toBe(true) // never a literal "off": the old side may be behind by now
    await holder.query('ROLLBACK')
    await eventually(() => store.isFresh)
  })

  test('a frozen instance holds a gate up until its lease is over, and acts on nothing old when it wakes', async (t) => {
    const m = await prepare(t, version)
    await set(m, 100)
    const leaseMs = 1_500
    const child = fork(
      fileURLToPath(new URL('../../support/programs/flag-instance.ts', import.meta.url)),
      [m.test.url, read, String(leaseMs)],
      { execArgv: ['--import', 'tsx'] },
    )
    t.onTestFinished(async () => {
      const exited = once(child, 'exit')
      child.kill('SIGKILL')
      await exited
    })
    await once(child, 'message')
    const ask = async (): Promise<unknown> => {
      const answer = once(child, 'message')
      child.send('what now')
      return ((await answer) as unknown[])[0]
    }
    expect(await ask()).toMatchObject({ isOn: true })
    child.kill('SIGSTOP')
    const epoch = await set(m, 0)
    const [frozen] = await instances(m)
    expect(frozen).toMatchObject({ id: 'frozen', version: '1', isLive: true })
    expect(frozen?.epoch).toBeLessThan(epoch)
    await eventually(async () => (await instances(m))[0]?.isLive === false)
    const answer = once(child, 'message')
    child.send('what now') // lies in its pipe when it wakes, before anything that it could have read of the flags
    child.kill('SIGCONT')
    expect(((await answer) as unknown[])[0]).toMatchObject({ isOn: false })
    await eventually(async () => (await instances(m)).some((one) => one.isLive && one.epoch === epoch))
  })

  test('a ceiling stays under whatever the ramp sets, also in a schema of an earlier version', async (t) => {
    const m = await prepare(t, version)
    const { flags } = m.database.dialect
    const { scope } = m.place
    const now = async (): Promise<unknown> => {
      const found = await m.database.transaction((tx) => flags.read(tx, scope))
      return found?.flags
        .filter(({ key }) => key === read)
        .map(({ percent, wanted, ceiling }) => [percent, wanted, ceiling])
    }
    await m.sql('ALTER TABLE "_crossfade_m".flags DROP COLUMN wanted, DROP COLUMN ceiling')
    await set(m, 50)
    expect(await now()).toEqual([[50, 50, 100]])
    await m.database.transaction((tx) => flags.hold(tx, scope, { [read]: 5 }), { lockTimeoutMs: 1000 })
    expect(await now()).toEqual([[5, 50, 5]])
    await set(m, 100)
    expect(await now()).toEqual([[5, 100, 5]])
    await set(m, 1)
    expect(await now()).toEqual([[1, 1, 5]])
    await m.database.transaction((tx) => flags.hold(tx, scope, { [read]: 100 }))
    await set(m, 60)
    expect(await now()).toEqual([[60, 60, 100]])
  })

  test('the command line brakes without Temporal, and names what it does not know', async (t) => {
    const m = await prepare(t, version)
    await m.database.transaction(async (tx) => {
      const { definitions, flags } = m.database.dialect
      await definitions.save(tx, m.place.scope, 'f', JSON.stringify(m.migration))
      await flags.set(tx, m.place.scope, { [read]: 50, [m.migration.flags.writeEnabled]: 100 })
    })
    const store = await startInstance(t, m)
    const cli = createCli(t, { CROSSFADE_DATABASE_URL: m.test.url, TEMPORAL_ADDRESS: '127.0.0.1:1' })
    const { exitCode, answer } = await cli.json('flags', 'm', '--set', 'read=0', '--set', 'write=2.5')
    expect(answer['error']).toBeUndefined()
    expect({ exitCode, answer }).toMatchObject({
      exitCode: 0,
      answer: {
        ok: true,
        name: 'm',
        primary: 'old',
        instances: [{ id: 'a', version: '1.2.3', isLive: true }],
      },
    })
    expect(answer['flags']).toEqual(
      expect.arrayContaining([expect.objectContaining({ key: read, percent: 0, wanted: 50, ceiling: 0 })]),
    )
    await eventually(() => store.epoch === answer['epoch'])
    expect(store.isOn(read, 'k')).toBe(false)
    for (const [args, code] of [
      [['flags', 'm', '--set', 'speed=1'], 'FLAGS.UNKNOWN'],
      [['flags', 'nobody'], 'FLAGS.NO_MIGRATION'],
      [['flags', 'm', '--set', 'read=101'], 'CLI.INVALID_VALUE'],
    ] as const)
      expect(await cli.json(...args)).toMatchObject({ exitCode: 2, answer: { ok: false, error: { code } } })
  })

  test('what a migration leaves behind, and its end, can be read like the rest', async (t) => {
    const m = await prepare(t, version)
    expect(() => openApplicationSide({} as never, 'm')).toThrow(
      expect.objectContaining({ code: 'DATABASE.UNKNOWN_POOL' }),
    )
    await set(m, 100, 'new')
    const store = await startInstance(t, m)
    await m.database.dialect.ddl.tidyScope(m.database, m.place.scope, { lockTimeoutMs: 1000 })
    await store.refresh()
    expect([store.primary, store.isOn(read, 'k'), store.isFresh]).toEqual(['new', true, true])
    await m.database.dialect.ddl.dropScope(m.database, m.place.scope, { lockTimeoutMs: 1000 })
    await store.refresh()
    expect([store.isPresent, store.isOn(read, 'k')]).toEqual([false, false])
  })
})
