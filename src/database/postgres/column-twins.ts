import type { TableName } from '../../core/link.ts'
import { formatTable } from '../../core/link.ts'
import { CrossfadeError } from '../../errors/index.ts'
import type { ColumnOperations, ColumnSwap } from '../columns.ts'
import type { Database, Transaction } from '../database.ts'
import type { DdlStep } from '../dialect.ts'
import {
  constraintsOn,
  indexesOn,
  overNewColumns,
  spareName,
  statisticsOn,
  twinName,
  type ColumnConstraint,
  type ColumnIndex,
  type ColumnStatistics,
} from './column-objects.ts'
import { concurrentBuildWaitMs } from './ddl.ts'
import { quoteIdentifier, quoteTable } from './identifiers.ts'
import { forget, note } from './journal.ts'

/**
 * What the new columns get before they take the names: of all that stands on the old ones a twin, built and proven while the
 * application goes on, so that the exchange has nothing left to do but rename.
 */

type Swaps = readonly ColumnSwap[]

const oldNames = (swaps: Swaps): string[] => swaps.map((swap) => swap.old)

const textOf = (written: { text: string } | { reason: string } | undefined): string => {
  if (written !== undefined && 'text' in written) return written.text
  throw new CrossfadeError({
    kind: 'refused',
    code: 'CUTOVER.NOT_CARRIED',
    message: `What stands on the old column cannot stand on the new one: ${written?.reason ?? 'it is gone'}.`,
    mend: 'Take it away, or change the new column or the mapping, and resume.',
  })
}

const inSchema = ({ schema }: TableName, name: string): string => quoteTable({ schema, name })

async function hasColumn(tx: Transaction, table: TableName, column: string): Promise<boolean> {
  const result = await tx.query(
    'SELECT FROM pg_attribute WHERE attrelid = to_regclass($1) AND attname = $2 AND NOT attisdropped',
    [quoteTable(table), column],
  )
  return result.rowCount > 0
}

/** After the exchange the twins have the names of the others, and there are none to build. */
const isExchanged = async (tx: Transaction, table: TableName, swaps: Swaps): Promise<boolean> =>
  !(await hasColumn(tx, table, swaps[0]?.new ?? ''))

async function indexState(
  tx: Transaction,
  table: TableName,
  name: string,
): Promise<'absent' | 'present' | 'broken'> {
  const [row] = (
    await tx.query('SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass($1)', [
      inSchema(table, name),
    ])
  ).rows
  return row === undefined ? 'absent' : row['indisvalid'] === 't' ? 'present' : 'broken'
}

async function hasConstraint(tx: Transaction, table: TableName, name: string): Promise<boolean> {
  const result = await tx.query(
    'SELECT FROM pg_constraint WHERE conrelid = to_regclass($1) AND conname = $2',
    [quoteTable(table), name],
  )
  return result.rowCount > 0
}

const statisticsThere = async (
  tx: Transaction,
  { schema, name }: ColumnStatistics,
  twin = twinName(name),
): Promise<boolean> =>
  (
    await tx.query('SELECT FROM pg_statistic_ext WHERE stxnamespace = to_regnamespace($1) AND stxname = $2', [
      quoteIdentifier(schema),
      twin,
    ])
  ).rowCount > 0

/** True where all that {@link twinIndexes} has to build for an index stands. */
async function isTwinned(
  tx: Transaction,
  table: TableName,
  { name, constraint }: ColumnIndex,
): Promise<boolean> {
  if ((await indexState(tx, table, twinName(name))) !== 'present') return false
  if (constraint === 'u') return hasConstraint(tx, table, twinName(name))
  return constraint !== 'p' || (await indexState(tx, table, spareName(name))) === 'present'
}

/** Indexes and statistics that have no twin yet, by name. */
export async function indexesWithoutTwin(tx: Transaction, table: TableName, swaps: Swaps): Promise<string[]> {
  const missing: string[] = []
  for (const index of await indexesOn(tx, table, oldNames(swaps)))
    if (!(await isTwinned(tx, table, index))) missing.push(index.name)
  for (const each of await statisticsOn(tx, table, oldNames(swaps)))
    if (!(await statisticsThere(tx, each))) missing.push(each.name)
  return missing
}

type Options = { readonly lockTimeoutMs: number; readonly signal?: AbortSignal }

async function build(
  database: Database,
  table: TableName,
  { isUnique }: ColumnIndex,
  name: string,
  text: string,
  options: Options,
): Promise<void> {
  const state = await database.transaction((tx) => indexState(tx, table, name))
  if (state === 'present') return
  if (state === 'broken') await dropIndex(database, table, name, options)
  await database.standalone(
    `CREATE ${isUnique ? 'UNIQUE ' : ''}INDEX CONCURRENTLY ${quoteIdentifier(name)} ON ${quoteTable(table)} ${text}`,
    options,
  )
}

const dropIndex = (database: Database, table: TableName, name: string, options: Options): Promise<void> =>
  database.standalone(`DROP INDEX CONCURRENTLY IF EXISTS ${inSchema(table, name)}`, options)

export const twinIndexes: ColumnOperations['twinIndexes'] = (table, swaps) => {
  const id = `twin-indexes ${formatTable(table)}`
  const names = oldNames(swaps).join(', ')
  const patient = (signal: AbortSignal | undefined): Options => ({
    lockTimeoutMs: concurrentBuildWaitMs,
    ...(signal ? { signal } : {}),
  })
  const inspect: DdlStep['inspect'] = async (tx) =>
    (await isExchanged(tx, table, swaps)) || (await indexesWithoutTwin(tx, table, swaps)).length === 0
      ? 'present'
      : 'absent'
  return {
    id,
    title: `Build the indexes of ${names} of ${formatTable(table)} over the new columns, concurrently`,
    sql: [`CREATE INDEX CONCURRENTLY _crossfade_new_… ON ${quoteTable(table)} … -- as ${names} has them`],
    lock: 'SHARE UPDATE EXCLUSIVE: reads and writes go on',
    inspect,
    async apply(database, scope, { lockTimeoutMs, signal }) {
      const { indexes, statistics, texts } = await database.transaction(async (tx) => {
        await note(tx, scope, id)
        const indexes = await indexesOn(tx, table, oldNames(swaps))
        const statistics = await statisticsOn(tx, table, oldNames(swaps))
        const texts = await overNewColumns(tx, table, swaps, [
          ...indexes.map(({ text }) => ({ form: 'index' as const, text })),
          ...statistics.map(({ text }) => ({ form: 'statistics' as const, text })),
        ])
        return { indexes, statistics, texts }
      })
      for (const [i, index] of indexes.entries()) {
        const twin = twinName(index.name)
        await build(database, table, index, twin, textOf(texts[i]), patient(signal))
        if (index.constraint === 'p')
          await build(database, table, index, spareName(index.name), index.text, patient(signal))
        // At once: until then what may wait for COMMIT is refused by the index.
        if (index.constraint === 'u')
          await database.transaction(
            async (tx) => {
              if (await hasConstraint(tx, table, twin)) return
              await tx.query(
                `ALTER TABLE ${quoteTable(table)} ADD CONSTRAINT ${quoteIdentifier(twin)} UNIQUE USING INDEX ${quoteIdentifier(twin)} ${index.deferral}`,
              )
            },
            { lockTimeoutMs },
          )
      }
      for (const [i, each] of statistics.entries()) {
        const name = quoteTable({ schema: each.schema, name: twinName(each.name) })
        const columns = textOf(texts[indexes.length + i])
        await database.transaction(
          async (tx) => {
            if (await statisticsThere(tx, each)) return
            await tx.query(`CREATE STATISTICS ${name} ${each.kinds} ON ${columns} FROM ${quoteTable(table)}`)
            if (each.target !== undefined)
              await tx.query(`ALTER STATISTICS ${name} SET STATISTICS ${each.target}`)
          },
          { lockTimeoutMs },
        )
      }
    },
    async undo(database, scope, { lockTimeoutMs, signal }) {
      const { indexes, statistics } = await database.transaction(async (tx) => ({
        indexes: await indexesOn(tx, table, oldNames(swaps)),
        statistics: await statisticsOn(tx, table, oldNames(swaps)),
      }))
      for (const { name, constraint } of indexes) {
        if (constraint === 'u')
          await database.transaction((tx) => dropConstraint(tx, table, twinName(name)), { lockTimeoutMs })
        await dropIndex(database, table, twinName(name), patient(signal))
        await dropIndex(database, table, spareName(name), patient(signal))
      }
      await database.transaction(
        async (tx) => {
          for (const { schema, name } of statistics)
            await tx.query(`DROP STATISTICS IF EXISTS ${quoteTable({ schema, name: twinName(name) })}`)
          await forget(tx, scope, id)
        },
        { lockTimeoutMs },
      )
    },
  }
}

export const dropConstraint = async (tx: Transaction, table: TableName, name: string): Promise<void> => {
  await tx.query(
    `ALTER TABLE IF EXISTS ${quoteTable(table)} DROP CONSTRAINT IF EXISTS ${quoteIdentifier(name)}`,
  )
}

/** As it has to be: a constraint that was never proven need not be. */
async function isConstraintTwinned(
  tx: Transaction,
  { table, name, isProven, isEnforced }: ColumnConstraint,
): Promise<boolean> {
  const [row] = (
    await tx.query(
      'SELECT convalidated FROM pg_constraint WHERE conrelid = to_regclass($1) AND conname = $2',
      [quoteTable(table), twinName(name)],
    )
  ).rows
  return row !== undefined && (row['convalidated'] === 't' || !isProven || !isEnforced)
}

export async function constraintsWithoutTwin(
  tx: Transaction,
  table: TableName,
  swaps: Swaps,
): Promise<string[]> {
  const missing: string[] = []
  for (const each of await constraintsOn(tx, table, swaps))
    if (!(await isConstraintTwinned(tx, each))) missing.push(each.name)
  return missing
}

/** The constraints with what each says over the new columns. */
async function written(
  tx: Transaction,
  table: TableName,
  swaps: Swaps,
): Promise<{ readonly constraint: ColumnConstraint; readonly text: string }[]> {
  const constraints = await constraintsOn(tx, table, swaps)
  const checks = constraints.filter(({ kind }) => kind === 'check')
  const texts = await overNewColumns(
    tx,
    table,
    swaps,
    checks.map(({ definition }) => ({ form: 'check', text: definition })),
  )
  return constraints.map((constraint) => ({
    constraint,
    text: constraint.twin ?? textOf(texts[checks.indexOf(constraint)]),
  }))
}

/** Late, as NOT NULL is: from then on a row that does not satisfy them is refused. */
export const twinConstraints: ColumnOperations['twinConstraints'] = (table, swaps) => {
  const id = `twin-constraints ${formatTable(table)}`
  const names = oldNames(swaps).join(', ')
  return {
    id,
    title: `Add the checks and foreign keys of ${names} of ${formatTable(table)} to the new columns, and prove them`,
    sql: [
      `ALTER TABLE … ADD CONSTRAINT _crossfade_new_… NOT VALID -- as ${names} has them`,
      'ALTER TABLE … VALIDATE CONSTRAINT _crossfade_new_…',
    ],
    lock: `ACCESS EXCLUSIVE on ${formatTable(table)} for an instant (a foreign key: SHARE ROW EXCLUSIVE on both tables)`,
    inspect: async (tx) =>
      (await isExchanged(tx, table, swaps)) || (await constraintsWithoutTwin(tx, table, swaps)).length === 0
        ? 'present'
        : 'absent',
    async apply(database, scope, { lockTimeoutMs }) {
      const all = await database.transaction(async (tx) => {
        await note(tx, scope, id)
        return written(tx, table, swaps)
      })
      for (const { constraint, text } of all) {
        const alter = `ALTER TABLE ${quoteTable(constraint.table)}`
        const twin = twinName(constraint.name)
        await database.transaction(
          async (tx) => {
            if (await hasConstraint(tx, constraint.table, twin)) return
            await tx.query(
              `${alter} ADD CONSTRAINT ${quoteIdentifier(twin)} ${text}${constraint.isEnforced ? ' NOT VALID' : ''}`,
            )
          },
          { lockTimeoutMs },
        )
        if (await database.transaction((tx) => isConstraintTwinned(tx, constraint))) continue
        await database.transaction(
          async (tx) => {
            await tx.query(`${alter} VALIDATE CONSTRAINT ${quoteIdentifier(twin)}`)
          },
          { lockTimeoutMs },
        )
      }
    },
    undo: (database, scope, { lockTimeoutMs }) =>
      database.transaction(
        async (tx) => {
          await dropTwinConstraints(
            tx,
            table,
            swaps.map((swap) => swap.new),
          )
          await forget(tx, scope, id)
        },
        { lockTimeoutMs },
      ),
  }
}

/** By what they stand on: the one that a twin was made from may be gone. Unique ones stay, which NULL never violates. */
export async function dropTwinConstraints(
  tx: Transaction,
  table: TableName,
  columns: readonly string[],
): Promise<void> {
  const found = await tx.query(
    `WITH cols AS (SELECT array_agg(attnum) AS nums FROM pg_attribute WHERE attrelid = to_regclass($1) AND attname = ANY ($2::text[]) AND NOT attisdropped) ` +
      `SELECT n.nspname, c.relname, o.conname FROM cols, pg_constraint o JOIN pg_class c ON c.oid = o.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace ` +
      `WHERE o.contype IN ('c', 'f') AND o.conparentid = 0 AND o.conname LIKE '\\_crossfade\\_new\\_%' AND ((o.conrelid = to_regclass($1) AND o.conkey && cols.nums) OR (o.confrelid = to_regclass($1) AND o.confkey && cols.nums))`,
    [quoteTable(table), columns],
  )
  for (const row of found.rows)
    await dropConstraint(
      tx,
      { schema: row['nspname'] ?? '', name: row['relname'] ?? '' },
      row['conname'] ?? '',
    )
}
