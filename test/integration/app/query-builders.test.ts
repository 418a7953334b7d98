import { drizzle } from 'drizzle-orm/node-postgres'
import { eq } from 'drizzle-orm'
import { integer, pgTable, text } from 'drizzle-orm/pg-core'
import knex from 'knex'
import { CompiledQuery, Kysely, PostgresDialect, type Transaction } from 'kysely'
import { expect, test, type TestContext } from 'vitest'
import type pg from 'pg'
import {
  createCrossfade,
  type ClientOf,
  type Crossfade,
  type TransactionClient,
} from '../../../src/app/index.ts'
import { withBothSides, type BothSides } from '../../support/both-sides.ts'
import { usersAndPeople, usersToPeople } from '../../support/users-to-people.ts'
import { eventually } from '../../support/wait.ts'

interface Repository {
  find(id: number): Promise<string | undefined>
  save(id: number, name: string): Promise<unknown>
  /** What is not committed reaches neither side. */
  saveInVain(id: number, name: string): Promise<unknown>
}

type Service = Crossfade<ClientOf<pg.Pool>>

interface Tables {
  users: { id: number; name: string }
  people: { id: number; name: string }
}

/** The application opens its transactions with kysely; what the library says, it says within them. */
function byKysely(pool: pg.Pool, crossfade: Service): Repository {
  const db = new Kysely<Tables>({ dialect: new PostgresDialect({ pool }) })
  const clientOf = (trx: Transaction<Tables>): TransactionClient => ({
    query: ({ text: sql, values }) => trx.executeQuery(CompiledQuery.raw(sql, values)),
  })
  const find = (table: keyof Tables) => async (id: number) =>
    (await db.selectFrom(table).select('name').where('id', '=', id).executeTakeFirst())?.name
  const save = (trx: Transaction<Tables>, id: number, name: string): Promise<unknown> => {
    const upsert = (table: keyof Tables) => () =>
      trx
        .insertInto(table)
        .values({ id, name })
        .onConflict((conflict) => conflict.column('id').doUpdateSet({ name }))
        .execute()
    return crossfade.write<unknown, TransactionClient>({
      ...{ client: clientOf(trx), keys: [id], old: upsert('users'), new: upsert('people') },
    })
  }
  return {
    find: (id) => crossfade.read(id, { old: () => find('users')(id), new: () => find('people')(id) }),
    save: (id, name) => db.transaction().execute((trx) => save(trx, id, name)),
    saveInVain: (id, name) =>
      db
        .transaction()
        .execute(async (trx) => {
          await save(trx, id, name)
          throw new Error('changed its mind')
        })
        .catch(() => undefined),
  }
}

const users = pgTable('users', { id: integer().primaryKey(), name: text() })
const people = pgTable('people', { id: integer().primaryKey(), name: text() })

/** The library opens the transaction; drizzle runs on its connection. */
function byDrizzle(pool: pg.Pool, crossfade: Service): Repository {
  const find = (table: typeof users | typeof people) => async (id: number) =>
    (await drizzle({ client: pool }).select({ name: table.name }).from(table).where(eq(table.id, id)))[0]
      ?.name ?? undefined
  const save = (id: number, name: string, then?: () => never): Promise<unknown> => {
    const upsert = (table: typeof users | typeof people) => async (client: pg.PoolClient) => {
      await drizzle({ client })
        .insert(table)
        .values({ id, name })
        .onConflictDoUpdate({ target: table.id, set: { name } })
      then?.()
    }
    return crossfade.write({ keys: [id], old: upsert(users), new: upsert(people) })
  }
  return {
    find: (id) => crossfade.read(id, { old: () => find(users)(id), new: () => find(people)(id) }),
    save,
    saveInVain: (id, name) =>
      save(id, name, () => {
        throw new Error('changed its mind')
      }).catch(() => undefined),
  }
}

/** The same with knex, which has no pool of its own then. */
function byKnex(pool: pg.Pool, crossfade: Service): Repository {
  const db = knex({ client: 'pg' })
  const find = (table: keyof Tables) => async (id: number) => {
    const { sql, bindings } = db(table).select('name').where({ id }).toSQL().toNative()
    return (await pool.query<{ name: string }>(sql, [...bindings])).rows[0]?.name
  }
  const save = (id: number, name: string, then?: () => never): Promise<unknown> => {
    const upsert = (table: keyof Tables) => async (client: pg.PoolClient) => {
      await db(table).insert({ id, name }).onConflict('id').merge().connection(client)
      then?.()
    }
    return crossfade.write({ keys: [id], old: upsert('users'), new: upsert('people') })
  }
  return {
    find: (id) => crossfade.read(id, { old: () => find('users')(id), new: () => find('people')(id) }),
    save,
    saveInVain: (id, name) =>
      save(id, name, () => {
        throw new Error('changed its mind')
      }).catch(() => undefined),
  }
}

async function startService(t: TestContext): Promise<{ m: BothSides; crossfade: Service }> {
  const m = await withBothSides(t, '18', usersAndPeople, {
    sync: { method: 'application' },
    ...usersToPeople,
  })
  const { flags } = m.database.dialect
  await m.database.transaction((tx) => flags.set(tx, m.place.scope, { 'm.new_schema_write': 100 }))
  const crossfade = await createCrossfade({
    migration: 'm',
    database: m.test.pool,
    reads: { shadowRatio: 0 },
  })
  t.onTestFinished(() => crossfade.close())
  return { m, crossfade }
}

for (const [name, by] of [
  ['kysely', byKysely],
  ['drizzle', byDrizzle],
  ['knex', byKnex],
] as const)
  test(`a repository by ${name} writes both sides, in its transaction or the library’s, and reads by flag`, async (t) => {
    const { m, crossfade } = await startService(t)
    const repository = by(m.test.pool, crossfade)
    const rowsOf = (table: string): Promise<unknown> => m.sql(`SELECT id, name FROM ${table} ORDER BY id`)
    await repository.save(1, 'a')
    await repository.save(1, 'b')
    await repository.saveInVain(2, 'never')
    expect(await rowsOf('users')).toEqual([{ id: 1, name: 'b' }])
    await m.drain() // what a transaction of the application's own left to the appliers
    expect(await rowsOf('people')).toEqual([{ id: 1, name: 'b' }])

    await m.sql(`UPDATE people SET name = 'new ' || name`)
    expect([await repository.find(1), await repository.find(2)]).toEqual(['b', undefined])
    const epoch = await m.database.transaction((tx) =>
      m.database.dialect.flags.set(tx, m.place.scope, { 'm.new_schema_read': 100 }),
    )
    await eventually(() => crossfade.flags.epoch === epoch)
    // What this instance has written it reads from the primary side until it knows that it has arrived.
    await eventually(async () => (await repository.find(1)) === 'new b')
  })
