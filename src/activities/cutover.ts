import { tablesOf } from '../copy/groups.ts'
import { assertValues, twinSteps, valueSteps, withKeysProven } from '../ddl/columns.ts'
import { formatTable } from '../core/link.ts'
import { assertComplete, completionSteps } from '../ddl/expand-steps.ts'
import { assertCarried } from '../ddl/carried.ts'
import { proveKeys } from '../ddl/prove-keys.ts'
import { attempt, runStep } from '../ddl/run-step.ts'
import { isSwapped, swapNames } from '../ddl/swap.ts'
import { CrossfadeError } from '../errors/index.ts'
import type { Bodies } from './surroundings.ts'

export const cutoverActivities: Pick<Bodies, 'setFlags' | 'proveCutover' | 'swap'> = {
  async setFlags({ percent, primary, ...ref }, { place }) {
    const { database, scope } = await place(ref)
    await database.transaction((tx) =>
      database.dialect.flags.set(tx, scope, percent, { primary, order: ref.order }),
    )
  },

  async proveCutover(ref, { enter }) {
    const { place, migration } = await enter(ref)
    const { database, scope } = place
    await assertComplete(completionSteps(database.dialect, migration), (step) =>
      database.transaction((tx) => step.inspect(tx, scope)),
    )
    await database.transaction((tx) => assertCarried(place, tx, migration), { readOnly: true })
    await assertValues(place, migration)
    const proofs: string[] = []
    for (const query of migration.cutover.queries) {
      const { indexes, sequentialScans } = await database.transaction((tx) =>
        database.dialect.catalog.explainQuery(tx, query.sql),
      )
      const uses =
        query.index === undefined
          ? indexes.length > 0 && sequentialScans.length === 0
          : indexes.includes(query.index)
      if (!uses)
        throw new CrossfadeError({
          kind: 'refused',
          code: 'CUTOVER.NO_INDEX',
          message: `The query "${query.name}" does not use ${query.index === undefined ? 'an index alone' : `the index ${query.index}`} on the new side: it used ${[...indexes, ...sequentialScans.map((table) => `a sequential scan of ${table}`)].join(', ') || 'nothing'}.`,
          mend: 'Create the index that it needs (or correct cutover.queries), run ANALYZE, and resume.',
          details: { query: query.name },
        })
      proofs.push(`Query "${query.name}" uses ${indexes.join(', ')}.`)
    }
    return proofs
  },

  async swap({ direction, ...ref }, around) {
    const { place, migration } = await around.enter(ref)
    const tables = tablesOf(migration)
    const { dialect } = place.database
    const wasSwapped = await place.database.transaction((tx) => isSwapped(place, tx, migration))
    if (direction === 'to-new' && !wasSwapped)
      // What was added to the old columns since the backfill is built for the new ones first.
      for (const step of [...twinSteps(dialect, migration), ...valueSteps(dialect, migration)])
        await runStep(place, step, tables.old, around)
    const title = `Exchange the names of ${tables.old.map(formatTable).join(', ')} and ${tables.new.map(formatTable).join(', ')}`
    const exchange = (): Promise<'swapped' | 'was swapped'> =>
      attempt(place, title, [...tables.old, ...tables.new], around, ({ lockTimeoutMs }) =>
        place.database.transaction((tx) => swapNames(place, tx, migration, direction), {
          lockTimeoutMs,
          applying: place.scope.migration,
        }),
      )
    const did = await (direction === 'to-old' && wasSwapped
      ? withKeysProven(place, migration, around, exchange)
      : exchange())
    // The names are exchanged whatever comes of it: a row without its parent is reported before the contract.
    await proveKeys(place, around)
    return did
  },
}
