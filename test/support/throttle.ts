import { createBackfillThrottle } from '../../src/backfill/throttle.ts'
import type { Migration } from '../../src/definition/index.ts'
import type { Database } from '../../src/database/index.ts'
import type { BothSides } from './both-sides.ts'

export type Limits = NonNullable<Migration['backfill']['throttle']>

/** The source of {@link prepare} in held-users.ts. */
export const throttledTables = [{ schema: 'public', name: 'users' }]

/** For limits that name no standby. */
export const noStandby = (name: string): Promise<Database> =>
  Promise.reject(new Error(`Nobody knows ${name}.`))

/** A new throttle each time: it keeps its answer for a second. */
export const askThrottle = (
  m: BothSides,
  throttle: Limits,
  maxReplicationLagSec = 5,
): Promise<string | undefined> =>
  createBackfillThrottle(
    m.place,
    { ...m.migration.backfill, maxReplicationLagSec, throttle },
    throttledTables,
    noStandby,
  )()
