import { applierSteps } from './applier.ts'
import { followerSteps } from './follower.ts'
import type { Model } from './explore.ts'
import { attemptSteps, fileSteps } from './lane.ts'
import type { Mutations } from './mutations.ts'
import { initialPair, pending, type Configuration, type Pair, type Setting } from './pair.ts'
import { expandSteps, swapSteps } from './swap.ts'
import { writerSteps } from './writer.ts'

/** Everybody who works on one pair of tables in one database, with some of the rules left out. */
export function pairModel(configuration: Configuration, without: Mutations): Model<Pair> {
  const setting: Setting = { configuration, without }
  return {
    initial: initialPair(configuration),
    steps: (s) => [
      ...expandSteps(s, setting),
      ...s.writers.flatMap((_, i) => writerSteps(s, i, setting)),
      ...s.attempts.flatMap((_, i) => attemptSteps(s, i, setting)),
      ...s.appliers.flatMap((_, i) =>
        i < configuration.appliers ? applierSteps(s, i, setting) : followerSteps(s, i, setting),
      ),
      ...fileSteps(s, setting),
      ...swapSteps(s, setting),
    ],
    violation: (s, isOver) => violation(s, isOver, setting),
  }
}

/**
 * What a gate may rely on, in every state and not only at the end: where the copy is complete and the change log of the leading
 * side counts nothing, both tables say the same.
 */
function violation(s: Pair, isOver: boolean, { configuration, without }: Setting): string | undefined {
  const isComplete = s.ranges.every((range) => range.done)
  const isDrained = isComplete && s.captured && pending(s, s.leading, without) === 0
  const differs = s.tables[0].findIndex((r, key) => r.committed !== s.tables[1][key]?.committed)
  if (isDrained && differs >= 0) return `drained, and the tables differ in key ${differs}`
  if (s.ranges.some((range) => range.counted > 1)) return 'rows were counted twice'
  if (!isOver) return undefined
  const isDone =
    isDrained &&
    s.writers.every((w, i) => w.change === configuration.writers[i]?.length) &&
    s.attempts.every((a) => a.at === 'over') &&
    s.appliers.every((p) => p.at === 'idle') &&
    (s.swap === 'none' || s.swap === 'over')
  if (!isDone) return differs >= 0 ? `over, and the tables differ in key ${differs}` : 'nobody can go on'
  return s.ranges.every((range) => range.counted === 1) ? undefined : 'rows were not counted'
}
