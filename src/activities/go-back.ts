import { followedTables, resolveGroups, everyTable, type Groups } from '../copy/groups.ts'
import type { Workplace } from '../copy/workplace.ts'
import type { TableName } from '../core/link.ts'
import type { SyncGroup } from '../database/index.ts'
import { undoableSteps } from '../ddl/expand-steps.ts'
import { releaseColumns, restoreColumns, withKeysProven } from '../ddl/columns.ts'
import { movePrimary } from '../ddl/move-primary.ts'
import { proveKeys } from '../ddl/prove-keys.ts'
import { attempt, undoStep, type DdlPatience } from '../ddl/run-step.ts'
import { isSwapped, swapNames } from '../ddl/swap.ts'
import { untilAcknowledged } from '../sync/acknowledged.ts'
import { readChangeLogs } from '../sync/apply-changes.ts'
import { drain } from '../sync/drain.ts'
import { isCrossfadeError } from '../errors/index.ts'
import type { Migration } from '../definition/index.ts'
import type { MigrationRef } from './contract.ts'
import type { Bodies, Surroundings } from './surroundings.ts'

/** Traffic must be back within a second. Where the last changes cannot be copied back in that time, it goes back all the same. */
const briefly: DdlPatience = { lockTimeoutMs: 100, pauseMs: 50, attempts: 3 }

export const goBackActivities: Pick<Bodies, 'returnTraffic' | 'windDown'> = {
  async returnTraffic(ref, around) {
    const found = await findGroups(ref, around)
    if (found === 'nothing' || found === 'an empty schema') return { primary: 'old', left: 0 }
    const { place, migration, groups } = found
    const { database, scope } = place
    let left = 0
    if (groups && (await database.transaction((tx) => isSwapped(place, tx, migration))))
      await withKeysProven(place, migration, around, () =>
        attempt(place, 'Exchange the names back', everyTable(migration), around, ({ lockTimeoutMs }) =>
          database.transaction((tx) => swapNames(place, tx, migration, 'to-old'), {
            lockTimeoutMs,
            applying: scope.migration,
          }),
        ),
      )
    const { flags } = database.dialect
    const isNew = (await database.transaction((tx) => flags.read(tx, scope)))?.primary === 'new'
    if (isNew && groups) {
      const hasMoved = await movePrimary(place, migration, groups, 'old', {
        ...around,
        patience: briefly,
      }).then(
        () => true,
        () => false,
      )
      if (!hasMoved) left = await pendingBack(place, groups)
    }
    const off = {
      [migration.flags.readEnabled]: 0,
      [migration.flags.writeEnabled]: 0,
      [migration.flags.backfillActive]: 0,
    }
    await database.transaction((tx) => flags.set(tx, scope, off, { primary: 'old', order: ref.order }))
    return { primary: 'old', left }
  },

  async windDown({ cleanUp, ...ref }, around) {
    const found = await findGroups(ref, around)
    if (found === 'nothing') return ['nothing had been created']
    if (found === 'an empty schema') {
      await dropScope(await around.place(ref), [], around)
      return ['everything that was created is removed']
    }
    const { place, migration, groups } = found
    const { database, scope } = place
    const { dialect } = database
    const tables = everyTable(migration)
    await releaseColumns(place, migration, around)
    let behind = 0
    // Expand may have ended anywhere: a side that has no change log yet has nothing to copy back.
    for (const group of groups?.reverse ?? [])
      if (await hasChangeLog(place, group)) behind += await drain(place, group, 0, 30_000, around.signal)
    for (const group of [...(groups?.forward ?? []), ...(groups?.reverse ?? [])])
      await removeTriggers(place, group, around)
    if (migration.sync.method === 'application') await untilNobodyCaptures(place, around)
    await restoreColumns(place, around)
    const left = (await proveKeys(place, around)).map(({ title, error }) => `${title}: ${error.message}`)
    if (behind > 0)
      return [
        ...left,
        `${behind} keys of the new side could not be copied back, so it is kept: see ${scope.schema}`,
      ]
    if (!cleanUp)
      return [
        ...left,
        `what is new and the schema ${scope.schema} are kept; \`crossfade abort --clean-up\` would have removed them`,
      ]
    const journal = new Set(await database.transaction((tx) => dialect.journal.read(tx, scope)))
    for (const step of undoableSteps(dialect, migration, groups)) {
      if (!journal.has(step.id)) continue
      const { did, title } = await undoStep(place, step, tables, around)
      if (did === 'left' && step.id.startsWith('own '))
        left.push(`left as it is: ${title} (it has no "down")`)
    }
    await dropScope(place, tables, around)
    return ['everything that was created is removed', ...left]
  },
}

/** What instances call within their own transactions goes only after all of them know that it does. */
async function untilNobodyCaptures(place: Workplace, around: Surroundings): Promise<void> {
  const { database, scope } = place
  await database.transaction((tx) => database.dialect.flags.set(tx, scope, {}))
  await untilAcknowledged(place, around)
}

function dropScope(place: Workplace, tables: readonly TableName[], around: Surroundings): Promise<void> {
  const { database, scope } = place
  return attempt(place, `Drop the schema ${scope.schema}`, tables, around, ({ lockTimeoutMs }) =>
    database.dialect.ddl.dropScope(database, scope, { lockTimeoutMs }),
  )
}

async function removeTriggers(place: Workplace, group: SyncGroup, around: Surroundings): Promise<void> {
  const { database, scope } = place
  const step = database.dialect.ddl.removeTriggers(group)
  await attempt(place, step.title, followedTables(group), around, ({ lockTimeoutMs }) =>
    step.apply(database, scope, { lockTimeoutMs, signal: around.signal }),
  )
}

async function hasChangeLog({ database, scope }: Workplace, group: SyncGroup): Promise<boolean> {
  const step = database.dialect.ddl.createChangeLog(group)
  return (await database.transaction((tx) => step.inspect(tx, scope))) === 'present'
}

async function pendingBack(place: Workplace, groups: Groups): Promise<number> {
  return (await readChangeLogs(place, groups.reverse)).reduce((sum, log) => sum + log.pending, 0)
}

/**
 * The definition and its links; without links where expand had not created the new tables yet. `an empty schema`: a worker died before
 * the definition was in it, and nothing else follows before that.
 */
async function findGroups(
  ref: MigrationRef,
  around: Surroundings,
): Promise<
  { place: Workplace; migration: Migration; groups: Groups | undefined } | 'nothing' | 'an empty schema'
> {
  const place = await around.place(ref)
  const { database, scope } = place
  const { dialect } = database
  return database.transaction(async (tx) => {
    if (!(await dialect.journal.exists(tx, scope))) return 'nothing'
    const kept = await dialect.definitions.load(tx, scope)
    if (kept === undefined) return 'an empty schema'
    if (kept.fingerprint !== ref.fingerprint) return 'nothing'
    const migration = JSON.parse(kept.definition) as Migration
    const groups = await resolveGroups(tx, dialect, scope, migration).catch((error: unknown) => {
      if (isCrossfadeError(error)) return undefined
      throw error
    })
    return { place, migration, groups }
  })
}
