import { fork } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'
import { createCrossfade, type Crossfade } from '../../../src/app/index.ts'
import { createCli } from '../../support/cli.ts'
import { startService } from '../../support/migration.ts'
import { untilDetail } from '../../support/migrations.ts'
import { withDatabase } from '../../support/postgres.ts'
import { usersAndPeople, usersToPeople } from '../../support/users-to-people.ts'
import { eventually } from '../../support/wait.ts'

const rows = 1000
const instances = 3

/** How the application asks the new side, and what the workflow must say of it. */
const good = 'SELECT name FROM people WHERE id = $1'
const spoilt = [
  [
    'errors',
    'SELECT nobody FROM people WHERE id = $1',
    / reads of the new side failed in the application, more than 0.5 %/,
  ],
  [
    'latency',
    'SELECT name, pg_sleep(0.2) FROM people WHERE id = $1',
    /the new side took \d+\.\d ms longer .* more than 20 ms/,
  ],
  [
    'parity',
    `SELECT name || '!' AS name FROM people WHERE id = $1`,
    /answered differently by both sides \d+ times/,
  ],
] as const

/** Two polls of 0.9 s: what an instance measures is told with the next one, and the way back arrives before the one after it. */
const twoPollsMs = 1_800
/** A mean needs comparisons, and what is different is asked again a second later before it counts. */
const evidenceMs = 1_000

test('errors, latency and answers that differ in the application take reads back by themselves, within two polls', async (t) => {
  const database = await withDatabase(t, '18')
  await database.pool.query(usersAndPeople)
  await database.pool.query(`INSERT INTO users SELECT i, 'n' || i FROM generate_series(1, $1) i`, [rows])
  const { client } = await startService(t, database)
  const name = `back-${randomUUID().slice(0, 8)}`
  const handle = await client.start({
    name,
    kind: 'table',
    ...usersToPeople,
    cutover: { ramp: [{ percent: 100, hold: '1h' }] },
    backfill: { profile: 'fast' },
    metrics: { enabled: false, alertThresholds: { latencyDeltaMs: 20 } }, // what guards the ramp cannot be switched off
    safety: { requireApproval: false },
  })

  let newRead: string = good
  const failures: unknown[] = []
  let reads = 0
  const ask = async (sql: string, id: number): Promise<string> =>
    String((await database.pool.query<{ name: string }>(sql, [id])).rows[0]?.name)
  const ended = new AbortController()
  const serve = async (crossfade: Crossfade, id: number): Promise<void> => {
    for (; !ended.signal.aborted; id = 1 + (id % rows)) {
      const answer = await crossfade
        .read(String(id), {
          old: () => ask('SELECT name FROM users WHERE id = $1', id),
          new: () => ask(newRead, id),
        })
        .catch(String)
      reads += 1
      if (answer.replace('!', '') !== `n${id}`) failures.push(answer)
      await delay(10)
    }
  }
  const fleet = await Promise.all(
    Array.from({ length: instances }, () =>
      createCrossfade({ migration: name, database: database.pool, reads: { shadowRatio: 1 } }),
    ),
  )
  const serving = fleet.map((crossfade, i) => serve(crossfade, 1 + i * 100))
  t.onTestFinished(async () => {
    ended.abort()
    await Promise.all(serving)
    for (const crossfade of fleet) await crossfade.close()
    await handle.abort({ by: 'the test' }).catch(() => undefined)
    await handle.result()
  })
  const allOn = (isOn: boolean) => (): boolean =>
    fleet.every(({ flags }) => flags.isOn(`${name}.new_schema_read`, 'k') === isOn)

  const tookMs: Record<string, number> = {}
  for (const [what, sql, says] of spoilt) {
    await eventually(allOn(true), { timeoutMs: 60_000, what: `reads at 100 % before ${what}` })
    await delay(500)
    newRead = sql
    const spoiltAt = performance.now()
    await eventually(allOn(false), { intervalMs: 5, what: `the way back from ${what}` })
    tookMs[what] = Math.round(performance.now() - spoiltAt)
    newRead = good
    const { trouble, readPercent } = await eventually(async () => {
      const { detail } = await handle.status()
      return detail?.trouble && detail
    })
    expect({ code: trouble?.code, readPercent }).toEqual({ code: 'CUTOVER.BREACH', readPercent: 0 })
    expect(trouble?.message).toMatch(says)
    const measured = await database.pool.query(`SELECT DISTINCT instance FROM "_crossfade_${name}".measured`)
    expect(measured.rows).toHaveLength(instances)
    await handle.resume({ by: 'the test' })
  }
  await eventually(allOn(true), { timeoutMs: 60_000, what: 'reads at 100 % at the end' })
  const kept = await database.pool.query<{ n: number }>(
    `SELECT count(*)::int AS n FROM "_crossfade_${name}".measured`,
  )
  process.stderr.write(
    `${JSON.stringify({ reads, failures: failures.length, instances, tookMs, rowsKept: kept.rows[0]?.n })}\n`,
  )
  expect(failures).toEqual([])
  expect(tookMs['errors']).toBeLessThan(twoPollsMs)
  expect(tookMs['latency']).toBeLessThan(twoPollsMs + evidenceMs)
  expect(tookMs['parity']).toBeLessThan(twoPollsMs + evidenceMs)
})

test('a step of the ramp waits for a frozen instance until its lease is over; the brake and an abort reach every instance within a second', async (t) => {
  const database = await withDatabase(t, '18')
  const { pool, url } = database
  await pool.query(usersAndPeople)
  await pool.query(`INSERT INTO users SELECT i, 'n' || i FROM generate_series(1, $1) i`, [rows])
  const { client } = await startService(t, database)
  const name = `drill-${randomUUID().slice(0, 8)}`
  const flag = `${name}.new_schema_read`
  const holdMs = 2_000
  const lastHoldMs = 3_600_000
  const handle = await client.start({
    name,
    kind: 'table',
    ...usersToPeople,
    cutover: {
      ramp: [
        { percent: 99, hold: `${holdMs}ms` },
        { percent: 100, hold: `${lastHoldMs}ms` },
      ],
    },
    backfill: { profile: 'fast' },
  })
  const approve = async (gate: 'expand' | 'cutover'): Promise<void> => {
    const { gate: open } = await untilDetail(handle, gate, (detail) => detail.gate?.gate === gate)
    await handle.approve({
      gate,
      by: 'the test',
      ...(open?.token === undefined ? {} : { token: open.token }),
    })
  }
  await approve('expand')
  await untilDetail(handle, 'the gate of cutover', ({ gate }) => gate?.gate === 'cutover')

  const fleet = await Promise.all(
    Array.from({ length: instances }, () => createCrossfade({ migration: name, database: pool })),
  )
  const leaseMs = 5_000
  const child = fork(
    fileURLToPath(new URL('../../support/programs/flag-instance.ts', import.meta.url)),
    [url, flag, String(leaseMs), name],
    { execArgv: ['--import', 'tsx'] },
  )
  await once(child, 'message')
  const ended = new AbortController()
  const names = new Map<number, string>()
  const failures: string[] = []
  // Each instance has rows of its own, so that it knows what it must read whatever side it asks.
  const work = fleet.map(async (crossfade, i) => {
    for (let n = 0; !ended.signal.aborted; n++) {
      const id = 1 + i + instances * (n % 300)
      try {
        await pool.query('UPDATE users SET name = $2 WHERE id = $1', [id, `w${n}`])
        names.set(id, `w${n}`)
        const ask = async (table: string): Promise<unknown> =>
          (await pool.query<{ name: string }>(`SELECT name FROM ${table} WHERE id = $1`, [id])).rows[0]?.name
        const read = await crossfade.read(String(id), { old: () => ask('users'), new: () => ask('people') })
        if (read !== `w${n}`) failures.push(`read ${String(read)} instead of w${n}`)
      } catch (error) {
        failures.push(String(error))
      }
      await delay(5)
    }
  })
  t.onTestFinished(async () => {
    ended.abort()
    await Promise.all(work)
    for (const crossfade of fleet) await crossfade.close()
    const exited = once(child, 'exit')
    child.kill('SIGKILL')
    await exited
  })
  const allOn = (isOn: boolean) => (): boolean => fleet.every(({ flags }) => flags.isOn(flag, 'k') === isOn)

  await approve('cutover')
  await untilDetail(handle, 'the first step', ({ hold, readPercent }) => readPercent === 99 && !!hold)
  child.kill('SIGSTOP')
  const frozenAt = Date.now()
  const waiting = await untilDetail(handle, 'the frozen one', ({ awaited }) => awaited !== undefined)
  expect(waiting).toMatchObject({ readPercent: 100, awaited: ['frozen'] })
  expect(waiting.hold).toBeUndefined()
  expect(waiting.waitingFor).toBe('instances to see the flags: frozen')
  const { hold } = await untilDetail(handle, 'the last step', (detail) => detail.hold !== undefined)
  const waitedMs = (hold?.until ?? 0) - lastHoldMs - frozenAt
  // Its last announcement is 0.9 s older at most; a look follows each 0.1 s.
  expect(waitedMs).toBeGreaterThan(1.25 * leaseMs - 1_000)
  expect(waitedMs).toBeLessThan(1.25 * leaseMs + 1_000)
  await eventually(allOn(true), { what: 'reads at 100 %' })

  const first = once(child, 'message')
  child.send('what now') // lies in its pipe when it wakes, before anything that it could have read of the flags
  child.kill('SIGCONT')
  expect(((await first) as unknown[])[0]).toMatchObject({ isOn: false })
  await eventually(async () => {
    const answer = once(child, 'message')
    child.send('what now')
    return ((await answer) as [{ isOn: boolean }])[0].isOn
  })

  const timeOff = async (): Promise<number> => {
    const from = performance.now()
    await eventually(allOn(false), { intervalMs: 5, what: 'the old side everywhere' })
    return Math.round(performance.now() - from)
  }
  const cli = createCli(t, { CROSSFADE_DATABASE_URL: url, TEMPORAL_ADDRESS: '127.0.0.1:1' })
  const braking = cli.json('flags', name, '--set', 'read=0')
  const braked = `SELECT FROM "_crossfade_${name}".flags WHERE key = $1 AND percent = 0`
  await eventually(async () => (await pool.query(braked, [flag])).rowCount === 1, { intervalMs: 5 })
  const brakeMs = await timeOff()
  await braking
  await cli.json('flags', name, '--set', 'read=100')
  await eventually(allOn(true), { what: 'the brake to be off' })
  const [abortMs] = await Promise.all([timeOff(), handle.abort({ by: 'the test' })])
  expect((await handle.result()).outcome).toBe('aborted')
  ended.abort()
  await Promise.all(work)
  const kept = await pool.query<{ id: number; name: string }>('SELECT id::int, name FROM users ORDER BY id')
  process.stderr.write(
    `${JSON.stringify({ waitedMs, brakeMs, abortMs, written: names.size, failures: failures.length })}\n`,
  )
  expect(failures).toEqual([])
  expect(kept.rows).toEqual(
    Array.from({ length: rows }, (_, i) => ({ id: i + 1, name: names.get(i + 1) ?? `n${i + 1}` })),
  )
  expect(abortMs).toBeLessThan(1_000)
  expect(brakeMs).toBeLessThan(1_000)
})
