import type { TableName } from '../core/link.ts'
import type { Database, ServerLoad } from '../database/index.ts'
import type { Migration } from '../definition/index.ts'
import { isCrossfadeError } from '../errors/index.ts'
import type { Workplace } from '../copy/workplace.ts'

/** Why copying has to wait, or undefined where it may go on. */
export type Throttle = () => Promise<string | undefined>

type Limits = NonNullable<Migration['backfill']['throttle']>

const freshForMs = 1000

/** The user's own query is asked once a second: what takes longer is itself a load. */
const queryTimeoutMs = 1000

/** Asks at most once a second, whoever asks. What cannot be read is a reason to wait and says why, never a reason to go on. */
function onceASecond(look: Throttle): Throttle {
  let readAt = -Infinity
  let answer: string | undefined
  return async () => {
    if (performance.now() - readAt < freshForMs) return answer
    answer = await look()
    readAt = performance.now()
    return answer
  }
}

/** The first reason of several, in their order. */
const firstOf =
  (...throttles: readonly Throttle[]): Throttle =>
  async () => {
    for (const throttle of throttles) {
      const reason = await throttle()
      if (reason !== undefined) return reason
    }
    return undefined
  }

/**
 * Replica lag against its limit: a replica that nobody can see is not a replica that keeps up, unless it is asked itself.
 */
export function createLagThrottle(
  { database }: Workplace,
  maxReplicationLagSec: number,
  unseen: 'lags' | 'is asked' = 'lags',
): Throttle {
  return onceASecond(async () => {
    const { lagSec, reason } = await database.transaction((tx) => database.dialect.catalog.replicaLag(tx), {
      readOnly: true,
    })
    if (lagSec === undefined && unseen === 'is asked') return undefined
    return lagSec === undefined || lagSec > maxReplicationLagSec
      ? `${reason}; the limit is ${maxReplicationLagSec} s`
      : undefined
  })
}

/** Everything that a backfill waits for: replicas, replication slots, the server's load, and a query of the user's. */
export function createBackfillThrottle(
  place: Workplace,
  { maxReplicationLagSec, throttle }: Migration['backfill'],
  tables: readonly TableName[],
  openStandby: (name: string) => Promise<Database>,
): Throttle {
  const limits = throttle ?? {}
  return firstOf(
    createLagThrottle(place, maxReplicationLagSec, limits.standbys === undefined ? 'lags' : 'is asked'),
    ...(limits.standbys ?? []).map((name) =>
      createStandbyThrottle(place, name, () => openStandby(name), maxReplicationLagSec),
    ),
    createLoadThrottle(place, limits, tables),
    ...(limits.query === undefined ? [] : [createQueryThrottle(place, limits.query)]),
  )
}

/** So old is the row on the primary at most while lanes look once a second. Older: nobody has written it lately, so it says nothing. */
const stalePulseSec = 3

/**
 * The lag of a standby that is asked itself. What cannot be asked, has no row yet, or is no standby any more, may be behind by any
 * amount. One that has the newest row keeps up.
 */
function createStandbyThrottle(
  { database, scope }: Workplace,
  name: string,
  open: () => Promise<Database>,
  maxReplicationLagSec: number,
): Throttle {
  const { pulse } = database.dialect
  const look = async (): Promise<string | undefined> => {
    const written = await database.transaction(async (tx) => {
      const { at } = await pulse.read(tx, scope)
      const isFresh = at !== undefined && (await pulse.ageSec(tx, at)) <= stalePulseSec
      await pulse.write(tx, scope)
      return isFresh ? at : undefined
    })
    const standby = await open()
    const seen = await standby.transaction((tx) => standby.dialect.pulse.read(tx, scope), { readOnly: true })
    if (!seen.isStandby) return `${name} is no standby any more: take it out of backfill.throttle.standbys`
    if (written === undefined || seen.at === undefined) return `the lag of standby ${name} is not known yet`
    const { at } = seen
    if (at === written) return undefined
    const lagSec = await database.transaction((tx) => pulse.ageSec(tx, at), { readOnly: true })
    return lagSec > maxReplicationLagSec
      ? `standby ${name} is ${lagSec.toFixed(1)} s behind; the limit is ${maxReplicationLagSec} s`
      : undefined
  }
  return onceASecond(() =>
    look().catch((error: unknown) => {
      const known = isCrossfadeError(error)
        ? error
        : database.dialect.errors.toCrossfadeError(error, `The pulse of ${name}`)
      return `the lag of standby ${name} cannot be read: ${known.message}`
    }),
  )
}

function createLoadThrottle({ database }: Workplace, limits: Limits, tables: readonly TableName[]): Throttle {
  let before: { readonly walBytes: number; readonly at: number } | undefined
  return onceASecond(async () => {
    const now = await database.transaction((tx) => database.dialect.catalog.load(tx, tables), {
      readOnly: true,
    })
    const at = performance.now()
    const walBytesPerSec = before && ((now.walBytes - before.walBytes) * 1000) / (at - before.at)
    before = { walBytes: now.walBytes, at }
    return slotReason(now, limits) ?? loadReason(now, walBytesPerSec, limits)
  })
}

/** A slot that lost its WAL has nothing left to be careful of; `unreserved` is about to lose it. */
function slotReason({ slots }: ServerLoad, { maxSlotLagBytes }: Limits): string | undefined {
  const endangered = slots.find((slot) => slot.status === 'unreserved')
  if (endangered)
    return `replication slot ${endangered.name} is about to lose WAL that it still needs (max_slot_wal_keep_size)`
  const late = slots.find(
    (slot) => slot.status !== 'lost' && slot.retainedBytes > (maxSlotLagBytes ?? Infinity),
  )
  return (
    late &&
    `replication slot ${late.name}${late.isActive ? '' : ', which nobody reads,'} holds back ${late.retainedBytes} bytes of WAL; the limit is ${maxSlotLagBytes}`
  )
}

/** Autovacuum does not come for fewer, and they are no bloat. */
const fewDeadRows = 1_000

/** The reason that the load gives, in numbers. `walBytesPerSec` is unknown at the first look. */
function loadReason(
  load: ServerLoad,
  walBytesPerSec: number | undefined,
  limits: Limits,
): string | undefined {
  const { maxActiveSessions, maxDeadRatio, maxTransactionSec, maxWalBytesPerSec, pauseForAutovacuum } = limits
  const asksForSessions = maxActiveSessions !== undefined || maxTransactionSec !== undefined
  if (asksForSessions && load.hiddenSessions > 0)
    return `what ${load.hiddenSessions} sessions do cannot be read (grant pg_monitor to the role of the URL)`
  if (load.activeSessions > (maxActiveSessions ?? Infinity))
    return `${load.activeSessions} sessions are active; the limit is ${maxActiveSessions}`
  if (load.longestTransactionSec > (maxTransactionSec ?? Infinity))
    return `a transaction has been open for ${load.longestTransactionSec.toFixed(0)} s; the limit is ${maxTransactionSec} s`
  if (pauseForAutovacuum && load.autovacuums.length > 0)
    return `autovacuum works on ${load.autovacuums.join(', ')}`
  const dirty = load.deadRows.find(
    ({ live, dead }) => dead > Math.max((live + dead) * (maxDeadRatio ?? 1), fewDeadRows),
  )
  if (dirty)
    return `${dirty.table} has ${dirty.dead} dead row versions beside ${dirty.live} live ones; the limit is a share of ${maxDeadRatio}. Vacuum has to come, and cannot take what an older transaction may still see`
  if (walBytesPerSec !== undefined && walBytesPerSec > (maxWalBytesPerSec ?? Infinity))
    return `the server writes ${Math.round(walBytesPerSec)} bytes of WAL a second; the limit is ${maxWalBytesPerSec}`
  return undefined
}

function createQueryThrottle({ database }: Workplace, { sql, max }: NonNullable<Limits['query']>): Throttle {
  return onceASecond(async () => {
    try {
      const value = await database.transaction((tx) => database.dialect.catalog.evaluate(tx, sql), {
        readOnly: true,
        statementTimeoutMs: queryTimeoutMs,
      })
      if (value === undefined) return 'the query of backfill.throttle gives no number'
      return value > max ? `the query of backfill.throttle says ${value}; the limit is ${max}` : undefined
    } catch (error) {
      const known = isCrossfadeError(error)
        ? error
        : database.dialect.errors.toCrossfadeError(error, 'The query of backfill.throttle')
      return `the query of backfill.throttle failed: ${known.message}`
    }
  })
}
