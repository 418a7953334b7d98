import { join } from 'node:path'
import { Connection, Client } from '@temporalio/client'
import { startServerProcess, type ServerProcess } from '../dev/server-process.ts'
import { CrossfadeError } from '../errors/index.ts'
import { defaultTaskQueue, workflowIdOf } from '../workflows/messages.ts'
import { ownScript } from './own-script.ts'
import type { Servers } from './servers.ts'

/** The workers of the demo: processes, as in production. Any of them may die. */
export interface Crew {
  readonly running: number
  readonly killed: number
  start(): Promise<void>
  /** SIGKILL to one that runs activities of this type now; to any where none does. */
  killOneRunning(activityType: string): Promise<Killed>
  close(): Promise<void>
}

export interface Killed {
  readonly pid: number
  /** How many activities of that type it was running. */
  readonly activities: number
}

interface Member {
  readonly process: ServerProcess
  readonly name: string
}

export async function createCrew(servers: Servers, migration: string): Promise<Crew> {
  const members = new Set<Member>()
  let killed = 0
  let started = 0
  const connection = await Connection.connect({ address: servers.temporal.address })
  const client = new Client({ connection })
  return {
    get running() {
      return members.size
    },
    get killed() {
      return killed
    },
    async start() {
      started += 1
      members.add({ name: `worker ${started}`, process: await startWorker(servers, started) })
    },
    async killOneRunning(activityType) {
      const busy = await busyProcesses(client, migration, activityType)
      const victim = [...members].find((member) => busy.includes(member.process.pid)) ?? [...members][0]
      if (!victim) return { pid: 0, activities: 0 }
      const { pid } = victim.process
      members.delete(victim)
      killed += 1
      await victim.process.end('SIGKILL')
      return { pid, activities: busy.filter((other) => other === pid).length }
    },
    async close() {
      await Promise.allSettled([...members].map(({ process }) => process.end('SIGTERM', 8_000)))
      members.clear()
      await connection.close()
    },
  }
}

async function startWorker(servers: Servers, number: number): Promise<ServerProcess> {
  return startServerProcess({
    program: process.execPath,
    args: [...process.execArgv, ownScript('../worker')],
    cwd: process.cwd(),
    env: {
      ...process.env,
      TEMPORAL_ADDRESS: servers.temporal.address,
      CROSSFADE_DATABASE_URL: servers.postgres.url,
      CROSSFADE_WORKFLOW_BUNDLE: servers.bundlePath,
      CROSSFADE_TASK_QUEUE: defaultTaskQueue,
    },
    logFile: join(servers.folder, `worker-${number}.log`),
    cannotStart: (reason) =>
      new CrossfadeError({
        kind: 'bug',
        code: 'INTERNAL.UNEXPECTED',
        message: `${process.execPath} could not be started: ${reason}.`,
        mend: 'Report it with the versions.',
      }),
    onParentDeath: 'SIGKILL',
    temporaryFolder: servers.folder,
  })
}

/** Temporal knows who runs what: a worker's identity is `pid@host`. */
async function busyProcesses(client: Client, migration: string, activityType: string): Promise<number[]> {
  const { raw } = await client.workflow.getHandle(workflowIdOf(migration)).describe()
  return (raw.pendingActivities ?? [])
    .filter((activity) => activity.activityType?.name === activityType)
    .map((activity) => Number.parseInt(activity.lastWorkerIdentity ?? '', 10))
    .filter((pid) => Number.isInteger(pid))
}
