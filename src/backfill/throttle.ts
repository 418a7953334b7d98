import type { Workplace } from '../copy/workplace.ts'

/** Why copying has to wait, or undefined where it may go on. */
export type Throttle = () => Promise<string | undefined>

const freshForMs = 1000

/**
 * Replica lag against its limit, read at most once a second and shared by the caller's chunks. What cannot be read counts as
 * lagging and says why: a replica that nobody can see is not a replica that keeps up.
 */
export function createLagThrottle({ database }: Workplace, maxReplicationLagSec: number): Throttle {
  let readAt = -Infinity
  let answer: string | undefined
  return async () => {
    if (performance.now() - readAt < freshForMs) return answer
    const { lagSec, reason } = await database.transaction((tx) => database.dialect.catalog.replicaLag(tx), {
      readOnly: true,
    })
    readAt = performance.now()
    answer =
      lagSec === undefined || lagSec > maxReplicationLagSec
        ? `${reason}; the limit is ${maxReplicationLagSec} s`
        : undefined
    return answer
  }
}
