import type { Dialect } from './dialect.ts'

/** Every value arrives as the server's own text: no JavaScript number or Date ever rounds one. */
export type Row = Record<string, string | null>

export interface Transaction {
  query(
    sql: string,
    values?: readonly unknown[],
  ): Promise<{ readonly rows: Row[]; readonly rowCount: number }>
}

export interface TransactionOptions {
  /** The longest wait for any one lock. Default 50: shorter than `deadlock_timeout`, so that we give way, not the application. */
  readonly lockTimeoutMs?: number
  /** The migration whose own writes these are: its triggers let them pass, those of other migrations do not. */
  readonly applying?: string
  /** May a crash of the server lose this commit? Only where rows and their checkpoint are in this one transaction. Default false. */
  readonly asynchronousCommit?: boolean
  readonly statementTimeoutMs?: number
  readonly readOnly?: boolean
  /** Every statement sees the same instant (REPEATABLE READ). Default: each statement its own (READ COMMITTED). */
  readonly snapshot?: boolean
}

/** Connections to one database, whatever can be asked of it. */
export interface Connections<D> {
  readonly name: string
  readonly dialect: D
  /**
   * Runs `fn` in one transaction on one connection and commits.
   * @throws what `fn` throws after rolling back; `DATABASE.MAY_HAVE_COMMITTED` when the answer to COMMIT was lost.
   */
  transaction<T>(fn: (tx: Transaction) => Promise<T>, options?: TransactionOptions): Promise<T>
  close(): Promise<void>
}

/** One that migrations run on. */
export interface Database extends Connections<Dialect> {
  /** One statement outside of any transaction block, on a connection of its own (concurrent index builds). */
  standalone(
    sql: string,
    options: { readonly lockTimeoutMs: number; readonly signal?: AbortSignal },
  ): Promise<void>
}
