import { isSameTable, type TableName } from '../core/link.ts'
import type { Dependent, Dialect, Transaction } from '../database/index.ts'
import type { Migration } from '../definition/index.ts'

/**
 * What means these tables and not their names, a list each. Foreign keys among the tables themselves stay among them. What else one of
 * them, or its successor, has that names another one is named by a table whose own name changes too, and is not taken along. A trigger
 * goes where the definition says so.
 */
export async function readDependents(
  tx: Transaction,
  { dependents }: Dialect,
  tables: readonly {
    readonly table: TableName
    readonly successor: TableName
    readonly leftAs?: TableName
  }[],
  { triggers = {} }: Pick<Migration['cutover'], 'triggers'>,
): Promise<Dependent[][]> {
  const found: Dependent[][] = []
  const isOurs = (child: TableName | undefined): boolean =>
    child !== undefined &&
    tables.some((other) => isSameTable(other.table, child) || isSameTable(other.successor, child))
  const isAmong = ({ kind, table: child }: Dependent): boolean =>
    kind === 'foreign key' && tables.some((other) => child !== undefined && isSameTable(other.table, child))
  for (const { table, leftAs } of tables)
    found.push(
      (await dependents.read(tx, table, leftAs)).flatMap((each) => {
        if (isAmong(each)) return []
        if (each.kind === 'trigger' && triggers[each.name] === 'carry') return { ...each, fate: 'follows' }
        return each.kind !== 'foreign key' && isOurs(each.table)
          ? { ...each, fate: 'stuck', mend: each.elsewhere }
          : each
      }),
    )
  return found
}
