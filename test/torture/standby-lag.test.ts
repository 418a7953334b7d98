import { describe, expect, test } from 'vitest'
import { createBackfillThrottle } from '../../src/backfill/throttle.ts'
import { runLane } from '../../src/backfill/run-lane.ts'
import { openDatabase, type Database } from '../../src/database/index.ts'
import { paceOf, planRanges } from '../support/both-sides.ts'
import { prepare } from '../support/held-users.ts'
import { postgresVersions } from '../support/postgres.ts'
import { startStandby } from '../support/standby.ts'
import { askThrottle as ask, noStandby, throttledTables as tables, type Limits } from '../support/throttle.ts'
import { eventually } from '../support/wait.ts'

/** Danger: "a replica falls behind". Alone on its server: a lagging standby is everybody's. */
describe.each(postgresVersions())('PostgreSQL %s', (version) => {
  test('a real standby that falls behind stops a lane before its next chunk, and lets it go on', async (t) => {
    const m = await prepare(t, version)
    const standby = await startStandby(t, m.test, `standby_${version}`)
    expect(await ask(m, {})).toBeUndefined()
    await standby.pause()
    await m.sql(`INSERT INTO users SELECT i, 'n' || i FROM generate_series(1000, 3000) i`)
    const reason = await eventually(() => ask(m, {}, 1), { what: 'the standby to lag', timeoutMs: 20_000 })
    expect(reason).toMatch(
      new RegExp(`^standby standby_${version} is \\d+\\.\\d s behind; the limit is 1 s$`),
    )

    await planRanges(m.place, m.groups.forward, 'backfill', 1)
    const seen: (string | undefined)[] = []
    const settings = { ...m.migration.backfill, maxReplicationLagSec: 1, rateLimitMs: 0 }
    const lane = runLane(
      m.place,
      m.groups.forward,
      0,
      settings,
      createBackfillThrottle(m.place, settings, tables, noStandby),
      {
        ...paceOf(),
        report: ({ throttledBy }) => void seen.push(throttledBy),
      },
    )
    await eventually(() => seen.length > 0 && seen.every((each) => each !== undefined))
    expect(await m.value(`SELECT count(*)::int FROM people WHERE id > 1000`)).toBe(0)
    await standby.resume()
    expect(await lane).toMatchObject({ done: true, throttledBy: undefined })

    // A standby that is gone is not one that lags: what is left decides.
    await standby.stop()
    await eventually(async () => (await ask(m, {}, 1)) === undefined, { timeoutMs: 20_000 })
  })

  test('a standby that pg_stat_replication does not show is asked itself, until it is none any more', async (t) => {
    const m = await prepare(t, version)
    const standby = await startStandby(t, m.test, `asked_${version}`)
    const role = `blind_${m.test.name}`
    await m.sql(
      `CREATE ROLE ${role}; GRANT ${role} TO postgres; GRANT ALL ON ALL TABLES IN SCHEMA ${m.place.scope.schema} TO ${role}`,
    )
    const blind = await m.open({ role })
    const url = m.test.url.replace(/:\d+\//, `:${standby.port}/`)
    const opened = await openDatabase('replica', { url, maxConnections: 2 })
    t.onTestFinished(() => opened.close())
    let isAway = false
    const openStandby = (): Promise<Database> =>
      isAway ? Promise.reject(new Error('no route')) : Promise.resolve(opened)
    const throttled = (limits: Limits): (() => Promise<string | undefined>) =>
      createBackfillThrottle(
        blind,
        { ...m.migration.backfill, maxReplicationLagSec: 1, throttle: limits },
        tables,
        openStandby,
      )
    expect(await throttled({})()).toMatch(/^the lag of standby \S+ cannot be read \(grant pg_monitor/)
    const throttle = throttled({ standbys: ['replica'] })
    const until = (reason: RegExp | undefined): Promise<unknown> =>
      eventually(
        async () => {
          const said = await throttle()
          return reason === undefined ? said === undefined : reason.test(said ?? '')
        },
        { what: String(reason), timeoutMs: 20_000, intervalMs: 200 },
      )
    expect(await throttle()).toBe('the lag of standby replica is not known yet')
    await until(undefined)
    await standby.pause()
    await until(/^standby replica is \d+\.\d s behind; the limit is 1 s$/)
    await standby.resume()
    await until(undefined)
    isAway = true
    await until(/^the lag of standby replica cannot be read: /)
    isAway = false
    await until(undefined)
    await standby.promote()
    await until(/^replica is no standby any more/)
  })
})
