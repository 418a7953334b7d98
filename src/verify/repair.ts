import type { Key, SyncGroup } from '../database/index.ts'
import type { Workplace } from '../copy/workplace.ts'

/**
 * Repairs by leaving the keys in the change log, where the applier copies them like any other change (rule 2). What the other
 * side refuses stays there with its reason. Only the leading direction repairs: a key that waited in the other one would be
 * copied over what the primary side says. Returns how many keys were handed over.
 */
export async function repair(
  { database, scope }: Workplace,
  group: SyncGroup,
  keys: readonly Key[],
): Promise<number> {
  if (keys.length === 0) return 0
  const { changeLog, flags } = database.dialect
  return database.transaction(async (tx) => {
    const primary = await flags.lockPrimary(tx, scope)
    if ((primary === 'old') !== (group.direction === 'forward')) return 0
    await changeLog.put(
      tx,
      scope,
      group,
      keys.map((key) => ({ kind: 'copy', key })),
    )
    return keys.length
  })
}
