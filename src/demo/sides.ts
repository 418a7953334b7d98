import { newImage, oldImage } from './customers.ts'
import type { Seen } from './ledger.ts'

/** A statement of the application, timed and counted by whoever runs it. */
export type Run = (
  sql: string,
  values?: readonly unknown[],
) => Promise<readonly Readonly<Record<string, unknown>>[]>

/** A customer as the application thinks of one. */
export interface NewCustomer {
  /** Only for a customer that comes back after having been deleted. */
  readonly id?: number
  readonly version: number
  readonly first: string
  readonly last: string
  readonly email: string
  readonly phone: string | null
  readonly street: string
  readonly postcode: string
  readonly city: string
  readonly country: string
  readonly locale: string
  readonly status: string
  readonly cents: number
}

export type Change =
  | { readonly what: 'status'; readonly status: string }
  | { readonly what: 'pay'; readonly cents: number }
  | { readonly what: 'prefer'; readonly locale: string }
  | { readonly what: 'rename'; readonly first: string; readonly last: string }
  | { readonly what: 'email'; readonly email: string }
  | {
      readonly what: 'move'
      readonly street: string
      readonly postcode: string
      readonly city: string
      readonly country: string
    }

/** A part of what somebody does: the same on either schema, and on the way to a service. */
export type Step =
  | { readonly does: 'add'; readonly customers: readonly NewCustomer[] }
  | { readonly does: 'change'; readonly ids: readonly number[]; readonly change: Change }
  | { readonly does: 'remove'; readonly ids: readonly number[] }

export interface Found extends Seen {
  readonly email: string
}

/** The application's data layer against one schema. Rows are locked in the order of their keys, so that it never deadlocks itself. */
export interface Side {
  find(run: Run, id: number): Promise<Found | undefined>
  findByEmail(run: Run, email: string): Promise<Found | undefined>
  add(run: Run, customers: readonly NewCustomer[]): Promise<Seen[]>
  change(run: Run, ids: readonly number[], change: Change): Promise<Seen[]>
  remove(run: Run, ids: readonly number[]): Promise<Seen[]>
}

export async function takeSteps(side: Side, run: Run, steps: readonly Step[]): Promise<Seen[]> {
  const seen: Seen[] = []
  for (const step of steps)
    switch (step.does) {
      case 'add':
        seen.push(...(await side.add(run, step.customers)))
        break
      case 'change':
        seen.push(...(await side.change(run, step.ids, step.change)))
        break
      case 'remove':
        seen.push(...(await side.remove(run, step.ids)))
        break
    }
  return seen
}

const toSeen = (row: Readonly<Record<string, unknown>>): Seen => ({
  id: Number(row['id']),
  version: Number(row['version']),
  image: typeof row['image'] === 'string' ? row['image'] : undefined,
})

const toFound = (row: Readonly<Record<string, unknown>> | undefined): Found | undefined =>
  row && { ...toSeen(row), email: String(row['email']) }

/** The rows of `customers` as the parameter $1 carries them. */
const given =
  `jsonb_to_recordset($1::jsonb) AS g(id bigint, version int, first text, last text, email text, phone text, street text, postcode text, ` +
  `city text, country text, locale text, status text, cents bigint)`
const givenId = `coalesce(g.id, nextval('customer_numbers'))`

const locked = (table: string): string =>
  `WITH locked AS MATERIALIZED (SELECT id FROM ${table} WHERE id = ANY ($1::bigint[]) ORDER BY id FOR UPDATE)`
const touched = 'version = t.version + 1, updated_at = clock_timestamp()'

const oldRow = `id, version, email, ${oldImage} AS image`

/** One wide table. */
export const oldSide: Side = {
  async find(run, id) {
    return toFound((await run(`SELECT ${oldRow} FROM customers WHERE id = $1`, [id]))[0])
  },
  async findByEmail(run, email) {
    return toFound((await run(`SELECT ${oldRow} FROM customers WHERE lower(email) = lower($1)`, [email]))[0])
  },
  async add(run, customers) {
    const rows = await run(
      `INSERT INTO customers (id, version, first_name, last_name, email, phone, street, postcode, city, country, preferences, status, balance) ` +
        `SELECT ${givenId}, g.version, g.first, g.last, g.email, g.phone, g.street, g.postcode, g.city, g.country, jsonb_build_object('locale', g.locale), g.status, g.cents / 100.0 ` +
        `FROM ${given} RETURNING ${oldRow}`,
      [JSON.stringify(customers)],
    )
    return rows.map(toSeen)
  },
  async change(run, ids, change) {
    const { set, values } = oldChange(change)
    const rows = await run(
      ids.length === 1
        ? `UPDATE customers AS t SET ${set}, ${touched} WHERE id = ANY ($1::bigint[]) RETURNING ${oldRow}`
        : `${locked('customers')} UPDATE customers AS t SET ${set}, ${touched} FROM locked WHERE t.id = locked.id RETURNING t.${oldRow}`,
      [ids, ...values],
    )
    return rows.map(toSeen)
  },
  async remove(run, ids) {
    const rows = await run(
      `${locked('customers')} DELETE FROM customers AS t USING locked WHERE t.id = locked.id RETURNING t.id, t.version`,
      [ids],
    )
    return rows.map(toSeen)
  },
}

function oldChange(change: Change): { set: string; values: unknown[] } {
  switch (change.what) {
    case 'status':
      return { set: 'status = $2', values: [change.status] }
    case 'pay':
      return { set: 'balance = balance + $2::bigint / 100.0', values: [change.cents] }
    case 'prefer':
      return {
        set: `preferences = jsonb_set(preferences, '{locale}', to_jsonb($2::text))`,
        values: [change.locale],
      }
    case 'rename':
      return { set: 'first_name = $2, last_name = $3', values: [change.first, change.last] }
    case 'email':
      return { set: 'email = $2', values: [change.email] }
    case 'move':
      return {
        set: 'street = $2, postcode = $3, city = $4, country = $5',
        values: [change.street, change.postcode, change.city, change.country],
      }
  }
}

const newRow = `p.id, p.version, c.email, ${newImage} AS image`
const joined = 'people AS p JOIN contact_points AS c ON c.person_id = p.id'

/** Two tables. A person's row is always locked first. */
export const newSide: Side = {
  async find(run, id) {
    return toFound((await run(`SELECT ${newRow} FROM ${joined} WHERE p.id = $1`, [id]))[0])
  },
  async findByEmail(run, email) {
    return toFound(
      (await run(`SELECT ${newRow} FROM ${joined} WHERE lower(c.email) = lower($1)`, [email]))[0],
    )
  },
  async add(run, customers) {
    const rows = await run(
      `WITH g AS MATERIALIZED (SELECT ${givenId} AS new_id, g.* FROM ${given}), ` +
        `p AS (INSERT INTO people (id, version, given_name, family_name, full_name, locale, balance_cents, preferences, status) ` +
        `SELECT new_id, version, first, last, first || ' ' || last, locale, cents, jsonb_build_object('locale', locale), status FROM g RETURNING *), ` +
        `c AS (INSERT INTO contact_points (person_id, email, email_domain, phone, address) SELECT new_id, email, split_part(lower(email), '@', 2), phone, ` +
        `jsonb_build_object('street', street, 'postcode', postcode, 'city', city, 'country', country) FROM g RETURNING *) ` +
        `SELECT ${newRow} FROM p JOIN c ON c.person_id = p.id`,
      [JSON.stringify(customers)],
    )
    return rows.map(toSeen)
  },
  async change(run, ids, change) {
    const { person, contact, values } = newChange(change)
    const rows = await run(
      `${locked('people')} UPDATE people AS t SET ${person ? `${person}, ` : ''}${touched} FROM locked WHERE t.id = locked.id RETURNING t.id`,
      person ? [ids, ...values] : [ids],
    )
    const held = rows.map((row) => Number(row['id']))
    if (contact && held.length > 0)
      await run(`UPDATE contact_points SET ${contact} WHERE person_id = ANY ($1::bigint[])`, [
        held,
        ...values,
      ])
    // The people are locked by now, so this says what the transaction will commit.
    return (await run(`SELECT ${newRow} FROM ${joined} WHERE p.id = ANY ($1::bigint[])`, [held])).map(toSeen)
  },
  async remove(run, ids) {
    const rows = await run(
      `${locked('people')} DELETE FROM people AS t USING locked WHERE t.id = locked.id RETURNING t.id, t.version`,
      [ids],
    )
    return rows.map(toSeen)
  },
}

function newChange(change: Change): { person?: string; contact?: string; values: unknown[] } {
  switch (change.what) {
    case 'status':
      return { person: 'status = $2', values: [change.status] }
    case 'pay':
      return { person: 'balance_cents = balance_cents + $2::bigint', values: [change.cents] }
    case 'prefer':
      return {
        person: `preferences = jsonb_set(preferences, '{locale}', to_jsonb($2::text)), locale = $2::text`,
        values: [change.locale],
      }
    case 'rename':
      return {
        person: `given_name = $2, family_name = $3, full_name = $2::text || ' ' || $3::text`,
        values: [change.first, change.last],
      }
    case 'email':
      return {
        contact: `email = $2, email_domain = split_part(lower($2::text), '@', 2)`,
        values: [change.email],
      }
    case 'move':
      return {
        contact: `address = jsonb_build_object('street', $2::text, 'postcode', $3::text, 'city', $4::text, 'country', $5::text)`,
        values: [change.street, change.postcode, change.city, change.country],
      }
  }
}
