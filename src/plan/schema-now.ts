import { formatTable, isSameTable, type TableName } from '../core/link.ts'
import { tablesBeside, tablesOf } from '../copy/groups.ts'
import type { Workplace } from '../copy/workplace.ts'
import type { TableDescription, Transaction } from '../database/index.ts'
import { replacedColumns } from '../ddl/columns.ts'
import type { Migration } from '../definition/index.ts'
import { driftOf, factDriftOf, type Facts, type PlannedTable } from './drift.ts'
import { plannedTables, tokenOf, type Described } from './make-plan.ts'

/** What expand keeps beside the definition, so that a gate can say what changed. An earlier version kept the array alone. */
interface Kept {
  readonly tables: readonly PlannedTable[]
  readonly facts?: Readonly<Record<string, Facts>>
  /** Changes of the facts that a person was told of, by the call of the activity that told. */
  readonly told?: { readonly by: string; readonly changes: readonly string[] }
}

/** The sources as they are now, whatever they are called now, and what they depend on. */
async function presentTables(
  tx: Transaction,
  { database, scope }: Workplace,
  migration: Migration,
): Promise<{ readonly table: TableName; readonly now: TableName }[]> {
  const tables = [...tablesOf(migration).old, ...tablesBeside(migration)]
  const now = await database.dialect.catalog.locate(tx, scope, tables)
  return tables.map((table, i) => ({ table, now: now[i] ?? table }))
}

/** What the migration itself does to old columns, their names and NOT NULL, is no drift either. */
async function asPlanned(
  tx: Transaction,
  { database, scope }: Workplace,
  migration: Migration,
  table: TableName,
  found: TableDescription,
): Promise<TableDescription> {
  const { columns } = database.dialect
  const { renamed } = await columns.names(tx, scope, table)
  const retired = replacedColumns(migration).flatMap((each) =>
    isSameTable(each.table, table) ? [[columns.retiredColumn(each.column), each.column] as const] : [],
  )
  const defined = new Map([
    ...retired,
    ...Object.entries(renamed).map(([name, present]) => [present, name] as const),
  ])
  const relaxed = (await columns.relaxed(tx, scope)).flatMap((each) =>
    isSameTable(each.table, table) ? each.column : [],
  )
  return {
    ...found,
    columns: found.columns.map((column) => {
      const name = defined.get(column.name) ?? column.name
      return { ...column, name, notNull: column.notNull || relaxed.includes(name) }
    }),
  }
}

async function describeColumns(
  tx: Transaction,
  place: Workplace,
  migration: Migration,
): Promise<PlannedTable[]> {
  const described: Described[] = []
  for (const { table, now } of await presentTables(tx, place, migration)) {
    const found = await place.database.dialect.catalog.describeTable(tx, now)
    described.push({ table, found: found && (await asPlanned(tx, place, migration, table, found)) })
  }
  return plannedTables(migration, described)
}

async function describeFacts(
  tx: Transaction,
  place: Workplace,
  migration: Migration,
): Promise<Record<string, Facts>> {
  const described: Record<string, Facts> = {}
  const written = new Set(tablesOf(migration).new.map(formatTable))
  for (const { table, now } of await presentTables(tx, place, migration))
    // What a migration builds on a table itself is no drift of it.
    if (!written.has(formatTable(table)))
      described[formatTable(table)] = await place.database.dialect.catalog.facts(tx, now)
  return described
}

async function loadKept(tx: Transaction, { database, scope }: Workplace): Promise<Kept | undefined> {
  const kept = await database.dialect.definitions.loadPlanned(tx, scope)
  if (kept === undefined) return undefined
  const parsed = JSON.parse(kept) as Kept | PlannedTable[]
  return Array.isArray(parsed) ? { tables: parsed } : (parsed as Kept)
}

const saveKept = (tx: Transaction, { database, scope }: Workplace, kept: Kept): Promise<void> =>
  database.dialect.definitions.savePlanned(tx, scope, JSON.stringify(kept))

/** Before expand changes anything: the columns that the plan relies on. */
export async function keepColumns(tx: Transaction, place: Workplace, migration: Migration): Promise<void> {
  await saveKept(tx, place, { tables: await describeColumns(tx, place, migration) })
}

/** When expand is done: what else stands on the sources. A definition's own statements may have added to it. */
export async function keepFacts(tx: Transaction, place: Workplace, migration: Migration): Promise<void> {
  const kept = await loadKept(tx, place)
  if (kept !== undefined)
    await saveKept(tx, place, { ...kept, facts: await describeFacts(tx, place, migration) })
}

/**
 * The token as the schema is now, and what changed since expand kept its description. No lines where there is none, or where
 * the one that was kept is not the one of `token`: then the schema changed between the plan and expand.
 */
export async function planToken(
  place: Workplace,
  migration: Migration,
  token: string,
): Promise<{ token: string; tables: string[]; changes: string[] }> {
  return place.database.transaction(
    async (tx) => {
      const now = await describeColumns(tx, place, migration)
      const planned = (await loadKept(tx, place))?.tables
      return {
        token: tokenOf(migration, now),
        tables: now.map(([table]) => table),
        changes: planned && tokenOf(migration, planned) === token ? driftOf(planned, now) : [],
      }
    },
    { readOnly: true },
  )
}

/**
 * What changed of the columns of the old side since the plan, and would be lost with it. What it depended on is nobody's concern any
 * more. Empty where no description was kept.
 */
export async function oldSideDrift(place: Workplace, migration: Migration): Promise<string[]> {
  const old = tablesOf(migration).old.map(formatTable)
  // Of a table that stays only the columns go that others replace.
  const goes = (table: string, column: string): boolean =>
    migration.kind !== 'column' ||
    replacedColumns(migration).some((each) => formatTable(each.table) === table && each.column === column)
  const going = (tables: readonly PlannedTable[]): PlannedTable[] =>
    tables.flatMap(([table, columns]) =>
      columns && old.includes(table) ? [[table, columns.filter(([name]) => goes(table, name))]] : [],
    )
  return place.database.transaction(
    async (tx) => {
      const now = going(await describeColumns(tx, place, migration))
      const planned = going((await loadKept(tx, place))?.tables ?? [])
      return driftOf(
        planned.filter(([table]) => now.some(([present]) => present === table)),
        now,
      )
    },
    { readOnly: true },
  )
}

/**
 * What changed of what stands on the sources, told once: whoever asks again after that (a person has resumed the migration) accepts
 * it. `by` names the call, so that a call that is repeated because its worker died tells it again. Once the new side leads, nothing
 * of the old one counts any more.
 */
export async function tellFactDrift(place: Workplace, migration: Migration, by: string): Promise<string[]> {
  return place.database.transaction(async (tx) => {
    const kept = await loadKept(tx, place)
    const { dialect } = place.database
    if (kept?.facts === undefined || (await dialect.flags.read(tx, place.scope))?.primary === 'new') return []
    const now = await describeFacts(tx, place, migration)
    const changes = factDriftOf(kept.facts, now)
    if (changes.length === 0) return []
    const isAccepted =
      kept.told !== undefined && kept.told.by !== by && kept.told.changes.join('\n') === changes.join('\n')
    await saveKept(
      tx,
      place,
      isAccepted ? { tables: kept.tables, facts: now } : { ...kept, told: { by, changes } },
    )
    return isAccepted ? [] : changes
  })
}
