import type { Measured } from '../core/measured.ts'
import { CrossfadeError } from '../errors/index.ts'
import { openPostgresSide } from './postgres/application.ts'

/**
 * The side of a database that applications see. It is apart from {@link Dialect}, so that a service that imports it loads neither
 * a driver (it brings its own) nor what copies rows.
 */

/** What is used of a pool of `pg`. */
export interface ApplicationPool {
  connect(): Promise<ApplicationClient>
  readonly options: object
}

/** What is used of a connection of `pg`: a client of a pool, or what a query builder has inside. */
export interface ApplicationClient {
  query(query: {
    readonly text: string
    readonly values?: unknown[]
    readonly types?: { getTypeParser(): (value: string) => string }
    readonly query_timeout?: number
  }): Promise<{ readonly rows: Record<string, string | null>[]; readonly rowCount: number | null }>
  on(event: 'error' | 'end' | 'notification', listener: (argument: Error) => void): unknown
  off(event: 'error', listener: (error: Error) => void): unknown
  release(error?: Error | boolean): void
}

/** All that an instance acts on, of one instant. */
export interface Standing {
  /** Another one says that the migration's schema was made anew: its epochs begin again. */
  readonly incarnation: string
  /** Grows with every change. */
  readonly epoch: number
  readonly primary: 'old' | 'new'
  /** Percent by key. */
  readonly flags: Readonly<Record<string, number>>
  /**
   * By the source's name: the change log that a write leaves its keys in, by the side that is primary. Empty where triggers do it;
   * absent in a schema that an earlier version made.
   */
  readonly captures?: Readonly<Record<string, { readonly old?: string; readonly new?: string }>>
}

/** A row's key: its values in the order of the source's key, each as a text that the database reads. */
export type WrittenKey = readonly string[]

/** What is used of the connection that the application's own transaction runs on; a query builder's needs no more than this. */
export interface TransactionClient {
  query(query: {
    readonly text: string
    readonly values: unknown[]
  }): Promise<{ readonly rows: readonly unknown[] }>
}

/** What a write says to the database beside itself. */
export interface ApplicationWrites {
  /**
   * Runs `work`, and what it returns to be captured, in one transaction of the application's pool. Beside a plain transaction it is
   * one statement more, and no round trip: the capture is sent together with COMMIT.
   * @throws what `work` or COMMIT throws; everything is rolled back then, or nobody knows (a lost connection)
   */
  transact<T>(
    work: (
      client: ApplicationClient,
    ) => Promise<{ readonly result: T; readonly capture: CapturedKeys | undefined }>,
  ): Promise<{ readonly result: T; readonly epoch: number | undefined }>
  /** The last statement of a transaction that somebody else commits. @returns the epoch that holds now */
  capture(client: TransactionClient, captured: CapturedKeys): Promise<number>
  /** What holds now, asked within the transaction of `client`. */
  standingWithin(client: TransactionClient): Promise<Standing | undefined>
  /** After the commit, on a connection of its own: the other side says what this one says now. @returns how many of the keys it copied */
  apply(captured: CapturedKeys, timeoutMs: number): Promise<number>
  /** The same by the application's own function; the keys stay in the log. */
  applyBy(
    captured: CapturedKeys,
    timeoutMs: number,
    by: (client: ApplicationClient) => Promise<void>,
  ): Promise<number>
  /** Those of the keys that still have to be copied. */
  pending(captured: CapturedKeys): Promise<readonly WrittenKey[]>
  /** Whether the whole log is empty. */
  isEmpty(log: string): Promise<boolean>
  /** The other side is primary by now: nothing was written, and the transaction can be run again for that side. */
  isPrimaryMoved(error: unknown): boolean
  /** What was called is not there any more: the migration is over. */
  isOver(error: unknown): boolean
  /** Calls `onEnd` once the transaction on `client` has ended, where the connection tells of it. */
  onTransactionEnd(client: TransactionClient, onEnd: () => void): boolean
}

export interface CapturedKeys {
  /** The group's change log, by its id. */
  readonly log: string
  readonly keys: readonly WrittenKey[]
}

/** An instance of the application, as it tells the database of itself. */
export interface Announcement {
  readonly id: string
  readonly version: string
  /** What it acts on; undefined before it knows anything. */
  readonly standing: Pick<Standing, 'incarnation' | 'epoch'> | undefined
  readonly leaseMs: number
}

export interface ApplicationSide {
  /** One round trip: what there is to act on now, and the database knows of the instance. Undefined where no migration stands. */
  announce(announcement: Announcement): Promise<Standing | undefined>
  leave(id: string): Promise<void>
  /** What the instance has measured since its last report; forgotten where nobody watches over a migration. */
  report(id: string, measured: Measured): Promise<void>
  /** `metrics` of the definition; undefined where there is none yet. */
  metricSettings(): Promise<{ readonly prefix: string; readonly enabled: boolean } | undefined>
  /**
   * Calls `onChange` when the flags have changed, for as long as a connection of its own lives, and `onEnd` once when it is over.
   * @returns what ends it.
   */
  listen(onChange: () => void, onEnd: () => void): Promise<() => void>
  readonly writes: ApplicationWrites
  close(): Promise<void>
}

/**
 * Opens few connections of its own, made like those of `pool`: nothing here ever takes one that a request may need.
 * @throws `DATABASE.UNKNOWN_POOL`
 */
export function openApplicationSide(pool: ApplicationPool, migration: string): ApplicationSide {
  if (typeof pool === 'object' && 'connect' in pool && 'options' in pool)
    return openPostgresSide(pool, migration)
  throw new CrossfadeError({
    kind: 'input',
    code: 'DATABASE.UNKNOWN_POOL',
    message: 'What was given as the database is no pool that Crossfade knows.',
    mend: 'Give the pool of `pg` that the application uses.',
  })
}
