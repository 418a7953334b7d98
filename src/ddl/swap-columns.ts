import { everyTable, resolveGroups } from '../copy/groups.ts'
import type { Workplace } from '../copy/workplace.ts'
import type { Transaction } from '../database/index.ts'
import type { Migration } from '../definition/index.ts'
import { drainWithin } from '../sync/drain.ts'
import { columnSwaps, turnColumns } from './columns.ts'

/** True where the new columns have the names that the application uses. */
export async function areColumnsSwapped(
  { database, scope }: Workplace,
  tx: Transaction,
  migration: Migration,
): Promise<boolean> {
  const swaps = columnSwaps(migration)
  for (const swap of swaps) {
    const { renamed } = await database.dialect.columns.names(tx, scope, swap.table)
    if (renamed[swap.new] !== swap.old) return false
  }
  return swaps.length > 0
}

/**
 * The exchange of names within one table: one transaction, one short lock. What the change log holds is copied first, and the
 * trigger is made anew over the new names, for the same definition. Looks first, so that it is safe to run again.
 * @throws `CUTOVER.NOT_DRAINED`; nothing has changed then.
 */
export async function swapColumns(
  place: Workplace,
  tx: Transaction,
  migration: Migration,
  direction: 'to-new' | 'to-old',
): Promise<'swapped' | 'was swapped'> {
  const { database, scope } = place
  const { columns, ddl, flags, triggers } = database.dialect
  const toNew = direction === 'to-new'
  if ((await areColumnsSwapped(place, tx, migration)) === toNew) return 'was swapped'

  const swapped = everyTable(migration)
    .map((table) => ({ table, swaps: columnSwaps(migration, table) }))
    .filter(({ swaps }) => swaps.length > 0)
  const tables = everyTable(migration)
  for (const { table, swaps } of swapped) tables.push(...(await columns.neighbours(tx, table, swaps)))
  await ddl.lockExclusively(tx, tables)
  const before = await resolveGroups(tx, database.dialect, scope, migration)
  for (const group of toNew ? before.forward : before.reverse) await drainWithin(place, tx, group)
  for (const group of before.forward) await triggers.remove(tx, scope, group)

  for (const { table, swaps } of swapped) await columns.exchange(tx, scope, table, swaps, direction)
  if (!toNew) await turnColumns(place, tx, migration, 'old')

  const after = await resolveGroups(tx, database.dialect, scope, migration)
  for (const group of after.forward) await triggers.install(tx, scope, group, 'copy', migration.sync)
  await flags.set(
    tx,
    scope,
    { [migration.flags.readEnabled]: toNew ? 100 : 0 },
    { primary: toNew ? 'new' : 'old', order: place.order },
  )
  return 'swapped'
}
