import { formatTable, isSameTable } from '../core/link.ts'
import type { Database, Dialect, Scope, TableDescription, Transaction } from '../database/index.ts'
import { everyTable } from '../copy/groups.ts'
import { columnSwaps, newColumns, replacedColumns, type ColumnName } from '../ddl/columns.ts'
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

/** Whether rows go on to be found by a key whose column is replaced, and whether that can be a key at all. */
async function checkKey(
  tx: Transaction,
  { columns }: Dialect,
  migration: Migration,
  { table, column }: ColumnName,
  found: TableDescription,
): Promise<Finding[]> {
  const what = `${column} of ${formatTable(table)}`
  const isIdentity = found.columns.some(({ name, identity }) => name === column && identity)
  const isPrimary = found.uniqueIndexes.some((index) => index.primary && index.columns.includes(column))
  const mapping = migration.mappings.find((each) => isSameTable(each.source, table))
  const isKey = mapping !== undefined && column in mapping.key
  if (!isIdentity && !isPrimary && !isKey) return []
  if (migration.cutover.mode !== 'swap')
    return [
      refusal(
        'column-key-replaced',
        `${what} is ${isPrimary ? 'part of the primary key' : isKey ? 'part of the key' : 'an identity'}, which another column takes over only with its name.`,
        'Use cutover.mode "swap", or leave it out of `replaces`: it stays at the contract.',
      ),
    ]
  const findings: Finding[] = []
  const fresh = newColumns(migration).find(
    (each) => isSameTable(each.table, table) && each.replaces?.includes(column),
  )
  const expression = mapping?.columns[fresh?.name ?? '']
  if (fresh && !fresh.notNull && (isPrimary || isIdentity || isKey))
    findings.push(
      refusal(
        'column-key-nullable',
        `${fresh.name} takes the place of ${what}, which may not be NULL.`,
        `Say notNull: true of ${fresh.name} in expand.columns.`,
      ),
    )
  const types = [found.columns.find(({ name }) => name === column)?.type, fresh?.type]
  const isNumber = types.every((type) => ['smallint', 'integer', 'bigint'].includes(type ?? ''))
  if (
    isKey &&
    !(
      isNumber &&
      typeof expression === 'string' &&
      (await columns.keepsNumbers(tx, table, column, expression))
    )
  )
    findings.push(
      refusal(
        'column-key-differs',
        `Rows are found by ${what} before and after the exchange of names, so ${fresh?.name} must hold the same number in a column of type smallint, integer or bigint.`,
        `Map it by a plain cast (${fresh?.name}: '${column}::bigint'), name another unique key in the mapping, or use kind "table" with a new table.`,
      ),
    )
  return findings
}

/** What stands on the old columns and would not go over with their names: asked of the server, which writes it over a copy. */
export async function checkCarried(database: Database, migration: Migration): Promise<Finding[]> {
  const { catalog, columns } = database.dialect
  const findings: Finding[] = []
  for (const table of everyTable(migration)) {
    const swaps = columnSwaps(migration, table)
    if (swaps.length === 0) continue
    await database.transaction(async (tx) => {
      const found = await catalog.describeTable(tx, table)
      if (found === undefined || found.kind !== 'table') return
      for (const { type } of swaps) if ((await columns.refusedType(tx, type)) !== undefined) return
      if (!swaps.every(({ old }) => found.columns.some(({ name }) => name === old))) return
      const lines = await columns.uncarried(tx, table, swaps)
      if (lines.length > 0)
        findings.push(
          refusal(
            'column-uncarried',
            `After the exchange of names these would still mean the old columns of ${formatTable(table)} (${swaps.map(({ old }) => old).join(', ')}): ${lines.join('; ')}.`,
            'Use cutover.mode "flags", or take them away before and bring them back on the new column after the swap.',
          ),
        )
    })
  }
  return findings
}

async function checkReplaced(
  tx: Transaction,
  dialect: Dialect,
  migration: Migration,
  { table, column }: ColumnName,
  found: TableDescription | undefined,
): Promise<Finding[]> {
  if (!found) return []
  const { columns } = dialect
  const what = `${column} of ${formatTable(table)}`
  if (!found.columns.some((other) => other.name === column))
    return [refusal('column-missing', `There is no column ${what}.`, 'Correct `replaces`.')]
  const findings = await checkKey(tx, dialect, migration, { table, column }, found)
  if (migration.cutover.mode === 'swap') return findings
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
