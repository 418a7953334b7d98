import { describe, expect, test } from 'vitest'
import { createBackfillThrottle } from '../../../src/backfill/throttle.ts'
import { prepare, shutGate } from '../../support/held-users.ts'
import { postgresVersions } from '../../support/postgres.ts'
import { askThrottle as ask, noStandby, throttledTables as tables } from '../../support/throttle.ts'
import { eventually } from '../../support/wait.ts'

describe.each(postgresVersions())('what lanes wait for on PostgreSQL %s', (version) => {
  test('a slot that nobody reads', async (t) => {
    const m = await prepare(t, version)
    const slot = `held_${m.test.name}`
    await m.sql(`SELECT pg_create_physical_replication_slot('${slot}', true)`)
    await m.sql(`CREATE TABLE filler AS SELECT repeat('x', 1000) AS v FROM generate_series(1, 3000)`)
    try {
      expect(await ask(m, { maxSlotLagBytes: 1_000_000 })).toMatch(
        new RegExp(
          `^replication slot \\S+, which nobody reads, holds back \\d+ bytes of WAL; the limit is 1000000$`,
        ),
      )
      expect(await ask(m, { maxSlotLagBytes: 1e12 })).toBeUndefined()
    } finally {
      await m.sql(`SELECT pg_drop_replication_slot('${slot}')`)
    }
  })

  test('sessions, transactions, and who may not see them', async (t) => {
    const m = await prepare(t, version)
    const session = await m.session()
    await session.query('BEGIN; SELECT FROM users')
    await eventually(async () => (await ask(m, { maxTransactionSec: 0.5 })) !== undefined)
    expect(await ask(m, { maxTransactionSec: 0.5 })).toMatch(
      /^a transaction has been open for \d+ s; the limit is 0.5 s$/,
    )
    expect(await ask(m, { maxTransactionSec: 3600 })).toBeUndefined()
    await session.query('ROLLBACK')
    const keeper = await shutGate(m)
    const waiters = await Promise.all([m.session(), m.session()])
    const waiting = Promise.all(waiters.map((each) => each.query('SELECT pg_advisory_lock_shared(4711)')))
    expect(
      await eventually(() => ask(m, { maxActiveSessions: 1 }), { what: 'two sessions to be active' }),
    ).toMatch(/^\d+ sessions are active; the limit is 1$/)
    await keeper.query('SELECT pg_advisory_unlock(4711)')
    await waiting
    const role = `blind_${m.test.name}`
    await m.sql(`CREATE ROLE ${role}`)
    const blind = await m.open({ role })
    const throttle = createBackfillThrottle(
      blind,
      { ...m.migration.backfill, throttle: { maxActiveSessions: 1000 } },
      tables,
      noStandby,
    )
    expect(await throttle()).toMatch(/^what \d+ sessions do cannot be read \(grant pg_monitor/)
    await m.sql(`DROP ROLE ${role}`)
  })

  test('dead row versions that vacuum cannot take', async (t) => {
    const m = await prepare(t, version)
    await m.sql(
      `ALTER TABLE users SET (autovacuum_enabled = off); INSERT INTO users SELECT i, 'x' FROM generate_series(100, 3000) i`,
    )
    await m.sql(`BEGIN; SET LOCAL crossfade.applying = 'm'; UPDATE users SET name = 'y'; COMMIT`)
    await eventually(async () => (await ask(m, { maxDeadRatio: 0.3 })) !== undefined)
    expect(await ask(m, { maxDeadRatio: 0.3 })).toMatch(
      /^users has 29\d\d dead row versions beside \d+ live ones; the limit is a share of 0.3\. Vacuum has to come/,
    )
    expect(await ask(m, { maxDeadRatio: 0.9 })).toBeUndefined()
    await m.sql('VACUUM users')
    await eventually(async () => (await ask(m, { maxDeadRatio: 0.3 })) === undefined)
  })

  test('the rate of WAL', async (t) => {
    const m = await prepare(t, version)
    const throttle = createBackfillThrottle(
      m.place,
      { ...m.migration.backfill, throttle: { maxWalBytesPerSec: 100_000 } },
      tables,
      noStandby,
    )
    expect(await throttle()).toBeUndefined()
    await m.sql(`CREATE TABLE filler AS SELECT repeat('x', 1000) AS v FROM generate_series(1, 3000)`)
    const reason = await eventually(throttle, { timeoutMs: 5_000, what: 'the next look' })
    expect(reason).toMatch(/^the server writes \d+ bytes of WAL a second; the limit is 100000$/)
  })

  test('a query of the user, also one that fails, writes, lasts or gives no number', async (t) => {
    const m = await prepare(t, version)
    const asked = (sql: string, max = 5): Promise<string | undefined> => ask(m, { query: { sql, max } })
    expect(await asked('SELECT 5')).toBeUndefined()
    expect(await asked('SELECT 5.5 AS depth')).toBe('the query of backfill.throttle says 5.5; the limit is 5')
    expect(await asked('SELECT NULL')).toBe('the query of backfill.throttle gives no number')
    expect(await asked('SELECT 1 WHERE false')).toBe('the query of backfill.throttle gives no number')
    expect(await asked(`SELECT 'secret'`)).toBe('the query of backfill.throttle gives no number')
    expect(await asked('SELECT 1 / 0')).toMatch(/^the query of backfill.throttle failed/)
    expect(await asked('DELETE FROM users RETURNING 1')).toMatch(/^the query of backfill.throttle failed/)
    expect(await asked('SELECT 1 FROM pg_sleep(5)')).toMatch(/^the query of backfill.throttle failed/)
    expect(await m.value('SELECT count(*) > 0 FROM users')).toBe(true)
  })

  test('autovacuum on a table of the migration', async (t) => {
    const m = await prepare(t, version)
    const limits = { pauseForAutovacuum: true }
    expect(await ask(m, limits)).toBeUndefined()
    // Slow enough to be seen, and woken each second.
    await m.sql(
      `ALTER TABLE users SET (autovacuum_vacuum_threshold = 0, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_cost_delay = 100, autovacuum_vacuum_cost_limit = 1)`,
    )
    await m.sql(`ALTER SYSTEM SET autovacuum_naptime = '1s'`)
    await m.sql('SELECT pg_reload_conf()')
    try {
      await m.sql(
        `INSERT INTO users SELECT i, 'n' || i FROM generate_series(100000, 130000) i; DELETE FROM users WHERE id >= 100000`,
      )
      expect(
        await eventually(() => ask(m, limits), { what: 'autovacuum', timeoutMs: 30_000, intervalMs: 100 }),
      ).toBe('autovacuum works on users')
    } finally {
      await m.sql('ALTER SYSTEM RESET autovacuum_naptime')
      await m.sql('SELECT pg_reload_conf()')
    }
    expect(await ask(m, {})).toBeUndefined()
  })
})
