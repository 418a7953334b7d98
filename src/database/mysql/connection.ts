import { randomUUID } from 'node:crypto'
import mysql from 'mysql2/promise'
import { CrossfadeError } from '../../errors/index.ts'
import type { Connections, Row, Transaction, TransactionOptions } from '../database.ts'
import type { Examination } from '../examination.ts'
import { errorSwallowed, mayHaveCommitted } from '../translate.ts'
import { parseAddress } from './address.ts'
import { bind } from './bind.ts'
import { isConnectionLoss } from './errors.ts'
import { examination } from './examination.ts'
import { longestStandstillSec, lostSettings, readSession, sessionSettings, setSession } from './session.ts'
import { isMariaDb } from './version.ts'

const connectTimeoutMs = 5_000

class MysqlConnections implements Connections<Examination> {
  readonly dialect = examination
  readonly name: string
  readonly #options: mysql.PoolOptions
  readonly #pool: mysql.Pool
  /** The name that a connection's server has for its isolation: one that is not known there is an error. */
  readonly #isolationVariables = new WeakMap<object, string>()

  constructor(name: string, options: mysql.PoolOptions) {
    this.name = name
    this.#options = options
    this.#pool = mysql.createPool(options)
  }

  async transaction<T>(fn: (tx: Transaction) => Promise<T>, options: TransactionOptions = {}): Promise<T> {
    const connection = await this.#pool.getConnection()
    const session = new Session(connection, (mark) => this.#killMarked(mark))
    // Without a listener it would end the process; the statement that meets the loss tells of it.
    const onError = (): void => void (session.isBroken = true)
    connection.on('error', onError)
    try {
      await this.#begin(connection, session, options)
      const result = await fn(session.toTransaction(options.statementTimeoutMs))
      await session.commit()
      return result
    } catch (error) {
      if (isConnectionLoss(error)) session.isBroken = true
      if (!session.isBroken) await session.run('ROLLBACK').catch(() => void (session.isBroken = true))
      throw error
    } finally {
      connection.off('error', onError)
      // A connection whose state is unknown is closed, never handed to the next user.
      if (session.isBroken) connection.destroy()
      else connection.release()
    }
  }

  /**
   * A proxy may run two statements in two sessions until a transaction is open: what the settings are is read within it, and where they
   * are not ours nothing is done. A transaction's isolation is that of its session at its start.
   */
  async #begin(connection: object, session: Session, options: TransactionOptions): Promise<void> {
    let variable = this.#isolationVariables.get(connection)
    if (variable === undefined) {
      const { rows } = await session.run('SELECT VERSION() AS version')
      variable = isMariaDb(rows[0]?.['version'] ?? '') ? 'tx_isolation' : 'transaction_isolation'
      this.#isolationVariables.set(connection, variable)
    }
    const settings = sessionSettings(options, variable)
    await session.run(setSession(settings, options.applying))
    const characteristics = [
      ...(options.snapshot ? ['WITH CONSISTENT SNAPSHOT'] : []),
      ...(options.readOnly ? ['READ ONLY'] : []),
    ]
    await session.run(`START TRANSACTION ${characteristics.join(', ')}`)
    const [found = {}] = (await session.run(readSession(settings))).rows
    const lost = lostSettings(settings, found)
    if (lost.length > 0)
      throw new CrossfadeError({
        kind: 'refused',
        code: 'DATABASE.SESSION_CHANGED',
        message: `The settings that Crossfade gave its session of the database "${this.name}" are not those of its transaction: ${lost.join(', ')}.`,
        mend: 'Something between here and the server changes or loses them: give a URL that passes by it, or have it keep sessions (in ProxySQL, multiplexing off for our user).',
        details: { settings: lost },
      })
  }

  /** Only our own statement is ended: it is found by a mark in its text, on whatever server the second connection has reached. */
  async #killMarked(mark: string): Promise<void> {
    const { host, port, user, password, database, ssl } = this.#options
    const second = await mysql.createConnection({
      ...{ host, port, user, password, database, ...(ssl ? { ssl } : {}) },
      connectTimeout: connectTimeoutMs,
    } as mysql.ConnectionOptions)
    try {
      const [threads] = await second.query<mysql.RowDataPacket[]>('SHOW FULL PROCESSLIST')
      const marked = threads.find((thread) => String(thread['Info']).startsWith(`/* ${mark} */`))
      if (marked) await second.query(`KILL QUERY ${Number(marked['Id'])}`)
    } finally {
      await second.end()
    }
  }

  async close(): Promise<void> {
    await this.#pool.end()
  }
}

/** The server's flag in an answer: https://dev.mysql.com/doc/dev/mysql-server/latest/mysql__com_8h.html, SERVER_STATUS_IN_TRANS */
const inTransaction = 1

/** One use of a connection: what has become of its transaction is known here, not left to who calls. */
class Session {
  readonly #connection: mysql.PoolConnection
  readonly #killMarked: (mark: string) => Promise<void>
  isBroken = false
  /** A statement failed: the server would go on with the rest, or (after a deadlock) with each statement in a transaction of its own. */
  #hasFailed = false

  constructor(connection: mysql.PoolConnection, killMarked: (mark: string) => Promise<void>) {
    this.#connection = connection
    this.#killMarked = killMarked
  }

  toTransaction(statementTimeoutMs: number | undefined): Transaction {
    return {
      query: async (sql, values) => {
        if (this.#hasFailed && !/^ROLLBACK TO /i.test(sql)) throw errorSwallowed()
        try {
          const result = await this.#runWithin(statementTimeoutMs, bind(sql, values))
          this.#hasFailed = false
          if (result.status !== undefined && (result.status & inTransaction) === 0) throw transactionEnded()
          return result
        } catch (error) {
          this.#hasFailed = true
          throw error
        }
      },
    }
  }

  async commit(): Promise<void> {
    if (this.#hasFailed) throw errorSwallowed()
    try {
      await this.run('COMMIT')
    } catch (error) {
      throw isConnectionLoss(error) ? mayHaveCommitted(error) : error
    }
  }

  async #runWithin(timeoutMs: number | undefined, sql: string): ReturnType<Session['run']> {
    if (timeoutMs === undefined) return this.run(sql)
    const mark = `crossfade ${randomUUID()}`
    let killed: Promise<void> | undefined
    const timer = setTimeout(() => {
      this.isBroken = true // the statement may end by itself while its end is asked for: nothing runs after it
      killed = this.#killMarked(mark).catch(() => this.#connection.destroy())
    }, timeoutMs)
    try {
      const result = await this.run(`/* ${mark} */ ${sql}`)
      // SLEEP() among others ends as if nothing had been.
      if (killed) throw interrupted()
      return result
    } finally {
      clearTimeout(timer)
      await killed
    }
  }

  /** A statement as it is. `status` is known of those that answer without rows. */
  async run(sql: string): Promise<{ rows: Row[]; rowCount: number; status: number | undefined }> {
    try {
      const [result, fields] = await this.#connection.query<mysql.RowDataPacket[] | mysql.ResultSetHeader>({
        sql,
        typeCast: false,
      })
      if (!Array.isArray(result))
        return { rows: [], rowCount: result.affectedRows, status: result.serverStatus }
      const rows = result.map((row) =>
        Object.fromEntries(
          fields.map((field) => [field.name, toText(row[field.name] as Buffer | null, field)]),
        ),
      )
      return { rows, rowCount: rows.length, status: undefined }
    } catch (error) {
      delete (error as { sql?: string }).sql // the statement with its values
      throw error
    }
  }
}

/** Bytes without a character set, of types that hold bytes or bits; numbers, dates and JSON say "binary", too, and are text. */
const binaryCharacterSet = 63
const byteTypes = new Set([16, 242, 249, 250, 251, 252, 253, 254, 255])

/** The server's text as it is; bytes as a hexadecimal literal of its own. */
function toText(value: Buffer | null, field: mysql.FieldPacket): string | null {
  if (value === null) return null
  const { characterSet, columnType } = field as { characterSet?: number; columnType?: number }
  return characterSet === binaryCharacterSet && byteTypes.has(columnType ?? 0)
    ? `0x${value.toString('hex')}`
    : value.toString('utf8')
}

/** As the server says it. */
const interrupted = (): Error =>
  Object.assign(new Error('Query execution was interrupted'), { errno: 1317, sqlState: '70100' })

function transactionEnded(): CrossfadeError {
  return new CrossfadeError({
    kind: 'bug',
    code: 'INTERNAL.TRANSACTION_ENDED',
    message:
      'A statement has committed the transaction that it was a part of, as DDL does on MySQL and MariaDB.',
    mend: 'Please report this with the versions of crossfade-db, Temporal and the database.',
  })
}

/** A pool of at most `maxConnections` (default 10) connections. Nothing connects before the first use. */
export function openMysql(options: {
  name: string
  url: string
  maxConnections?: number
  applicationName?: string
}): Connections<Examination> {
  const connectionLimit = options.maxConnections ?? 10
  return new MysqlConnections(options.name, {
    ...parseAddress(options.name, options.url),
    charset: 'utf8mb4',
    connectionLimit,
    // None stands idle for as long as the server would let it; the pool looks at that only where fewer may be idle than there may be.
    maxIdle: connectionLimit - 1,
    idleTimeout: (longestStandstillSec * 1000) / 2,
    connectTimeout: connectTimeoutMs,
    enableKeepAlive: true,
    connectAttributes: { program_name: options.applicationName ?? 'crossfade' },
  })
}
