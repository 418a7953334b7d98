import type { Database, Transaction, TransactionOptions } from '../../src/database/index.ts'
import type { Workplace } from '../../src/copy/workplace.ts'

/** Runs a statement in the place of one of ours: what a test breaks on purpose. */
export type Instead = (
  sql: string,
  values: readonly unknown[] | undefined,
  query: Transaction['query'],
  actor: string,
) => ReturnType<Transaction['query']> | undefined

/**
 * Code of ours that runs one statement at a time: before each of them, and before COMMIT, it stands still until it is let on. `run`
 * starts it anew, `next` is the text of the statement that it stands before, `COMMIT`, or undefined where it is not running.
 */
export class Stepped {
  next: string | undefined
  readonly name: string
  readonly place: Workplace
  readonly #lockTimeoutMs: number | undefined
  readonly #instead: Instead
  #letOn: (() => void) | undefined
  #stands: (() => void) | undefined
  #isFree = false
  #run: Promise<void> = Promise.resolve()

  /** With `lockTimeoutMs` it waits that long for a lock, so that a machine that is busy does not change who comes first. */
  constructor(name: string, place: Workplace, instead: Instead = () => undefined, lockTimeoutMs?: number) {
    this.name = name
    this.#instead = instead
    this.#lockTimeoutMs = lockTimeoutMs
    const { database } = place
    const stepped: Database = {
      name: database.name,
      dialect: database.dialect,
      transaction: (fn, options) => this.#transaction(database, fn, options),
      standalone: (sql, options) => database.standalone(sql, options),
      close: () => database.close(),
    }
    this.place = { database: stepped, scope: place.scope }
  }

  /** Starts `work` and waits until it stands before its first statement. An error of it is kept out of the way: it may be killed. */
  async start(work: (place: Workplace) => Promise<unknown>): Promise<void> {
    this.#isFree = false
    const stands = this.#standing()
    this.#run = work(this.place).then(
      () => this.#ended(),
      () => this.#ended(),
    )
    await stands
  }

  /** Lets the statement go that it stands before. Resolved when it stands before the next one, or has ended. */
  letOn(): Promise<void> {
    const arrives = this.#standing()
    const letOn = this.#letOn
    this.next = undefined
    letOn?.()
    return arrives
  }

  /** Nothing holds it any more. Ends when the work has ended. */
  async free(): Promise<void> {
    this.#isFree = true
    this.#letOn?.()
    await this.#run
  }

  #ended(): void {
    this.next = undefined
    this.#letOn = undefined
    this.#stands?.()
  }

  #standing(): Promise<void> {
    return new Promise((resolve) => (this.#stands = resolve))
  }

  async #hold(what: string): Promise<void> {
    if (this.#isFree) return
    await new Promise<void>((resolve) => {
      this.#letOn = resolve
      this.next = what
      this.#stands?.()
    })
    this.#letOn = undefined
  }

  #transaction<T>(
    database: Database,
    fn: (tx: Transaction) => Promise<T>,
    options: TransactionOptions = {},
  ): Promise<T> {
    return database.transaction(
      async (tx) => {
        const result = await fn({
          query: async (sql, values) => {
            await this.#hold(sql)
            return this.#instead(sql, values, tx.query, this.name) ?? tx.query(sql, values)
          },
        })
        await this.#hold('COMMIT')
        return result
      },
      this.#lockTimeoutMs === undefined ? options : { ...options, lockTimeoutMs: this.#lockTimeoutMs },
    )
  }
}
