import { constants } from 'node:os'
import { setTimeout as delay } from 'node:timers/promises'
import pg from 'pg'
import { connectCrossfade } from '../client.ts'
import { CrossfadeError, isCrossfadeError } from '../errors/index.ts'
import { defaultTaskQueue } from '../workflows/messages.ts'
import { applicationRole, createCustomers } from './customers.ts'
import { migrationName, pacingFor, splitCustomers, type DemoSync } from './definition.ts'
import { startFleet, type Fleet } from './fleet.ts'
import { startLoad, type Load } from './load-process.ts'
import { describe, diagnose, judge } from './outcome.ts'
import { count, createProgress, type Progress } from './progress.ts'
import { compareWithLedger } from './proof.ts'
import { startServers, type Servers } from './servers.ts'
import { liveThrough } from './story.ts'
import { createCrew } from './workers.ts'

export interface DemoOptions {
  /** Default 300,000. */
  readonly rows?: number
  readonly engine?: 'postgres'
  /** Default `trigger`. With `application`, the application is a service of two instances, asked over HTTP. */
  readonly sync?: DemoSync
  /** Leave servers and workers running until Ctrl-C. */
  readonly keep?: boolean
  /** One JSON object as the last line of stdout; everything else goes to stderr anyway. */
  readonly json?: boolean
}

/** Where the demo writes; a terminal gets a live block. */
export interface DemoStreams {
  readonly stdout: NodeJS.WritableStream
  readonly stderr: NodeJS.WritableStream & { readonly isTTY?: boolean; readonly columns?: number }
}

const defaultRows = 300_000
const leastRows = 1_000
const loads: Record<DemoSync, { readonly sessions: number; readonly ratePerSec: number }> = {
  trigger: { sessions: 24, ratePerSec: 400 },
  // The same two cores carry a balancer and two instances beside it.
  application: { sessions: 24, ratePerSec: 150 },
}
/** The application alone, to have times to compare with. */
const quietMs = 3_000

/**
 * A whole migration on this machine: real servers, an application that writes all the time, workers that are killed, and at the
 * end a count of what was lost. Resolves with the exit code: 0 only if nothing was.
 * @throws `CLI.INVALID_VALUE`
 */
export async function runDemo(options: DemoOptions, io: DemoStreams): Promise<number> {
  const rows = options.rows ?? defaultRows
  if (!Number.isInteger(rows) || rows < leastRows)
    throw new CrossfadeError({
      kind: 'input',
      code: 'CLI.INVALID_VALUE',
      message: `The demo takes ${count(leastRows)} rows or more; ${rows} were asked for.`,
      mend: 'Leave --rows out, or give a larger number.',
    })
  const interruption = listenForSignals()
  const progress = createProgress(io.stderr)
  const cleanUps: (() => Promise<unknown> | void)[] = []
  try {
    return await stage(rows, options, io, progress, interruption.signal, (cleanUp) => cleanUps.push(cleanUp))
  } catch (error) {
    progress.end()
    if (interruption.signal.aborted) {
      io.stderr.write('ending everything …\n')
      return interruption.exitCode()
    }
    report(error, options, rows, io)
    return 1
  } finally {
    progress.end()
    for (const cleanUp of cleanUps.reverse()) await Promise.resolve(cleanUp()).catch(() => undefined)
    interruption.release()
  }
}

async function stage(
  rows: number,
  { json, keep, sync = 'trigger' }: DemoOptions,
  io: DemoStreams,
  progress: Progress,
  signal: AbortSignal,
  atEnd: (cleanUp: () => Promise<unknown> | void) => void,
): Promise<number> {
  progress.say('starting PostgreSQL 18 and Temporal, bundling the workflow …')
  const servers = await startServers()
  atEnd(() => servers.stop())
  signal.throwIfAborted()
  progress.say(`Temporal UI: ${servers.temporal.uiUrl ?? 'none'} · PostgreSQL: ${servers.postgres.url}`)

  const crew = await createCrew(servers, migrationName)
  atEnd(() => crew.close())
  await Promise.all([crew.start(), crew.start()])
  const pool = new pg.Pool({
    connectionString: servers.postgres.url,
    max: 4,
    application_name: 'crossfade demo',
  })
  pool.on('error', () => undefined)
  atEnd(() => pool.end())
  await createCustomers(pool, rows)
  signal.throwIfAborted()
  progress.say(`made a table of ${count(rows)} customers`)

  const { load, fleet } = await startApplication(servers, rows, sync, atEnd)
  const client = await connectCrossfade({ address: servers.temporal.address, taskQueue: defaultTaskQueue })
  atEnd(() => client.close())
  await load.forget() // the first moments are of warming up
  await delay(quietMs, undefined, { signal })
  const quiet = await load.forget()
  progress.say(
    `the application is running: ${loads[sync].sessions} sessions, p99 ${quiet.p99Ms.toFixed(1)} ms by itself`,
  )

  const startedAt = performance.now()
  const definition = splitCustomers(pacingFor(rows), sync)
  const story = await liveThrough({ pool, client, crew, load, fleet, progress, signal }, definition)
  const seconds = (performance.now() - startedAt) / 1000
  const evidence = {
    rows,
    workersKilled: crew.killed,
    service: fleet && { instancesKilled: fleet.killed, retried: fleet.retried },
    quiet,
    load: await load.stop(),
    story,
    ledger: await compareWithLedger(pool),
    seconds,
  }
  progress.end()
  const outcome = judge(evidence)
  const forPeople = json ? io.stderr : io.stdout
  for (const line of describe(outcome, evidence, keep ? servers.temporal.uiUrl : undefined))
    forPeople.write(`${line}\n`)
  if (!outcome.ok || process.env['CROSSFADE_DEMO_DIAGNOSE'])
    for (const line of diagnose(evidence)) io.stderr.write(`  ${line}\n`)
  if (json) io.stdout.write(`${JSON.stringify(outcome)}\n`)
  if (keep) await keepRunning(servers.temporal.uiUrl, servers.postgres.url, io, signal)
  return outcome.ok ? 0 : 1
}

/** The load asks the database itself, or a service in front of it. */
async function startApplication(
  { postgres, folder }: Servers,
  rows: number,
  sync: DemoSync,
  atEnd: (cleanUp: () => Promise<unknown> | void) => void,
): Promise<{ readonly load: Load; readonly fleet: Fleet | undefined }> {
  const url = postgres.url.replace('//postgres@', `//${applicationRole}@`)
  const fleet = sync === 'application' ? await startFleet(url, `${folder}/service.log`) : undefined
  atEnd(() => fleet?.close())
  const options = { url, ...(fleet && { serviceUrl: fleet.url }), rows, ...loads[sync] }
  const load = startLoad(options, `${folder}/load.log`)
  atEnd(() => load.kill())
  return { load, fleet }
}

async function keepRunning(
  uiUrl: string | undefined,
  url: string,
  io: DemoStreams,
  signal: AbortSignal,
): Promise<void> {
  io.stderr.write(
    `Everything is left running: ${uiUrl ?? 'Temporal'} and psql ${url}\nCtrl-C (or kill ${process.pid}) stops all of it.\n`,
  )
  // A signal alone keeps no process alive.
  const alive = setInterval(() => undefined, 60_000)
  await new Promise<void>((resolve) => {
    signal.addEventListener('abort', () => resolve(), { once: true })
    if (signal.aborted) resolve()
  })
  clearInterval(alive)
}

function report(error: unknown, { json }: DemoOptions, rows: number, io: DemoStreams): void {
  const message = error instanceof Error ? error.message : String(error)
  io.stderr.write(`✖ ${message}\n`)
  if (isCrossfadeError(error)) io.stderr.write(`→ ${error.mend}\n`)
  else if (error instanceof Error) io.stderr.write(`${error.stack ?? ''}\n`)
  if (json) io.stdout.write(`${JSON.stringify({ ok: false, rows, error: { message } })}\n`)
}

interface Interruption {
  readonly signal: AbortSignal
  exitCode(): number
  release(): void
}

/** The first signal ends everything in good order; a second one does not wait, and the watchdogs of the servers do the rest. */
function listenForSignals(): Interruption {
  const controller = new AbortController()
  let received: NodeJS.Signals | undefined
  const onSignal = (signal: NodeJS.Signals): void => {
    if (received !== undefined) process.exit(128 + constants.signals[signal])
    received = signal
    controller.abort()
  }
  const signals = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const
  for (const signal of signals) process.on(signal, onSignal)
  return {
    signal: controller.signal,
    exitCode: () => 128 + (received === undefined ? 0 : constants.signals[received]),
    release: () => {
      for (const signal of signals) process.off(signal, onSignal)
    },
  }
}
