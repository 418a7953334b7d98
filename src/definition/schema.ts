import { databaseName } from '../core/input.ts'
import { z } from 'zod'
import { durationPattern } from '../core/durations.ts'

/**
 * The shape of a migration's definition, with every default. Names and defaults are a contract (docs/reference/definition.md).
 * `strictObject` everywhere: an unknown setting is an error, not a silent no-op.
 */

const identifier = z
  .string()
  .min(1)
  .refine((name) => Buffer.byteLength(name) <= 63, {
    error: 'is longer than the 63 bytes that the database keeps of a name',
  })
  .refine((name) => !name.includes('\0'), { error: 'contains a NUL character' })
  .refine((name) => !name.startsWith('_crossfade_'), {
    error: 'begins with _crossfade_, as what Crossfade makes itself does',
  })

const duration = z
  .union([z.string().regex(durationPattern), z.number().nonnegative()])
  .describe('A duration: "500ms", "30s", "10m", "2h", "3d", "1w", or milliseconds.')

const sqlExpression = z.string().trim().min(1).describe('An SQL expression over the columns of one table.')

const tableName = z
  .union([
    z
      .string()
      .min(1)
      .describe(
        '"schema.table" or "table" (then schema public). Taken literally: no case folding, no quotes.',
      ),
    z.strictObject({ schema: identifier.default('public'), name: identifier }),
  ])
  .transform((value, context) => {
    if (typeof value !== 'string') return value
    const [first = '', ...rest] = value.split('.')
    const table =
      rest.length === 0 ? { schema: 'public', name: first } : { schema: first, name: rest.join('.') }
    for (const part of [table.schema, table.name]) {
      const checked = identifier.safeParse(part)
      if (!checked.success)
        context.addIssue({
          code: 'custom',
          message: `"${part}" is no table name: ${checked.error.issues[0]?.message}`,
        })
    }
    return table
  })

const columns = z
  .record(identifier, z.union([sqlExpression, z.literal(true)]))
  .describe('Target column → SQL expression over the source row, or true for the column of the same name.')

const dependency = z.union([
  z.strictObject({
    table: tableName,
    on: z
      .record(identifier, identifier)
      .refine((on) => Object.keys(on).length > 0, { error: 'names no column' })
      .describe(
        'Its column → the source column that is equal where an expression reads it. Indexed on both sides.',
      ),
  }),
  z.strictObject({
    table: tableName,
    constant: z.literal(true).describe('Nobody changes it while the migration runs: it is not followed.'),
  }),
])

const mapping = z.strictObject({
  source: tableName,
  target: tableName.optional().describe('Kind "table" needs it; for kind "column" it is the source itself.'),
  key: z
    .record(identifier, identifier)
    .refine((key) => Object.keys(key).length > 0, { error: 'names no column' })
    .describe("Source key column → target key column, in the order of the source's key."),
  columns,
  dependsOn: z
    .array(dependency)
    .min(1)
    .optional()
    .describe(
      'Other tables that columns and where read by sub-selects; a change there copies the source rows again that it touches.',
    ),
  where: sqlExpression.optional().describe('Only rows that satisfy it are moved.'),
  reverse: z
    .union([
      z.strictObject({ columns: columns.describe('Source column → SQL expression over the target row.') }),
      z.literal(false),
    ])
    .describe(
      'How a row of the new side becomes a row of the old side; false: there is no way back after retire.',
    ),
})

const index = z.strictObject({
  name: identifier,
  on: z
    .string()
    .trim()
    .min(1)
    .describe('What follows ON table: "(lower(email))", "USING gin (tags)", "(a) INCLUDE (b) WHERE c".'),
  unique: z.boolean().default(false),
})

const targetTable = z.strictObject({
  columns: z
    .record(identifier, z.string().trim().min(1))
    .describe('Column → type with its constraints: "bigint NOT NULL".'),
  primaryKey: z.array(identifier).min(1),
  indexes: z.array(index).default([]),
  checks: z.array(z.strictObject({ name: identifier, expression: sqlExpression })).default([]),
  foreignKeys: z
    .array(
      z.strictObject({
        name: identifier,
        columns: z.array(identifier).min(1),
        references: z.strictObject({ table: tableName, columns: z.array(identifier).min(1) }),
        onDelete: z
          .enum(['no action', 'restrict', 'cascade', 'set null', 'set default'])
          .default('no action'),
      }),
    )
    .default([]),
})

const newColumn = z.strictObject({
  table: tableName,
  name: identifier,
  type: z.string().trim().min(1).describe('Its type alone, without constraints: "bigint", "varchar(40)".'),
  notNull: z
    .boolean()
    .default(false)
    .describe('Proven by a validated CHECK, and set when the new side becomes primary.'),
  default: sqlExpression
    .optional()
    .describe('Set when the old column is no longer kept in step: until then the old column says it.'),
  replaces: z
    .union([identifier.transform((name) => [name]), z.array(identifier).min(1)])
    .optional()
    .describe('Columns of the same table that it stands for; they go at the contract.'),
})

const ownStatement = z.strictObject({
  name: z
    .string()
    .regex(/^[a-z0-9][a-z0-9-]*$/)
    .describe('The step’s name in plans and reports; the statement runs once under this name.'),
  up: z.string().trim().min(1),
  down: z
    .string()
    .trim()
    .min(1)
    .optional()
    .describe('How abort undoes it. Without it, abort leaves it and says so.'),
})

const throttle = z
  .strictObject({
    maxActiveSessions: z.number().int().min(1).optional(),
    maxTransactionSec: z.number().positive().optional(),
    pauseForAutovacuum: z
      .boolean()
      .optional()
      .describe('While autovacuum works on a table of the migration.'),
    maxDeadRatio: z
      .number()
      .gt(0)
      .lt(1)
      .optional()
      .describe(
        'Share of dead row versions in a table of the migration; above it lanes wait for vacuum. Kind "column" leaves one of every row.',
      ),
    maxWalBytesPerSec: z.number().positive().optional().describe('Of the whole server.'),
    maxSlotLagBytes: z
      .number()
      .positive()
      .optional()
      .describe(
        'WAL that any replication slot may hold back; a slot about to lose WAL is always waited for.',
      ),
    standbys: z
      .array(z.string().regex(/^[a-z][a-z0-9_]*$/))
      .min(1)
      .optional()
      .describe(
        'Standbys that are asked themselves, by the names of their databases as in `database`: their lag is the age of a row that is written on the primary. For those that pg_stat_replication does not show.',
      ),
    query: z
      .strictObject({ sql: z.string().trim().min(1), max: z.number() })
      .optional()
      .describe('A query of one number, asked once a second, read-only; above max, lanes wait.'),
  })
  .describe('What lanes wait for beside replicas, before their next chunk.')

const percent = z.number().min(0).max(100)

export const definitionSchema = z.strictObject({
  $schema: z.string().optional(),
  name: z.string().regex(/^[a-z][a-z0-9_-]{0,39}$/, {
    error: 'must be 1 to 40 of a–z, 0–9, - and _, starting with a letter',
  }),
  kind: z.enum(['table', 'column']),
  database: z
    .string()
    .regex(databaseName)
    .default('default')
    .describe(
      'A name, never a URL: the worker reads CROSSFADE_DATABASE_<NAME>_URL, for "default" also CROSSFADE_DATABASE_URL.',
    ),
  mappings: z.array(mapping).min(1),
  sync: z
    .strictObject({
      method: z
        .enum(['trigger', 'application'])
        .default('trigger')
        .describe(
          'How writes reach the other side: statement triggers on the source, or the application by crossfade-db/app, which has to be deployed first.',
        ),
      alsoTriggers: z
        .boolean()
        .optional()
        .describe(
          'With "application": triggers note the keys, too, so that whoever writes without the library is captured.',
        ),
      maxWaitMs: z
        .number()
        .int()
        .min(1)
        .max(500)
        .default(10)
        .describe('The longest that an application statement waits for the new side.'),
      inlineRows: z
        .number()
        .int()
        .min(0)
        .default(200)
        .describe('Statements that touch more rows only leave their keys in the change log.'),
    })
    .prefault({}),
  expand: z
    .strictObject({
      tables: z.array(targetTable.extend({ table: tableName })).default([]),
      columns: z.array(newColumn).min(1).optional().describe('New columns, for kind "column".'),
      columnIndexes: z
        .array(index.extend({ table: tableName }))
        .min(1)
        .optional()
        .describe('Indexes over new columns, built concurrently after the backfill, for kind "column".'),
      sql: z.array(ownStatement).default([]),
      indexes: z
        .enum(['after-backfill', 'before-backfill'])
        .default('after-backfill')
        .describe(
          'When the secondary indexes of new tables are built; copying into a bare table is 2.5 to 3.5 times faster.',
        ),
    })
    .prefault({}),
  cutover: z
    .strictObject({
      mode: z.enum(['flags', 'swap']).default('flags'),
      ramp: z
        .array(z.strictObject({ percent, hold: duration }))
        .min(1)
        .default([
          { percent: 1, hold: '10m' },
          { percent: 10, hold: '30m' },
          { percent: 50, hold: '1h' },
          { percent: 100, hold: '1h' },
        ])
        .refine((steps) => steps.at(-1)?.percent === 100, { error: 'must end at 100 percent' })
        .refine((steps) => steps.every((step, i) => i === 0 || step.percent > (steps[i - 1]?.percent ?? 0)), {
          error: 'must rise from step to step',
        }),
      queries: z
        .array(
          z.strictObject({
            name: z.string().min(1),
            sql: z.string().trim().min(1),
            index: identifier.optional(),
          }),
        )
        .default([])
        .describe(
          'Queries of the application on the new side; cutover proves with EXPLAIN (ANALYZE) that each uses an index.',
        ),
      triggers: z
        .record(identifier, z.enum(['carry', 'leave']))
        .optional()
        .describe(
          'Of a swap: what becomes of each trigger of your own on the source. "carry": it stands on the new table from the swap on; "leave": it stays with the old one.',
        ),
    })
    .prefault({}),
  retire: z
    .strictObject({
      soak: duration
        .default('7d')
        .describe('How long the old side is kept in step after the new side became primary.'),
    })
    .prefault({}),
  contract: z
    .strictObject({
      observe: duration
        .default('10m')
        .describe('How long nothing may touch the old side before it is renamed away.'),
      soak: duration.default('1d').describe('How long the renamed old side is kept before it is dropped.'),
      drop: z.boolean().default(true),
      sql: z.array(ownStatement).default([]),
    })
    .prefault({}),
  flags: z
    .strictObject({
      writeEnabled: z.string().min(1).optional(),
      readEnabled: z.string().min(1).optional(),
      backfillActive: z.string().min(1).optional(),
    })
    .prefault({}),
  backfill: z
    .strictObject({
      batchSize: z
        .number()
        .int()
        .min(1)
        .default(500)
        .describe('Rows of the first chunk; then chunks adapt to targetChunkMs.'),
      maxBatchSize: z.number().int().min(1).default(20_000),
      maxConcurrency: z.number().int().min(1).max(64).default(10).describe('The most lanes.'),
      rateLimitMs: z
        .number()
        .min(0)
        .optional()
        .describe('Least delay between chunks of a lane. Default 100, with profile fast 0.'),
      maxReplicationLagSec: z.number().positive().default(5),
      retryAttempts: z.number().int().min(0).default(3),
      retryBackoffBaseMs: z.number().int().min(1).default(1000),
      targetChunkMs: z.number().positive().optional().describe('Default 50, with profile fast 150.'),
      profile: z.enum(['gentle', 'fast']).default('gentle'),
      order: z
        .enum(['key', 'physical'])
        .optional()
        .describe(
          'How rows are read: by the index of the key, or as they lie in the table’s file. By default what the plan finds better.',
        ),
      throttle: throttle.optional(),
    })
    .refine((backfill) => backfill.batchSize <= backfill.maxBatchSize, {
      path: ['batchSize'],
      error: 'is larger than maxBatchSize',
    })
    .prefault({}),
  metrics: z
    .strictObject({
      prefix: z.string().min(1).optional(),
      enabled: z.boolean().default(true),
      alertThresholds: z
        .strictObject({
          errorRate: z
            .number()
            .positive()
            .default(0.5)
            .describe('Percent of the application’s reads, or writes, of the new side that may fail.'),
          latencyDeltaMs: z
            .number()
            .positive()
            .optional()
            .describe(
              'How much longer the new side may take to answer the application, in the mean. Default 50.',
            ),
          lagThreshold: z.number().positive().default(10),
        })
        .prefault({}),
    })
    .prefault({}),
  safety: z
    .strictObject({
      maxRuntimeMinutes: z.number().positive().default(480),
      dryRunMode: z.boolean().default(false),
      requireApproval: z.boolean().default(true),
    })
    .prefault({}),
  verify: z
    .strictObject({
      minParity: z.number().gt(0).lt(1).default(0.9999),
      confidence: z.number().gt(0).lt(1).default(0.95),
      alertMismatchRatio: z.number().gt(0).default(0.0001),
    })
    .prefault({}),
})

/** A definition as its author writes it. */
export type DefinitionInput = z.input<typeof definitionSchema>
export type ParsedDefinition = z.output<typeof definitionSchema>
