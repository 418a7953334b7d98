import { databaseName } from '../core/input.ts'
import { CrossfadeError } from '../errors/index.ts'
import type { Database } from './database.ts'

export type { Database, Row, Transaction, TransactionOptions } from './database.ts'
export type * from './columns.ts'
export type * from './dialect.ts'

/**
 * Where a database's URL comes from: the environment of this process, never the definition, never the workflow.
 * @throws `DATABASE.NOT_CONFIGURED` naming the variables.
 */
export function databaseUrl(name: string, environment: NodeJS.ProcessEnv = process.env): string {
  if (!databaseName.test(name))
    throw new CrossfadeError({
      kind: 'input',
      code: 'DATABASE.NOT_CONFIGURED',
      // It may be a URL with a password: it is not repeated.
      message: 'What was given as the name of a database is no name: a–z, 0–9 and _, starting with a letter.',
      mend: 'Give its name as in the definition. Its URL is read from CROSSFADE_DATABASE_<NAME>_URL, of "default" also from CROSSFADE_DATABASE_URL.',
    })
  const variable = `CROSSFADE_DATABASE_${name.toUpperCase()}_URL`
  const url =
    environment[variable] ?? (name === 'default' ? environment['CROSSFADE_DATABASE_URL'] : undefined)
  if (url) return url
  throw new CrossfadeError({
    kind: 'input',
    code: 'DATABASE.NOT_CONFIGURED',
    message: `No URL is known here for the database "${name}".`,
    mend: `Set ${variable}${name === 'default' ? ' or CROSSFADE_DATABASE_URL' : ''} in the environment of this process, e.g. postgres://user:password@host:5432/app.`,
  })
}

/**
 * Opens the pool of a database by its name. The dialect is chosen by the URL's scheme and loaded on demand.
 * @throws `DATABASE.NOT_CONFIGURED`, `DATABASE.UNKNOWN_SCHEME`
 */
export async function openDatabase(
  name: string,
  options: {
    readonly url?: string
    readonly maxConnections?: number
    readonly applicationName?: string
  } = {},
): Promise<Database> {
  const url = options.url ?? databaseUrl(name)
  const scheme = /^([a-z]+):/.exec(url)?.[1] ?? ''
  if (scheme === 'postgres' || scheme === 'postgresql') {
    const { openPostgres } = await import('./postgres/connection.ts')
    return openPostgres({ ...options, name, url })
  }
  throw new CrossfadeError({
    kind: 'input',
    code: 'DATABASE.UNKNOWN_SCHEME',
    message: `The URL of the database "${name}" starts with "${scheme}:", which names no engine that Crossfade knows.`,
    mend: 'Use a URL that starts with postgres:// or postgresql://.',
  })
}

/** Any error of a driver as one of ours, without row values. The drivers that are not loaded cannot have thrown it. */
export { toCrossfadeError } from './postgres/errors.ts'
