/**
 * What can be left out of the rules of copying, each by its name. A model runs with a set of them; without any it is what is built.
 * Every one must be caught (test/model/model.test.ts), or it says nothing that the model knows of.
 */
export const mutations = {
  // Rule 1.
  copyBeforeCapture: 'a lane starts before the triggers stand',
  captureWithoutWaiting: 'the triggers are made without waiting for open transactions of the application',
  // Rule 2 and 4: the chunk.
  chunkOverwrites: 'the chunk updates a row that the target has already',
  chunkUnmarked: 'the chunk does not hold the lock that names it as running',
  chunkMarkedLate: 'the chunk takes that lock after its reading snapshot',
  chunkUnmarkedEarly: 'the chunk gives that lock back before its commit',
  chunkUnfenced: 'the chunk does not check that its attempt is still the range’s own',
  checkpointFirst: 'the checkpoint is committed before the rows',
  // The chunk by place.
  endReadEarly: 'the number of pages is read before the triggers stand',
  rewriteUnseen: 'the chunk does not ask whether its table was rewritten',
  fileUnheld: 'the chunk asks, and does not hold the table from then on',
  doneRangesStay: 'after a rewrite only the pages are planned anew that were not done',
  // A lane that goes before the end.
  leavesToNobody: 'a lane leaves its range although no other lane is at work',
  leavesLater: 'a lane looks for an heir, and leaves in a later transaction',
  // The trigger.
  deletesLeaveNoKey: 'a delete that was applied at once leaves no key',
  givesUpSilently: 'a trigger that gives up leaves no key',
  equalIsNotWritten: 'the trigger does not touch a target row that is equal already',
  triggerPassesOver: 'the trigger inserts with a look of its own, and passes over a row that came meanwhile',
  // Rule 3: copyKeys.
  readBeforeLock: 'the source is read before the target rows are locked',
  deletesBlindly: 'the target row is deleted without asking for the source in the same statement',
  deletesUnlocked: 'the target row is not locked before the statement that deletes it',
  insertIsEnough: 'an insert that met another row is not looked at again',
  busyIsForgotten: 'a key whose target row somebody holds is not left for later',
  applierUnmarked: 'an applier that inserts does not hold the lock of a chunk',
  entryTakenFirst: 'the entry is taken out of the change log in a transaction of its own, before the copy',
  // The copy after the application's commit.
  followerReadsFirst: 'a copy after the commit reads the source before it has locked the target row',
  followerUnmarked: 'a copy after the commit that inserts does not hold the lock of a chunk',
  followerPassesOver: 'a copy after the commit passes over a row that came meanwhile',
  goneIsCopied: 'a copy after the commit that finds no source row leaves no key',
  // Rule 4: the second look.
  noSecondLook: 'a key that was found without a source row is not looked at again',
  secondLookAtOnce: 'the second look does not wait for the chunks to end',
  chunksNamedAtCommit: 'the running chunks are named when the look is over, not before it deletes',
  secondLookIsLastForAll: 'a second look counts as the last one for a later delete in the same batch too',
  runningReadFirst: 'the running chunks are read in a statement before the one that takes the entries',
  // The swap.
  swapUndrained: 'the names are exchanged without copying what the log holds',
  swapDrainsFirst: 'the log is drained before the lock is taken, not under it',
  swapIgnoresTaken: 'a key that an open transaction has taken from the log counts as copied',
  swapUnlocked: 'the names are exchanged without waiting for open transactions',
  swapLeavesTriggers: 'the triggers are not turned round',
  // Several sources of one target.
  joinedLeavesNoKey:
    'a change of a source row that was applied at once leaves no key, though the row is read with others',
  linkResolvedAtOnce:
    'a change of another table leaves the keys that it touches when it is made, not its own values',
  copiesOverNewSide: 'a change of another table is copied though the new side leads',
  newLinkOnly: 'a row of another table that is read by another value now leaves only the new one',
  // Rows that exchange the values of a unique index.
  exchangedAlone: 'rows that a unique index refuses are only ever written alone',
  asideCommitted: 'what is set aside is committed before it is written',
  asideUnwritten: 'a row is set aside for another one though it is itself left out',
  // Two databases.
  noKeyLock: 'no lock on the key is held across read and write',
  keyLockAfterRead: 'the lock on the key is taken after the read',
  keyLockOfClient:
    'the lock on the key ends with the connection to the source, not with the target’s transaction',
  settledBeforeCommit: 'the entry is taken out of the log before the target has committed',
  entrySettledByKey: 'an entry is taken out by its key, and a newer one of the same key with it',
  guessesCommitted: 'a commit whose answer was lost is taken as done',
  chunkForgottenWhenLost: 'a chunk whose answer was lost is no longer named as running',
} as const

export type Mutation = keyof typeof mutations
export type Mutations = ReadonlySet<Mutation>

export const asBuilt: Mutations = new Set()
