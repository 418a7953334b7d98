import type { Workplace } from '../copy/workplace.ts'
import { isCrossfadeError, type CrossfadeError } from '../errors/index.ts'
import { runStep, type DdlWatch } from './run-step.ts'

/**
 * Validates the foreign keys that an exchange of names took along: they hold for every write since, and what stood before is proven
 * here, without keeping anybody waiting. Safe to run again.
 * @returns what was refused: a row that had no parent before either, because its key was switched off once.
 */
export async function proveKeys(
  place: Workplace,
  watch: DdlWatch,
): Promise<readonly { readonly title: string; readonly error: CrossfadeError }[]> {
  const { database, scope } = place
  const refused: { title: string; error: CrossfadeError }[] = []
  for (const step of await database.transaction((tx) => database.dialect.dependents.unproven(tx, scope)))
    try {
      await runStep(place, step, [], watch)
    } catch (error) {
      if (!isCrossfadeError(error) || error.kind !== 'refused') throw error
      refused.push({ title: step.title, error })
    }
  return refused
}
