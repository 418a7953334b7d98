import { everyTable, followedTables, tablesOf } from '../copy/groups.ts'
import type { Workplace } from '../copy/workplace.ts'
import type { TableName } from '../core/link.ts'
import type { Migration } from '../definition/index.ts'
import { dropSteps, retireSteps, stopFollowing, valueSteps } from '../ddl/columns.ts'
import { movePrimary } from '../ddl/move-primary.ts'
import { proveKeys } from '../ddl/prove-keys.ts'
import { attempt, runStep } from '../ddl/run-step.ts'
import { CrossfadeError } from '../errors/index.ts'
import { mostChanges, shorten } from '../plan/drift.ts'
import { oldSideDrift } from '../plan/schema-now.ts'
import type { Bodies } from './surroundings.ts'

export const retireActivities: Pick<
  Bodies,
  'startReverse' | 'movePrimary' | 'stopDualWrite' | 'observeOldSide' | 'retireOldTables' | 'dropOldTables'
> = {
  async startReverse(ref, around) {
    const { place, migration, groups } = await around.enter(ref)
    for (const group of groups.reverse)
      await runStep(
        place,
        place.database.dialect.ddl.installTriggers(group, 'copy', migration.sync),
        followedTables(group),
        around,
      )
  },

  async movePrimary(ref, around) {
    const { place, migration, groups } = await around.enter(ref)
    for (const step of valueSteps(place.database.dialect, migration))
      await runStep(place, step, everyTable(migration), around)
    await movePrimary(place, migration, groups, 'new', around)
  },

  async stopDualWrite(ref, around) {
    const { place, migration, groups } = await around.enter(ref)
    const { ddl } = place.database.dialect
    if (migration.kind === 'column') return stopFollowing(place, migration, groups, around)
    const [unproven] = await proveKeys(place, around)
    if (unproven) throw unproven.error
    for (const group of groups.reverse)
      await runStep(place, ddl.removeTriggers(group), followedTables(group), around)
    // From here on the old side is stale: a stray write to it must be noticed, and must never reach the new side.
    for (const group of groups.forward)
      await runStep(place, ddl.installTriggers(group, 'watch', migration.sync), followedTables(group), around)
  },

  async observeOldSide(ref, { enter }) {
    const { place, migration, groups } = await enter(ref)
    const { database, scope } = place
    await assertSameOldSide(place, migration)
    // Who reads one column of a table that is in use, no statistics say.
    const old = migration.kind === 'column' ? [] : await presentNames(place, migration, 'old')
    return database.transaction(async (tx) => {
      const activity = await database.dialect.catalog.activity(tx, old)
      let strayKeys = 0
      for (const group of groups.forward)
        strayKeys += (await database.dialect.changeLog.state(tx, scope, group)).pending
      return {
        scans: activity.reduce((sum, table) => sum + table.scans, 0),
        writes: activity.reduce((sum, table) => sum + table.writes, 0),
        strayKeys,
      }
    })
  },

  async retireOldTables(ref, around) {
    const { place, migration } = await around.open(ref)
    const { ddl } = place.database.dialect
    await assertSameOldSide(place, migration) // the gate may have been open for days
    if (migration.kind === 'column') {
      for (const step of retireSteps(place.database.dialect, migration))
        await runStep(place, step, everyTable(migration), around)
      return
    }
    const present = await presentNames(place, migration, 'old')
    for (const [i, table] of tablesOf(migration).old.entries()) {
      const now = present[i] ?? table
      // After a swap it has that name already.
      if (now.name !== ddl.retiredName(table))
        await runStep(place, ddl.renameTable(now, ddl.retiredName(table)), [now], around)
    }
  },

  /** Needs no links: after a crash the old tables may be gone already. */
  async dropOldTables(ref, around) {
    const { place, migration } = await around.open(ref)
    const { database, scope } = place
    const { ddl } = database.dialect
    for (const statement of migration.contract.sql)
      await runStep(place, ddl.ownStatement(statement), [], around)
    await attempt(
      place,
      'Remove the triggers, change logs and checkpoints',
      tablesOf(migration).old,
      around,
      ({ lockTimeoutMs }) => ddl.tidyScope(database, scope, { lockTimeoutMs }),
    )
    if (!migration.contract.drop) return
    if (migration.kind === 'column') {
      for (const step of dropSteps(database.dialect, migration))
        await runStep(place, step, everyTable(migration), around)
      return
    }
    for (const table of tablesOf(migration).old) {
      const retired = { schema: table.schema, name: ddl.retiredName(table) }
      await runStep(place, ddl.dropTable(retired), [retired], around)
    }
  },
}

/** @throws `PLAN.DRIFT`: whoever changes its columns uses it, and a column that came after the plan is nowhere else. */
async function assertSameOldSide(place: Workplace, migration: Migration): Promise<void> {
  const changes = await oldSideDrift(place, migration)
  if (changes.length === 0) return
  throw new CrossfadeError({
    kind: 'refused',
    code: 'PLAN.DRIFT',
    message: `The columns of the old side, which is about to go, are not those that were planned for: ${shorten(changes)}.`,
    mend: 'Whoever changed them still uses the old side. Bring what is in them over to the new side, change them back, and resume.',
    details: { changes: changes.slice(0, mostChanges) },
  })
}

async function presentNames(
  { database, scope }: Workplace,
  migration: Migration,
  side: 'old' | 'new',
): Promise<TableName[]> {
  return database.transaction((tx) => database.dialect.catalog.locate(tx, scope, tablesOf(migration)[side]))
}
