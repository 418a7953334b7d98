import { setTimeout as delay } from 'node:timers/promises'
import { Context } from '@temporalio/activity'
import { ApplicationFailure } from '@temporalio/common'
import type { Activities } from '../../src/activities/contract.ts'
import { toFailure } from '../../src/activities/failure.ts'
import { laneCount } from '../../src/core/lanes.ts'
import type { ParityEvidence } from '../../src/core/gates.ts'
import type { Side } from '../../src/core/phases.ts'
import { CrossfadeError } from '../../src/errors/index.ts'

/**
 * The only fakes in this project: what a workflow would ask a database for, so that its own logic can be driven through weeks of
 * holds in seconds. One worker serves all tests of a file; each migration has a world of its own, found by its name.
 */

export type ActivityName = keyof Activities

export interface Call {
  readonly name: ActivityName
  readonly input: Record<string, unknown>
}

export interface World {
  /** Every call that began, in order, the companions' too. */
  readonly calls: Call[]
  readonly flags: Record<string, number>
  primary: Side
  /** Runs before the body of an activity: throws what it should fail with, or waits. */
  readonly before: Partial<Record<ActivityName, (input: Record<string, unknown>) => unknown>>
  /** Slices that each lane takes; the last one is done. */
  slicesPerLane: number
  /** The counts of each verification pass in turn; the last one stays. */
  mismatches: number[]
  sample: ParityEvidence['sample']
  /** What the next slices of sampling return. */
  breach: string | undefined
  oldSide: { scans: number; writes: number; strayKeys: number }
  /** Who does not act on the flags yet, of each look in turn; nobody where the list is empty. */
  readonly behind: (readonly string[])[]
  /** What somebody holds back. */
  braked: string | undefined
  /** How long a slice of a companion lasts in the server's time. */
  companionSliceMs: number
  /** Slices of companions that have ended. */
  companionSlices: number
  /** Slices of the backfill that have ended. */
  backfillSlices: number
}

export const token = 'a1b2c3d4e5f6'

export function createWorld(): World {
  return {
    calls: [],
    flags: {},
    primary: 'old',
    before: {},
    slicesPerLane: 2,
    mismatches: [0],
    sample: { compared: 0, mismatched: 0 },
    breach: undefined,
    oldSide: { scans: 7, writes: 7, strayKeys: 0 },
    behind: [],
    braked: undefined,
    // No part of a day: the test server's clock stands still for good where a hold ends in the instant in which a slice does.
    companionSliceMs: 23.7 * 3_600_000,
    companionSlices: 0,
    backfillSlices: 0,
  }
}

/** How often an activity began. */
export const timesOf = (world: World, name: ActivityName): number =>
  world.calls.filter((call) => call.name === name).length

/** The activities of the story in order, without the companions' and without repetitions of slices. */
export const storyOf = (world: World): string[] =>
  world.calls
    .map((call) => call.name)
    .filter((name) => name !== 'applyChanges' && name !== 'sampleParity')
    .filter((name, i, all) => name !== all[i - 1])

/** As our own activities fail where a retry would not mend it. */
export const refusal = (code: string): ApplicationFailure =>
  toFailure(
    new CrossfadeError({
      kind: 'refused',
      code,
      message: `What ${code} says went wrong.`,
      mend: `Mend what ${code} needs.`,
    }),
  )

/** Runs until it is cancelled, and says meanwhile that it lives, as ours do. */
export async function runUntilCancelled(): Promise<never> {
  const context = Context.current()
  const beat = setInterval(() => context.heartbeat(), 20)
  try {
    return await context.cancelled
  } finally {
    clearInterval(beat)
  }
}

export interface Stop {
  /** That the activity is there. */
  isReached(): boolean
}

/** The first call of an activity runs until it is cancelled, which the world's calls then show; the next ones go through. */
export function stopAt(world: World, name: ActivityName): Stop {
  let isReached = false
  world.before[name] = async (input) => {
    if (isReached) return
    isReached = true
    await runUntilCancelled().finally(() => world.calls.push({ name, input: { ...input, cancelled: true } }))
  }
  return { isReached: () => isReached }
}

/** The next call of an activity fails as ours do where a retry would not mend it. */
export function failOnce(world: World, name: ActivityName, code: string): void {
  let hasFailed = false
  world.before[name] = () => {
    if (hasFailed) return
    hasFailed = true
    throw refusal(code)
  }
}

const beatMs = 20

/** Waits for `isOver` with a heartbeat; ends early when it is cancelled. */
export async function runUntil(isOver: () => boolean): Promise<void> {
  const context = Context.current()
  while (!isOver()) {
    context.heartbeat()
    await delay(beatMs, undefined, { signal: context.cancellationSignal }).catch(async (error: unknown) => {
      if (context.cancellationSignal.aborted) await context.cancelled
      throw error
    })
  }
}

/**
 * A slice that lasts in the server's time: the first attempt is put off, the second ends it. A running activity would stop the
 * server's clock from skipping; one that waits for its next attempt does not.
 */
function lastFor(ms: number): void {
  if (Context.current().info.attempt > 1) return
  throw ApplicationFailure.create({ message: 'the slice goes on', nextRetryDelay: ms })
}

/** The same for a single activity of the story, every time it is asked for. */
export function putOff(ms: number): void {
  lastFor(ms)
}

/** @param worldOf the world of a migration. */
export function createFakeActivities(worldOf: (name: string) => World): Activities {
  const bodies = bodiesOf()
  const act =
    (name: ActivityName) =>
    async (input: Record<string, unknown>): Promise<unknown> => {
      const migration = input['migration'] as { name: string } | undefined
      const world = worldOf(migration?.name ?? String(input['name']))
      world.calls.push({ name, input })
      await world.before[name]?.(input)
      return bodies[name](world, input as never)
    }
  return Object.fromEntries(
    Object.keys(bodies).map((name) => [name, act(name as ActivityName)]),
  ) as unknown as Activities
}

type FakeBodies = {
  [K in ActivityName]: (
    world: World,
    input: Parameters<Activities[K]>[0],
  ) => Awaited<ReturnType<Activities[K]>>
}

const rows = 10_000
const ranges = 4

function bodiesOf(): FakeBodies {
  const slices = new Map<World, Map<string, number>>()
  /** Whether this was the last slice of the lane. */
  const isLastSlice = (world: World, key: string): boolean => {
    const counts = slices.get(world) ?? new Map<string, number>()
    slices.set(world, counts)
    const count = (counts.get(key) ?? 0) + 1
    counts.set(key, count)
    return count >= world.slicesPerLane
  }
  const forget = (world: World, prefix: string): void => {
    for (const key of [...(slices.get(world)?.keys() ?? [])])
      if (key.startsWith(prefix)) slices.get(world)?.delete(key)
  }
  const passes = new Map<World, number>()
  const mismatchesOf = (world: World): number =>
    world.mismatches[Math.min(passes.get(world) ?? 1, world.mismatches.length) - 1] ?? 0
  const evidence = (world: World): ParityEvidence => ({
    full: { compared: rows, mismatched: mismatchesOf(world) },
    sample: world.sample,
    rangesCompared: ranges,
  })
  const steps = { steps: [{ title: 'Create people', did: 'applied', tookMs: 3 }] }
  return {
    plan: () => ({
      token,
      strategy: 'expand/contract with triggers',
      steps: [
        { title: 'Create public.people', lock: 'none' },
        { title: 'Install triggers on public.users', lock: 'SHARE ROW EXCLUSIVE, short' },
      ],
      tables: [{ table: 'public.users', rowsEstimated: rows, bytes: 1_000_000 }],
      warnings: [],
    }),
    expand: () => steps,
    complete: () => steps,
    checkCapture: () => undefined,
    checkDrift: () => undefined,
    planBackfill: (_, { settings }) => ({
      rowsDone: 0,
      rowsEstimated: rows,
      rangesDone: 0,
      rangesTotal: ranges,
      lanes: laneCount(
        { maxConcurrency: settings.maxConcurrency ?? 2, profile: settings.profile ?? 'fast' },
        ranges,
      ),
    }),
    backfillSlice: (world, { lane, lanes }) => {
      const done = isLastSlice(world, `backfill ${lane}`)
      world.backfillSlices += 1
      const rowsDone = Math.min(
        rows,
        Math.round((rows * world.backfillSlices) / (world.slicesPerLane * lanes)),
      )
      return {
        done,
        rows: 100,
        refused: 0,
        ratePerSec: 1234,
        throttledBy: undefined,
        counts: { rowsDone, rowsEstimated: rows, rangesDone: done ? ranges : 1, rangesTotal: ranges },
      }
    },
    planVerify: (world, { begun, direction }) => {
      if (!begun) {
        forget(world, `verify ${direction}`)
        if (direction === 'forward') passes.set(world, (passes.get(world) ?? 0) + 1)
        world.sample = { compared: 0, mismatched: 0 }
      }
      return { lanes: 2 }
    },
    verifySlice: (world, { lane, direction }) => {
      const done = isLastSlice(world, `verify ${direction} ${lane}`)
      const mismatched = direction === 'forward' ? mismatchesOf(world) : 0
      return { done, counts: { compared: rows, mismatched, repaired: mismatched } }
    },
    readParity: evidence,
    applyChanges: (world) => {
      lastFor(world.companionSliceMs)
      world.companionSlices += 1
      return { pending: 0, oldestAgeSec: 0 }
    },
    sampleParity: (world) => {
      if (world.breach === undefined) lastFor(world.companionSliceMs)
      world.companionSlices += 1
      return { breach: world.breach, evidence: evidence(world) }
    },
    drainChangeLog: () => ({ pending: 0, oldestAgeSec: 0 }),
    setFlags: (world, { percent, primary }) => {
      Object.assign(world.flags, percent)
      world.primary = primary ?? world.primary
    },
    awaitInstances: (world) => ({ behind: world.behind.shift() ?? [], braked: world.braked }),
    proveCutover: () => ['Query "by email" uses contacts_email.'],
    swap: (world, { direction }) => {
      world.primary = direction === 'to-new' ? 'new' : 'old'
      return 'swapped'
    },
    startReverse: () => undefined,
    movePrimary: (world) => {
      world.primary = 'new'
    },
    stopDualWrite: () => undefined,
    observeOldSide: (world) => ({ ...world.oldSide }),
    retireOldTables: () => undefined,
    dropOldTables: () => undefined,
    returnTraffic: (world) => {
      for (const flag of Object.keys(world.flags)) world.flags[flag] = 0
      world.primary = 'old'
      return { primary: 'old', left: 0 }
    },
    windDown: (_, { cleanUp }) => [
      cleanUp ? 'everything that was created is removed' : 'the new tables are kept',
    ],
  }
}
