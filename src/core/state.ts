import type { PersonGate, ParityStatement } from './gates.ts'
import type { AbortRequest, Approval, LiveSettings, PauseRequest } from './messages.ts'
import type { Outcome, Phase, Side } from './phases.ts'
import type { BackfillCounts } from './progress.ts'

/** All that a migration remembers: plain JSON, carried from run to run. Instants are milliseconds since the epoch. */
export interface MigrationState {
  readonly name: string
  readonly database: string
  phase: Phase
  /** What is being done, in a few words. */
  activity: string
  outcome: Outcome
  /** The side that the application treats as the truth. */
  primary: Side
  readPercent: number
  writePercent: number
  readonly startedAt: number
  phaseStartedAt: number
  /** Working time so far, without holds, gates and pauses. */
  workedMs: number
  finishedPhases: FinishedPhase[]
  gate: OpenGate | undefined
  paused: (PauseRequest & { readonly at: number }) | undefined
  /** What a retry alone will not mend; a person corrects it and resumes, or aborts. */
  trouble: Trouble | undefined
  abort: (AbortRequest & { readonly at: number }) | undefined
  settings: LiveSettings
  plan: PlanSummary | undefined
  backfill: BackfillCounts & {
    readonly ratePerSec: number
    readonly throttledBy: string | undefined
    readonly refused: number
  }
  verify: {
    readonly pass: number
    readonly compared: number
    readonly mismatched: number
    readonly repaired: number
  }
  parity: ParityStatement | undefined
  changeLog: { readonly pending: number; readonly oldestAgeSec: number }
  ramp: { readonly index: number; readonly steps: number; readonly reached: readonly number[] }
  hold: { readonly label: string; readonly until: number } | undefined
  /** Instances of the application that do not act on the flags as they are now, while they are waited for. */
  awaited?: readonly string[] | undefined
  /** The last that was given away: see `MigrationRef.order`. */
  order?: number
  /** Why reads must go back, as long as nobody has heeded it. */
  breach: string | undefined
  /** The watch over the old side before the contract. */
  watch: OldSideWatch | undefined
  /** Which companions run beside the phases: appliers from expand on, sampling from cutover on. */
  companions: { readonly applying: boolean; readonly sampling: boolean }
  /** False once the old side is no longer kept in step. */
  canGoBack: boolean
  /** Places inside a phase that are behind us; a phase that is entered again after continue-as-new skips them. */
  passed: string[]
  audit: AuditEntry[]
}

export interface FinishedPhase {
  readonly name: Phase
  readonly seconds: number
  readonly skipped?: string
}

export interface OpenGate {
  readonly gate: PersonGate
  readonly since: number
  readonly token: string | undefined
  readonly why: string
  approval: (Approval & { readonly at: number }) | undefined
}

export interface Trouble {
  readonly code: string
  readonly message: string
  readonly mend: string
  readonly at: number
}

export interface OldSideWatch {
  /** When its activity began to be only watched on, before a person is asked. */
  since: number
  /** Stray keys that a person has been told of, and resumed after. */
  knownStrays: number
  /** The server's statistics when the present look began. */
  before: { readonly scans: number; readonly writes: number } | undefined
}

export interface AuditEntry {
  readonly at: number
  readonly what: string
  readonly by?: string
}

export interface PlanSummary {
  /** Approvals of expand and contract carry it: it stands for this definition against this schema. */
  readonly token: string
  readonly strategy: string
  readonly steps: readonly { readonly title: string; readonly lock: string }[]
  readonly tables: readonly {
    readonly table: string
    readonly rowsEstimated: number
    readonly bytes: number
  }[]
  readonly warnings: readonly string[]
}

/** The audit keeps the newest entries; the full story is the workflow's history. */
const auditLimit = 200
/** Whatever people send: 200 entries of this length travel with every query and every new history. */
const auditLength = 600

export function createState(
  name: string,
  database: string,
  startedAt: number,
  rampSteps: number,
): MigrationState {
  return {
    name,
    database,
    phase: 'expand',
    activity: 'planning',
    outcome: 'running',
    primary: 'old',
    readPercent: 0,
    writePercent: 0,
    startedAt,
    phaseStartedAt: startedAt,
    workedMs: 0,
    finishedPhases: [],
    gate: undefined,
    paused: undefined,
    trouble: undefined,
    abort: undefined,
    settings: {},
    plan: undefined,
    backfill: {
      rowsDone: 0,
      rowsEstimated: 0,
      rangesDone: 0,
      rangesTotal: 0,
      ratePerSec: 0,
      throttledBy: undefined,
      refused: 0,
    },
    verify: { pass: 0, compared: 0, mismatched: 0, repaired: 0 },
    parity: undefined,
    changeLog: { pending: 0, oldestAgeSec: 0 },
    ramp: { index: 0, steps: rampSteps, reached: [] },
    hold: undefined,
    breach: undefined,
    watch: undefined,
    companions: { applying: false, sampling: false },
    canGoBack: true,
    passed: [],
    audit: [],
  }
}

export function record(state: MigrationState, at: number, what: string, by?: string): void {
  state.audit.push({ at, what: clip(what), ...(by === undefined ? {} : { by }) })
  if (state.audit.length > auditLimit) state.audit.splice(0, state.audit.length - auditLimit)
}

const clip = (text: string): string =>
  text.length > auditLength ? `${text.slice(0, auditLength - 1)}…` : text

/** In one short phrase: what must happen before it goes on, or undefined while it works. */
export function waitingFor(state: MigrationState): string | undefined {
  if (state.outcome !== 'running') return undefined
  if (state.trouble) return `a person: ${state.trouble.code}`
  if (state.abort) return undefined
  if (state.paused) return 'resume'
  if (state.gate && !state.gate.approval) return `approval of ${state.gate.gate}`
  if (state.awaited) return `instances to see the flags: ${state.awaited.join(', ')}`
  if (state.backfill.throttledBy !== undefined && state.phase === 'backfill') return 'lag and load to fall'
  if (state.hold) return 'the hold to end'
  return undefined
}

/** What the query `status` answers, and `crossfade status --json` prints. */
export type StatusView = Omit<MigrationState, 'audit' | 'passed' | 'plan' | 'companions' | 'watch'> & {
  readonly waitingFor: string | undefined
  readonly token: string | undefined
}

export function toStatus(state: MigrationState): StatusView {
  const { audit: _audit, passed: _passed, companions: _companions, watch: _watch, plan, ...rest } = state
  return { ...rest, waitingFor: waitingFor(state), token: plan?.token }
}
