import { describe, expect, test } from 'vitest'
import { openDatabase } from '../../../src/database/index.ts'
import { resolveMigration } from '../../../src/definition/index.ts'
import { describeSources, makePlan, planToken } from '../../../src/plan/make-plan.ts'
import { expand } from '../../support/both-sides.ts'
import { postgresVersions, withDatabase } from '../../support/postgres.ts'

const migration = resolveMigration({
  name: 'm',
  kind: 'table',
  mappings: [
    { source: 'users', target: 'people', key: { id: 'id' }, columns: { email: true }, reverse: false },
  ],
  expand: {
    tables: [{ table: 'people', columns: { id: 'bigint', email: 'text' }, primaryKey: ['id'] }],
  },
})

describe.each(postgresVersions())('drift on PostgreSQL %s', (version) => {
  test('names each changed column, and nothing for what does not change columns', async (t) => {
    const test = await withDatabase(t, version)
    await test.pool.query('CREATE TABLE users (id bigint PRIMARY KEY, email varchar(100))')
    const database = await openDatabase('default', { url: test.url, maxConnections: 4 })
    t.onTestFinished(() => database.close())
    const place = { database, scope: database.dialect.catalog.scope('m') }
    const { token } = (await makePlan(place, migration)).summary
    await expand(place, migration)
    // Without a kept description the change is found all the same, only not named.
    expect(await planToken(place, migration, token)).toMatchObject({ token, changes: [] })
    await database.transaction(async (tx) => {
      const sources = await describeSources(tx, place, migration)
      await database.dialect.definitions.savePlanned(tx, place.scope, JSON.stringify(sources))
    })

    await test.pool.query('CREATE INDEX ON users (email)')
    await test.pool.query('ANALYZE users')
    expect(await planToken(place, migration, token)).toMatchObject({ token, changes: [] })

    await test.pool.query('ALTER TABLE users ALTER email TYPE varchar(200), ADD note text')
    const drifted = await planToken(place, migration, token)
    expect(drifted.token).not.toBe(token)
    expect(drifted.changes.map((line) => line.replace(/^\S+: /, ''))).toEqual([
      'column email: character varying(100) → character varying(200)',
      'column note text is new',
    ])
  })
})
