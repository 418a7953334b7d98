import type { Key, SyncGroup } from '../database/index.ts'
import type { Workplace } from '../copy/workplace.ts'

/**
 * Repairs by leaving the keys in the change log, where the applier copies them like any other change (rule 2). What the other
 * side refuses stays there with its reason. Returns how many keys were handed over.
 */
export async function repair(
  { database, scope }: Workplace,
  group: SyncGroup,
  keys: readonly Key[],
): Promise<number> {
  if (keys.length === 0) return 0
  await database.transaction((tx) =>
    database.dialect.changeLog.put(
      tx,
      scope,
      group,
      keys.map((key) => ({ kind: 'copy', key })),
    ),
  )
  return keys.length
}
