import type { Connection } from '@temporalio/client'
import {
  databaseUrl,
  openDatabase,
  toCrossfadeError,
  type Blocker,
  type Database,
  type ReplicaLag,
} from '../database/index.ts'
import type { Migration } from '../definition/index.ts'
import { everyTable, tablesOf } from '../copy/groups.ts'
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

/** Everything about one database that a migration depends on. */
export async function checkDatabase(name: string, migrations: readonly Migration[]): Promise<Check[]> {
  const label = (what: string): string => (name === 'default' ? what : `${what} (${name})`)
  let database: Database
  try {
    database = await openDatabase(name, { maxConnections: 1, applicationName: 'crossfade doctor' })
  } catch (error) {
    return [failedBy(label('Database'), error)]
  }
  const { catalog } = database.dialect
  const tables = migrations.flatMap((migration) => tablesOf(migration).old)
  const all = migrations.flatMap((migration) => everyTable(migration))
  try {
    return await database.transaction(
      async (tx) => {
        const version = await catalog.version(tx)
        const [tooOld] = checkServer(version)
        const missing = await catalog.missingPrivileges(tx, all)
        return [
          passed(label('Database'), maskSecrets(databaseUrl(name))),
          tooOld
            ? failed(label('Server'), tooOld.message, tooOld.mend)
            : passed(label('Server'), version.text),
          missing.length === 0
            ? passed(label('Privileges'), 'enough')
            : failed(
                label('Privileges'),
                'the role of the URL lacks some',
                missing.map((grant) => `${grant};`).join(' '),
              ),
          toLagCheck(label('Replica lag'), await catalog.replicaLag(tx)),
          tables.length === 0
            ? skipped(label('Long transactions'), 'no config file names the tables')
            : toBlockersCheck(label('Long transactions'), await catalog.blockers(tx, tables)),
        ]
      },
      { readOnly: true },
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

function toBlockersCheck(name: string, blockers: readonly Blocker[]): Check {
  const long = blockers.filter((each) => each.transactionAgeSec > longTransactionSec)
  const [oldest] = long
  if (!oldest) return passed(name, `none on the tables is older than ${longTransactionSec} s`)
  const lines = long.map(
    ({ pid, user, application, state, transactionAgeSec }) =>
      `pid ${pid} of ${user} (${application || 'no application name'}), ${state}, ${Math.round(transactionAgeSec)} s`,
  )
  return failed(
    name,
    lines.join('; '),
    `They hold up DDL. End them where they were forgotten: SELECT pg_terminate_backend(${oldest.pid});`,
  )
}
