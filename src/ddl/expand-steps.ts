import { carriedColumns, isSameTable } from '../core/link.ts'
import type { DdlStep, Dialect } from '../database/index.ts'
import { everyTable, type Groups } from '../copy/groups.ts'
import { forwardLinks, type Migration } from '../definition/index.ts'
import { newColumns, registerSteps, twinSteps, valueSteps } from './columns.ts'
import { CrossfadeError } from '../errors/index.ts'

/** What expand does before the links can be resolved: our schema, the new tables, the author's own statements. */
export function foundationSteps({ columns, ddl }: Dialect, migration: Migration): DdlStep[] {
  return [
    ddl.createScope(),
    ...newColumns(migration).map((column) => columns.addColumn(column)),
    ...migration.expand.tables.map((table) => ddl.createTable(table)),
    ...migration.expand.sql.map((statement) => ddl.ownStatement(statement)),
  ]
}

/** What the new tables get before the copy: unique indexes and checks, and the rest where the definition wants it so. */
export function earlySteps({ ddl }: Dialect, migration: Migration): DdlStep[] {
  const isEager = migration.expand.indexes === 'before-backfill'
  return migration.expand.tables.flatMap((table) => [
    ...table.indexes.filter((index) => index.unique || isEager).map((index) => ddl.createIndex(table, index)),
    ...table.checks.flatMap((check) => ddl.addCheck(table, check)),
  ])
}

/** What follows once both sides exist. Capture comes last: from then on no change is lost. */
export function captureSteps(dialect: Dialect, migration: Migration, groups: Groups): DdlStep[] {
  const { access, ddl } = dialect
  const tables = everyTable(migration)
  return [
    ddl.registerTables(tables),
    ...registerSteps(dialect, migration),
    ...earlySteps(dialect, migration),
    ...forwardLinks(migration)
      .filter(({ target }) => migration.expand.tables.some((spec) => isSameTable(spec.table, target.table)))
      .map((link) => access.copy(link.parts[0].table, link.target.table, carriedColumns(link))),
    ...[...groups.forward, ...groups.reverse].map((group) => ddl.createChangeLog(group)),
    ...groups.forward.map((group) => ddl.installTriggers(group, 'copy', migration.sync)),
  ]
}

/**
 * What is cheaper on a full table than during the copy: plain indexes. And foreign keys, always: while rows are copied in the order of
 * their keys, a row may come before the one that it references. All must be there before cutover. An index over a new column would
 * also keep the backfill's updates from being HOT.
 */
export function completionSteps(dialect: Dialect, migration: Migration): DdlStep[] {
  const { ddl } = dialect
  const { columnIndexes = [] } = migration.expand
  if (migration.kind === 'column')
    return [...columnIndexes.map((index) => ddl.createIndex(index, index)), ...twinSteps(dialect, migration)]
  const isLate = migration.expand.indexes === 'after-backfill'
  return migration.expand.tables.flatMap((table) => [
    ...table.indexes.filter((index) => isLate && !index.unique).map((index) => ddl.createIndex(table, index)),
    ...table.foreignKeys.flatMap((key) => ddl.addForeignKey(table, key)),
  ])
}

/** Every step of a migration that has an undo, in the order of undoing: the last first. */
export function undoableSteps(dialect: Dialect, migration: Migration, groups: Groups | undefined): DdlStep[] {
  const steps = [
    ...foundationSteps(dialect, migration),
    ...(groups ? captureSteps(dialect, migration, groups) : []),
    ...completionSteps(dialect, migration),
    ...valueSteps(dialect, migration),
  ]
  return steps.reverse()
}

/** @throws `CUTOVER.INCOMPLETE` naming every declared object that is not there and valid. */
export async function assertComplete(
  steps: readonly DdlStep[],
  inspect: (step: DdlStep) => Promise<'absent' | 'present' | 'broken'>,
): Promise<void> {
  const missing: string[] = []
  for (const step of steps) if ((await inspect(step)) !== 'present') missing.push(step.title)
  if (missing.length === 0) return
  throw new CrossfadeError({
    kind: 'refused',
    code: 'CUTOVER.INCOMPLETE',
    message: `Before cutover these must be there and valid: ${missing.join('; ')}.`,
    mend: 'Resume the migration: the step is tried again. If it was dropped by hand, create it again.',
    details: { missing },
  })
}
