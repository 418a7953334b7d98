import type { Plan, PlannedStep } from '../../plan/make-plan.ts'
import type { Streams } from './streams.ts'
import { formatBytes, formatCount, renderFields, renderTable } from './table.ts'

interface PlanPage {
  readonly name: string
  readonly database: string
  readonly plan: Plan
  /** Every statement, too. */
  readonly sql: boolean
  /** Only the steps of this phase. */
  readonly phase?: string | undefined
}

/** A plan as a person reads it before saying yes. */
export function renderPlan(
  { name, database, plan, sql, phase }: PlanPage,
  { style }: Pick<Streams, 'style'>,
): string[] {
  const bold = (text: string): string => style('bold', text)
  const { tables } = plan.summary
  const rows = tables.reduce((sum, table) => sum + table.rowsEstimated, 0)
  const bytes = tables.reduce((sum, table) => sum + table.bytes, 0)
  const steps = plan.steps.filter((step) => phase === undefined || step.phase === phase)
  return [
    `${bold(name)} · plan${phase === undefined ? '' : ` of ${phase}`} · nothing was changed`,
    '',
    ...renderFields(
      [
        ['Server', `${plan.server}, database "${database}"`],
        ['Strategy', plan.summary.strategy],
        ['Size', `about ${formatCount(rows)} rows, ${formatBytes(bytes)}`],
        ['Token', `${plan.summary.token}  (the approvals of expand and contract carry it)`],
      ],
      (text) => style('dim', text),
    ),
    '',
    bold('Tables'),
    ...renderTable(
      ['table', 'rows (estimated)', 'size'],
      tables.map((table) => [table.table, formatCount(table.rowsEstimated), formatBytes(table.bytes)]),
      (text) => style('dim', text),
    ).map((line) => `  ${line}`),
    '',
    bold('Steps'),
    ...steps.flatMap((step, i) => renderStep(step, i + 1, sql, style)),
    ...renderFindings(plan, style),
  ]
}

function renderStep(step: PlannedStep, number: number, sql: boolean, style: Streams['style']): string[] {
  return [
    `  ${String(number).padStart(2)}. ${style('cyan', step.phase.padEnd(9))} ${step.title}`,
    `      ${style('dim', `lock: ${step.lock}`)}`,
    ...(sql ? step.sql.flatMap((statement) => statement.split('\n')).map((line) => `      ${line}`) : []),
  ]
}

function renderFindings({ findings }: Plan, style: Streams['style']): string[] {
  if (findings.length === 0) return ['', `${style('green', '✓')} no findings`]
  return [
    '',
    style('bold', 'Findings'),
    ...findings.flatMap(({ rule, severity, message, mend }) => [
      `  ${severity === 'refusal' ? style('red', '✖') : style('yellow', '!')} ${rule}: ${message}`,
      `    ${style('cyan', '→')} ${mend}`,
    ]),
  ]
}
