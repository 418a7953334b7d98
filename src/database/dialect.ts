import type { Link, TableName } from '../core/link.ts'
import type { ColumnOperations } from './columns.ts'
import type { Database, Transaction } from './database.ts'
import type { Dependent, Dependents } from './dependents.ts'
import type { Examination } from './examination.ts'
import type { Flags } from './flags.ts'
import type { Mends } from './mends.ts'
import type { Ranges } from './ranges.ts'
import type { Access, DdlStep, OwnStatement, Scope, TargetTableSpec } from './steps.ts'
import type { Key, KeyRange, ResolvedLink, SyncGroup } from './sync-group.ts'

export type * from './dependents.ts'
export type * from './examination.ts'
export type * from './flags.ts'
export type * from './ranges.ts'
export type * from './mends.ts'
export type * from './steps.ts'
export type * from './sync-group.ts'

/**
 * What an engine must be able to do. One folder per engine with the same file names; nothing outside of it knows SQL.
 * All functions run inside the caller's transaction: who calls decides what is atomic.
 */

export interface TableDescription {
  readonly table: TableName
  readonly kind: 'table' | 'partitioned' | 'partition' | 'view' | 'other'
  readonly rowsEstimated: number
  readonly bytes: number
  readonly columns: readonly {
    readonly name: string
    readonly type: string
    readonly notNull: boolean
    readonly collation: string | undefined
    readonly generated: boolean
    readonly identity: boolean
  }[]
  /** Unique, valid, non-partial, immediate indexes over plain columns. */
  readonly uniqueIndexes: readonly {
    readonly name: string
    readonly columns: readonly string[]
    readonly primary: boolean
  }[]
  /** Columns of each valid, whole index, up to its first expression: what a search by equality can use. */
  readonly indexes: readonly (readonly string[])[]
  readonly triggers: readonly string[]
  readonly inheritors: number
  /** Where row-level security hides rows of it from our role, or could: the statement that shows it all of them. */
  readonly hidesRowsUntil: string | undefined
  /** Subscriptions that write it: their apply workers fire no statement triggers. */
  readonly subscriptions: readonly string[]
}

export interface ChangeLogEntry {
  readonly id: string
  /** `copy`: make the target equal. `look-again`: the second look of rule 4. */
  readonly kind: 'copy' | 'look-again'
  readonly key: Key
  readonly attempts: number
}

export interface ChangeLogState {
  readonly pending: number
  /** Of these, refused by the other side at least once: they need a person or another change. */
  readonly stuck: number
  readonly oldestAgeSec: number
  /** Why the oldest stuck one was refused: SQLSTATE and constraint, no values. */
  readonly reason: string | undefined
}

export interface Comparison {
  readonly compared: number
  /** Keys that differ or stand on one side only, at most `limit`. */
  readonly different: readonly Key[]
  readonly differences: number
}

export interface CopiedKeys {
  /** The target equals the source for these now. */
  readonly copied: readonly Key[]
  /** No source row was found, and the target has none either now. Needs the second look where `chunks` is not empty. */
  readonly gone: readonly Key[]
  /** Somebody holds the row: nothing was done for these. */
  readonly busy: readonly Key[]
  /** Chunks that were running when these keys were looked at. */
  readonly chunks: readonly string[]
}

/** `copy`: keep the other side equal. `watch`: only note the key, nobody applies it. */
export type TriggerMode = 'copy' | 'watch'

export interface SyncSettings {
  readonly maxWaitMs: number
  readonly inlineRows: number
}

export interface TableActivity {
  readonly table: TableName
  readonly scans: number
  readonly writes: number
}

/** What a server is busy with. */
export interface ServerLoad {
  /** Sessions of clients that run a statement now, ours included but the one that asks. */
  readonly activeSessions: number
  readonly longestTransactionSec: number
  /** Sessions whose state our role may not see. */
  readonly hiddenSessions: number
  /** Tables of the migration that autovacuum works on. */
  readonly autovacuums: readonly string[]
  /** Of each table of the migration, as the server's statistics have it. */
  readonly deadRows: readonly { readonly table: string; readonly live: number; readonly dead: number }[]
  /** Written since the server was made: two of them and the time between them give a rate. */
  readonly walBytes: number
  /** The one that holds back most comes first. */
  readonly slots: readonly {
    readonly name: string
    readonly isActive: boolean
    /** `reserved`, `extended`, `unreserved` or `lost`. */
    readonly status: string
    readonly retainedBytes: number
  }[]
}

export interface Dialect extends Examination {
  readonly catalog: Examination['catalog'] & {
    scope(migration: string): Scope
    describeTable(tx: Transaction, table: TableName): Promise<TableDescription | undefined>
    /** What stands on a table beside its columns (indexes, constraints, triggers, policies, …): each one's name and what it is. */
    facts(tx: Transaction, table: TableName): Promise<Readonly<Record<string, string>>>
    /** Everything that can be compared before and after: one line per object of the user's schemas. */
    inventory(tx: Transaction): Promise<string[]>
    /** The names that registered tables have now, in the same order; a table that was never registered keeps its name. */
    locate(tx: Transaction, scope: Scope, tables: readonly TableName[]): Promise<TableName[]>
    /** @throws `PLAN.COLUMN_MISSING`, `PLAN.TABLE_MISSING` */
    resolveLink(tx: Transaction, link: Link): Promise<ResolvedLink>
    /** Where the group keeps the keys of `ResolvedLink.outside`; undefined before expand has made it. */
    outside(tx: Transaction, scope: Scope, groupId: string): Promise<TableName | undefined>
    activity(tx: Transaction, tables: readonly TableName[]): Promise<TableActivity[]>
    /**
     * The tables that the server reads for a link, partitions as the table above them.
     * @throws what the server says of an expression that it cannot evaluate, as `PLAN.MAPPING_REFUSED`
     */
    explainLink(tx: Transaction, link: ResolvedLink): Promise<readonly TableName[]>
    explainQuery(
      tx: Transaction,
      sql: string,
    ): Promise<{ readonly indexes: readonly string[]; readonly sequentialScans: readonly string[] }>
    load(tx: Transaction, tables: readonly TableName[]): Promise<ServerLoad>
    /** The number that a query of the user's gives; undefined where it gives none. */
    evaluate(tx: Transaction, sql: string): Promise<number | undefined>
  }
  readonly ddl: {
    createScope(): DdlStep
    createTable(spec: TargetTableSpec): DdlStep
    createIndex(spec: Pick<TargetTableSpec, 'table'>, index: TargetTableSpec['indexes'][number]): DdlStep
    addCheck(spec: TargetTableSpec, check: TargetTableSpec['checks'][number]): DdlStep[]
    addForeignKey(spec: TargetTableSpec, foreignKey: TargetTableSpec['foreignKeys'][number]): DdlStep[]
    ownStatement(statement: OwnStatement): DdlStep
    createChangeLog(group: SyncGroup): DdlStep
    installTriggers(group: SyncGroup, mode: TriggerMode, settings: SyncSettings): DdlStep
    removeTriggers(group: SyncGroup): DdlStep
    renameTable(table: TableName, to: string): DdlStep
    dropTable(table: TableName): DdlStep
    /** After the contract: everything of ours goes but the flags, which applications may still read. */
    tidyScope(database: Database, scope: Scope, options: { readonly lockTimeoutMs: number }): Promise<void>
    dropScope(database: Database, scope: Scope, options: { readonly lockTimeoutMs: number }): Promise<void>
    analyze(database: Database, table: TableName): Promise<void>
    retiredName(table: TableName): string
    /** Remembers which tables these are, so that they are found under whatever name they have later. */
    registerTables(tables: readonly TableName[]): DdlStep
    /**
     * Nobody else reads or writes these tables until this transaction ends, nor what depends on them. The transaction's lock timeout
     * is for all of it: who waits for the first of these locks waits no longer for the last.
     */
    lockExclusively(
      tx: Transaction,
      tables: readonly TableName[],
      dependents?: readonly Dependent[],
    ): Promise<void>
    /** Nobody else writes to these tables until this transaction ends; reads go on. */
    lockAgainstWrites(tx: Transaction, tables: readonly TableName[]): Promise<void>
    rename(tx: Transaction, table: TableName, to: string): Promise<void>
    /** Before the link's target takes over: its sequences go behind everything that the other side has handed out. */
    advanceSequences(tx: Transaction, link: ResolvedLink): Promise<void>
  }
  readonly access: Access
  readonly columns: ColumnOperations
  readonly dependents: Dependents
  readonly triggers: {
    /** Replaces whatever triggers the group has. SHARE ROW EXCLUSIVE on the watched tables: waits for running writers. */
    install(
      tx: Transaction,
      scope: Scope,
      group: SyncGroup,
      mode: TriggerMode,
      settings: SyncSettings,
    ): Promise<void>
    remove(tx: Transaction, scope: Scope, group: SyncGroup): Promise<void>
    /**
     * Gives partitions that came after `install` their triggers; called again, leaves the keys of the rows that they came with.
     * @returns the partitions that it did something for: none where all is done.
     */
    follow(tx: Transaction, scope: Scope, group: SyncGroup): Promise<readonly TableName[]>
    /** What is wrong with the triggers that a statement would meet now: disabled, missing, or passed by; empty where nothing is. */
    check(tx: Transaction, scope: Scope, group: SyncGroup, mode?: TriggerMode): Promise<readonly string[]>
  }
  readonly mends: Mends
  readonly journal: {
    read(tx: Transaction, scope: Scope): Promise<readonly string[]>
    exists(tx: Transaction, scope: Scope): Promise<boolean>
  }
  /** The definition as it was approved, kept where the rows are, so that no history has to carry it again and again. */
  readonly definitions: {
    save(tx: Transaction, scope: Scope, fingerprint: string, definition: string): Promise<void>
    load(
      tx: Transaction,
      scope: Scope,
    ): Promise<{ readonly fingerprint: string; readonly definition: string } | undefined>
    /** Keeps the sources' description as JSON beside the definition, for naming what drifted. */
    savePlanned(tx: Transaction, scope: Scope, planned: string): Promise<void>
    loadPlanned(tx: Transaction, scope: Scope): Promise<string | undefined>
  }
  readonly changeLog: {
    /** Takes up to `limit` due entries out of the log, in this transaction: a rollback brings them back. */
    take(
      tx: Transaction,
      scope: Scope,
      group: SyncGroup,
      limit: number,
      attempts: 'fresh' | 'retried',
    ): Promise<ChangeLogEntry[]>
    put(tx: Transaction, scope: Scope, group: SyncGroup, entries: readonly LogEntryInput[]): Promise<void>
    /** The first or the last `limit` entries that a unique index refused, due or not; they are locked, and stay in the log. */
    tangled(
      tx: Transaction,
      scope: Scope,
      group: SyncGroup,
      limit: number,
      from: 'first' | 'last',
    ): Promise<ChangeLogEntry[]>
    state(tx: Transaction, scope: Scope, group: SyncGroup): Promise<ChangeLogState>
    /** Those of `keys` that have an entry; all of them while a truncation waits. */
    pendingKeys(tx: Transaction, scope: Scope, group: SyncGroup, keys: readonly Key[]): Promise<Key[]>
    /**
     * Puts the keys that changed dependencies touch into the log, in the place of the entries that say which rows changed. These
     * are only visible when their change is, so what the keys are copied from is what the change left.
     * @returns the entries that went
     */
    resolveDependencies(tx: Transaction, scope: Scope, group: SyncGroup): Promise<number>
    /** Ids of the truncations that are visible now; they are removed by id after every target row was looked at. */
    truncations(tx: Transaction, scope: Scope, group: SyncGroup): Promise<string[]>
    remove(tx: Transaction, scope: Scope, group: SyncGroup, ids: readonly string[]): Promise<void>
  }
  readonly copy: {
    /** Rule 4: adds what is missing in `range`, never overwrites, takes no lock on source rows. Returns the rows it added. */
    insertMissing(
      tx: Transaction,
      link: ResolvedLink,
      range: KeyRange,
      conflicts: 'fail' | 'ignore',
    ): Promise<number>
    /** Rule 3: the target equals what the source says now, for every link of the group. */
    copyKeys(
      tx: Transaction,
      scope: Scope,
      group: SyncGroup,
      keys: readonly Key[],
      locks: 'skip' | 'wait',
    ): Promise<CopiedKeys>
    /**
     * Before `copyKeys` of the same keys in the same transaction, where rows of the target may have exchanged unique values: those that
     * others of `keys` are to get are set aside, so that each can be written. What is set aside is written anew, or goes, before COMMIT.
     * @returns the keys that `copyKeys` must leave out: they are to get what a row has that is not among them
     */
    setAside(tx: Transaction, group: SyncGroup, keys: readonly Key[]): Promise<readonly Key[]>
    /** The key of the `rows`th row of the range, or undefined where the range ends first. */
    chunkEnd(tx: Transaction, group: SyncGroup, range: KeyRange, rows: number): Promise<Key | undefined>
    countRows(tx: Transaction, group: SyncGroup, range: KeyRange): Promise<number>
    /** The keys of all rows of a small range. */
    keysOf(tx: Transaction, group: SyncGroup, range: KeyRange): Promise<Key[]>
    /** Columns of the driving table whose values may lie beside its rows; none where none does. */
    wideColumns(tx: Transaction, group: SyncGroup): Promise<readonly string[]>
    /** The first key at which the rows of the range weigh `bytes` in `columns`, as they are stored; undefined where they never do. */
    heavyEnd(
      tx: Transaction,
      group: SyncGroup,
      range: KeyRange,
      columns: readonly string[],
      bytes: number,
    ): Promise<{ readonly end: Key; readonly rows: number } | undefined>
    /** How many of `keys`, in their order, have rows that weigh less than `bytes` together. */
    lightKeys(
      tx: Transaction,
      group: SyncGroup,
      keys: readonly Key[],
      columns: readonly string[],
      bytes: number,
    ): Promise<number>
    /** The next `rows` keys of the *target* above `after`, for looking at every target row. */
    targetKeys(tx: Transaction, link: ResolvedLink, after: Key | undefined, rows: number): Promise<Key[]>
  }
  readonly compare: {
    range(tx: Transaction, link: ResolvedLink, range: KeyRange, limit: number): Promise<Comparison>
    /** Locks nothing. In a `snapshot` transaction it can be held against the change log of the same instant. */
    keys(tx: Transaction, link: ResolvedLink, keys: readonly Key[]): Promise<Comparison>
    /** A page's worth of keys, drawn from the source and from the target in turn. */
    sampleKeys(tx: Transaction, link: ResolvedLink, side: 'source' | 'target', rows: number): Promise<Key[]>
  }
  readonly ranges: Ranges
  /** A row that is written on the primary and read on standbys. */
  readonly pulse: {
    /** When it was written, as the engine's own text; undefined before the first time. */
    read(
      tx: Transaction,
      scope: Scope,
    ): Promise<{ readonly at: string | undefined; readonly isStandby: boolean }>
    /** By the clock of the server that `tx` runs on. */
    ageSec(tx: Transaction, at: string): Promise<number>
    write(tx: Transaction, scope: Scope): Promise<void>
  }
  readonly parity: {
    add(
      tx: Transaction,
      scope: Scope,
      link: string,
      source: 'full' | 'sample',
      counts: ParityCounts,
    ): Promise<void>
    read(
      tx: Transaction,
      scope: Scope,
    ): Promise<readonly (ParityCounts & { readonly link: string; readonly source: 'full' | 'sample' })[]>
    reset(tx: Transaction, scope: Scope, source: 'full' | 'sample', links: readonly string[]): Promise<void>
  }
  readonly flags: Flags
}

export interface LogEntryInput {
  readonly kind: ChangeLogEntry['kind']
  readonly key: Key
  readonly attempts?: number
  readonly delayMs?: number
  readonly reason?: string
  readonly lookAfter?: readonly string[]
}

export interface ParityCounts {
  readonly compared: number
  readonly mismatched: number
  readonly repaired: number
  readonly explained: number
}
