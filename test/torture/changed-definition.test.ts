import { describe, expect, test } from 'vitest'
import { fingerprint, resolveMigration, type DefinitionInput } from '../../src/definition/index.ts'
import { itemsToGoods } from '../support/items-to-goods.ts'
import { Ledger } from '../support/ledger.ts'
import { MortalWorker } from '../support/mortal-worker.ts'
import { postgresVersions, withDatabase } from '../support/postgres.ts'

/**
 * Danger: "the definition changes under a running migration". It stands in the database beside the rows, where anybody may lay hands on
 * it, and the workflow holds its fingerprint: what does not fit is worked with by nobody.
 */

const definition: DefinitionInput = { ...itemsToGoods, name: 'pinned' }
const migration = resolveMigration(definition)
const other = resolveMigration({ ...definition, backfill: { batchSize: 7 } })
const refOf = (of: typeof migration): object => ({
  name: of.name,
  database: of.database,
  fingerprint: fingerprint(of),
})

describe.each(postgresVersions())('PostgreSQL %s', (version) => {
  test('nothing works with another definition than the one that was approved', async (t) => {
    const database = await withDatabase(t, version)
    await Ledger.open(t, database, 'items', 100)
    // A process for each attempt: what one has read it keeps.
    const attempt = async (
      ...[name, input]: [Parameters<MortalWorker['attempt']>[0], object]
    ): Promise<unknown> => {
      const worker = new MortalWorker(t, database.url)
      try {
        return await worker.attempt(name, input, false)
      } finally {
        await worker.end()
      }
    }
    await expect(attempt('plan', { migration, fingerprint: fingerprint(other) })).rejects.toThrow(
      'DEFINITION.FINGERPRINT',
    )
    await attempt('expand', { migration, fingerprint: fingerprint(migration) })
    const plan = { settings: {} }
    await expect(attempt('planBackfill', { ...refOf(other), ...plan })).rejects.toThrow('DEFINITION.CHANGED')
    // By hand, with the old fingerprint beside it.
    const { pool } = database
    const kept = (await pool.query('SELECT definition FROM _crossfade_pinned.state')).rows[0] as {
      definition: string
    }
    await pool.query('UPDATE _crossfade_pinned.state SET definition = $1', [JSON.stringify(other)])
    await expect(attempt('planBackfill', { ...refOf(migration), ...plan })).rejects.toThrow(
      'DEFINITION.CHANGED',
    )
    // And the way back of another migration of that name takes nothing away.
    await attempt('windDown', { ...refOf(other), cleanUp: true })
    expect((await pool.query('SELECT FROM goods')).rowCount).toBe(0)
    await pool.query('UPDATE _crossfade_pinned.state SET definition = $1', [kept.definition])
    await attempt('planBackfill', { ...refOf(migration), ...plan })
  })
})
