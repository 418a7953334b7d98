import { setTimeout as delay } from 'node:timers/promises'
import pg from 'pg'
import type { TestContext } from 'vitest'
import type { TestDatabase } from './postgres.ts'
import { eventually } from './wait.ts'

/** Hundreds of statements a second all the same; without a rest it would take both cores from what it is there to meet. */
export const restMs = 2

/**
 * An application that keeps its own books: it inserts, updates and deletes rows of its own, and remembers what
 * the database has acknowledged. What was there before (ids 1 to `rows`) it leaves alone, so that chunks copy exactly those.
 */
export class Ledger {
  readonly #url: string
  readonly #table: string
  readonly #rows: number
  readonly #expected = new Map<number, number>()
  #client: pg.Client | undefined
  #next: number
  #running: Promise<void> | undefined
  #isStopping = false
  #mayBeCut = false
  #isAway = false
  #losses = 0
  statements = 0

  private constructor(url: string, table: string, rows: number) {
    this.#url = url
    this.#table = table
    this.#rows = rows
    this.#next = rows + 1
  }

  /** Makes `table (id int, name text, price int)` with `rows` rows. */
  static async open(
    t: Pick<TestContext, 'onTestFinished'>,
    { url }: Pick<TestDatabase, 'url'>,
    table: string,
    rows: number,
  ): Promise<Ledger> {
    const ledger = new Ledger(url, table, rows)
    const client = await ledger.#connect()
    await client.query(`CREATE TABLE ${table} (id int PRIMARY KEY, name text NOT NULL, price int NOT NULL)`)
    await client.query(
      `INSERT INTO ${table} SELECT i, 'name ' || i, i % 1000 FROM generate_series(1, ${rows}) i`,
    )
    await client.query(`ANALYZE ${table}`)
    t.onTestFinished(() => ledger.#end())
    return ledger
  }

  /** Begins to write. Any statement that fails fails {@link stop}. */
  start(): void {
    this.#running = this.#write()
    this.#running.catch(() => undefined)
  }

  /** Ends writing. @throws the error of the statement that failed, if one did */
  async stop(): Promise<void> {
    this.#isStopping = true
    await this.#running
  }

  /** At most 20 rows of `table` that are not as they were acknowledged. */
  async differences(
    database: Pick<TestDatabase, 'pool'>,
    table: string,
    price = 'price',
  ): Promise<unknown[]> {
    const mine = [...this.#expected]
    const { rows } = await database.pool.query<{ id: string; has: string | null; wants: string | null }>(
      `WITH wanted AS (
         SELECT i AS id, 'name ' || i AS name, i % 1000 AS price FROM generate_series(1, ${this.#rows}) i
         UNION ALL SELECT id, 'name ' || id, price FROM unnest($1::int[], $2::int[]) AS u(id, price))
       SELECT coalesce(h.id, w.id)::text AS id, h.${price}::text AS has, w.price::text AS wants
         FROM ${table} h FULL JOIN wanted w ON w.id = h.id
        WHERE h.${price} IS DISTINCT FROM w.price OR h.name IS DISTINCT FROM w.name LIMIT 20`,
      [mine.map(([id]) => id), mine.map(([, value]) => value)],
    )
    return rows
  }

  /**
   * Runs `cut`, in which connections may be lost. What was under way then may have been committed or not: the row itself tells,
   * as soon as the database answers again.
   */
  async interrupt(cut: () => Promise<void>): Promise<void> {
    this.#mayBeCut = true
    const before = this.#losses
    await cut()
    await eventually(() => this.#losses > before && !this.#isAway, {
      timeoutMs: 60_000,
      what: 'the application to be back',
    })
    this.#mayBeCut = false
  }

  async #write(): Promise<void> {
    while (!this.#isStopping) {
      const id = this.#next++
      await this.#put(id, 0, `INSERT INTO ${this.#table} (id, name, price) VALUES ($1, $3, $2)`, [
        `name ${id}`,
      ])
      const other = this.#rows + 1 + ((id * 7919) % (id - this.#rows))
      if (this.#expected.has(other))
        await this.#put(other, id % 977, `UPDATE ${this.#table} SET price = $2 WHERE id = $1`)
      if (id % 5 === 0) await this.#put(id - 3, undefined, `DELETE FROM ${this.#table} WHERE id = $1`)
      this.statements += 1
      await delay(restMs)
    }
  }

  /** One statement, and the row's price after it; undefined: there is no such row. */
  async #put(
    id: number,
    price: number | undefined,
    sql: string,
    others: readonly string[] = [],
  ): Promise<void> {
    let now = price
    try {
      await this.#client?.query(sql, price === undefined ? [id] : [id, price, ...others])
    } catch (error) {
      if (!this.#mayBeCut) throw error
      this.#isAway = true
      this.#losses += 1
      now = await this.#look(id)
      this.#isAway = false
    }
    if (now === undefined) this.#expected.delete(id)
    else this.#expected.set(id, now)
  }

  async #look(id: number): Promise<number | undefined> {
    const { found } = await eventually(
      async () => {
        await this.#client?.end().catch(() => undefined)
        const client = await this.#connect()
        const { rows } = await client.query<{ price: number }>(
          `SELECT price FROM ${this.#table} WHERE id = $1`,
          [id],
        )
        return { found: rows[0]?.price }
      },
      { timeoutMs: 60_000, what: 'the database to answer again' },
    )
    return found
  }

  async #connect(): Promise<pg.Client> {
    const client = new pg.Client({ connectionString: this.#url, application_name: 'application' })
    client.on('error', () => undefined)
    await client.connect()
    this.#client = client
    return client
  }

  async #end(): Promise<void> {
    this.#isStopping = true
    await this.#running?.catch(() => undefined)
    await this.#client?.end().catch(() => undefined)
  }
}
