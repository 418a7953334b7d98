import type { Connection } from '@temporalio/client'
import {
  databaseUrl,
  openForExamination,
  toCrossfadeError,
  withoutMigrations,
  type LongTransactions,
  type Privilege,
  type ReplicaLag,
} from '../database/index.ts'
import type { Migration } from '../definition/index.ts'
import { everyTable, tablesBeside, tablesOf } from '../copy/groups.ts'
import { isCrossfadeError } from '../errors/index.ts'
import { checkServer } from '../plan/checks.ts'
import { maskSecrets } from './output/streams.ts'
import {
  missingSearchAttributes,
  pollersOf,
  registerSearchAttributes,
  withConnection,
  type TemporalService,
} from './service.ts'

/** A line of `doctor`: a value with the shape of a finding, never thrown. */
export interface Check {
  readonly name: string
  readonly state: 'passed' | 'failed' | 'skipped'
  readonly found: string
  readonly mend?: string
}

export const passed = (name: string, found: string): Check => ({ name, state: 'passed', found })
const failed = (name: string, found: string, mend: string): Check => ({
  name,
  state: 'failed',
  found,
  mend,
})
export const skipped = (name: string, found: string): Check => ({ name, state: 'skipped', found })

/** An error as a line: what one check throws must not hide the others. */
export function failedBy(name: string, error: unknown): Check {
  if (isCrossfadeError(error)) return failed(name, error.message, error.mend)
  return failed(name, error instanceof Error ? error.message : String(error), 'See the message.')
}

const oldestNode = [20, 19] as const

export function checkNode(version = process.versions.node): Check {
  const [major = 0, minor = 0] = version.split('.').map(Number)
  const isFine = major > oldestNode[0] || (major === oldestNode[0] && minor >= oldestNode[1])
  return isFine
    ? passed('Node', version)
    : failed('Node', `${version}; ${oldestNode.join('.')} is the oldest that works`, 'Install a newer Node.')
}

export async function checkTemporal(
  service: TemporalService,
  { fix }: { readonly fix: boolean },
): Promise<Check[]> {
  const names = ['Namespace', 'Search attributes', 'Workers'] as const
  try {
    return await withConnection(service, async (connection) => {
      const { serverVersion } = await connection.workflowService.getSystemInfo({})
      return [
        passed('Temporal', `version ${serverVersion} answers at ${service.address.value}`),
        await checkNamespace(connection, service),
        await checkSearchAttributes(connection, service, fix),
        await checkWorkers(connection, service),
      ]
    })
  } catch (error) {
    return [failedBy('Temporal', error), ...names.map((name) => skipped(name, 'no Temporal server answered'))]
  }
}

async function checkNamespace(connection: Connection, { namespace }: TemporalService): Promise<Check> {
  try {
    await connection.workflowService.describeNamespace({ namespace: namespace.value })
    return passed('Namespace', namespace.value)
  } catch {
    return failed(
      'Namespace',
      `there is no namespace ${namespace.value} (from ${namespace.from})`,
      `temporal operator namespace create --namespace ${namespace.value}`,
    )
  }
}

async function checkSearchAttributes(
  connection: Connection,
  { namespace }: TemporalService,
  fix: boolean,
): Promise<Check> {
  const name = 'Search attributes'
  try {
    const missing = await missingSearchAttributes(connection, namespace.value)
    if (missing.length === 0) return passed(name, 'registered')
    if (!fix)
      return failed(
        name,
        `${missing.join(', ')} not registered: no migration would move`,
        'crossfade doctor --fix',
      )
    await registerSearchAttributes(connection, namespace.value, missing)
    return passed(name, `${missing.join(', ')} registered now`)
  } catch (error) {
    return failed(
      name,
      `could not be read or registered: ${error instanceof Error ? error.message : String(error)}`,
      'Register CrossfadePhase, CrossfadeWaitingFor and CrossfadeDatabase as Keyword; in Temporal Cloud that is done in its console.',
    )
  }
}

async function checkWorkers(
  connection: Connection,
  { namespace, taskQueue }: TemporalService,
): Promise<Check> {
  try {
    const pollers = await pollersOf(connection, namespace.value, taskQueue.value)
    return pollers.length > 0
      ? passed('Workers', `${pollers.length} on the task queue "${taskQueue.value}": ${pollers.join(', ')}`)
      : failed('Workers', `none asks the task queue "${taskQueue.value}" for work`, 'crossfade worker')
  } catch (error) {
    return failedBy('Workers', error)
  }
}

const longTransactionSec = 60

/** What takes longer is a finding of its own. */
const longestLookMs = 30_000

/** Everything about one database that a migration depends on. */
export async function checkDatabase(
  name: string,
  migrations: readonly Migration[],
  olderThanSec = longTransactionSec,
): Promise<Check[]> {
  const label = (what: string): string => (name === 'default' ? what : `${what} (${name})`)
  let database: Awaited<ReturnType<typeof openForExamination>>
  try {
    database = await openForExamination(name, { maxConnections: 1, applicationName: 'crossfade doctor' })
  } catch (error) {
    return [failedBy(label('Database'), error)]
  }
  const { catalog } = database.dialect
  const beside = migrations.flatMap((migration) => tablesBeside(migration))
  const followed = [...migrations.flatMap((migration) => tablesOf(migration).old), ...beside]
  const all = [...migrations.flatMap((migration) => everyTable(migration)), ...beside]
  const refusal = withoutMigrations(name, databaseUrl(name))
  try {
    return await database.transaction(
      async (tx) => {
        const version = await catalog.version(tx)
        const [tooOld] = checkServer(version)
        return [
          passed(label('Database'), maskSecrets(databaseUrl(name))),
          tooOld
            ? failed(label('Server'), tooOld.message, tooOld.mend)
            : passed(label('Server'), version.text),
          // Where nothing is to be migrated it is said, and is no failure.
          ...(refusal === undefined
            ? []
            : [
                migrations.length > 0
                  ? failedBy(label('Migrations'), refusal)
                  : skipped(label('Migrations'), refusal.message),
              ]),
          toPrivilegesCheck(label('Privileges'), await catalog.privileges(tx, all)),
          toLagCheck(label('Replica lag'), await catalog.replicaLag(tx)),
          toTransactionsCheck(
            label('Long transactions'),
            await catalog.longTransactions(tx, olderThanSec),
            olderThanSec,
            new Set((await catalog.blockers(tx, followed)).map(({ pid }) => pid)),
          ),
          followed.length === 0
            ? skipped(label('Capture'), 'no config file names the tables')
            : toCaptureCheck(label('Capture'), await catalog.captureHazards(tx, followed)),
        ]
      },
      { readOnly: true, statementTimeoutMs: longestLookMs },
    )
  } catch (error) {
    return [failedBy(label('Database'), toCrossfadeError(error, `The database "${name}"`))]
  } finally {
    await database.close()
  }
}

function toLagCheck(name: string, { lagSec, reason }: ReplicaLag): Check {
  if (lagSec !== undefined) return passed(name, reason)
  return failed(name, reason, 'Until it can be read it counts as lagging, and the backfill waits.')
}

/** What is needed is said in either case: a role for migrations alone can be made from it. */
function toPrivilegesCheck(name: string, needed: readonly Privilege[]): Check {
  const missing = needed.filter(({ isGranted }) => !isGranted)
  const statements = (list: readonly Privilege[]): string => list.map(({ grant }) => `${grant};`).join(' ')
  return missing.length === 0
    ? passed(name, `enough; the least is ${statements(needed)}`)
    : failed(name, 'the role of the URL lacks some', statements(missing))
}

/** @param lockers pids that hold locks on the tables of a migration */
function toTransactionsCheck(
  name: string,
  { sessions, prepared, harm, unseen }: LongTransactions,
  olderThanSec: number,
  lockers: ReadonlySet<number>,
): Check {
  const lines = [
    ...sessions.map(
      ({ pid, user, application, state, transactionAgeSec }) =>
        `pid ${pid} of ${user} (${application || 'no application name'}), ${state || 'state hidden'}, ${Math.round(transactionAgeSec)} s${lockers.has(pid) ? ', holds locks on the tables' : ''}`,
    ),
    ...prepared.map(
      ({ name: gid, user, transactionAgeSec }) =>
        `prepared transaction ${gid}${user && ` of ${user}`}, ${Math.round(transactionAgeSec)} s`,
    ),
  ]
  if (lines.length === 0)
    return passed(
      name,
      [`none ${unseen.length > 0 ? 'that can be seen ' : ''}is older than ${olderThanSec} s`, ...unseen].join(
        '; ',
      ),
    )
  const [oldest] = [...sessions, ...prepared]
  return failed(
    name,
    [...lines, ...unseen].join('; '),
    `They hold up ${harm}. End them where they were forgotten: ${oldest?.end ?? ''}`,
  )
}

function toCaptureCheck(
  name: string,
  hazards: readonly { readonly what: string; readonly mend: string }[],
): Check {
  const [first] = hazards
  if (!first) return passed(name, 'nothing writes the tables past triggers, and none of theirs is disabled')
  return failed(name, hazards.map(({ what }) => what).join('; '), first.mend)
}
