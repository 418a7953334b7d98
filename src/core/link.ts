/**
 * A link is the one shape that everything copies along: backfill, sync, repair, the reverse direction. It says which rows
 * of which tables make one row of the target. Expressions see the bare column names of their own part and nothing else.
 */

export interface TableName {
  readonly schema: string
  readonly name: string
}

/** What fills a column of the target: an SQL expression, or a column of the part under its own name. */
export type ColumnSource = { readonly to: string } & (
  { readonly expression: string } | { readonly column: string }
)

/** One table that a link reads: its share of the target's columns. */
export interface LinkPart {
  readonly table: TableName
  /** The name that the definition gave it, where it has another one now: expressions qualify their columns with it. */
  readonly as?: string
  /** The key columns of this table, in the order of the link's key. */
  readonly key: readonly string[]
  readonly columns: readonly ColumnSource[]
  /** Rows that do not satisfy it do not exist for the link. */
  readonly where?: string
}

/**
 * A table that the expressions of a link read by sub-selects, beside the row that drives. Which rows of it are read for a row of the
 * driving table is said by columns that are equal: a change of one of them re-copies the keys that it touches.
 */
export interface Dependency {
  readonly table: TableName
  readonly on: readonly { readonly column: string; readonly driving: string }[]
}

/** Columns of one row that are computed from each other: a statement that changes the one side is followed on the other. */
export interface Pair {
  readonly old: readonly string[]
  readonly new: readonly string[]
}

export interface Link {
  /** Unique in the migration, readable: `public.users → public.people`. */
  readonly id: string
  readonly direction: 'forward' | 'reverse'
  /** The target is the source row itself, other columns of it: then there is one part, with the target's table and key. */
  readonly inRow?: readonly Pair[]
  /** The first part drives: where it has no row, the target has none. The others are joined by key and may be missing. */
  readonly parts: readonly [LinkPart, ...LinkPart[]]
  readonly dependsOn?: readonly Dependency[]
  readonly target: {
    readonly table: TableName
    readonly key: readonly string[]
    readonly as?: string
    /** Target rows outside of it are not the link's: they are neither deleted nor compared. */
    readonly scope?: string
  }
}

/** `public.users`, for people. Not for SQL. */
export function formatTable(table: TableName): string {
  return `${table.schema}.${table.name}`
}

export function isSameTable(a: TableName, b: TableName): boolean {
  return a.schema === b.schema && a.name === b.name
}

/** An expression that is nothing but a column's name. A word of SQL (`null`) looks the same, but is no column of the table. */
const bareName = /^[a-z_][a-z0-9_]*$/

/** Columns of the driving table that the target has as they are: the key, and what is filled by a bare column. */
export const carriedColumns = ({ parts: [driving], target }: Link): (readonly [string, string])[] => [
  ...driving.key.map((from, i) => [from, target.key[i] ?? from] as const),
  ...driving.columns.flatMap((source) => {
    const from = 'column' in source ? source.column : source.expression
    return 'column' in source || bareName.test(from) ? [[from, source.to] as const] : []
  }),
]
