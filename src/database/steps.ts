import type { TableName } from '../core/link.ts'
import type { Database, Transaction } from './database.ts'

/** The migration's own corner of the database. */
export interface Scope {
  readonly migration: string
  /** The schema that holds everything we create beside the user's own tables. */
  readonly schema: string
}

/** One DDL step: looks first, safe to run twice, knows its lock and its way back. */
export interface DdlStep {
  /** Unique in the migration; the key of the journal. */
  readonly id: string
  readonly title: string
  readonly sql: readonly string[]
  /** The lock that the application meets, in words. */
  readonly lock: string
  /** `broken`: half done (an invalid index); `apply` mends it. */
  inspect(tx: Transaction, scope: Scope): Promise<'absent' | 'present' | 'broken'>
  apply(
    database: Database,
    scope: Scope,
    options: { readonly lockTimeoutMs: number; readonly signal?: AbortSignal },
  ): Promise<void>
  /** Undefined where there is nothing to take back. */
  undo?(
    database: Database,
    scope: Scope,
    options: { readonly lockTimeoutMs: number; readonly signal?: AbortSignal },
  ): Promise<void>
}

export interface TargetTableSpec {
  readonly table: TableName
  readonly columns: Readonly<Record<string, string>>
  readonly primaryKey: readonly string[]
  readonly indexes: readonly { readonly name: string; readonly on: string; readonly unique: boolean }[]
  readonly checks: readonly { readonly name: string; readonly expression: string }[]
  readonly foreignKeys: readonly {
    readonly name: string
    readonly columns: readonly string[]
    readonly references: { readonly table: TableName; readonly columns: readonly string[] }
    readonly onDelete: string
  }[]
}

export interface OwnStatement {
  readonly name: string
  readonly up: string
  readonly down?: string | undefined
}

/** Columns of the old table that the new one has as they are, under the same or another name. */
export type CarriedColumns = readonly (readonly [from: string, to: string])[]

/** Something of the old table that the new one lacks, in words, and the SQL that mends it. */
export interface Uncarried {
  readonly what: string
  readonly mend: string
}

/** Who may do what with a table: owner, grants, policies; and what of its rows others see, the replica identity. */
export interface Access {
  /** Gives a table that we made the access of the old one, no more and no less, so that the application's roles can use it. */
  copy(from: TableName, to: TableName, columns: CarriedColumns): DdlStep
  /** What the old table has and the new one lacks. */
  missing(
    tx: Transaction,
    from: TableName,
    to: TableName,
    columns: CarriedColumns,
  ): Promise<readonly Uncarried[]>
  /** What the old table has and no copy can give the new one, because it names columns that are not among `columns`; and what takes it away. */
  lost(tx: Transaction, from: TableName, columns: CarriedColumns): Promise<readonly Lost[]>
}

export interface Lost extends Uncarried {
  readonly kind: 'grant' | 'policy' | 'statistics'
}
