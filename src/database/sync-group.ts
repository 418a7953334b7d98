import type { Dependency, Link, TableName } from '../core/link.ts'

/** Links as they can run: with what the catalogue knows of them, and together where they share a change log. */

/** A key's values in the order of the link's key, each as the engine's own text. */
export type Key = readonly string[]

/** Keys above `after` up to and including `upTo`; undefined is open. Order is the database's own. */
export interface KeyRange {
  readonly after: Key | undefined
  readonly upTo: Key | undefined
  /** Where this is given, both bounds are places in the table's file instead of keys (docs/decisions/0015). */
  readonly file?: TableFile
}

/** The file that a table's rows lie in, as far as places in it mean anything. */
export interface TableFile {
  /** A rewrite of the table gives it another one. */
  readonly id: string
  readonly rowsPerPage: number
}

/** How the columns of a row are called now, after an exchange of names; the definition's expressions go on saying the old names. */
export interface RowNames {
  /** The definition's name → the present one, of columns whose name has changed. */
  readonly renamed: Readonly<Record<string, string>>
  /** All columns by their present name, in order; none where no name has changed. */
  readonly columns: readonly string[]
}

/** A link with what the catalogue knows of it. */
export interface ResolvedLink {
  readonly link: Link
  /** SQL types of the driving part's key, without lengths: a cast to a length would cut a key of the other side. */
  readonly keyTypes: readonly string[]
  /** Where a key column is ordered differently on the two sides: the engine's names of both orders. */
  readonly keyOrders: readonly ({ readonly source: string; readonly target: string } | undefined)[]
  /** SQL types of the target's columns, by name, key columns included. */
  readonly targetTypes: Readonly<Record<string, string>>
  /** Keys that our own writes took outside of the target's scope, where the link has one: these rows stay the link's. */
  readonly outside?: TableName
  /** What the link depends on, as the catalogue has it. */
  readonly dependencies: readonly FollowedDependency[]
  /** Of each part's table, in the order of the parts: a statement on a partition fires no trigger of the table above it. */
  readonly partitions: readonly (readonly TableName[])[]
  /** Of an in-row link. */
  readonly row?: {
    /** What both directions' objects are named after: the forward group's id. */
    readonly id: string
    readonly schema: string
    /** The link of the other direction over the same rows, where there is one. */
    readonly other: ResolvedLink | undefined
    readonly names: RowNames
    /** Columns that only a trigger can write: nothing else makes them differ, and no UPDATE may name them. */
    readonly fixed: readonly string[]
  }
}

/**
 * Who leaves the key of a change in the change log: triggers, which also copy it at once; the application, which copies it after its
 * commit; or the application, and triggers that only note the keys of whoever writes beside it.
 */
export type Capture = 'triggers' | 'application' | 'both'

/** Links that share a change log: all targets of one source, or the one way back to it. */
export interface SyncGroup {
  /** `f1`, `f2`, … forward; `r1`, `r2`, … reverse. Names the group's objects in the database. */
  readonly id: string
  readonly direction: Link['direction']
  readonly capture: Capture
  readonly links: readonly [ResolvedLink, ...ResolvedLink[]]
  readonly keyTypes: readonly string[]
  /** Tables whose changes the group follows, each with its columns that hold the group's key. */
  readonly watched: readonly Watched[]
  /** Other tables that its links read: their changes re-copy the keys that they touch. */
  readonly dependencies: readonly FollowedDependency[]
}

export interface Watched {
  readonly table: TableName
  readonly key: readonly string[]
  /** Every table below it, at all levels. */
  readonly partitions: readonly TableName[]
}

export interface FollowedDependency extends Dependency {
  /** SQL types of its columns in `on`, in their order. */
  readonly types: readonly string[]
  readonly partitions: readonly TableName[]
}
