import type { Key, ResolvedLink, SyncGroup } from '../database/index.ts'
import { jittered, rest, type Workplace } from '../copy/workplace.ts'

export interface Settled {
  /** Different with both sides quiet and nothing in the change log: true mismatches. */
  readonly confirmed: readonly Key[]
  /** Equal at the second look, or only waiting for the applier: no mismatches. */
  readonly explained: number
}

/** How long a suspect may stay busy or pending. What is not settled by then counts as a mismatch, never as skipped. */
const settleForMs = 15_000

/**
 * The second look at keys that differed at the first (rule 7). A difference counts only while nobody is changing the row: both
 * sides are share-locked, compared again, and the key has no entry in the change log.
 */
export async function settle(
  { database, scope }: Workplace,
  group: SyncGroup,
  link: ResolvedLink,
  suspects: readonly Key[],
  signal: AbortSignal,
): Promise<Settled> {
  const { compare, changeLog } = database.dialect
  const confirmed: Key[] = []
  let explained = 0
  let open: readonly Key[] = suspects
  const deadline = performance.now() + settleForMs
  for (let attempt = 0; open.length > 0; attempt++) {
    const look = await database.transaction(async (tx) => {
      const now = await compare.keys(tx, link, open, 'quiet')
      // After the comparison and under its locks: an entry seen here explains the difference, and none can be applied meanwhile.
      return { ...now, pending: await changeLog.pendingKeys(tx, scope, group, now.different) }
    })
    const pending = new Set(look.pending.map((key) => JSON.stringify(key)))
    const waits = look.different.filter((key) => pending.has(JSON.stringify(key)))
    confirmed.push(...look.different.filter((key) => !pending.has(JSON.stringify(key))))
    explained += open.length - look.busy.length - look.different.length
    open = [...look.busy, ...waits]
    if (open.length === 0) break
    if (signal.aborted || performance.now() > deadline) {
      confirmed.push(...open)
      break
    }
    await rest(jittered(Math.min(1000, 50 * 2 ** attempt)), signal)
  }
  return { confirmed, explained }
}
