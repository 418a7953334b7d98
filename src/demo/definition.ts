import type { DefinitionInput } from '../definition/index.ts'

export const migrationName = 'customers'

/** Where the migration keeps its flags; the application reads them there. */
export const flagsSchema = `"_crossfade_${migrationName}"`
export const readFlag = `${migrationName}.new_schema_read`

/** How writes reach the other side: as `sync.method` of a definition. */
export type DemoSync = 'trigger' | 'application'

export interface Pacing {
  readonly rows: number
  readonly lanes: number
  /** Small enough that the backfill lasts for some seconds, whatever the size of the table: a crash has to fall into it. */
  readonly mostChunkRows: number
  readonly ramp: readonly number[]
  readonly rampHoldMs: number
  readonly retireSoakMs: number
}

const lanes = 4
const chunksPerLane = 90

export function pacingFor(rows: number): Pacing {
  return {
    rows,
    lanes,
    mostChunkRows: Math.min(20_000, Math.max(25, Math.ceil(rows / lanes / chunksPerLane))),
    ramp: [1, 10, 50, 100],
    rampHoldMs: 1_000,
    // Long enough for the demo's own comparison of both sides under the new primary.
    retireSoakMs: Math.round(4_000 + rows / 100),
  }
}

/** One wide table becomes two: who somebody is, and how to reach them. */
export function splitCustomers(pacing: Pacing, sync: DemoSync): DefinitionInput {
  return {
    name: migrationName,
    kind: 'table',
    sync: { method: sync },
    mappings: [toPeople, toContactPoints],
    expand: { tables: [people, contactPoints] },
    cutover: {
      ramp: pacing.ramp.map((percent) => ({ percent, hold: `${pacing.rampHoldMs}ms` })),
      queries: [
        {
          name: 'customer by e-mail',
          sql: "SELECT person_id FROM contact_points WHERE lower(email) = 'ada.lovelace.1@example.com'",
          index: 'contact_points_email',
        },
        {
          name: 'customer by number',
          sql: 'SELECT * FROM people JOIN contact_points ON person_id = id WHERE id = 1',
        },
      ],
    },
    retire: { soak: `${pacing.retireSoakMs}ms` },
    contract: { observe: '2s', soak: '1s' },
    backfill: {
      profile: 'fast',
      maxConcurrency: pacing.lanes,
      batchSize: pacing.mostChunkRows,
      maxBatchSize: pacing.mostChunkRows,
      rateLimitMs: 60,
    },
    // Workers are killed on purpose: a change may wait for two heartbeat time-outs, and that alone is no reason to turn back.
    metrics: { alertThresholds: { lagThreshold: 30 } },
    safety: { requireApproval: true },
  }
}

type Mapping = DefinitionInput['mappings'][number]

const kept = { preferences: true, status: true, version: true, created_at: true, updated_at: true } as const

const toPeople: Mapping = {
  source: 'customers',
  target: 'people',
  key: { id: 'id' },
  columns: {
    given_name: 'first_name',
    family_name: 'last_name',
    full_name: "first_name || ' ' || last_name",
    locale: "coalesce(preferences ->> 'locale', 'en')",
    balance_cents: '(balance * 100)::bigint',
    ...kept,
  },
  reverse: {
    columns: {
      first_name: 'given_name',
      last_name: 'family_name',
      balance: 'balance_cents::numeric / 100',
      ...kept,
    },
  },
}

const toContactPoints: Mapping = {
  source: 'customers',
  target: 'contact_points',
  key: { id: 'person_id' },
  columns: {
    email: true,
    email_domain: "split_part(lower(email), '@', 2)",
    phone: true,
    address: "jsonb_build_object('street', street, 'postcode', postcode, 'city', city, 'country', country)",
  },
  reverse: {
    columns: {
      email: true,
      phone: true,
      street: "address ->> 'street'",
      postcode: "address ->> 'postcode'",
      city: "address ->> 'city'",
      country: "address ->> 'country'",
    },
  },
}

type TargetTable = NonNullable<NonNullable<DefinitionInput['expand']>['tables']>[number]

const people: TargetTable = {
  table: 'people',
  columns: {
    id: "bigint NOT NULL DEFAULT nextval('customer_numbers')",
    given_name: 'text NOT NULL',
    family_name: 'text NOT NULL',
    full_name: 'text NOT NULL',
    locale: 'text NOT NULL',
    balance_cents: 'bigint NOT NULL DEFAULT 0',
    preferences: "jsonb NOT NULL DEFAULT '{}'",
    status: "text NOT NULL DEFAULT 'active'",
    version: 'integer NOT NULL DEFAULT 1',
    created_at: 'timestamptz NOT NULL DEFAULT now()',
    updated_at: 'timestamptz NOT NULL DEFAULT now()',
  },
  primaryKey: ['id'],
  indexes: [
    { name: 'people_family_name', on: '(family_name, given_name)' },
    { name: 'people_blocked', on: "(updated_at) WHERE status = 'blocked'" },
  ],
  checks: [{ name: 'people_status', expression: "status IN ('active', 'paused', 'blocked')" }],
}

const contactPoints: TargetTable = {
  table: 'contact_points',
  columns: {
    person_id: 'bigint NOT NULL',
    email: 'text NOT NULL',
    email_domain: 'text NOT NULL',
    phone: 'text',
    address: 'jsonb NOT NULL',
  },
  primaryKey: ['person_id'],
  indexes: [
    { name: 'contact_points_email', on: '(lower(email))', unique: true },
    { name: 'contact_points_city', on: "((address ->> 'city'))" },
  ],
  checks: [{ name: 'contact_points_email_shape', expression: "email LIKE '%_@_%'" }],
  foreignKeys: [
    {
      name: 'contact_points_person',
      columns: ['person_id'],
      references: { table: 'people', columns: ['id'] },
      onDelete: 'cascade',
    },
  ],
}
