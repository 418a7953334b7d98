import { createCrossfade } from 'crossfade-db/app'
import type pg from 'pg'

export interface Order {
  readonly id: number
  readonly customer: string
  readonly totalCents: number
  readonly state: string
}

/** What the service knows of its database. */
export interface Orders {
  find(id: number): Promise<Order | undefined>
  /** Creates or changes it: the same call again does no harm. */
  save(order: Order): Promise<void>
  close(): Promise<void>
}

type Queryable = Pick<pg.Pool, 'query'>

const columns = 'id::int AS id, customer, total_cents AS "totalCents", state'
const columnsV2 = 'id::int AS id, customer, (total * 100)::int AS "totalCents", lower(status) AS state'

const find = async (db: Queryable, what: string, id: number): Promise<Order | undefined> =>
  (await db.query<Order>(`SELECT ${what} WHERE id = $1`, [id])).rows[0]

const insert = (db: Queryable, { id, customer, totalCents, state }: Order) =>
  db.query(
    `INSERT INTO orders (id, customer, total_cents, state) VALUES ($1, $2, $3, $4)
     ON CONFLICT (id) DO UPDATE SET customer = excluded.customer, total_cents = excluded.total_cents, state = excluded.state`,
    [id, customer, totalCents, state],
  )

const insertV2 = (db: Queryable, { id, customer, totalCents, state }: Order) =>
  db.query(
    `INSERT INTO orders_v2 (id, customer, total, status) VALUES ($1, $2, $3::numeric / 100, upper($4))
     ON CONFLICT (id) DO UPDATE SET customer = excluded.customer, total = excluded.total, status = excluded.status`,
    [id, customer, totalCents, state],
  )

/** Release 1. */
export function openOldOrders(pool: pg.Pool): Orders {
  return {
    find: (id) => find(pool, `${columns} FROM orders`, id),
    save: async (order) => void (await insert(pool, order)),
    close: () => Promise.resolve(),
  }
}

/**
 * Only for a test that kills the service there: of an order of this customer, the copy to the other side is begun, and never made.
 */
const standsStillFor = process.env['STAND_STILL_BETWEEN_WRITES_FOR']

const standStill = (order: Order) => ({
  copy: () => {
    console.log(`standing still between both writes of order ${order.id}`)
    return new Promise<never>(() => undefined)
  },
})

/** Release 2: it may be deployed long before the migration begins, and stay until long after its end. */
export async function openOrders(pool: pg.Pool): Promise<Orders> {
  const crossfade = await createCrossfade({ migration: 'orders', database: pool })
  return {
    find: (id) =>
      crossfade.read(id, {
        old: () => find(pool, `${columns} FROM orders`, id),
        new: () => find(pool, `${columnsV2} FROM orders_v2`, id),
      }),
    save: async (order) =>
      void (await crossfade.write({
        keys: [order.id],
        old: (client) => insert(client, order),
        new: (client) => insertV2(client, order),
        ...(order.customer === standsStillFor ? standStill(order) : {}),
      })),
    close: () => crossfade.close(),
  }
}
