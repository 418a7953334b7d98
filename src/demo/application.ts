import pg from 'pg'
import { flagsSchema, readFlag } from './definition.ts'
import type { Latencies } from './latencies.ts'
import type { Entry, Ledger, Seen } from './ledger.ts'
import { pickOperation, type Operation } from './operations.ts'
import { newSide, oldSide, takeSteps, type Found, type Run, type Side } from './sides.ts'

/** What a statement of the application ended with that it should not have. */
export interface ApplicationError {
  readonly at: number
  readonly operation: string
  readonly code: string
  readonly message: string
}

export interface SlowStatement {
  readonly at: number
  readonly ms: number
  readonly statement: string
}

/** What the sessions of one process share. */
export interface Application {
  readonly url: string
  readonly rows: number
  readonly ledger: Ledger
  readonly all: Latencies
  readonly lately: Latencies
  /** The first release knows nothing of Crossfade; the second follows the flags. */
  release: 1 | 2
  /** What the flags said last. */
  readPercent: number
  primary: 'old' | 'new'
  /** The newest epoch of the flags that an answer of the service was given by. */
  epoch: number
  readonly recentlyAdded: number[]
  readonly removed: number[]
  /** Statements, or requests where it is a service. */
  calls: number
  rolledBack: number
  /** Reads of the following side that did not show an acknowledged write yet; the same of the leading side would be a loss. */
  staleReads: number
  wrongReads: number
  /** Reads of the new side that only the old one could answer. */
  fallbacks: number
  readonly slowest: SlowStatement[]
  readonly errors: ApplicationError[]
  errorCount: number
}

const mostKept = 12
const noteworthyMs = 20

function noteSlow(application: Application, ms: number, sql: string): void {
  const { slowest } = application
  if (ms < noteworthyMs || (slowest.length >= mostKept && ms <= (slowest.at(-1)?.ms ?? 0))) return
  slowest.push({ at: Date.now(), ms, statement: sql.replace(/\s+/g, ' ').slice(0, 90) })
  slowest.sort((a, b) => b.ms - a.ms)
  if (slowest.length > mostKept) slowest.pop()
}

const statementNames = new Map<string, string>()

/** The same text is prepared once per session under the same name. */
function nameOf(sql: string): string {
  const known = statementNames.get(sql)
  if (known !== undefined) return known
  const name = `s${statementNames.size + 1}`
  statementNames.set(sql, name)
  return name
}

/** A number from 0 to 100 that belongs to a key for good: who is in the first percent stays in every later one. */
function bucketOf(id: number): number {
  return ((Math.imul(id, 0x9e3779b1) >>> 0) % 10_000) / 100
}

/** @param expected what the ledger said of the key before it was read */
export function judgeRead(
  application: Application,
  expected: Entry | undefined,
  found: Found | undefined,
  isLeading: boolean,
): void {
  // Not found says nothing: a delete that is not acknowledged yet may have been first.
  if (expected === undefined || expected.isUncertain || found === undefined) return
  if (found.version >= expected.version) return
  if (isLeading) application.wrongReads += 1
  else application.staleReads += 1
}

export function noteTime(application: Application, ms: number, what: string): void {
  application.calls += 1
  application.all.add(ms)
  application.lately.add(ms)
  noteSlow(application, ms, what)
}

export function noteError(application: Application, operation: Operation, error: unknown): string {
  const { code = '', message = String(error) } = error as { code?: string; message?: string }
  application.errorCount += 1
  if (application.errors.length < mostKept)
    application.errors.push({ at: Date.now(), operation: operation.name, code, message })
  return code
}

/** What somebody does with the application: an operation at a time. */
export interface User {
  once(): Promise<void>
  close(): Promise<void>
}

/** One user session on the database itself: an operation, a moment of thought, the next one. */
export class Session implements User {
  readonly #application: Application
  #client: pg.Client | undefined
  #run: Run | undefined
  #lastEmail: string | undefined

  constructor(application: Application) {
    this.#application = application
  }

  async close(): Promise<void> {
    await this.#client?.end().catch(() => undefined)
    this.#client = this.#run = undefined
  }

  async once(): Promise<void> {
    const operation = pickOperation(this.#application, this.#lastEmail)
    try {
      const run = await this.#connected()
      if (operation.kind === 'read') await this.#read(run, operation)
      else await this.#write(run, operation)
    } catch (error) {
      await this.#failed(operation, error)
    }
  }

  async #connected(): Promise<Run> {
    if (this.#run) return this.#run
    const application = this.#application
    const client = new pg.Client({ connectionString: application.url, application_name: 'shop' })
    client.on('error', () => undefined) // the statement that runs into it fails by itself
    await client.connect()
    this.#client = client
    this.#run = async (sql, values) => {
      const startedAt = performance.now()
      const result = await client.query(
        values === undefined ? { text: sql } : { text: sql, values: [...values], name: nameOf(sql) },
      )
      const ms = performance.now() - startedAt
      noteTime(application, ms, sql)
      // Several statements at once answer with several results; the last one matters.
      const [last] = (Array.isArray(result) ? result : [result]).slice(-1) as pg.QueryResult[]
      return (last?.rows ?? []) as Record<string, unknown>[]
    }
    return this.#run
  }

  async #read(run: Run, operation: Operation & { kind: 'read' }): Promise<void> {
    const application = this.#application
    const { id, email } = operation
    const seen = (side: Side): Promise<Found | undefined> =>
      email === undefined ? side.find(run, id) : side.findByEmail(run, email)
    const isNew = application.release === 2 && bucketOf(id) < application.readPercent
    const isLeading = (application.primary === 'new') === isNew
    const expected = application.ledger.get(id)
    let found = await seen(isNew ? newSide : oldSide)
    if (found === undefined && !isLeading) {
      found = await seen(isNew ? oldSide : newSide)
      if (found !== undefined) application.fallbacks += 1
    }
    if (email === undefined) judgeRead(application, expected, found, isLeading)
    if (found) this.#lastEmail = found.email
  }

  async #write(run: Run, operation: Operation & { kind: 'write' }): Promise<void> {
    const application = this.#application
    let seen: Seen[]
    const { steps } = operation
    if (application.release === 1 && steps.length === 1) seen = await takeSteps(oldSide, run, steps)
    else {
      const side = application.release === 1 ? await this.#begin(run) : await this.#beginOnPrimary(run)
      seen = await takeSteps(side, run, steps)
      if (operation.rollsBack) {
        await run('ROLLBACK')
        application.rolledBack += 1
        return
      }
      await run('COMMIT')
    }
    application.ledger.acknowledge(seen)
    operation.acknowledged(seen)
  }

  async #begin(run: Run): Promise<Side> {
    await run('BEGIN')
    return oldSide
  }

  /**
   * The side to write is read under the lock that a writer of the old side takes anyway: whoever moves the primary waits for it,
   * and whoever comes after reads the new answer.
   */
  async #beginOnPrimary(run: Run): Promise<Side> {
    const application = this.#application
    for (;;) {
      const { primary } = application
      const [row] = await run(
        `BEGIN; ${primary === 'old' ? 'LOCK TABLE customers IN ROW EXCLUSIVE MODE; ' : ''}SELECT primary_side FROM ${flagsSchema}.state`,
      )
      if (row?.['primary_side'] === primary) return primary === 'old' ? oldSide : newSide
      await run('ROLLBACK')
      application.primary = row?.['primary_side'] === 'new' ? 'new' : 'old'
    }
  }

  async #failed(operation: Operation, error: unknown): Promise<void> {
    const application = this.#application
    const code = noteError(application, operation, error)
    // An SQLSTATE of a statement means that it was undone; without one, or with the connection gone, nobody knows.
    const isKnown = /^[0-9A-Z]{5}$/.test(code) && !/^(08|57P)/.test(code)
    if (!isKnown) {
      if (operation.kind === 'write' && !operation.rollsBack) application.ledger.doubt(operation.ids)
      await this.close()
      return
    }
    await this.#client?.query('ROLLBACK').catch(() => this.close())
  }
}

/** Follows the flags: woken by NOTIFY, and by a poll where that is missed. Returns how to stop. */
export async function followFlags(application: Application): Promise<() => Promise<void>> {
  const client = new pg.Client({ connectionString: application.url, application_name: 'shop flags' })
  client.on('error', () => undefined)
  await client.connect()
  await client.query(`LISTEN ${flagsSchema}`)
  const read = async (): Promise<void> => {
    const { rows } = await client.query<{ percent: string | null; primary_side: string }>(
      `SELECT (SELECT percent FROM ${flagsSchema}.flags WHERE key = $1) AS percent, primary_side FROM ${flagsSchema}.state`,
      [readFlag],
    )
    application.readPercent = Number(rows[0]?.percent ?? 0)
    application.primary = rows[0]?.primary_side === 'new' ? 'new' : 'old'
  }
  const readQuietly = (): void => void read().catch(() => undefined)
  await read()
  client.on('notification', readQuietly)
  const poll = setInterval(readQuietly, 250)
  return async () => {
    clearInterval(poll)
    await client.end().catch(() => undefined)
  }
}
