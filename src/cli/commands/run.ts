import { Option } from 'commander'
import type { CrossfadeClient, MigrationHandle } from '../../client.ts'
import type { Migration } from '../../definition/index.ts'
import { CrossfadeError } from '../../errors/index.ts'
import { optionalName, type CommandSpec, type Context, type Result } from '../command.ts'
import { chooseMigration, loadDefinitions } from '../config-file.ts'
import { follow, followed } from '../follow.ts'
import { byOption, checkTimeout, waitOptions, type SendOptions } from '../send.ts'
import { locateService, pollersOf, withConnection } from '../service.ts'
import { withClient } from '../temporal.ts'
import { runBackfill, runExpand } from '../runbook.ts'
import { answerPlan, configOption } from './plan.ts'

export interface RunOptions extends SendOptions {
  readonly config?: string
  readonly dryRun?: boolean
  readonly execute?: boolean
  readonly start?: boolean
  readonly phase?: 'expand' | 'backfill'
  readonly token?: string
}

export const run: CommandSpec<RunOptions> = {
  name: 'run',
  summary: 'start a migration; it goes on without this terminal',
  description:
    'Starting a migration that runs already changes nothing. --wait follows it until it ends (0), was aborted (4), failed (1), or ' +
    'needs a person (3, with the command that answers). --dry-run prints the plan with its SQL and starts nothing.\n\n' +
    'Phase by phase, for runbooks: `--phase expand --dry-run` shows the statements of expand; `--phase expand --execute` starts the ' +
    'migration where it does not run, and approves expand when the plan made here, or --token, has the token that waits; `--phase ' +
    'backfill --start` starts the migration where it does not run, resumes it where it is paused, and waits until the backfill has ' +
    'begun. With --wait both wait until their phase is over. Neither approves anything else.',
  examples: [
    { run: 'crossfade run people --wait', does: 'start it, and say what it waits for' },
    { run: 'crossfade run people --dry-run', does: 'plan and SQL, nothing is started' },
    { run: 'crossfade run people --phase expand --execute', does: 'start it and approve expand' },
    { run: 'crossfade run people --phase backfill --start', does: 'wait until the backfill has begun' },
  ],
  arguments: [optionalName('the migration; may be left out where the file holds one')],
  options: [
    configOption(),
    new Option('-n, --dry-run', 'show the plan with its SQL, start nothing').conflicts(['execute', 'start']),
    new Option('--execute', 'start it (which is what run does; for runbooks)'),
    new Option('--phase <phase>', 'one phase, for runbooks').choices(['expand', 'backfill']),
    new Option('--start', 'with --phase backfill: go on until it has begun'),
    new Option('--token <token>', 'with --phase expand: approve the plan that has this token'),
    byOption(),
    ...waitOptions(),
  ],
  usesTemporal: true,
  async run(context, options, [name]) {
    checkOptions(options)
    const migration = chooseMigration(await loadDefinitions(options), name)
    const { phase, execute, start } = options
    const isDry = options.dryRun === true || (phase !== undefined && !execute && !start)
    if (isDry) return dryRun(context, migration, options)
    await warnWithoutWorker(context, options)
    return withClient(options, async (client) => {
      const { handle, isNew } = await startOrJoin(client, migration)
      context.streams.note(
        isNew
          ? `Started ${migration.name} (workflow ${handle.workflowId}).`
          : `${migration.name} runs already; joining it.`,
      )
      if (phase === 'expand') return runExpand(context, handle, migration, options)
      if (phase === 'backfill') return runBackfill(context, handle, options)
      if (options.wait)
        return followed(context, await follow(context, handle, { timeoutMs: options.timeout }))
      return {
        data: { name: migration.name, workflowId: handle.workflowId, started: isNew },
        text: [`${migration.name} is running; it goes on without this terminal.`],
        next: [
          `Follow it: crossfade status ${migration.name} --watch`,
          `Approve what it waits for: crossfade approve ${migration.name} --gate expand --token TOKEN (\`crossfade plan\` shows it)`,
        ],
      }
    })
  },
}

function checkOptions(options: RunOptions): void {
  const { phase, start, token } = options
  if (options.phase === undefined) checkTimeout(options)
  const problem =
    start && phase !== 'backfill'
      ? '--start belongs to --phase backfill.'
      : token !== undefined && phase !== 'expand'
        ? '--token belongs to --phase expand: it approves that gate.'
        : undefined
  if (problem !== undefined)
    throw new CrossfadeError({
      kind: 'input',
      code: 'CLI.OPTION_WITHOUT_PHASE',
      message: problem,
      mend: '`crossfade run --help` shows the forms for runbooks.',
    })
}

async function dryRun(context: Context, migration: Migration, options: RunOptions): Promise<Result> {
  const { phase } = options
  const planned = await answerPlan(context, migration, { ...options, sql: true })
  if (phase === undefined || planned.ok === false) return planned
  const flag = phase === 'expand' ? '--execute' : '--start'
  return { ...planned, next: [`Do it: crossfade run ${migration.name} --phase ${phase} ${flag}`] }
}

async function startOrJoin(
  client: CrossfadeClient,
  migration: Migration,
): Promise<{ handle: MigrationHandle; isNew: boolean }> {
  const runs = await client
    .get(migration.name)
    .status({ timeoutMs: 1 })
    .then(
      ({ execution }) => execution === 'RUNNING',
      () => false, // there is none, or start will say why it cannot be known
    )
  return { handle: await client.start(migration), isNew: !runs }
}

/** A migration without workers waits silently: say so while somebody still looks. */
async function warnWithoutWorker({ streams }: Context, options: RunOptions): Promise<void> {
  const service = await locateService(options)
  const { namespace, taskQueue } = service
  const pollers = await withConnection(service, (connection) =>
    pollersOf(connection, namespace.value, taskQueue.value),
  )
  if (pollers.length > 0) return
  streams.note(
    `${streams.noteStyle('yellow', '!')} No worker asks the task queue "${taskQueue.value}" for work: nothing moves until one runs. Start one: crossfade worker`,
  )
}
