import type { LoadReport } from './load.ts'
import { count, ms } from './progress.ts'
import type { LedgerCompared } from './proof.ts'
import type { Story } from './story.ts'

/** What `--json` prints, and the closing table shows. The first eleven fields are a contract. */
export interface Outcome {
  readonly ok: boolean
  readonly rows: number
  readonly writesDuring: number
  readonly lost: number
  readonly mismatched: number
  readonly crashes: number
  readonly resumedInMs: number
  readonly phases: readonly { readonly name: string; readonly seconds: number }[]
  readonly parity: number
  readonly ramp: readonly number[]
  readonly eventsInHistory: number
  readonly applicationErrors: number
  /** Of the application to the database, where it is not a service. */
  readonly statements?: number
  /** To the service, by its users; `applicationErrors` of them failed. */
  readonly requests?: number
  readonly failedRequests?: number
  /** Of which the balancer asked another instance, because the first one died over them. */
  readonly retriedRequests?: number
  /** These are among the crashes. */
  readonly instancesKilled?: number
  readonly p99Ms: number
  readonly quietP99Ms: number
  readonly longestStatementMs: number
  readonly seconds: number
}

export interface Evidence {
  readonly rows: number
  readonly workersKilled: number
  /** Where the application is a service. */
  readonly service: { readonly instancesKilled: number; readonly retried: number } | undefined
  /** The load before the migration began. */
  readonly quiet: LoadReport
  readonly load: LoadReport
  readonly story: Story
  readonly ledger: LedgerCompared
  readonly seconds: number
}

const rounded = (value: number): number => Math.round(value * 100) / 100

export function judge({
  rows,
  workersKilled,
  service,
  quiet,
  load,
  story,
  ledger,
  seconds,
}: Evidence): Outcome {
  const { status, comparisons } = story
  const mismatched = ledger.mismatched + comparisons.reduce((sum, compared) => sum + compared.mismatched, 0)
  const applicationErrors = load.errorCount
  const calls = load.calls - quiet.calls
  return {
    ok:
      status.outcome === 'done' &&
      ledger.lost === 0 &&
      mismatched === 0 &&
      applicationErrors === 0 &&
      load.wrongReads === 0 &&
      workersKilled > 0 &&
      service?.instancesKilled !== 0 &&
      comparisons.length > 0 &&
      comparisons.every((compared) => compared.rows > 0),
    rows,
    writesDuring: load.writes - quiet.writes,
    lost: ledger.lost,
    mismatched,
    crashes: workersKilled + (service?.instancesKilled ?? 0),
    resumedInMs: story.resumption?.resumedInMs ?? 0,
    phases: status.finishedPhases.map(({ name, seconds: took }) => ({ name, seconds: took })),
    parity: status.parity?.parity ?? 0,
    ramp: status.ramp.reached,
    eventsInHistory: story.historyEvents,
    applicationErrors,
    ...(service
      ? {
          requests: calls,
          failedRequests: applicationErrors,
          retriedRequests: service.retried,
          instancesKilled: service.instancesKilled,
        }
      : { statements: calls }),
    p99Ms: rounded(load.p99Ms),
    quietP99Ms: rounded(quiet.p99Ms),
    longestStatementMs: rounded(load.longestMs),
    seconds: Math.round(seconds * 10) / 10,
  }
}

/** The closing table, for people. */
export function describe(outcome: Outcome, evidence: Evidence, uiUrl: string | undefined): string[] {
  const { load, story, ledger, workersKilled, service } = evidence
  const calls = service ? 'requests' : 'statements'
  const rows: [string, string][] = [
    ...outcome.phases.map(({ name, seconds }): [string, string] => [name, `${seconds.toFixed(1)} s`]),
    ['rows', `${count(outcome.rows)} customers, now people and contact_points`],
    [
      'writes during',
      `${count(outcome.writesDuring)} rows acknowledged, ${count(load.rolledBack)} transactions rolled back, on ${count(load.keysWritten)} keys`,
    ],
    [
      'lost',
      `${outcome.lost} (of ${count(ledger.rows)} keys, against the application's own ledger${ledger.uncertain > 0 ? `; ${ledger.uncertain} of unknown outcome` : ''})`,
    ],
    ['mismatched', `${outcome.mismatched}`],
    ...story.comparisons.map(({ leading, rows: compared, mismatched }): [string, string] => [
      '',
      `${leading} side leading: ${mismatched} of ${count(compared)} rows`,
    ]),
    [
      'crashes',
      `${workersKilled} workers killed; lanes went on after ${(outcome.resumedInMs / 1000).toFixed(1)} s`,
    ],
    ...(service
      ? [
          [
            '',
            `${service.instancesKilled} instances of the service killed; ${service.retried} requests asked again of another`,
          ] as [string, string],
        ]
      : []),
    [
      'application',
      `${outcome.applicationErrors} errors in ${count(outcome.requests ?? outcome.statements ?? 0)} ${calls}, ${load.staleReads} reads behind, ${load.fallbacks} fallbacks`,
    ],
    [
      calls,
      `p99 ${ms(outcome.p99Ms)} (before: ${ms(outcome.quietP99Ms)}), longest ${ms(outcome.longestStatementMs)}`,
    ],
    ['parity', `${(100 * outcome.parity).toFixed(4)} %`],
    ['ramp', outcome.ramp.map((percent) => `${percent} %`).join(' → ')],
    ['history', `${outcome.eventsInHistory} events`],
    ...(uiUrl === undefined ? [] : [['Temporal UI', workflowUrl(uiUrl, story)] as [string, string]]),
  ]
  const width = Math.max(...rows.map(([name]) => name.length))
  return [
    '',
    outcome.ok
      ? `✓ migrated in ${outcome.seconds} s: nothing lost, nothing mismatched, no error`
      : '✗ not as it has to be',
    '',
    ...rows.map(([name, value]) => `  ${name.padEnd(width)}  ${value}`),
    '',
  ]
}

/** What helps to find out why something was slow or wrong. */
export function diagnose({ load, story, ledger }: Evidence): string[] {
  const phaseAt = (at: number): string =>
    [...story.phaseStarts].reverse().find((start) => start.at <= at)?.name ?? 'before'
  return [
    ...load.errors.map(
      ({ at, operation, code, message }) =>
        `error in ${phaseAt(at)}: ${operation}: ${message}${code && ` (${code})`}`,
    ),
    ...ledger.examples.map((example) => `wrong on the new side: ${example}`),
    ...load.slowest.map(({ at, ms: took, statement }) => `slow in ${phaseAt(at)}: ${ms(took)}: ${statement}`),
  ]
}

function workflowUrl(uiUrl: string, { workflowId, runId }: Story): string {
  return `${uiUrl}/namespaces/default/workflows/${encodeURIComponent(workflowId)}/${runId}/history`
}
