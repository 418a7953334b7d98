import { describe, expect, test } from 'vitest'
import { createBackfillThrottle, type Throttle } from '../../src/backfill/throttle.ts'
import { runLane } from '../../src/backfill/run-lane.ts'
import { openDatabase, type Database } from '../../src/database/index.ts'
import { paceOf, planRanges, type BothSides } from '../support/both-sides.ts'
import { prepare } from '../support/held-users.ts'
import { ownPostgres, postgresVersions } from '../support/postgres.ts'
import { startStandby } from '../support/standby.ts'
import { askThrottle as ask, noStandby, throttledTables as tables, type Limits } from '../support/throttle.ts'
import { eventually } from '../support/wait.ts'

/** A lane under a throttle, with every reason that it reports. */
function laneWith(
  m: BothSides,
  throttle: Throttle,
): { result: ReturnType<typeof runLane>; reasons: (string | undefined)[]; untilHeld(): Promise<void> } {
  const reasons: (string | undefined)[] = []
  const result = runLane(
    m.place,
    m.groups.forward,
    0,
    { ...m.migration.backfill, rateLimitMs: 0 },
    throttle,
    {
      ...paceOf(),
      report: ({ throttledBy }) => void reasons.push(throttledBy),
    },
  )
  return {
    result,
    reasons,
    untilHeld: async () =>
      void (await eventually(() => reasons.length > 0 && reasons.every((each) => each !== undefined), {
        what: 'the lane to be held',
      })),
  }
}

/** Danger: "a replica falls behind". On a server of its own: a lagging standby is everybody's. */
describe.each(postgresVersions())('PostgreSQL %s', (version) => {
  test('a real standby that falls behind stops a lane before its next chunk, and lets it go on', async (t) => {
    const m = await prepare(t, await ownPostgres(t, version))
    const standby = await startStandby(t, m.test, `standby_${version}`)
    expect(await ask(m, {})).toBeUndefined()
    await standby.pause()
    await m.sql(`INSERT INTO users SELECT i, 'n' || i FROM generate_series(1000, 3000) i`)
    const reason = await eventually(() => ask(m, {}, 1), { what: 'the standby to lag', timeoutMs: 20_000 })
    expect(reason).toMatch(
      new RegExp(`^standby standby_${version} is \\d+\\.\\d s behind; the limit is 1 s$`),
    )

    await planRanges(m.place, m.groups.forward, 'backfill', 1)
    const settings = { ...m.migration.backfill, maxReplicationLagSec: 1 }
    const lane = laneWith(m, createBackfillThrottle(m.place, settings, tables, noStandby))
    await lane.untilHeld()
    expect(await m.value(`SELECT count(*)::int FROM people WHERE id > 1000`)).toBe(0)
    await standby.resume()
    expect(await lane.result).toMatchObject({ done: true, throttledBy: undefined })

    // A standby that is gone is not one that lags: what is left decides.
    await standby.stop()
    await eventually(async () => (await ask(m, {}, 1)) === undefined, { timeoutMs: 20_000 })
  })

  test('a standby that pg_stat_replication does not show is asked itself, until it is none any more', async (t) => {
    const m = await prepare(t, await ownPostgres(t, version))
    const standby = await startStandby(t, m.test, `asked_${version}`)
    const role = `blind_${m.test.name}`
    await m.sql(
      `CREATE ROLE ${role}; GRANT ${role} TO postgres; GRANT ALL ON ALL TABLES IN SCHEMA ${m.place.scope.schema} TO ${role}`,
    )
    const blind = await m.open({ role })
    const connect = async (port: number): Promise<Database> => {
      const url = m.test.url.replace(/:\d+\//, `:${port}/`)
      const opened = await openDatabase('replica', { url, maxConnections: 2 })
      t.onTestFinished(() => opened.close())
      return opened
    }
    let address: Database | undefined = await connect(standby.port)
    const first = address
    const openStandby = (): Promise<Database> =>
      address ? Promise.resolve(address) : Promise.reject(new Error('no route'))
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
    address = undefined
    await until(/^the lag of standby replica cannot be read: /)
    address = first
    await until(undefined)
    await standby.promote()
    await until(/^replica is no standby any more/)

    // A failover: no chunk begins until another one answers under that name.
    await planRanges(m.place, m.groups.forward, 'backfill', 1)
    const lane = laneWith(m, throttle)
    await lane.untilHeld()
    expect(lane.reasons.at(-1)).toMatch(/^replica is no standby any more/)
    expect(await m.value('SELECT count(*)::int FROM people')).toBe(0)
    address = await connect((await startStandby(t, m.test, `next_${version}`)).port)
    expect(await lane.result).toMatchObject({ done: true, throttledBy: undefined })
    expect(await m.value('SELECT count(*)::int FROM people')).toBe(5)
  })
})
