import { Option } from 'commander'
import type { Migration } from '../../definition/index.ts'
import { toEnvelope } from '../../errors/index.ts'
import type { Plan } from '../../plan/make-plan.ts'
import {
  optionalName,
  type CommandSpec,
  type Context,
  type Result,
  type TemporalOptions,
} from '../command.ts'
import { chooseMigration, loadDefinitions } from '../config-file.ts'
import { exitCodes } from '../exit-codes.ts'
import { renderPlan } from '../output/plan-page.ts'
import { isListening, locateService } from '../service.ts'
import { withClient } from '../temporal.ts'

export interface PlanOptions extends TemporalOptions {
  readonly config?: string
  readonly sql?: boolean
  readonly exitCode?: boolean
}

export const configOption = (): Option =>
  new Option('-c, --config <file>', 'config file (default: CROSSFADE_CONFIG, migration.config.ts here)')

export const plan: CommandSpec<PlanOptions> = {
  name: 'plan',
  summary: 'show what a migration would do, with its locks; changes nothing',
  description:
    'Looks at the database from here (CROSSFADE_DATABASE_URL) in one read-only transaction. Prints the tables, every step with its ' +
    'lock, what stands against it, and the token that the approvals of expand and contract carry. Exits with 1 where the plan is ' +
    'refused, with --exit-code also with 5 on warnings.',
  examples: [
    { run: 'crossfade plan people', does: 'steps, locks, findings, token' },
    { run: 'crossfade plan people --sql', does: 'every statement, too' },
    { run: 'crossfade plan --json --exit-code', does: 'for CI: 0 clean, 5 warnings, 1 refused' },
  ],
  arguments: [optionalName('the migration; may be left out where the file holds one')],
  options: [
    configOption(),
    new Option('--sql', 'print every statement'),
    new Option('--exit-code', 'exit with 5 when there are warnings'),
  ],
  usesTemporal: true,
  async run(context, options, [name]) {
    const migration = chooseMigration(await loadDefinitions(options), name)
    return answerPlan(context, migration, options)
  },
}

/** The answer of `plan` and of every dry run. */
export async function answerPlan(
  { streams }: Context,
  migration: Migration,
  options: PlanOptions & { readonly phase?: string },
): Promise<Result> {
  const { planLocally, refusalOf } = await import('../local-plan.ts')
  const made = await planLocally(migration)
  const refusal = refusalOf(migration.name, made)
  const running = await runningPhase(migration.name, options)
  const hasWarnings = made.findings.some((finding) => finding.severity === 'warning')
  const { name, database } = migration
  const page = renderPlan(
    { name, database, plan: made, sql: options.sql === true, phase: options.phase },
    streams,
  )
  return {
    ok: refusal === undefined,
    exitCode: refusal
      ? exitCodes.failed
      : options.exitCode && hasWarnings
        ? exitCodes.findings
        : exitCodes.done,
    data: {
      ...(refusal ? { error: toEnvelope(refusal) } : {}),
      ...toJson(migration, made, options.phase),
      ...(running === undefined ? {} : { running: { phase: running } }),
    },
    text: [
      ...page,
      ...(running === undefined
        ? []
        : [
            '',
            `${streams.style('yellow', '!')} A migration ${name} runs already: it is in ${running}. This is a plan against what is there now.`,
          ]),
    ],
    next: [nextAfterPlan(name, refusal !== undefined, running !== undefined)],
  }
}

function nextAfterPlan(name: string, isRefused: boolean, isRunning: boolean): string {
  if (isRefused) return `Mend what is marked ✖, then look again: crossfade plan ${name}`
  return isRunning
    ? `See where it stands: crossfade status ${name}`
    : `Start it: crossfade run ${name} --wait`
}

function toJson({ name, database }: Migration, made: Plan, phase: string | undefined): object {
  const { summary, findings, server, fingerprint, steps } = made
  return {
    name,
    database,
    server,
    fingerprint,
    token: summary.token,
    strategy: summary.strategy,
    tables: summary.tables,
    rowsEstimated: summary.tables.reduce((sum, table) => sum + table.rowsEstimated, 0),
    steps: steps.filter((step) => phase === undefined || step.phase === phase),
    findings,
  }
}

/** The phase of a running migration of this name; undefined where there is none, or no server that could tell. */
async function runningPhase(name: string, options: TemporalOptions): Promise<string | undefined> {
  try {
    const { address } = await locateService(options)
    if (!(await isListening(address.value))) return undefined
    const { execution, phase } = await withClient(options, (client) =>
      client.get(name).status({ timeoutMs: 1 }),
    )
    return execution === 'RUNNING' ? phase : undefined
  } catch {
    return undefined
  }
}
