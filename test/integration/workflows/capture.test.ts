import { randomUUID } from 'node:crypto'
import { describe, expect, test, type TestContext } from 'vitest'
import type { MigrationHandle } from '../../../src/client.ts'
import type { DefinitionInput } from '../../../src/index.ts'
import { startService } from '../../support/migration.ts'
import { approve, untilDetail } from '../../support/migrations.ts'
import {
  postgresVersions,
  withDatabase,
  type PostgresVersion,
  type TestDatabase,
} from '../../support/postgres.ts'
import { usersToPeople } from '../../support/users-to-people.ts'

const definition = (name: string, mode: 'flags' | 'swap'): DefinitionInput => ({
  name,
  kind: 'table',
  ...usersToPeople,
  expand: {
    tables: [{ table: 'people', columns: { id: 'bigint NOT NULL', name: 'text' }, primaryKey: ['id'] }],
  },
  cutover: { mode, ramp: [{ percent: 100, hold: '100ms' }] },
  retire: { soak: '100ms' },
  contract: { observe: '1s', soak: '100ms' },
  backfill: { profile: 'fast' },
})

/** At the open gate of cutover somebody disables a trigger, and row 7 is changed behind it. */
async function disableAtGate(
  t: TestContext,
  version: PostgresVersion,
  mode: 'flags' | 'swap',
): Promise<{ database: TestDatabase; handle: MigrationHandle; trigger: string }> {
  const database = await withDatabase(t, version)
  await database.pool.query(
    `CREATE TABLE users (id int PRIMARY KEY, name text); INSERT INTO users SELECT i, 'n' || i FROM generate_series(1, 2000) i`,
  )
  const { client } = await startService(t, database)
  const name = `capture_${randomUUID().slice(0, 8)}`
  const trigger = `_crossfade_${name}_f1_update`
  const handle = await client.start(definition(name, mode))
  await approve(handle, 'expand')
  await untilDetail(handle, 'the gate cutover', ({ gate }) => gate?.gate === 'cutover')
  await database.pool.query(
    `ALTER TABLE users DISABLE TRIGGER ${trigger}; UPDATE users SET name = 'missed' WHERE id = 7`,
  )
  return { database, handle, trigger }
}

describe.each(postgresVersions())('PostgreSQL %s', (version) => {
  test('a trigger that somebody disables takes the ramp back, shuts the gate, and what it missed is copied', async (t) => {
    const { database, handle, trigger } = await disableAtGate(t, version, 'flags')
    await untilDetail(handle, 'the breach', ({ breach }) => breach !== undefined)
    await approve(handle, 'cutover')
    const inTrouble = { evenInTrouble: true }
    const rolledBack = await untilDetail(
      handle,
      'the way back',
      ({ trouble }) => trouble?.code === 'CUTOVER.BREACH',
      inTrouble,
    )
    expect(rolledBack.trouble?.message).toContain(`trigger ${trigger} on public.users is not enabled`)
    // Nobody mends it: the repaired comparison is not enough.
    await handle.resume({ by: 'the test' })
    const shut = await untilDetail(
      handle,
      'the shut gate',
      ({ trouble }) => trouble?.code === 'SYNC.NOT_CAPTURED',
      inTrouble,
    )
    expect(shut.trouble?.message).toContain(trigger)
    await database.pool.query(
      `UPDATE users SET name = 'missed too' WHERE id = 8; ALTER TABLE users ENABLE ALWAYS TRIGGER ${trigger}`,
    )
    await handle.resume({ by: 'the test' })
    await approve(handle, 'cutover')
    const { rows } = await database.pool.query('SELECT id, name FROM people WHERE id IN (7, 8) ORDER BY id')
    expect(rows).toEqual([
      { id: '7', name: 'missed' },
      { id: '8', name: 'missed too' },
    ])
    await approve(handle, 'retire')
    await approve(handle, 'contract')
    expect((await handle.result()).outcome).toBe('done')
  })

  test('a trigger that somebody disables shuts the gate of a swap', async (t) => {
    const { database, handle, trigger } = await disableAtGate(t, version, 'swap')
    const shut = await untilDetail(
      handle,
      'the shut gate',
      ({ trouble }) => trouble?.code === 'CUTOVER.BREACH',
      { evenInTrouble: true },
    )
    expect(shut.trouble?.message).toContain(trigger)
    await database.pool.query(`ALTER TABLE users ENABLE ALWAYS TRIGGER ${trigger}`)
    await handle.resume({ by: 'the test' })
    await approve(handle, 'cutover')
    await approve(handle, 'retire')
    await approve(handle, 'contract')
    expect((await handle.result()).outcome).toBe('done')
    const { rows } = await database.pool.query('SELECT id, name FROM users WHERE id = 7')
    expect(rows).toEqual([{ id: '7', name: 'missed' }])
  })
})
