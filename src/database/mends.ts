import type { TableName } from '../core/link.ts'
import type { TableDescription } from './dialect.ts'

/**
 * What a person is told to run, in the engine's own words: names are quoted, each statement ends with its semicolon, and none of them
 * keeps the application waiting longer than a change of the catalogue takes.
 */
export interface Mends {
  /** An index over `columns`, in their order. */
  index(table: TableDescription, columns: readonly string[], options?: { readonly unique: boolean }): string
  /** NOT NULL, proven before it is set. */
  requireValues(table: TableName, columns: readonly string[]): string
  /** Lets these BEFORE ROW triggers run before ours, in the order that they have among themselves. */
  runEarlier(table: TableName, triggers: readonly string[]): string
  /** Room on each page for the next version of its rows. */
  leaveRoom(table: TableName): string
  /** The rows that have no value. */
  selectMissing(table: TableName, column: string): string
}
