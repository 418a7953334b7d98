import { setTimeout as delay } from 'node:timers/promises'
import pg from 'pg'
import {
  followFlags,
  Session,
  type Application,
  type ApplicationError,
  type SlowStatement,
  type User,
} from './application.ts'
import { Latencies } from './latencies.ts'
import { Ledger } from './ledger.ts'
import { Visitor } from './visitor.ts'

/**
 * The application, as a process of its own. Its first release reads and writes the old table and knows of nothing else. It is told
 * over IPC when its second release is deployed, which follows the flags, and when to end.
 */

export interface LoadOptions {
  /** Of the database. */
  readonly url: string
  /** Where the application is a service, its address. */
  readonly serviceUrl?: string
  readonly rows: number
  readonly sessions: number
  /** Operations a second of all sessions together; each is one to five statements, or one request. */
  readonly ratePerSec: number
}

export type LoadCommand = 'deploy' | 'forget' | 'stop'

/** Sent a few times a second. */
export interface LoadFigures {
  readonly kind: 'figures'
  readonly calls: number
  readonly writes: number
  readonly callsPerSec: number
  readonly writesPerSec: number
  /** Of the last seconds. */
  readonly p99Ms: number
  readonly longestMs: number
  readonly errorCount: number
}

export interface LoadReport {
  readonly calls: number
  readonly writes: number
  readonly keysWritten: number
  readonly rolledBack: number
  readonly p50Ms: number
  readonly p99Ms: number
  readonly longestMs: number
  readonly staleReads: number
  readonly wrongReads: number
  readonly fallbacks: number
  readonly slowest: readonly SlowStatement[]
  readonly errors: readonly ApplicationError[]
  readonly errorCount: number
}

/** What it answers: figures by itself, and to each command the report of that moment. */
export type LoadMessage =
  LoadFigures | { readonly kind: 'done'; readonly command: LoadCommand; readonly report: LoadReport }

const figuresEveryMs = 500
const ledgerBatch = 2_000

function createApplication({ url, rows }: LoadOptions): Application {
  return {
    url,
    rows,
    ledger: new Ledger(),
    all: new Latencies(),
    lately: new Latencies(),
    release: 1,
    readPercent: 0,
    primary: 'old',
    epoch: -1,
    recentlyAdded: [],
    removed: [],
    calls: 0,
    rolledBack: 0,
    staleReads: 0,
    wrongReads: 0,
    fallbacks: 0,
    slowest: [],
    errors: [],
    errorCount: 0,
  }
}

const newUser = (application: Application, { serviceUrl }: LoadOptions): User =>
  serviceUrl === undefined ? new Session(application) : new Visitor(application, serviceUrl)

/** Users come at their own rate, whatever the last answer took; who had to wait does not catch up in a burst. */
async function live(user: User, everyMs: number, signal: AbortSignal): Promise<void> {
  let next = performance.now() + Math.random() * everyMs
  while (!signal.aborted) {
    const now = performance.now()
    if (now < next) await delay(next - now, undefined, { signal }).catch(() => undefined)
    else next = Math.max(next, now - 4 * everyMs)
    if (signal.aborted) break
    await user.once()
    next += -Math.log(1 - Math.random()) * everyMs
  }
  await user.close()
}

function toReport(application: Application): LoadReport {
  const { all, ledger, slowest, errors } = application
  return {
    calls: application.calls,
    writes: ledger.writes,
    keysWritten: ledger.size,
    rolledBack: application.rolledBack,
    p50Ms: all.percentile(50),
    p99Ms: all.percentile(99),
    longestMs: all.longestMs,
    staleReads: application.staleReads,
    wrongReads: application.wrongReads,
    fallbacks: application.fallbacks,
    slowest: [...slowest],
    errors: [...errors],
    errorCount: application.errorCount,
  }
}

/** Times before the migration are not its own: they are reported, and then forgotten. */
function forgetTimes(application: Application): void {
  application.all.reset()
  application.slowest.length = 0
}

async function storeLedger({ ledger, url }: Application): Promise<void> {
  const client = new pg.Client({ connectionString: url, application_name: 'shop ledger' })
  await client.connect()
  try {
    for (const batch of ledger.batches(ledgerBatch))
      await client.query(
        'INSERT INTO demo.ledger (id, version, image, is_uncertain) SELECT * FROM unnest($1::bigint[], $2::int[], $3::text[], $4::boolean[])',
        [
          batch.map(([id]) => id),
          batch.map(([, entry]) => entry.version),
          batch.map(([, entry]) => entry.image ?? null),
          batch.map(([, entry]) => entry.isUncertain),
        ],
      )
  } finally {
    await client.end()
  }
}

function sendFigures(application: Application, send: (message: LoadMessage) => void): NodeJS.Timeout {
  let before = { at: performance.now(), calls: 0, writes: 0 }
  return setInterval(() => {
    const { calls, ledger, lately, errorCount } = application
    const now = { at: performance.now(), calls, writes: ledger.writes }
    const seconds = (now.at - before.at) / 1000
    send({
      kind: 'figures',
      calls,
      writes: ledger.writes,
      callsPerSec: (now.calls - before.calls) / seconds,
      writesPerSec: (now.writes - before.writes) / seconds,
      p99Ms: lately.percentile(99),
      longestMs: lately.longestMs,
      errorCount,
    })
    lately.reset()
    before = now
  }, figuresEveryMs)
}

async function main(): Promise<void> {
  const options = JSON.parse(process.argv[2] ?? '{}') as LoadOptions
  const application = createApplication(options)
  const send = (message: LoadMessage): void => void process.send?.(message)
  const stopping = new AbortController()
  let unfollow: (() => Promise<void>) | undefined
  const everyMs = (1000 * options.sessions) / options.ratePerSec
  const sessions = Promise.all(
    Array.from({ length: options.sessions }, () =>
      live(newUser(application, options), everyMs, stopping.signal),
    ),
  )
  const figures = sendFigures(application, send)
  const obey: Record<LoadCommand, () => Promise<void>> = {
    async deploy() {
      unfollow = await followFlags(application)
      application.release = 2
    },
    async forget() {
      forgetTimes(application)
    },
    async stop() {
      clearInterval(figures)
      stopping.abort()
      await sessions
      await unfollow?.()
      await storeLedger(application)
    },
  }
  process.on('message', (command: LoadCommand) => {
    const report = toReport(application)
    obey[command]().then(
      () => {
        send({ kind: 'done', command, report: command === 'stop' ? toReport(application) : report })
        if (command === 'stop') process.disconnect()
      },
      (error: unknown) => {
        process.stderr.write(`load: ${command} failed: ${String(error)}\n`)
        process.exit(1)
      },
    )
  })
  // Without its parent it has nobody to prove anything to.
  process.once('disconnect', () => {
    if (!stopping.signal.aborted) process.exit(1)
  })
  await sessions
}

await main()
