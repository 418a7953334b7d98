import type { TableName } from '../core/link.ts'
import type { CrossfadeError } from '../errors/index.ts'
import type { Transaction } from './database.ts'

/** What can be said of a server before anything is migrated on it: what `doctor` asks. */
export interface Examination {
  readonly errors: {
    isBusy(error: unknown): boolean
    isRejected(error: unknown): boolean
    isUniqueViolation(error: unknown): boolean
    isConnectionLoss(error: unknown): boolean
    /** SQLSTATE and names, never values. */
    describeRejection(error: unknown): string
    toCrossfadeError(error: unknown, what: string): CrossfadeError
  }
  readonly catalog: {
    version(tx: Transaction): Promise<ServerVersion>
    /**
     * What a migration of `tables` needs of our role, and of tables that it only reads; those that do not stand yet are created in
     * their schema.
     */
    privileges(
      tx: Transaction,
      tables: readonly TableName[],
      readOnly?: readonly TableName[],
    ): Promise<readonly Privilege[]>
    longTransactions(tx: Transaction, olderThanSec: number): Promise<LongTransactions>
    /** What keeps a write to these tables from being captured, or from meeting the triggers that its author expects. */
    captureHazards(
      tx: Transaction,
      tables: readonly TableName[],
    ): Promise<readonly { readonly what: string; readonly mend: string }[]>
    blockers(tx: Transaction, tables: readonly TableName[]): Promise<Blocker[]>
    replicaLag(tx: Transaction): Promise<ReplicaLag>
  }
}

export interface ServerVersion {
  readonly text: string
  /** Grows from version to version of the same engine. */
  readonly number: number
  /** Of this engine, the oldest that Crossfade works with. */
  readonly oldest: { readonly text: string; readonly number: number }
  /** How long a deadlock stands before the server ends it; undefined where it is ended as it arises. */
  readonly deadlockTimeoutMs: number | undefined
}

export interface Blocker {
  readonly pid: number
  readonly user: string
  readonly application: string
  readonly queryAgeSec: number
  readonly transactionAgeSec: number
  readonly state: string
}

export interface LongTransactions {
  /** The oldest first. */
  readonly sessions: readonly (Blocker & {
    /** The statement that ends it. */
    readonly end: string
  })[]
  readonly prepared: readonly {
    readonly name: string
    readonly user: string
    readonly transactionAgeSec: number
    /** The statement that ends it. */
    readonly end: string
  }[]
  /** What they hold up on this engine. */
  readonly harm: string
  /** What our role cannot see of all this, and what would show it. */
  readonly unseen: readonly string[]
}

export interface Privilege {
  /** The statement, with why it is needed as its comment, without a semicolon. */
  readonly grant: string
  readonly isGranted: boolean
}

export interface ReplicaLag {
  /** Seconds; undefined where it cannot be read, which counts as lagging. */
  readonly lagSec: number | undefined
  readonly reason: string
}
