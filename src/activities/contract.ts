import type { ParityEvidence } from '../core/gates.ts'
import type { LiveSettings } from '../core/messages.ts'
import type { Side } from '../core/phases.ts'
import type { BackfillCounts } from '../core/progress.ts'
import type { PlanSummary } from '../core/state.ts'
import type { Migration } from '../definition/index.ts'

/**
 * What the workflow may ask for. Arguments and results are small plain JSON: they stand in the workflow's history, so they hold
 * names and counts, never rows, keys or URLs.
 */
export interface Activities {
  /** Looks at the database and chooses; changes nothing. */
  plan(input: { readonly migration: Migration; readonly fingerprint: string }): Promise<PlanSummary>
  /** All additive DDL up to and including capture. Also keeps the definition beside the rows for everything below. */
  expand(input: { readonly migration: Migration; readonly fingerprint: string }): Promise<DdlSummary>
  /** What is built after the backfill, and statistics for the planner. */
  complete(ref: MigrationRef): Promise<DdlSummary>
  /** Every trigger in place and enabled for every session. @throws `SYNC.NOT_CAPTURED` */
  checkCapture(ref: MigrationRef): Promise<void>
  /** Names what changed in the source's schema since the plan. @throws `PLAN.DRIFT` */
  checkDrift(input: MigrationRef & { readonly token: string }): Promise<void>

  planBackfill(
    input: MigrationRef & { readonly settings: LiveSettings },
  ): Promise<BackfillCounts & { readonly lanes: number }>
  backfillSlice(input: LaneInput & { readonly settings: LiveSettings }): Promise<SliceResult>

  /** `begun`: goes on with the ranges that are there; else cuts them anew and forgets the last counts. */
  planVerify(
    input: MigrationRef & Direction & { readonly begun: boolean },
  ): Promise<{ readonly lanes: number }>
  verifySlice(input: LaneInput & Direction & { readonly repair: boolean }): Promise<VerifySliceResult>
  readParity(input: MigrationRef & Direction): Promise<ParityEvidence>

  /** Empties the change logs until the slice is over. */
  applyChanges(input: MigrationRef & { readonly sliceSec: number }): Promise<ChangeLogSummary>
  /** Compares rows drawn at random until the slice is over; returns early with the reason on a breach. */
  sampleParity(
    input: MigrationRef & { readonly sliceSec: number },
  ): Promise<{ readonly breach: string | undefined; readonly evidence: ParityEvidence }>
  /** Waits for the change log to hold (almost) nothing. @throws `CUTOVER.NOT_DRAINED` */
  drainChangeLog(input: MigrationRef & Direction): Promise<ChangeLogSummary>

  setFlags(
    input: MigrationRef & { readonly percent: Readonly<Record<string, number>>; readonly primary?: Side },
  ): Promise<void>
  /**
   * Waits until every live instance of the application acts on the flags as they are now, for as long as the slice lasts.
   * @returns who does not, by names that the instances gave themselves, and which flags a person holds below what was set.
   */
  awaitInstances(
    input: MigrationRef & { readonly sliceSec: number },
  ): Promise<{ readonly behind: readonly string[]; readonly braked: string | undefined }>
  /**
   * Everything declared is there and valid, nothing that hung on the old side is lost, and every listed query uses an index.
   * @throws `CUTOVER.INCOMPLETE`, `CUTOVER.NOT_CARRIED`, `CUTOVER.NO_INDEX`
   */
  proveCutover(ref: MigrationRef): Promise<readonly string[]>
  swap(input: MigrationRef & { readonly direction: 'to-new' | 'to-old' }): Promise<'swapped' | 'was swapped'>

  startReverse(ref: MigrationRef): Promise<void>
  /** The new side becomes primary, with nothing left to copy. @throws `CUTOVER.NOT_DRAINED` */
  movePrimary(ref: MigrationRef): Promise<void>
  /** Nothing is written to the old side any more; whoever still writes to it is noted. */
  stopDualWrite(ref: MigrationRef): Promise<void>
  /** @throws `PLAN.DRIFT` where somebody has changed its columns: what is in them would be lost with it. */
  observeOldSide(ref: MigrationRef): Promise<OldSideActivity>
  /** @throws `PLAN.DRIFT`, as above, before anything is renamed. */
  retireOldTables(ref: MigrationRef): Promise<void>
  dropOldTables(ref: MigrationRef): Promise<void>

  /** Traffic back to the old side, first and fast. */
  returnTraffic(ref: MigrationRef): Promise<{ readonly primary: Side; readonly left: number }>
  /** Takes back what expand created (or only what would go on working), after traffic is back. */
  windDown(input: MigrationRef & { readonly cleanUp: boolean }): Promise<readonly string[]>
}

/** Enough to find the definition where {@link Activities.expand} left it. */
export interface MigrationRef {
  readonly name: string
  readonly database: string
  readonly fingerprint: string
  /** Of what changes flags or the primary side: grows with each call of it. One that slept while a later one was made changes nothing. */
  readonly order?: number
}

export interface Direction {
  readonly direction: 'forward' | 'reverse'
}

export interface LaneInput extends MigrationRef {
  readonly lane: number
  readonly lanes: number
  readonly sliceSec: number
}

export interface SliceResult {
  readonly done: boolean
  readonly rows: number
  readonly refused: number
  readonly ratePerSec: number
  readonly throttledBy: string | undefined
  /** The whole backfill as the database has it. */
  readonly counts: BackfillCounts
}

export interface VerifySliceResult {
  readonly done: boolean
  /** The whole pass as the database has it. */
  readonly counts: { readonly compared: number; readonly mismatched: number; readonly repaired: number }
}

export interface ChangeLogSummary {
  readonly pending: number
  readonly oldestAgeSec: number
}

export interface DdlSummary {
  readonly steps: readonly { readonly title: string; readonly did: string; readonly tookMs: number }[]
}

export interface OldSideActivity {
  readonly scans: number
  readonly writes: number
  /** Keys that stray writers left since dual write was stopped. */
  readonly strayKeys: number
}
