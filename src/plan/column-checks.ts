import { formatTable, isSameTable } from '../core/link.ts'
import type { Dialect, Scope, TableDescription, Transaction } from '../database/index.ts'
import { newColumns, replacedColumns, type ColumnName } from '../ddl/columns.ts'
import type { Migration } from '../definition/index.ts'
import type { Finding } from './checks.ts'

/** Smaller tables are written again within seconds. */
const rowsWorthSaying = 100_000

const refusal = (rule: string, message: string, mend: string): Finding => ({
  rule,
  severity: 'refusal',
  message,
  mend,
})

const warning = (rule: string, message: string, mend: string): Finding => ({
  rule,
  severity: 'warning',
  message,
  mend,
})

/** What only kind `column` has to know: triggers within a row, types that are added, and what goes with an old column. */
export async function checkColumns(
  tx: Transaction,
  dialect: Dialect,
  scope: Scope,
  migration: Migration,
  tables: readonly TableDescription[],
): Promise<Finding[]> {
  if (migration.kind !== 'column') return []
  const findings: Finding[] = []
  for (const found of tables) findings.push(...(await checkFollowed(tx, dialect, scope, found)))
  for (const column of newColumns(migration))
    findings.push(...(await checkAdded(tx, dialect, column, findTable(tables, column))))
  for (const column of replacedColumns(migration))
    findings.push(...(await checkReplaced(tx, dialect, migration, column, findTable(tables, column))))
  for (const { table, name, unique } of migration.expand.columnIndexes ?? [])
    if (unique)
      findings.push(
        warning(
          'column-unique',
          `The unique index ${name} of ${formatTable(table)} refuses statements on the old columns, too, where two rows come out the same.`,
          'Make sure that different old values give different new ones.',
        ),
      )
  return findings
}

const findTable = (
  tables: readonly TableDescription[],
  { table }: Pick<ColumnName, 'table'>,
): TableDescription | undefined => tables.find((other) => isSameTable(other.table, table))

async function checkFollowed(
  tx: Transaction,
  { columns, mends }: Dialect,
  scope: Scope,
  found: TableDescription,
): Promise<Finding[]> {
  const findings: Finding[] = []
  const name = formatTable(found.table)
  if (found.kind === 'partitioned')
    findings.push(
      refusal(
        'column-partitioned',
        `${name} is partitioned, which kind "column" does not support yet.`,
        'Use kind "table" with a new table beside it.',
      ),
    )
  const later = await columns.laterTriggers(tx, scope, found.table)
  if (later.length > 0)
    findings.push(
      refusal(
        'column-trigger-order',
        `${later.join(', ')} on ${name} would run after our trigger, which must be the last to see the row.`,
        mends.runEarlier(found.table, later),
      ),
    )
  if (found.rowsEstimated > rowsWorthSaying)
    findings.push(
      warning(
        'column-rewrites-rows',
        `The backfill writes every row of ${name} once more: up to ${Math.ceil(found.bytes / 2 ** 20)} MB more until vacuum has been there.`,
        `Have that much free. Where pages have room, more of its updates are HOT: it comes with time, or with VACUUM FULL, after ${mends.leaveRoom(found.table)}`,
      ),
    )
  return findings
}

async function checkAdded(
  tx: Transaction,
  { columns }: Dialect,
  {
    table,
    name,
    type,
  }: { readonly table: ColumnName['table']; readonly name: string; readonly type: string },
  found: TableDescription | undefined,
): Promise<Finding[]> {
  const findings: Finding[] = []
  const reason = await columns.refusedType(tx, type)
  if (reason !== undefined)
    findings.push(
      refusal(
        'column-type',
        `The type ${type} of ${name} ${reason}.`,
        'Give another type; a CHECK can be added in contract.sql.',
      ),
    )
  if (found?.columns.some((column) => column.name === name))
    findings.push(
      warning(
        'column-stands',
        `${formatTable(table)} has a column ${name} already: it is used as it is, and abort leaves it.`,
        'Drop it first if it is left over from another attempt.',
      ),
    )
  return findings
}

async function checkReplaced(
  tx: Transaction,
  { columns }: Dialect,
  { cutover }: Migration,
  { table, column }: ColumnName,
  found: TableDescription | undefined,
): Promise<Finding[]> {
  if (!found) return []
  const what = `${column} of ${formatTable(table)}`
  const description = found.columns.find((other) => other.name === column)
  if (!description) return [refusal('column-missing', `There is no column ${what}.`, 'Correct `replaces`.')]
  const findings: Finding[] = []
  const inKey = found.uniqueIndexes.some((index) => index.primary && index.columns.includes(column))
  if (description.identity || inKey)
    findings.push(
      refusal(
        'column-key-replaced',
        `${what} is ${inKey ? 'part of the primary key' : 'an identity'}, which no other column can take over yet.`,
        'Leave it out of `replaces`: it stays at the contract.',
      ),
    )
  if (cutover.mode === 'swap') {
    const uncarried = await columns.uncarried(tx, table, column)
    if (uncarried.length > 0)
      findings.push(
        refusal(
          'column-uncarried',
          `After the exchange of names these would still mean the old ${what}: ${uncarried.join(', ')}.`,
          'Use cutover.mode "flags", or take them away before and bring them back on the new column after the swap.',
        ),
      )
    return findings
  }
  const { goes, holds } = await columns.dependents(tx, table, column)
  if (holds.length > 0)
    findings.push(
      warning(
        'column-held',
        `${what} cannot be dropped while these use it: ${holds.join(', ')}.`,
        'Move them to the new column before the contract, in contract.sql for instance.',
      ),
    )
  if (goes.length > 0)
    findings.push(
      warning(
        'column-takes',
        `With ${what} these go at the contract: ${goes.join(', ')}.`,
        'Describe what the new column needs of them in expand.columnIndexes or contract.sql.',
      ),
    )
  return findings
}
