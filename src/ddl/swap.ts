import type { TableName } from '../core/link.ts'
import { resolveGroups } from '../copy/groups.ts'
import type { Workplace } from '../copy/workplace.ts'
import type { Dependent, Transaction } from '../database/index.ts'
import type { Migration } from '../definition/index.ts'
import { areColumnsSwapped, swapColumns } from './swap-columns.ts'
import { drainWithin } from '../sync/drain.ts'
import { assertAllFollow } from './carried.ts'
import { readDependents } from './dependents.ts'

/** Which of the two tables has the name that the application uses. */
export type SwapDirection = 'to-new' | 'to-old'

/** Both tables of a mapping, under the names that they have now. */
interface Pair {
  readonly declared: { readonly source: TableName; readonly target: TableName }
  readonly source: TableName
  readonly target: TableName
}

async function locatePairs(
  { database, scope }: Workplace,
  tx: Transaction,
  migration: Migration,
): Promise<Pair[]> {
  const pairs: Pair[] = []
  for (const { source, target } of migration.mappings) {
    const [nowSource = source, nowTarget = target] = await database.dialect.catalog.locate(tx, scope, [
      source,
      target,
    ])
    pairs.push({ declared: { source, target }, source: nowSource, target: nowTarget })
  }
  return pairs
}

/** True where the new table has the application's name. */
export async function isSwapped(place: Workplace, tx: Transaction, migration: Migration): Promise<boolean> {
  if (migration.kind === 'column') return areColumnsSwapped(place, tx, migration)
  const pairs = await locatePairs(place, tx, migration)
  return pairs.every((pair) => pair.target.name === pair.declared.source.name)
}

/** A table that gives its name away, what it is called then, and the table that has the name from then on. */
interface Move {
  readonly table: TableName
  readonly leftAs: TableName
  readonly successor: TableName
}

const toMove = ({ declared, source, target }: Pair, toNew: boolean, retired: string): Move =>
  toNew
    ? { table: source, leftAs: { ...source, name: retired }, successor: target }
    : { table: target, leftAs: { ...target, name: declared.target.name }, successor: source }

/**
 * The atomic exchange of names: one transaction, one short lock on both tables. Copies what the change log still holds, asserts
 * that it is empty, exchanges the names, takes along what means the table and not its name, turns the triggers round, and names the
 * primary side. Whoever waited for the lock goes on with the other table. Looks first, so that it is safe to run again when the
 * answer to COMMIT was lost.
 * @throws `CUTOVER.NOT_DRAINED` when a key cannot be copied now, `CUTOVER.NOT_CARRIED`; nothing has changed then.
 */
export async function swapNames(
  place: Workplace,
  tx: Transaction,
  migration: Migration,
  direction: SwapDirection,
): Promise<'swapped' | 'was swapped'> {
  if (migration.kind === 'column') return swapColumns(place, tx, migration, direction)
  const { database, scope } = place
  const { ddl, dependents, flags, triggers } = database.dialect
  const toNew = direction === 'to-new'
  if ((await isSwapped(place, tx, migration)) === toNew) return 'was swapped'

  const pairs = await locatePairs(place, tx, migration)
  const moves = pairs.map((pair) => toMove(pair, toNew, ddl.retiredName(pair.declared.source)))
  const read = async (): Promise<Dependent[]> => {
    const found = (await readDependents(tx, database.dialect, moves, migration.cutover)).flat()
    if (toNew) assertAllFollow(found)
    return found.filter(({ fate }) => fate === 'follows')
  }
  await ddl.lockExclusively(
    tx,
    pairs.flatMap((pair) => [pair.source, pair.target]),
    await read(),
  )
  const before = await resolveGroups(tx, database.dialect, scope, migration)
  // Their triggers go or come below: whoever changes them now is waited for, so that the log holds what it left.
  const beside = before.forward.flatMap(({ dependencies }) => dependencies.map(({ table }) => table))
  if (beside.length > 0) await ddl.lockExclusively(tx, beside)
  const leading = toNew ? before.forward : before.reverse
  for (const group of leading) await drainWithin(place, tx, group)
  for (const { links } of leading) for (const link of links) await ddl.advanceSequences(tx, link)
  for (const group of [...before.forward, ...before.reverse]) await triggers.remove(tx, scope, group)
  // Again, now that nobody can add to them: their text names the table by the name that it is about to lose.
  const followers = await read()

  for (const { table, leftAs, successor } of moves) {
    await ddl.rename(tx, table, leftAs.name)
    await ddl.rename(tx, successor, table.name)
  }
  await (toNew ? dependents.move : dependents.moveBack)(tx, scope, followers)

  const after = await resolveGroups(tx, database.dialect, scope, migration)
  for (const group of toNew ? after.reverse : after.forward)
    await triggers.install(tx, scope, group, 'copy', migration.sync)
  await flags.set(
    tx,
    scope,
    { [migration.flags.readEnabled]: toNew ? 100 : 0 },
    { primary: toNew ? 'new' : 'old', order: place.order },
  )
  return 'swapped'
}
