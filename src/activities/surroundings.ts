import { Context } from '@temporalio/activity'
import { resolveGroups, type Groups } from '../copy/groups.ts'
import type { Workplace } from '../copy/workplace.ts'
import type { Database } from '../database/index.ts'
import { fingerprint as fingerprintOf, type Migration } from '../definition/index.ts'
import { CrossfadeError } from '../errors/index.ts'
import type { Measure } from '../telemetry/measure.ts'
import type { Metric } from '../telemetry/metrics.ts'
import type { Activities, MigrationRef } from './contract.ts'

/** What the activities need from the process that runs them. */
export interface ActivityDependencies {
  /** Opened once per name; closed by whoever created the activities. */
  openDatabase(name: string): Promise<Database>
  /** Where measurements go. Default: nowhere. */
  readonly measure?: Measure
}

/** What one call of an activity works in. */
export interface Surroundings {
  /** Fires when the workflow cancels this activity, or the worker shuts down. */
  readonly signal: AbortSignal
  /** This call of the activity, whichever attempt: a call that the workflow makes anew is another. */
  readonly call: string
  /** The progress that the next heartbeat carries; it is also what the Temporal UI shows under Pending Activities. */
  report(progress: object): void
  /** As the definition wants it. */
  measure(migration: Migration, metric: Metric, value: number): void
  place(ref: Pick<MigrationRef, 'name' | 'database' | 'order'>): Promise<Workplace>
  /** The definition that was approved, from where expand left it. @throws `DEFINITION.CHANGED`, `DEFINITION.MISSING` */
  open(ref: MigrationRef): Promise<{ readonly place: Workplace; readonly migration: Migration }>
  /** The same with its links, as the tables are called now; both sides must be there. */
  enter(
    ref: MigrationRef,
  ): Promise<{ readonly place: Workplace; readonly migration: Migration; readonly groups: Groups }>
}

/** Activities as they are written here: the input, and what the call works in. */
export type Bodies = {
  [K in keyof Activities]: (
    input: Parameters<Activities[K]>[0],
    around: Surroundings,
  ) => ReturnType<Activities[K]>
}

export function createSurroundings(
  dependencies: ActivityDependencies,
  definitions: Map<string, Migration>,
  report: (progress: object) => void,
): Surroundings {
  const place: Surroundings['place'] = async ({ name, database: databaseName, order }) => {
    const database = await dependencies.openDatabase(databaseName)
    return { database, scope: database.dialect.catalog.scope(name), order }
  }
  const open: Surroundings['open'] = async (ref) => {
    const where = await place(ref)
    const migration = definitions.get(ref.fingerprint) ?? (await loadDefinition(where, ref))
    definitions.set(ref.fingerprint, migration)
    return { place: where, migration }
  }
  return {
    signal: Context.current().cancellationSignal,
    call: callOf(Context.current()),
    report,
    measure: ({ name, metrics }, metric, value) =>
      dependencies.measure?.(metric, value, { migration: name }, metrics),
    place,
    open,
    async enter(ref) {
      const { place: where, migration } = await open(ref)
      const groups = await where.database.transaction(
        (tx) => resolveGroups(tx, where.database.dialect, where.scope, migration),
        { readOnly: true },
      )
      return { place: where, migration, groups }
    },
  }
}

const callOf = ({ info }: Context): string => `${info.workflowExecution?.runId ?? ''}/${info.activityId}`

async function loadDefinition({ database, scope }: Workplace, ref: MigrationRef): Promise<Migration> {
  const kept = await database.transaction((tx) => database.dialect.definitions.load(tx, scope), {
    readOnly: true,
  })
  if (!kept)
    throw new CrossfadeError({
      kind: 'refused',
      code: 'DEFINITION.MISSING',
      message: `The definition of ${ref.name} is not in the schema ${scope.schema} where expand left it.`,
      mend: 'Was the schema dropped by hand? Abort this migration and start it again.',
    })
  const migration = JSON.parse(kept.definition) as Migration
  if (kept.fingerprint === ref.fingerprint && fingerprintOf(migration) === ref.fingerprint) return migration
  throw new CrossfadeError({
    kind: 'refused',
    code: 'DEFINITION.CHANGED',
    message: `The definition kept in ${scope.schema} is not the one that ${ref.name} was started with (${kept.fingerprint.slice(0, 8)} instead of ${ref.fingerprint.slice(0, 8)}).`,
    mend: 'Another migration of the same name has run in this database; abort one of the two.',
  })
}
