import { toCrossfadeError, openDatabase } from '../database/index.ts'
import type { Migration } from '../definition/index.ts'
import { CrossfadeError } from '../errors/index.ts'
import { makePlan, type Plan } from '../plan/make-plan.ts'

/**
 * Plans from here, read-only: with the URL in this process's environment, without Temporal.
 * @throws `DATABASE.NOT_CONFIGURED`, `DATABASE.UNREACHABLE`
 */
export async function planLocally(migration: Migration): Promise<Plan> {
  const database = await openDatabase(migration.database, {
    maxConnections: 1,
    applicationName: 'crossfade plan',
  })
  try {
    return await makePlan({ database, scope: database.dialect.catalog.scope(migration.name) }, migration)
  } catch (error) {
    throw toCrossfadeError(error, `The plan of ${migration.name}`)
  } finally {
    await database.close()
  }
}

/** What a plan with refusals says in one error; undefined where it has none. */
export function refusalOf(name: string, { findings }: Plan): CrossfadeError | undefined {
  const refusals = findings.filter((finding) => finding.severity === 'refusal')
  const [first] = refusals
  if (!first) return undefined
  return new CrossfadeError({
    kind: 'refused',
    code: 'PLAN.REFUSED',
    message: `${name} cannot be run as it is: ${refusals.map((finding) => finding.message).join(' ')}`,
    mend: first.mend,
    details: { rules: refusals.map((finding) => finding.rule) },
  })
}
