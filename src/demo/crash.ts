import { setTimeout as delay } from 'node:timers/promises'
import type pg from 'pg'
import { flagsSchema } from './definition.ts'
import type { Crew, Killed } from './workers.ts'

/** How far the backfill has come, as its checkpoints say. */
export interface BackfillPlace {
  readonly rowsDone: number
  readonly rowsEstimated: number
  readonly isDone: boolean
}

export async function readBackfill(pool: pg.Pool): Promise<BackfillPlace> {
  const { rows } = await pool.query<{ done: string; estimated: string; left: string }>(
    `SELECT coalesce(sum(rows_done), 0) AS done, coalesce(sum(rows_estimated), 0) AS estimated, count(*) FILTER (WHERE NOT done) AS left ` +
      `FROM ${flagsSchema}.ranges WHERE purpose = 'backfill'`,
  )
  const [row] = rows
  const rowsEstimated = Number(row?.estimated ?? 0)
  return {
    rowsDone: Number(row?.done ?? 0),
    rowsEstimated,
    isDone: rowsEstimated > 0 && Number(row?.left) === 0,
  }
}

export interface Resumption {
  readonly resumedInMs: number
  /** Lanes that stood still because of it. */
  readonly lanes: number
}

/** A commit that the dead worker had sent may still arrive within this time. */
const echoMs = 250
const patienceMs = 60_000

/**
 * Kills a worker that runs a lane, and waits until every lane that stood in the middle of a range goes on from its checkpoint.
 * @returns undefined where no lane was at work any more
 */
export async function crashMidBackfill(
  pool: pg.Pool,
  crew: Crew,
  onKilled: (killed: Killed) => void,
  signal: AbortSignal,
): Promise<Resumption | undefined> {
  const atWork = await readLanes(pool)
  const killedAt = Date.now()
  const killed = await crew.killOneRunning('backfillSlice')
  onKilled(killed)
  if (killed.activities === 0) return undefined
  const waiting = new Set(atWork.keys())
  let resumedInMs = 0
  while (waiting.size > 0 && Date.now() - killedAt < patienceMs) {
    await delay(40, undefined, { signal })
    const now = await readLanes(pool)
    for (const lane of waiting) {
      const at = now.get(lane)
      if (at === undefined || at < killedAt + echoMs) continue
      waiting.delete(lane)
      resumedInMs = Math.max(resumedInMs, Math.round(at - killedAt))
    }
    if ((await readBackfill(pool)).isDone) break
  }
  return { resumedInMs, lanes: killed.activities }
}

/** The last checkpoint of each lane, in milliseconds since the epoch. */
async function readLanes(pool: pg.Pool): Promise<Map<number, number>> {
  const { rows } = await pool.query<{ lane: number; at: string }>(
    `SELECT lane, extract(epoch FROM max(updated_at)) * 1000 AS at FROM ${flagsSchema}.ranges WHERE purpose = 'backfill' AND lane IS NOT NULL GROUP BY lane`,
  )
  return new Map(rows.map(({ lane, at }) => [lane, Number(at)]))
}
