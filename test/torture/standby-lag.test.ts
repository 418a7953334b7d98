import { describe, expect, test } from 'vitest'
import { createBackfillThrottle } from '../../src/backfill/throttle.ts'
import { runLane } from '../../src/backfill/run-lane.ts'
import { paceOf, planRanges } from '../support/both-sides.ts'
import { prepare } from '../support/held-users.ts'
import { postgresVersions } from '../support/postgres.ts'
import { startStandby } from '../support/standby.ts'
import { askThrottle as ask, throttledTables as tables } from '../support/throttle.ts'
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
      createBackfillThrottle(m.place, settings, tables),
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
})
