import { setTimeout as delay } from 'node:timers/promises'
import type pg from 'pg'
import type { TestContext } from 'vitest'
import { restMs } from './ledger.ts'
import type { TestDatabase } from './postgres.ts'

/** An application as docs/protocol has it: polls the flags once a second, and acts on what it knows. */
export class Application {
  readonly #database: TestDatabase
  readonly #rows: number
  readonly #schema: string
  readonly #mode: 'flags' | 'swap'
  readonly written = new Map<number, number>()
  readonly failures: string[] = []
  primary: 'old' | 'new' = 'old'
  reads: 'old' | 'new' = 'old'
  #polledAt = -Infinity
  #isStopping = false
  #running: Promise<void> = Promise.resolve()

  constructor(
    t: Pick<TestContext, 'onTestFinished'>,
    database: TestDatabase,
    { name, mode, rows }: { name: string; mode: 'flags' | 'swap'; rows: number },
  ) {
    this.#rows = rows
    this.#database = database
    this.#schema = `"_crossfade_${name}"`
    this.#mode = mode
    t.onTestFinished(() => this.stop())
  }

  /** It has just looked at the flags, and will not look again for most of a second. */
  get hasJustLooked(): boolean {
    return performance.now() - this.#polledAt < 100
  }

  start(): void {
    this.#running = this.#work()
  }

  async stop(): Promise<void> {
    this.#isStopping = true
    await this.#running
  }

  async #work(): Promise<void> {
    for (let n = 0; !this.#isStopping; n++) {
      if (performance.now() - this.#polledAt > 950) await this.#poll()
      const id = 1 + (n % this.#rows)
      const price = 1000 + n
      try {
        await this.#database.pool.query(`UPDATE ${this.#table(this.primary)} SET price = $2 WHERE id = $1`, [
          id,
          price,
        ])
        this.written.set(id, price)
        await this.#database.pool.query(`SELECT * FROM ${this.#table(this.reads)} WHERE id = $1`, [id])
      } catch (error) {
        this.failures.push(`${this.primary}/${this.reads}: ${String(error)}`)
        return
      }
      await delay(restMs)
    }
  }

  #table(side: 'old' | 'new'): string {
    return this.#mode === 'swap' || side === 'old' ? 'items' : 'goods'
  }

  async #poll(): Promise<void> {
    this.#polledAt = performance.now()
    const known = await readFlags(this.#database, this.#schema)
    if (!known) return // no flags (any more): what was known last holds
    this.primary = known.primary
    this.reads = known.readPercent > 0 ? 'new' : 'old'
  }
}

/** The flags as any session sees them; undefined where there are none. */
export async function readFlags(
  { pool }: { readonly pool: Pick<pg.Client, 'query'> },
  schema: string,
): Promise<{ primary: 'old' | 'new'; readPercent: number } | undefined> {
  try {
    const { rows: found } = await pool.query<{ primary: 'old' | 'new'; readPercent: number }>(
      `SELECT primary_side AS primary, coalesce((SELECT percent FROM ${schema}.flags WHERE key LIKE '%new_schema_read'), 0)::float8 AS "readPercent" FROM ${schema}.state`,
    )
    return found[0]
  } catch (error) {
    if (['42P01', '3F000'].includes((error as { code?: string }).code ?? '')) return undefined
    throw error
  }
}
