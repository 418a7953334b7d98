import { randomUUID } from 'node:crypto'
import { setTimeout as delay } from 'node:timers/promises'
import { expect, test } from 'vitest'
import { createCrossfade, type Crossfade } from '../../../src/app/index.ts'
import { startService } from '../../support/migration.ts'
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
