import type { Key, ResolvedLink, SyncGroup } from '../database/index.ts'
import { jittered, rest, type Workplace } from '../copy/workplace.ts'

export interface Settled {
  /** Different with nothing in the change log at the same instant: true mismatches. */
  readonly confirmed: readonly Key[]
  /** Equal at a later look, or only waiting for the applier: no mismatches. */
  readonly explained: number
}

/** How long a suspect may stay pending. What is not settled by then counts as a mismatch, never as skipped. */
const settleForMs = 15_000

/**
 * The second look at keys that differed at the first (rule 7). Both sides and the change log are read at one instant: a change
 * and its copy, or a change and its key in the log, are committed together, so a difference without an entry is a mismatch,
 * whatever is under way. Nothing is locked: no statement of the application waits for a check.
 * @param beside groups whose entries explain a difference, too: of the way back while the old side leads, the way there.
 */
export async function settle(
  { database, scope }: Workplace,
  group: SyncGroup,
  link: ResolvedLink,
  suspects: readonly Key[],
  signal: AbortSignal,
  beside: readonly SyncGroup[] = [],
): Promise<Settled> {
  const { compare, changeLog } = database.dialect
  const confirmed: Key[] = []
  let explained = 0
  let open: readonly Key[] = suspects
  const deadline = performance.now() + settleForMs
  for (let attempt = 0; open.length > 0; attempt++) {
    const look = await database.transaction(
      async (tx) => {
        const now = await compare.keys(tx, link, open)
        const pending: Key[] = []
        for (const log of [group, ...beside])
          pending.push(...(await changeLog.pendingKeys(tx, scope, log, now.different)))
        return { ...now, pending }
      },
      { snapshot: true, readOnly: true },
    )
    const pending = new Set(look.pending.map((key) => JSON.stringify(key)))
    const waits = look.different.filter((key) => pending.has(JSON.stringify(key)))
    confirmed.push(...look.different.filter((key) => !pending.has(JSON.stringify(key))))
    explained += open.length - look.different.length
    open = waits
    if (open.length === 0) break
    if (signal.aborted || performance.now() > deadline) {
      confirmed.push(...open)
      break
    }
    await rest(jittered(Math.min(1000, 50 * 2 ** attempt)), signal)
  }
  return { confirmed, explained }
}
