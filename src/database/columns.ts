import type { TableName } from '../core/link.ts'
import type { DdlStep, RowNames, Scope } from './dialect.ts'
import type { Transaction } from './database.ts'

/** A column that a migration adds to a table that is there. */
export interface NewColumn {
  readonly table: TableName
  readonly name: string
  readonly type: string
  readonly notNull: boolean
  readonly default?: string | undefined
  readonly replaces?: readonly string[] | undefined
}

/** A new column and the old one whose name it takes. */
export interface ColumnSwap {
  readonly old: string
  readonly new: string
  /** The new column's. */
  readonly type: string
  /** The new column's own default; else it takes the old one's. */
  readonly default: string | undefined
}

/** What an engine does with single columns of a table that the application goes on using. */
export interface ColumnOperations {
  /** Without NOT NULL and default: those would fail or rewrite what is there. */
  addColumn(column: NewColumn): DdlStep
  /** NOT NULL, proven by a CHECK first, so that the last step needs no scan under its lock. */
  requireValues(table: TableName, column: string): DdlStep[]
  renameColumn(table: TableName, column: string, to: string): DdlStep
  dropColumn(table: TableName, column: string): DdlStep
  /** What a retired column is called until it is dropped. */
  retiredColumn(column: string): string
  /** Takes NOT NULL off columns that no longer lead, so that no statement fails because of them, and remembers it. */
  relax(tx: Transaction, scope: Scope, table: TableName, columns: readonly string[]): Promise<void>
  /** Takes back what {@link requireValues} did, whole or half, to columns that do not lead any more. */
  release(tx: Transaction, scope: Scope, table: TableName, columns: readonly string[]): Promise<void>
  /** What {@link relax} has taken off and nobody has put back. */
  relaxed(tx: Transaction, scope: Scope): Promise<{ readonly table: TableName; readonly column: string }[]>
  /** `undefined` takes the default away. */
  setDefault(tx: Transaction, table: TableName, column: string, value: string | undefined): Promise<void>
  /** Remembers which columns these are, so that they are found under whatever name they have later. */
  registerColumns(table: TableName, columns: readonly string[]): DdlStep
  /** Columns that an UPDATE may not write: identities that are ALWAYS generated. */
  fixed(tx: Transaction, table: TableName): Promise<string[]>
  names(tx: Transaction, scope: Scope, table: TableName): Promise<RowNames>
  /** Every index over old columns as another one over the new, so that those have them from their first read. */
  twinIndexes(table: TableName, swaps: readonly ColumnSwap[]): DdlStep
  /** Every check and foreign key that names old columns as another one over the new, proven. */
  twinConstraints(table: TableName, swaps: readonly ColumnSwap[]): DdlStep
  /** Other tables that an exchange has to lock, because foreign keys join them to the columns. */
  neighbours(tx: Transaction, table: TableName, swaps: readonly ColumnSwap[]): Promise<TableName[]>
  /** Columns of a primary key that will have their names again, under those that they have now: they must have a value by then. */
  keyColumnsGoingBack(tx: Transaction, scope: Scope, table: TableName): Promise<string[]>
  /**
   * The old columns' names, defaults, sequences, identities, indexes and constraints for the new ones, or back. The caller holds the table
   * and its neighbours for itself.
   */
  exchange(
    tx: Transaction,
    scope: Scope,
    table: TableName,
    swaps: readonly ColumnSwap[],
    direction: 'to-new' | 'to-old',
  ): Promise<void>
  /** Sequences that a column owns count as far as its type does. */
  widenSequences(tx: Transaction, table: TableName, column: string): Promise<void>
  /** What stands on columns and an exchange of names would not carry over, in words. Makes what it takes back: not for a transaction that only reads. */
  uncarried(tx: Transaction, table: TableName, swaps: readonly ColumnSwap[]): Promise<string[]>
  /** True where an expression over an integer column gives each of its numbers back. */
  keepsNumbers(tx: Transaction, table: TableName, column: string, expression: string): Promise<boolean>
  /** How many rows have no value in a column that must have one. */
  countMissing(tx: Transaction, table: TableName, column: string): Promise<number>
  /** Why a type cannot be added without rewriting the table, or at all; undefined where it can. */
  refusedType(tx: Transaction, type: string): Promise<string | undefined>
  /** BEFORE ROW triggers that would run after ours, by name. */
  laterTriggers(tx: Transaction, scope: Scope, table: TableName): Promise<string[]>
  /** What goes with a column when it is dropped, or keeps it from being dropped, in words. */
  dependents(
    tx: Transaction,
    table: TableName,
    column: string,
  ): Promise<{ readonly goes: readonly string[]; readonly holds: readonly string[] }>
}
