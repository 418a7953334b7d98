import { openDatabase, toCrossfadeError, type Flag, type Instance } from '../database/index.ts'
import type { Migration } from '../definition/index.ts'
import { CrossfadeError } from '../errors/index.ts'

export interface FlagsNow {
  readonly primary: 'old' | 'new'
  readonly epoch: number
  readonly flags: readonly Flag[]
  readonly instances: readonly Instance[]
}

/** What people call the flags of a migration, whatever their keys are. */
const shortNames = { read: 'readEnabled', write: 'writeEnabled', backfill: 'backfillActive' } as const

/**
 * Reads the flags of a migration where they stand, without Temporal, and sets ceilings first where some are given, by key or short name.
 * @throws `FLAGS.NO_MIGRATION`, `FLAGS.UNKNOWN`, `DATABASE.NOT_CONFIGURED`
 */
export async function flagsLocally(
  name: string,
  databaseName: string,
  ceilings: Readonly<Record<string, number>>,
): Promise<FlagsNow> {
  const database = await openDatabase(databaseName, { maxConnections: 1, applicationName: 'crossfade flags' })
  const { flags, definitions, catalog } = database.dialect
  const scope = catalog.scope(name)
  try {
    return await database.transaction(
      async (tx) => {
        const before = await flags.read(tx, scope)
        if (!before) throw noMigration(name, databaseName)
        if (Object.keys(ceilings).length > 0) {
          const kept = await definitions.load(tx, scope)
          const own = kept && (JSON.parse(kept.definition) as Migration).flags
          const keys = before.flags.map(({ key }) => key)
          await flags.hold(tx, scope, withKeys(ceilings, keys, own))
        }
        const now = (await flags.read(tx, scope)) ?? before
        return { ...now, instances: await flags.instances(tx, scope) }
      },
      { lockTimeoutMs: 5_000 },
    )
  } catch (error) {
    throw toCrossfadeError(error, `The flags of ${name}`)
  } finally {
    await database.close()
  }
}

function withKeys(
  ceilings: Readonly<Record<string, number>>,
  keys: readonly string[],
  own: Migration['flags'] | undefined,
): Record<string, number> {
  return Object.fromEntries(
    Object.entries(ceilings).map(([given, percent]) => {
      const short = own?.[shortNames[given as keyof typeof shortNames]]
      const key = keys.includes(given) ? given : short
      if (key === undefined || !keys.includes(key)) throw unknownFlag(given, keys)
      return [key, percent]
    }),
  )
}

function noMigration(name: string, database: string): CrossfadeError {
  return new CrossfadeError({
    kind: 'input',
    code: 'FLAGS.NO_MIGRATION',
    message: `The database "${database}" holds no flags of a migration ${name}.`,
    mend: 'Look at the name (`crossfade list`), and at the database: `--database` names another one.',
  })
}

function unknownFlag(given: string, keys: readonly string[]): CrossfadeError {
  return new CrossfadeError({
    kind: 'input',
    code: 'FLAGS.UNKNOWN',
    message: `There is no flag "${given}". There are: ${keys.join(', ')}.`,
    mend: 'Give one of these keys, or read, write or backfill for short.',
  })
}
