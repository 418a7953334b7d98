import { randomUUID } from 'node:crypto'
import pg from 'pg'
import type { Database, Row, Transaction, TransactionOptions } from '../database.ts'
import { errorSwallowed, mayHaveCommitted } from '../translate.ts'
import { isConnectionLoss, sqlState } from './errors.ts'
import { postgres } from './dialect.ts'
import { sessionSettings } from './session.ts'

/** The server's text as it is. */
const rawText = { getTypeParser: () => (value: string | Buffer) => value.toString() }

const connectTimeoutMs = 5_000

/** So often is a statement outside of a transaction looked at, whether it waits for a lock. */
const lockWatchMs = 500

class PostgresDatabase implements Database {
  readonly dialect = postgres
  readonly name: string
  readonly #pool: pg.Pool

  constructor(name: string, pool: pg.Pool) {
    this.name = name
    this.#pool = pool
  }

  async transaction<T>(fn: (tx: Transaction) => Promise<T>, options: TransactionOptions = {}): Promise<T> {
    const client = await this.#pool.connect()
    let broken: Error | undefined
    const onError = (error: Error): void => void (broken = error)
    client.on('error', onError)
    try {
      await client.query(
        `BEGIN ISOLATION LEVEL ${options.snapshot ? 'REPEATABLE READ' : 'READ COMMITTED'}${options.readOnly ? ' READ ONLY' : ''}; ${sessionSettings(options)}`,
      )
      const result = await fn(toTransaction(client))
      await commit(client)
      return result
    } catch (error) {
      if (isConnectionLoss(error)) broken = error as Error
      else await client.query('ROLLBACK').catch((rollback: Error) => void (broken = rollback))
      throw error
    } finally {
      client.off('error', onError)
      // A connection whose state is unknown is closed, never handed to the next user.
      client.release(broken)
    }
  }

  /**
   * Behind a transaction pooler two statements may run in two backends: nothing is set here, and the backend is found by a mark in
   * the statement's own text.
   */
  async standalone(sql: string, options: { lockTimeoutMs: number; signal?: AbortSignal }): Promise<void> {
    const client = await this.#pool.connect()
    let broken: Error | undefined
    const onError = (error: Error): void => void (broken = error) // without a listener it would end the process
    client.on('error', onError)
    const mark = `crossfade ${randomUUID()}`
    const cancel = (): void => void this.#cancelMarked(mark).catch(() => undefined)
    options.signal?.addEventListener('abort', cancel)
    let hasWaitedTooLong = false
    const watch = setInterval(() => {
      this.#cancelWhereItWaits(mark, options.lockTimeoutMs).then(
        (cancelled) => void (hasWaitedTooLong ||= cancelled),
        () => undefined,
      )
    }, lockWatchMs)
    try {
      await client.query(`/* ${mark} */ ${sql}`)
    } catch (error) {
      throw hasWaitedTooLong ? asLockTimeout(error) : error
    } finally {
      clearInterval(watch)
      options.signal?.removeEventListener('abort', cancel)
      client.off('error', onError)
      client.release(broken)
    }
  }

  async #cancelMarked(mark: string, condition = 'true', values: readonly unknown[] = []): Promise<boolean> {
    const { rowCount } = await this.#pool.query(
      `SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE state = 'active' AND starts_with(query, $1) AND ${condition}`,
      [`/* ${mark} */`, ...values],
    )
    return (rowCount ?? 0) > 0
  }

  /** `waitstart` came with 14: https://www.postgresql.org/docs/18/view-pg-locks.html */
  #cancelWhereItWaits(mark: string, lockTimeoutMs: number): Promise<boolean> {
    return this.#cancelMarked(
      mark,
      `EXISTS (SELECT FROM pg_locks l WHERE l.pid = pg_stat_activity.pid AND NOT l.granted AND l.waitstart < clock_timestamp() - $2 * interval '1 millisecond')`,
      [lockTimeoutMs],
    )
  }

  async close(): Promise<void> {
    await this.#pool.end()
  }
}

/** A statement that we cancelled because it waited for a lock is what lock_timeout would have made of it: worth another attempt. */
function asLockTimeout(error: unknown): unknown {
  return sqlState(error) === '57014' ? Object.assign(error as object, { code: '55P03' }) : error
}

async function commit(client: pg.PoolClient): Promise<void> {
  try {
    const { command } = await client.query('COMMIT')
    if (command === 'COMMIT') return
  } catch (error) {
    throw isConnectionLoss(error) ? mayHaveCommitted(error) : error
  }
  throw errorSwallowed()
}

function toTransaction(client: pg.PoolClient): Transaction {
  return {
    async query(sql, values) {
      const result = await client.query<Row>({
        text: sql,
        values: values as unknown[],
        types: rawText,
      } as pg.QueryConfig)
      return { rows: result.rows, rowCount: result.rowCount ?? 0 }
    },
  }
}

/** A pool of at most `maxConnections` (default 10) connections. Nothing connects before the first use. */
export function openPostgres(options: {
  name: string
  url: string
  maxConnections?: number
  applicationName?: string
}): Database {
  const pool = new pg.Pool({
    connectionString: options.url,
    max: options.maxConnections ?? 10,
    connectionTimeoutMillis: connectTimeoutMs,
    keepAlive: true,
    application_name: options.applicationName ?? 'crossfade',
  })
  pool.on('error', () => undefined) // an idle connection that dies is replaced at the next use
  return new PostgresDatabase(options.name, pool)
}
