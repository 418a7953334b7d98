import { Context } from '@temporalio/activity'
import type { Migration } from '../definition/index.ts'
import { isCrossfadeError, type CrossfadeError } from '../errors/index.ts'
import { toCrossfadeError } from '../database/index.ts'
import { backfillActivities } from './backfill.ts'
import type { Activities } from './contract.ts'
import { cutoverActivities } from './cutover.ts'
import { expandActivities } from './expand.ts'
import { asCancellation, toFailure } from './failure.ts'
import { goBackActivities } from './go-back.ts'
import { instanceActivities } from './instances.ts'
import { retireActivities } from './retire.ts'
import { createSurroundings, type ActivityDependencies, type Bodies } from './surroundings.ts'
import { syncActivities } from './sync.ts'
import { verifyActivities } from './verify.ts'

export type { Activities } from './contract.ts'
export type { ActivityDependencies } from './surroundings.ts'

const bodies: Bodies = {
  ...expandActivities,
  ...backfillActivities,
  ...verifyActivities,
  ...syncActivities,
  ...cutoverActivities,
  ...retireActivities,
  ...goBackActivities,
  ...instanceActivities,
}

const beatMs = 1000

/**
 * The activities of a worker. Each says every second that it lives, with its latest progress, and leaves only failures that may
 * stand in a history.
 */
export function createActivities(dependencies: ActivityDependencies): Activities {
  const definitions = new Map<string, Migration>()
  const guard =
    (name: string, body: (input: never, around: ReturnType<typeof createSurroundings>) => Promise<unknown>) =>
    async (input: unknown): Promise<unknown> => {
      let progress: object = {}
      const context = Context.current()
      const report = (next: object): void => {
        progress = next
        context.heartbeat(progress)
      }
      const beat = setInterval(() => context.heartbeat(progress), beatMs)
      try {
        return await body(input as never, createSurroundings(dependencies, definitions, report))
      } catch (error) {
        throw asCancellation() ?? toFailure(isCrossfadeError(error) ? error : unexpected(error, name))
      } finally {
        clearInterval(beat)
      }
    }
  return Object.fromEntries(
    Object.entries(bodies).map(([name, body]) => [name, guard(name, body)]),
  ) as unknown as Activities
}

const unexpected = (error: unknown, activity: string): CrossfadeError =>
  toCrossfadeError(error, `The activity ${activity}`)
