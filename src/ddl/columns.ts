import type { TableName } from '../core/link.ts'
import { formatTable, isSameTable } from '../core/link.ts'
import type { Groups } from '../copy/groups.ts'
import { everyTable } from '../copy/groups.ts'
import type { Workplace } from '../copy/workplace.ts'
import type { Side } from '../core/phases.ts'
import type { ColumnSwap, DdlStep, Dialect, Transaction } from '../database/index.ts'
import type { Migration } from '../definition/index.ts'
import { CrossfadeError } from '../errors/index.ts'
import { attempt, runStep, type DdlWatch } from './run-step.ts'

/** What kind `column` does to single columns, in the order of its phases. Of kind `table` there is none of it. */

type NewColumn = NonNullable<Migration['expand']['columns']>[number]

export const newColumns = ({ expand }: Migration): readonly NewColumn[] => expand.columns ?? []

export interface ColumnName {
  readonly table: TableName
  readonly column: string
}

/** The old columns that new ones stand for, each once. */
export function replacedColumns(migration: Migration): ColumnName[] {
  const all = newColumns(migration).flatMap(({ table, replaces = [] }) =>
    replaces.map((column) => ({ table, column })),
  )
  return [...new Map(all.map((each) => [`${formatTable(each.table)}.${each.column}`, each])).values()]
}

/** Of cutover by swap: each new column takes the name of the old one that it replaces. */
export function columnSwaps(migration: Migration, of?: TableName): (ColumnSwap & { table: TableName })[] {
  if (migration.kind !== 'column' || migration.cutover.mode !== 'swap') return []
  return newColumns(migration)
    .filter(({ table }) => of === undefined || isSameTable(table, of))
    .flatMap(({ table, name, type, replaces = [], default: value }) =>
      replaces.map((old) => ({ table, old, new: name, type, default: value })),
    )
}

/** What makes a swap possible: the columns are remembered by number before anything is renamed. */
export const registerSteps = ({ columns }: Dialect, migration: Migration): DdlStep[] => {
  return everyTable(migration).flatMap((table) => {
    const named = columnSwaps(migration, table).flatMap((swap) => [swap.old, swap.new])
    return named.length === 0 ? [] : [columns.registerColumns(table, named)]
  })
}

export const twinSteps = ({ columns }: Dialect, migration: Migration): DdlStep[] =>
  everyTable(migration).flatMap((table) => {
    const swaps = columnSwaps(migration, table)
    return swaps.length === 0 ? [] : [columns.twinIndexes(table, swaps)]
  })

const ofTable = (columns: readonly ColumnName[], table: TableName): string[] =>
  columns.filter((each) => formatTable(each.table) === formatTable(table)).map(({ column }) => column)

/** What new columns must satisfy: just before they lead, because from then on a row that does not is refused. */
export const valueSteps = ({ columns }: Dialect, migration: Migration): DdlStep[] => [
  ...newColumns(migration)
    .filter(({ notNull }) => notNull)
    .flatMap(({ table, name }) => columns.requireValues(table, name)),
  ...everyTable(migration).flatMap((table) => {
    const swaps = columnSwaps(migration, table)
    return swaps.length === 0 ? [] : [columns.twinConstraints(table, swaps)]
  }),
]

/** @throws `CUTOVER.INCOMPLETE` where a row has no value that it will have to have: found now, before anybody reads the new side. */
export async function assertValues({ database }: Workplace, migration: Migration): Promise<void> {
  for (const { table, name, notNull } of newColumns(migration)) {
    if (!notNull) continue
    const missing = await database.transaction((tx) => database.dialect.columns.countMissing(tx, table, name))
    if (missing === 0) continue
    throw new CrossfadeError({
      kind: 'refused',
      code: 'CUTOVER.INCOMPLETE',
      message: `Before cutover every row must have a value in ${name} of ${formatTable(table)}: ${missing} have none.`,
      mend: `Correct those rows, or the expression of the mapping, and resume. ${database.dialect.mends.selectMissing(table, name)}`,
      details: { column: name, missing },
    })
  }
}

/** Whether moving the primary side changes the catalogue, too. */
export const turnsColumns = (migration: Migration): boolean => newColumns(migration).length > 0

/**
 * In the transaction that moves the primary side. The side that follows must never make a statement fail: an expression that
 * cannot be evaluated leaves NULL there, so its columns allow NULL.
 */
export async function turnColumns(
  { database, scope }: Workplace,
  tx: Transaction,
  migration: Migration,
  primary: Side,
): Promise<void> {
  const { columns } = database.dialect
  const replaced = replacedColumns(migration)
  const fresh = newColumns(migration).map(({ table, name }) => ({ table, column: name }))
  for (const table of everyTable(migration))
    if (primary === 'new') await columns.relax(tx, scope, table, ofTable(replaced, table))
    else await columns.release(tx, scope, table, ofTable(fresh, table))
}

/**
 * The old columns are no longer kept in step, all at once: with the triggers goes the default of an old column, which would look
 * like a value that somebody wrote, and the new one gets its own. Earlier it would have looked so, too.
 */
export async function stopFollowing(
  place: Workplace,
  migration: Migration,
  { forward, reverse }: Groups,
  watch: DdlWatch,
): Promise<void> {
  const { database, scope } = place
  const { columns, ddl, triggers } = database.dialect
  const tables = everyTable(migration)
  await attempt(place, 'Stop keeping the old columns in step', tables, watch, ({ lockTimeoutMs }) =>
    database.transaction(
      async (tx) => {
        await ddl.lockExclusively(tx, tables)
        for (const group of [...forward, ...reverse]) await triggers.remove(tx, scope, group)
        const swaps = columnSwaps(migration)
        for (const { table, old } of swaps) await columns.widenSequences(tx, table, old)
        const isSwapped = (name: string): boolean => swaps.some((swap) => swap.new === name)
        for (const { table, name, default: value } of newColumns(migration))
          if (value !== undefined && !isSwapped(name)) await columns.setDefault(tx, table, name, value)
        for (const { table, column } of swaps.length > 0 ? [] : replacedColumns(migration)) {
          await columns.relax(tx, scope, table, [column])
          await columns.setDefault(tx, table, column, undefined)
        }
        // A stray write to an old column must be noticed.
        for (const group of forward) await triggers.install(tx, scope, group, 'watch', migration.sync)
      },
      { lockTimeoutMs },
    ),
  )
}

/**
 * An exchange of names back. A primary key's old columns, which could be NULL while they followed, are proven to have their values
 * first, so that it scans nothing. From then on a row that the old type cannot hold is refused, as it will be by the side that leads
 * next; where the names do not go back after all, that ends.
 * @throws `CUTOVER.INCOMPLETE` where a row has none: it was written since, and the old side cannot name it.
 */
export async function withKeysProven<T>(
  place: Workplace,
  migration: Migration,
  watch: DdlWatch,
  exchange: () => Promise<T>,
): Promise<T> {
  const { database, scope } = place
  const { columns } = database.dialect
  const swapped = everyTable(migration).filter((table) => columnSwaps(migration, table).length > 0)
  const keysOf = (table: TableName): Promise<string[]> =>
    database.transaction((tx) => columns.keyColumnsGoingBack(tx, scope, table))
  try {
    for (const table of swapped)
      for (const column of await keysOf(table)) await proveKey(place, table, column, watch)
    return await exchange()
  } catch (error) {
    for (const table of swapped) {
      const keys = await keysOf(table)
      if (keys.length === 0) continue
      await attempt(place, 'Let the old key be empty again', [table], watch, ({ lockTimeoutMs }) =>
        database.transaction((tx) => columns.release(tx, scope, table, keys), { lockTimeoutMs }),
      ).catch(() => undefined) // the first error says more
    }
    throw error
  }
}

async function proveKey(place: Workplace, table: TableName, column: string, watch: DdlWatch): Promise<void> {
  const { columns } = place.database.dialect
  const missing = await place.database.transaction((tx) => columns.countMissing(tx, table, column))
  if (missing > 0)
    throw new CrossfadeError({
      kind: 'refused',
      code: 'CUTOVER.INCOMPLETE',
      message: `Before the names of ${formatTable(table)} go back every row must have a value in ${column}, which is part of its key: ${missing} have none, because their keys do not fit the old type.`,
      mend: `Give those rows keys that the old column can hold, or delete them (SELECT … WHERE "${column}" IS NULL), and ask again; or go on to the contract.`,
      details: { column, missing },
    })
  for (const step of columns.requireValues(table, column)) await runStep(place, step, [table], watch)
}

/** Going back, first of all: with the triggers goes what fills the new columns, so that they must not ask for a value any more. */
export async function releaseColumns(place: Workplace, migration: Migration, watch: DdlWatch): Promise<void> {
  if (!turnsColumns(migration)) return
  const { database } = place
  await attempt(place, 'Let the new columns be empty', everyTable(migration), watch, ({ lockTimeoutMs }) =>
    database.transaction((tx) => turnColumns(place, tx, migration, 'old'), { lockTimeoutMs }),
  )
}

/** Going back, at the end: the old columns get their NOT NULL again, proven before it is set. */
export async function restoreColumns(place: Workplace, watch: DdlWatch): Promise<void> {
  const { database, scope } = place
  const { columns } = database.dialect
  for (const { table, column } of await database.transaction((tx) => columns.relaxed(tx, scope)))
    for (const step of columns.requireValues(table, column)) await runStep(place, step, [table], watch)
}

/** The contract's first half: a reader of an old column notices now, while the name can be given back. An exchange has taken it already. */
export const retireSteps = ({ columns }: Dialect, migration: Migration): DdlStep[] =>
  columnSwaps(migration).length > 0
    ? []
    : replacedColumns(migration).map(({ table, column }) =>
        columns.renameColumn(table, column, columns.retiredColumn(column)),
      )

export const dropSteps = ({ columns }: Dialect, migration: Migration): DdlStep[] =>
  replacedColumns(migration).map(({ table, column }) =>
    columns.dropColumn(table, columns.retiredColumn(column)),
  )
