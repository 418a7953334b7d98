import type {
  ApplicationClient,
  ApplicationPool,
  ApplicationSide,
  Announcement,
  Standing,
} from '../application.ts'
import { quoteIdentifier } from './identifiers.ts'
import { inScope, scopeOf } from './scope.ts'

type OwnPool = ApplicationPool & {
  end(): Promise<void>
  on(event: 'error', listener: (error: Error) => void): unknown
}

/** One that listens, and a few for the rest. */
const ownConnections = 4

/** An answer that takes longer is none: the lease goes on running meanwhile. */
const answerMs = 2_000

const rawText = { getTypeParser: () => String }

/** SQLSTATEs of a schema, function or table that is not there. */
const absent = new Set(['3F000', '42883', '42P01'])

const isAbsent = (error: unknown): boolean => absent.has((error as { code?: string }).code ?? '')

/** With every setting of the application's, its password among them, which pg keeps from being enumerated. */
function poolLike(pool: ApplicationPool): OwnPool {
  const options = Object.defineProperties({}, Object.getOwnPropertyDescriptors(pool.options)) as object
  const settings = {
    max: ownConnections,
    min: 0,
    connectionTimeoutMillis: answerMs,
    application_name: 'crossfade app',
  }
  for (const [name, value] of Object.entries(settings))
    Object.defineProperty(options, name, { value, enumerable: true, configurable: true, writable: true })
  const own = new (pool.constructor as new (options: object) => OwnPool)(options)
  own.on('error', () => undefined) // an idle connection that dies is replaced at the next use
  return own
}

async function onConnection<T>(pool: OwnPool, use: (client: ApplicationClient) => Promise<T>): Promise<T> {
  const client = await pool.connect()
  let broken: Error | undefined
  const onError = (error: Error): void => void (broken = error)
  client.on('error', onError)
  try {
    return await use(client)
  } catch (error) {
    // Whatever it was: a connection that may still wait for an answer is not used again.
    if (!isAbsent(error)) broken = error as Error
    throw error
  } finally {
    client.off('error', onError)
    client.release(broken)
  }
}

export function openPostgresSide(applicationPool: ApplicationPool, migration: string): ApplicationSide {
  const scope = scopeOf(migration)
  const pool = poolLike(applicationPool)
  const one = async (text: string, values: unknown[]): Promise<string | null | undefined> => {
    const { rows } = await onConnection(pool, (client) =>
      client.query({ text, values, types: rawText, query_timeout: answerMs }),
    )
    return rows[0]?.['it']
  }
  const parse = <T>(text: string | null | undefined): T | undefined =>
    text ? (JSON.parse(text) as T) : undefined

  const announce = ({ id, version, standing, leaseMs }: Announcement): Promise<string | null | undefined> =>
    one(`SELECT ${inScope(scope, 'announce')}($1, $2, $3, $4, $5) AS it`, [
      id,
      version,
      standing?.incarnation ?? '',
      standing?.epoch ?? -1,
      leaseMs,
    ])

  /** What remains after the contract, and all that there is of a migration that began with an earlier version: two tables to read. */
  const readTables = (): Promise<string | null | undefined> =>
    one(
      `SELECT jsonb_build_object('incarnation', s.tableoid::text, 'epoch', s.epoch, 'primary', s.primary_side, ` +
        `'flags', (SELECT coalesce(jsonb_object_agg(f.key, f.percent), '{}') FROM ${inScope(scope, 'flags')} f)) AS it FROM ${inScope(scope, 'state')} s`,
      [],
    )

  return {
    async announce(announcement) {
      for (const attempt of [() => announce(announcement), readTables])
        try {
          return parse<Standing>(await attempt())
        } catch (error) {
          if (!isAbsent(error)) throw error
        }
      return undefined
    },

    async leave(id) {
      await one(`SELECT ${inScope(scope, 'leave')}($1)::text AS it`, [id]).catch((error: unknown) => {
        if (!isAbsent(error)) throw error
      })
    },

    async report(id, measured) {
      await one(`SELECT ${inScope(scope, 'report')}($1, $2)::text AS it`, [
        id,
        JSON.stringify(measured),
      ]).catch((error: unknown) => {
        if (!isAbsent(error)) throw error
      })
    },

    metricSettings: async () =>
      parse(await one(`SELECT definition::jsonb->'metrics' AS it FROM ${inScope(scope, 'state')}`, [])),

    async listen(onChange, onEnd) {
      const client = await pool.connect()
      let isOver = false
      const end = (): void => {
        if (isOver) return
        isOver = true
        client.release(true)
        onEnd()
      }
      client.on('error', end)
      client.on('end', end)
      client.on('notification', onChange)
      try {
        await client.query({ text: `LISTEN ${quoteIdentifier(scope.schema)}`, query_timeout: answerMs })
      } catch (error) {
        if (!isOver) client.release(true)
        isOver = true
        throw error
      }
      return end
    },

    close: () => pool.end(),
  }
}
