import { databaseName } from '../core/input.ts'
import { CrossfadeError } from '../errors/index.ts'
import type { Connections, Database } from './database.ts'
import type { Examination } from './examination.ts'
import { isMysqlError, toCrossfadeError as translateMysql } from './mysql/errors.ts'
import { toCrossfadeError as translatePostgres } from './postgres/errors.ts'

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

interface OpenOptions {
  readonly url?: string
  readonly maxConnections?: number
  readonly applicationName?: string
}

const isMysql = (url: string): boolean => /^(mysql|mariadb):/.test(url)

/**
 * Opens the pool of a database by its name, for migrations. The dialect is chosen by the URL's scheme and loaded on demand.
 * @throws `DATABASE.NOT_CONFIGURED`, `DATABASE.UNKNOWN_SCHEME`, `DATABASE.NO_MIGRATIONS`
 */
export async function openDatabase(name: string, options: OpenOptions = {}): Promise<Database> {
  const url = options.url ?? databaseUrl(name)
  const scheme = /^([a-z]+):/.exec(url)?.[1] ?? ''
  if (scheme === 'postgres' || scheme === 'postgresql') {
    const { openPostgres } = await import('./postgres/connection.ts')
    return openPostgres({ ...options, name, url })
  }
  throw (
    withoutMigrations(name, url) ??
    new CrossfadeError({
      kind: 'input',
      code: 'DATABASE.UNKNOWN_SCHEME',
      message: `The URL of the database "${name}" starts with "${scheme}:", which names no engine that Crossfade knows.`,
      mend: 'Use a URL that starts with postgres://, postgresql://, mysql:// or mariadb://.',
    })
  )
}

/** What keeps every migration from running on the engine of this URL; undefined where nothing does. */
export function withoutMigrations(name: string, url: string): CrossfadeError | undefined {
  if (!isMysql(url)) return undefined
  return new CrossfadeError({
    kind: 'refused',
    code: 'DATABASE.NO_MIGRATIONS',
    message: `The database "${name}" is MySQL or MariaDB: Crossfade examines it (crossfade doctor), and cannot run migrations on it yet.`,
    mend: 'Migrations run on PostgreSQL in this version.',
  })
}

/**
 * As {@link openDatabase}, for looking only: also engines that migrations do not run on yet.
 * @throws `DATABASE.NOT_CONFIGURED`, `DATABASE.UNKNOWN_SCHEME`, `DATABASE.INVALID_URL`
 */
export async function openForExamination(
  name: string,
  options: OpenOptions = {},
): Promise<Connections<Examination>> {
  const url = options.url ?? databaseUrl(name)
  if (!isMysql(url)) return openDatabase(name, options)
  const { openMysql } = await import('./mysql/connection.ts')
  return openMysql({ ...options, name, url })
}

/** Any error of a driver as one of ours, without row values. */
export const toCrossfadeError = (error: unknown, what: string): CrossfadeError =>
  isMysqlError(error) ? translateMysql(error, what) : translatePostgres(error, what)
