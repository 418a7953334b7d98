import { isSameTable, type TableName } from '../core/link.ts'
import type { Dependent, Dialect, Transaction } from '../database/index.ts'

/** What means these tables and not their names, a list each. Foreign keys among the tables themselves stay among them. */
export async function readDependents(
  tx: Transaction,
  { dependents }: Dialect,
  tables: readonly { readonly table: TableName; readonly leftAs?: TableName }[],
): Promise<Dependent[][]> {
  const found: Dependent[][] = []
  for (const { table, leftAs } of tables)
    found.push(
      (await dependents.read(tx, table, leftAs)).filter(
        ({ table: child }) => child === undefined || !tables.some((other) => isSameTable(other.table, child)),
      ),
    )
  return found
}
