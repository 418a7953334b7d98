import { everyTable, followedTables, type Groups } from '../copy/groups.ts'
import type { Workplace } from '../copy/workplace.ts'
import type { Side } from '../core/phases.ts'
import type { Migration } from '../definition/index.ts'
import { drainWithin } from '../sync/drain.ts'
import { turnColumns, turnsColumns } from './columns.ts'
import { attempt, type DdlWatch } from './run-step.ts'

/**
 * Names the other side primary, in one transaction that writers of the leading side wait for: copies what its change log still
 * holds, asserts that it is empty, and writes the flags. A key that were left would be copied over a newer write of the new
 * primary later. Reads go on throughout, but for an instant where columns change with it.
 * @throws `CUTOVER.NOT_DRAINED`, `DDL.BLOCKED`; nothing has changed then.
 */
export async function movePrimary(
  { database, scope, order }: Workplace,
  migration: Migration,
  groups: Groups,
  primary: Side,
  watch: DdlWatch,
): Promise<void> {
  const { ddl, flags } = database.dialect
  const leading = primary === 'new' ? groups.forward : groups.reverse
  const tables = leading.flatMap(followedTables)
  const title = `Make the ${primary} side primary (${everyTable(migration).length} tables)`
  await attempt({ database, scope }, title, tables, watch, ({ lockTimeoutMs }) =>
    database.transaction(
      async (tx) => {
        if (turnsColumns(migration)) await ddl.lockExclusively(tx, tables)
        else if (tables.length > 0) await ddl.lockAgainstWrites(tx, tables)
        for (const group of leading) await drainWithin({ database, scope }, tx, group)
        for (const { links } of leading) for (const link of links) await ddl.advanceSequences(tx, link)
        await turnColumns({ database, scope }, tx, migration, primary)
        await flags.set(
          tx,
          scope,
          { [migration.flags.readEnabled]: primary === 'new' ? 100 : 0 },
          { primary, order },
        )
      },
      { lockTimeoutMs, applying: scope.migration },
    ),
  )
}
