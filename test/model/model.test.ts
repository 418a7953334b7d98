import { describe, expect, test } from 'vitest'
import { exploreFamily, families, type FamilyName } from './configurations.ts'
import { writeTrace } from './explore.ts'
import { mutations, type Mutation } from './mutations.ts'

/** How many states each family has: another number is another model, and belongs into the same change. */
const states: Readonly<Record<FamilyName, number>> = {
  lane: 48_813,
  appliers: 16_684,
  'lane and appliers': 34_803,
  deletes: 27_944,
  'key changes': 137_697,
  places: 37_211,
  rewrites: 11_600,
  expand: 5_801,
  swap: 44_534,
  followed: 31_876,
  joined: 38_833,
  exchange: 3_948,
  lanes: 20_437,
  'two databases': 16_176,
}

/** Where the lack of each rule shows, and the length of the shortest way there. */
const caught: Readonly<Record<Mutation, { readonly in: FamilyName; readonly steps: number }>> = {
  copyBeforeCapture: { in: 'expand', steps: 8 },
  captureWithoutWaiting: { in: 'expand', steps: 8 },
  chunkOverwrites: { in: 'lane', steps: 9 },
  chunkUnmarked: { in: 'lane', steps: 17 },
  chunkMarkedLate: { in: 'lane', steps: 18 },
  chunkUnmarkedEarly: { in: 'lane', steps: 18 },
  chunkUnfenced: { in: 'lane', steps: 9 },
  checkpointFirst: { in: 'lane', steps: 2 },
  endReadEarly: { in: 'places', steps: 9 },
  rewriteUnseen: { in: 'rewrites', steps: 13 },
  fileUnheld: { in: 'rewrites', steps: 13 },
  doneRangesStay: { in: 'rewrites', steps: 15 },
  leavesToNobody: { in: 'lanes', steps: 7 },
  leavesLater: { in: 'lanes', steps: 9 },
  deletesLeaveNoKey: { in: 'lane', steps: 9 },
  givesUpSilently: { in: 'lane', steps: 8 },
  equalIsNotWritten: { in: 'appliers', steps: 8 },
  triggerPassesOver: { in: 'lane', steps: 9 },
  readBeforeLock: { in: 'lane', steps: 14 },
  deletesBlindly: { in: 'lane', steps: 20 },
  deletesUnlocked: { in: 'lane', steps: 20 },
  insertIsEnough: { in: 'lane', steps: 14 },
  busyIsForgotten: { in: 'lane', steps: 14 },
  applierUnmarked: { in: 'appliers', steps: 18 },
  entryTakenFirst: { in: 'lane', steps: 8 },
  followerReadsFirst: { in: 'followed', steps: 18 },
  followerUnmarked: { in: 'followed', steps: 25 },
  followerPassesOver: { in: 'followed', steps: 14 },
  goneIsCopied: { in: 'followed', steps: 14 },
  noSecondLook: { in: 'lane', steps: 17 },
  secondLookAtOnce: { in: 'lane', steps: 26 },
  chunksNamedAtCommit: { in: 'lane', steps: 17 },
  secondLookIsLastForAll: { in: 'deletes', steps: 39 },
  runningReadFirst: { in: 'lane and appliers', steps: 28 },
  swapUndrained: { in: 'swap', steps: 5 },
  swapDrainsFirst: { in: 'swap', steps: 6 },
  swapIgnoresTaken: { in: 'swap', steps: 6 },
  swapUnlocked: { in: 'swap', steps: 5 },
  swapLeavesTriggers: { in: 'swap', steps: 5 },
  joinedLeavesNoKey: { in: 'joined', steps: 7 },
  linkResolvedAtOnce: { in: 'joined', steps: 10 },
  copiesOverNewSide: { in: 'joined', steps: 12 },
  newLinkOnly: { in: 'joined', steps: 6 },
  exchangedAlone: { in: 'exchange', steps: 9 },
  asideCommitted: { in: 'exchange', steps: 11 },
  asideUnwritten: { in: 'exchange', steps: 13 },
  noKeyLock: { in: 'two databases', steps: 29 },
  keyLockAfterRead: { in: 'two databases', steps: 18 },
  keyLockOfClient: { in: 'two databases', steps: 29 },
  settledBeforeCommit: { in: 'two databases', steps: 7 },
  entrySettledByKey: { in: 'two databases', steps: 18 },
  guessesCommitted: { in: 'two databases', steps: 13 },
  chunkForgottenWhenLost: { in: 'two databases', steps: 14 },
}

describe('the rules of copying hold', () => {
  test.each(Object.entries(states) as [FamilyName, number][])('%s: %i states', (name, expected) => {
    const { states: visited, counterexample } = exploreFamily(name)
    expect(
      counterexample && `${counterexample.violation}\n${writeTrace(counterexample.trace)}`,
    ).toBeUndefined()
    expect(visited, families[name].about).toBe(expected)
  })
})

describe('a rule left out is caught', () => {
  test.each(Object.entries(mutations) as [Mutation, string][])('%s: %s', (mutation) => {
    const { in: name, steps } = caught[mutation]
    const { counterexample } = exploreFamily(name, new Set([mutation]))
    expect(counterexample?.trace, mutation).toHaveLength(steps)
  })
})
