import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, openSync } from 'node:fs'
import { dieWithParent } from '../dev/die-with-parent.ts'
import { CrossfadeError } from '../errors/index.ts'
import { startBalancer } from './balancer.ts'
import { ownScript } from './own-script.ts'
import type { ServiceMessage, ServiceOptions } from './service.ts'

/** The instances of the service, behind a balancer. */
export interface Fleet {
  /** Of the balancer. */
  readonly url: string
  readonly running: number
  readonly killed: number
  /** Requests that were asked again of another instance. */
  readonly retried: number
  /** Puts release 2 into the place of release 1: instance by instance, the new one first. */
  deploy(): Promise<void>
  /** SIGKILL to one, in the middle of whatever it is doing; another takes its place. @returns its pid */
  kill(): Promise<number>
  close(): Promise<void>
}

interface Instance {
  readonly url: string
  readonly child: ChildProcess
}

const size = 2

export async function startFleet(url: string, logFile: string): Promise<Fleet> {
  const balancer = await startBalancer()
  const instances: Instance[] = []
  let killed = 0
  const start = async (release: 1 | 2): Promise<void> => {
    const instance = await startInstance({ url, release }, logFile)
    instances.push(instance)
    balancer.add(instance.url)
  }
  const takeOut = (instance: Instance): void => {
    instances.splice(instances.indexOf(instance), 1)
    balancer.remove(instance.url)
  }
  const end = async ({ child }: Instance, signal: NodeJS.Signals): Promise<void> => {
    if (child.exitCode !== null || child.signalCode !== null) return
    const ended = once(child, 'exit')
    child.kill(signal)
    await ended
  }
  await Promise.all(Array.from({ length: size }, () => start(1)))
  return {
    url: balancer.url,
    get running() {
      return instances.length
    },
    get killed() {
      return killed
    },
    get retried() {
      return balancer.retried
    },
    async deploy() {
      for (const old of [...instances]) {
        await start(2)
        takeOut(old)
        await end(old, 'SIGTERM')
      }
    },
    async kill() {
      const [victim] = instances as [Instance]
      await end(victim, 'SIGKILL') // the balancer finds out by itself, as they do
      takeOut(victim)
      killed += 1
      await start(2)
      return victim.child.pid ?? 0
    },
    async close() {
      await Promise.all(instances.map((instance) => end(instance, 'SIGKILL')))
      await balancer.close()
    },
  }
}

async function startInstance(options: ServiceOptions, logFile: string): Promise<Instance> {
  const log = openSync(logFile, 'a')
  const child = spawn(
    process.execPath,
    [...process.execArgv, ownScript('./service'), JSON.stringify(options)],
    {
      stdio: ['ignore', log, log, 'ipc'],
      detached: true,
    },
  )
  closeSync(log)
  const release = child.pid === undefined ? undefined : dieWithParent(child.pid, 'SIGKILL')
  child.once('exit', () => release?.())
  const ended = once(child, 'exit').then(() => undefined)
  const heard = once(child, 'message').then(([message]) => message as ServiceMessage)
  const message = await Promise.race([heard, ended])
  if (message) return { url: message.url, child }
  throw new CrossfadeError({
    kind: 'bug',
    code: 'INTERNAL.UNEXPECTED',
    message: 'An instance of the service ended before it answered.',
    mend: `See ${logFile}.`,
  })
}
