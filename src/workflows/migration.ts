import { ApplicationFailure, CancellationScope, sleep } from '@temporalio/workflow'
import { parseDurationMs } from '../core/durations.ts'
import { parityGate, stateParity } from '../core/gates.ts'
import { inputProblem } from '../core/input.ts'
import { isBefore, type Outcome } from '../core/phases.ts'
import { record, toStatus, type MigrationState, type StatusView } from '../core/state.ts'
import type { OldSideActivity } from '../activities/contract.ts'
import type { Migration } from '../definition/index.ts'
import { everyInstance } from './instances.ts'
import { runBackfillLanes, runVerifyLanes } from './lanes.ts'
import { openRun, type MigrationRun } from './run.ts'

/** The whole input of a migration: plain JSON, so that any client can start one. */
export interface MigrationInput {
  readonly migration: Migration
  readonly fingerprint: string
  /** Where an earlier run of this workflow stood. */
  readonly carried?: MigrationState
  /** Continue as new after this many events instead of when the server suggests it; for tests. */
  readonly continueAfterEvents?: number
}

export interface MigrationResult {
  readonly outcome: Outcome
  readonly status: StatusView
}

/** A comparison with repairs is not a clean one; so many may follow each other before a person has to look. */
const mostVerifyPasses = 5

/**
 * The life of a migration, from the first look to the last table dropped. It can take weeks: every phase can be entered again
 * where it was left, after a crash, a deploy, a pause, or when the history has grown long and the workflow continues as new.
 */
export async function migration(input: MigrationInput): Promise<MigrationResult> {
  const problem = inputProblem(input)
  if (problem !== undefined) throw invalidInput(problem)
  const { cancelRequested } = CancellationScope.current()
  return CancellationScope.nonCancellable(async () => {
    const run = openRun(input)
    run.heedCancellation(cancelRequested)
    const outcome = await run.live(() => story(run), goBack)
    return { outcome, status: toStatus(run.state) }
  })
}

function invalidInput(problem: string): ApplicationFailure {
  const code = 'DEFINITION.INVALID'
  const message = `The input of the workflow is no migration: ${problem}.`
  const mend = 'Start it with `crossfade run`, or with `start` of the client: both fill in the defaults.'
  return ApplicationFailure.create({
    message,
    type: code,
    nonRetryable: true,
    details: [{ kind: 'input', code, message, mend }],
  })
}

async function story(run: MigrationRun): Promise<'done' | 'planned'> {
  await run.phase('expand', expand)
  if (run.migration.safety.dryRunMode) return 'planned'
  await run.phase('dual-write', dualWrite)
  await run.phase('backfill', backfill)
  await run.phase('verify', verify)
  await run.phase('cutover', cutover)
  await run.phase('retire', retire)
  await run.phase('contract', contract)
  return 'done'
}

/** Looks, waits for approval, and adds what is new. From its end on, no change of the old side is lost. */
async function expand(run: MigrationRun): Promise<void> {
  const { migration, fingerprint } = run
  const plan = await run.once('plan', 'looking at the database', (act) =>
    act.plan({ migration, fingerprint }),
  )
  if (plan) run.state.plan = plan
  if (migration.safety.dryRunMode) return
  const steps = run.state.plan?.steps.length ?? 0
  await run.personGate(
    'expand',
    `${steps} steps, additive only; \`crossfade plan\` shows each with its lock.`,
    { token: run.state.plan?.token },
  )
  await run.work('adding the new schema', (act) => act.expand({ migration, fingerprint }))
  run.startCompanions()
}

/**
 * Every change is captured from here on, by whomever: the flag does not change that. For triggers it says nothing; an application
 * copies at once what it has written while the flag is on, and leaves it to the appliers while it is off.
 */
async function dualWrite(run: MigrationRun): Promise<string> {
  await run.work('proving that every change is captured', (act) => act.checkCapture(run.ref))
  await run.setFlags({ writePercent: 100 })
  await everyInstance(run)
  return run.migration.sync.method === 'trigger'
    ? 'triggers write both sides; nothing to ramp'
    : 'every instance captures what it writes, and copies it after its commit'
}

/** Copies what was there before capture began, in lanes, and then builds what is cheaper to build on a full table. */
async function backfill(run: MigrationRun): Promise<void> {
  await run.checkDrift()
  await run.setFlags({ backfillActive: 100 })
  await runBackfillLanes(run)
  await run.work('building indexes and foreign keys', (act) => act.complete(run.ref))
  await run.setFlags({ backfillActive: 0 })
}

/** Compares every row of both sides. What differs twice is repaired, and then everything is compared again. */
async function verify(run: MigrationRun): Promise<void> {
  for (;;) {
    const { compared, mismatched, repaired, pass } = await runVerifyLanes(run, 'forward', { repair: true })
    record(
      run.state,
      Date.now(),
      `verification pass ${pass}: ${compared} compared, ${mismatched} mismatched, ${repaired} repaired`,
    )
    if (
      mismatched > 0 &&
      run.migration.sync.method === 'application' &&
      run.migration.sync.alsoTriggers !== true
    )
      record(run.state, Date.now(), bypassText(run.migration))
    if (mismatched > compared * run.migration.verify.alertMismatchRatio)
      record(
        run.state,
        Date.now(),
        `ALERT: ${mismatched} of ${compared} rows differed, more than verify.alertMismatchRatio`,
      )
    if (mismatched === 0) return
    if (pass % mostVerifyPasses === 0)
      await run.needPerson({
        code: 'VERIFY.NOT_CLEAN',
        message: `${mostVerifyPasses} comparisons after each other found mismatches; the last one ${mismatched}.`,
        mend: 'Find what writes to the new side beside Crossfade (its triggers, jobs, a constraint that refuses rows).',
      })
  }
}

/** What differs has left no key: the backfill has copied it, and somebody has written it since. */
const bypassText = ({ mappings }: Migration): string =>
  `something writes ${[...new Set(mappings.map(({ source }) => `${source.schema}.${source.name}`))].join(', ')} without the library, and its changes are found only by comparing: ` +
  '`sync.alsoTriggers` would capture them'

/** Moves reads over: step by step with guards, or all at once by exchanging the names. A breach goes back by itself. */
async function cutover(run: MigrationRun): Promise<void> {
  if (run.migration.cutover.mode === 'flags') return moveReads(run)
  await run.checkDrift()
  await requireParity(run)
  run.startSampling()
  return swapNames(run)
}

/** Ends when every step of the ramp has held; at once where they have. Entered again in the middle of a ramp, it goes on there. */
async function moveReads(run: MigrationRun): Promise<void> {
  for (;;) {
    if (!run.hasPassed('gate cutover')) {
      await run.checkDrift()
      if (run.hasPassed('rolled back')) await verifyAnew(run)
      await requireParity(run)
      run.startSampling()
      const proofs = await run.work('proving index use', (act) => act.proveCutover(run.ref))
      await run.personGate(
        'cutover',
        `Parity ${(100 * (run.state.parity?.parity ?? 0)).toFixed(4)} %. ${proofs.join(' ')} Reads will be ramped: ${rampText(run.migration)}.`,
      )
    }
    const breach = await rampReads(run)
    if (breach === undefined) return
    await rollBack(run, breach)
  }
}

/** Reads go back first, also while it is paused; then a person has to look. */
async function rollBack(run: MigrationRun, breach: string): Promise<void> {
  await run.setFlags({ readPercent: 0 }, { evenWhilePaused: true })
  run.state.ramp = { ...run.state.ramp, index: 0 }
  run.forget('gate cutover')
  run.pass('rolled back')
  record(run.state, Date.now(), `ramp rolled back: ${breach}`)
  await run.needPerson({
    code: 'CUTOVER.BREACH',
    message: `Reads went back to the old side by themselves: ${breach}.`,
    mend: 'Find the cause; after resuming everything is compared again, and the gate of cutover opens again.',
  })
}

/** After a breach its evidence is worn out: everything is compared again, and sampling counts from there. */
async function verifyAnew(run: MigrationRun): Promise<void> {
  await verify(run)
  run.takeBreach()
  run.forget('rolled back')
}

/** The gate in front of cutover is parity with its bound; while it is shut, everything is compared again after a person looked. */
async function requireParity(run: MigrationRun): Promise<void> {
  for (;;) {
    const evidence = await run.work('reading parity', (act) =>
      act.readParity({ ...run.ref, direction: 'forward' }),
    )
    if (evidence.rangesCompared === 0) {
      // Forgotten, because changes could pass unseen meanwhile.
      await verifyAnew(run)
      continue
    }
    run.state.parity = stateParity(evidence, run.migration.verify)
    const gate = parityGate(evidence, run.migration.verify)
    if (gate.open) return
    await run.needPerson({
      code: 'CUTOVER.PARITY',
      message: `Cutover stays shut: ${gate.reason}.`,
      mend: 'Correct what differs.',
    })
    await verifyAnew(run)
  }
}

const rampText = ({ cutover }: Migration): string =>
  cutover.ramp.map(({ percent, hold }) => `${percent} % for ${hold}`).join(', ')

/** @returns why it has to go back, or undefined when every step has held. */
async function rampReads(run: MigrationRun): Promise<string | undefined> {
  const { ramp } = run.migration.cutover
  while (run.state.ramp.index < ramp.length) {
    const step = ramp[run.state.ramp.index]
    if (!step) break
    if (run.state.breach !== undefined) return run.takeBreach()
    if (run.state.readPercent !== step.percent) {
      await run.setFlags({ readPercent: step.percent })
      run.state.ramp = { ...run.state.ramp, reached: [...run.state.ramp.reached, step.percent] }
    }
    const early = await everyInstance(run, { heedBreach: true })
    if (early !== undefined) return early
    const breach = await run.hold(`reads at ${step.percent} %`, parseDurationMs(step.hold) ?? 0)
    if (breach !== undefined) return breach
    run.state.ramp = { ...run.state.ramp, index: run.state.ramp.index + 1 }
  }
  return undefined
}

/** One atomic exchange of names; the way back is proven first, because from here on the new side is primary. */
async function swapNames(run: MigrationRun): Promise<void> {
  await proveWayBack(run)
  await openSwapGate(run)
  await run.work('draining the change log', (act) => act.drainChangeLog({ ...run.ref, direction: 'forward' }))
  await run.stopCompanions() // they know the tables by their names
  await run.work('exchanging the names', (act) => act.swap({ ...run.nextRef(), direction: 'to-new' }))
  run.tookPrimary('new', 100)
  run.startCompanions()
  run.startSampling()
}

/** What sampling finds while the gate is open shuts it: then a person looks, and everything is compared again. */
async function openSwapGate(run: MigrationRun): Promise<void> {
  for (;;) {
    const proofs = await run.work('proving index use', (act) => act.proveCutover(run.ref))
    const breach = await run.personGate(
      'cutover',
      `${proofs.join(' ')} The names of both ${run.migration.kind === 'column' ? 'columns' : 'tables'} will be exchanged in one short lock.`,
      { heedBreach: true },
    )
    if (breach === undefined) return
    await run.needPerson({
      code: 'CUTOVER.BREACH',
      message: `The names are not exchanged: ${breach}.`,
      mend: 'Find the cause; after resuming everything is compared again, and the gate of cutover opens again.',
    })
    await verifyAnew(run)
    await requireParity(run)
  }
}

/** The reverse mapping is tried on every row before anything depends on it. */
async function proveWayBack(run: MigrationRun): Promise<void> {
  if (run.hasPassed('way back')) return
  if (!run.hasWayBack)
    return record(
      run.state,
      Date.now(),
      'the definition gives no reverse mapping: after this there is no way back without loss',
    )
  for (;;) {
    const { mismatched } = await runVerifyLanes(run, 'reverse', { repair: false })
    if (mismatched === 0) return run.pass('way back')
    await run.needPerson({
      code: 'CUTOVER.NO_WAY_BACK',
      message: `The reverse mapping does not give the old rows back: ${mismatched} differ.`,
      mend: 'Correct `reverse` in the definition and start again, or say `reverse: false` to go without a way back.',
    })
  }
}

/** The new side becomes primary; the old side is kept in step for the soak, then writes to it stop. */
async function retire(run: MigrationRun): Promise<void> {
  await run.checkDrift()
  if (run.state.primary === 'old') {
    await openRetireGate(run)
    if (run.hasWayBack) await run.work('following the new side', (act) => act.startReverse(run.ref))
    await run.work('draining the change log', (act) =>
      act.drainChangeLog({ ...run.ref, direction: 'forward' }),
    )
    await run.work('making the new side primary', (act) => act.movePrimary(run.nextRef()))
    run.tookPrimary('new', 100)
  } else
    await run.personGate(
      'retire',
      'The new side is primary since the swap. After the soak, writes to the old side stop.',
    )
  await everyInstance(run)
  if (run.hasWayBack)
    await run.hold('soak: the old side is kept in step', parseDurationMs(run.migration.retire.soak) ?? 0, {
      heedBreach: false,
      once: true,
    })
  await run.stopCompanions()
  run.leaveWayBack() // before the first trigger goes: an abort that meets the next line must not return to a side that is behind
  await run.work('stopping writes to the old side', (act) => act.stopDualWrite(run.ref))
}

/** Until the new side is primary, a breach still takes reads back: then they are ramped again before this gate opens again. */
async function openRetireGate(run: MigrationRun): Promise<void> {
  for (;;) {
    await moveReads(run)
    await proveWayBack(run)
    const breach = await run.personGate(
      'retire',
      'The new side becomes primary; the old side is kept in step by the reverse mapping, so that primary can go back.',
      { heedBreach: true },
    )
    if (breach === undefined) return
    await rollBack(run, breach)
  }
}

/** Proves that nobody uses the old side, renames it away, waits, and drops it. */
async function contract(run: MigrationRun): Promise<void> {
  await watchOldSide(run)
  await run.personGate(
    'contract',
    'Nothing touches the old side. It will be renamed away, and after a soak dropped: from then on there is no way back.',
    { token: run.state.plan?.token },
  )
  await run.work('renaming the old side away', (act) => act.retireOldTables(run.ref))
  await run.hold('soak: the old side is renamed away', parseDurationMs(run.migration.contract.soak) ?? 0, {
    heedBreach: false,
    once: true,
  })
  await run.work('dropping the old side', (act) => act.dropOldTables(run.ref))
}

/** So long is activity only watched on, before a person is asked: sessions report their statistics up to 10 s after the fact. */
const statisticsSettleMs = 30_000

/** The server's own statistics have to stand still for the whole time of observation. */
async function watchOldSide(run: MigrationRun): Promise<void> {
  const { state } = run
  const observe = parseDurationMs(run.migration.contract.observe) ?? 0
  const look = (): Promise<OldSideActivity> =>
    run.work('reading the old side’s statistics', (act) => act.observeOldSide(run.ref))
  while (!run.hasPassed('observed')) {
    // All of it is kept across histories: a watch is as long as its hold.
    const watch = (state.watch ??= { since: Date.now(), knownStrays: 0, before: undefined })
    const before = (watch.before ??= await look())
    await run.hold('watching that nobody uses the old side', observe, { heedBreach: false })
    const after = await look()
    watch.before = undefined
    const scans = after.scans - before.scans
    const writes = after.writes - before.writes
    const strays = after.strayKeys - watch.knownStrays
    if (scans === 0 && writes === 0 && strays === 0) return run.pass('observed')
    if (Date.now() - watch.since < Math.max(statisticsSettleMs, 2 * observe)) continue
    state.watch = { since: Date.now(), knownStrays: after.strayKeys, before: undefined }
    await run.needPerson({
      code: 'CONTRACT.STILL_USED',
      message: `The old side is still used: ${scans} scans and ${writes} written rows while it was watched, ${strays} keys written since dual write stopped.`,
      mend: 'Find who uses it (pg_stat_activity, the application’s deployments) and bring what was written there over by hand (its keys are in the forward change log), then resume: it is watched again.',
    })
    state.watch.since = Date.now()
  }
}

/** Abort: traffic first, then everything else. */
async function goBack(run: MigrationRun): Promise<void> {
  const { state } = run
  if (!state.canGoBack) {
    record(state, Date.now(), 'the old side is no longer in step: traffic stays on the new side')
    await run.stopCompanions()
    return
  }
  const cleanUp = state.abort?.cleanUp ?? true
  await letApplicationsNotice(run)
  await run.stopCompanions()
  const left = await run.unstoppable('winding down', (act) => act.windDown({ ...run.ref, cleanUp }))
  for (const line of left) record(state, Date.now(), line)
}

/** An application looks at the flags at least once a second (docs/protocol); what it has begun by then takes a moment more. */
const noticeMs = 3_000

/** Until then instances still read the new side, or write it: it has to be there, and its writes have to be copied back. */
async function letApplicationsNotice(run: MigrationRun): Promise<void> {
  if (run.migration.cutover.mode !== 'flags' || isBefore(run.state.phase, 'cutover')) return
  run.state.activity = 'applications take notice'
  run.show()
  await sleep(noticeMs, { summary: 'applications take notice' })
}
