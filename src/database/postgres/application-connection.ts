import type { ApplicationClient, ApplicationPool } from '../application.ts'

export type OwnPool = ApplicationPool & {
  end(): Promise<void>
  on(event: 'error', listener: (error: Error) => void): unknown
}

/** One that listens, and a few for the rest. */
const ownConnections = 4

/** An answer that takes longer is none: the lease goes on running meanwhile. */
export const answerMs = 2_000

export const rawText = { getTypeParser: (): ((value: string) => string) => String }

/** SQLSTATEs of a schema, function or table that is not there. */
const absent = new Set(['3F000', '42883', '42P01'])

export const isAbsent = (error: unknown): boolean => absent.has((error as { code?: string }).code ?? '')

/** With every setting of the application's, its password among them, which pg keeps from being enumerated. */
export function poolLike(pool: ApplicationPool): OwnPool {
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

/** A connection of `pool` for as long as `use` runs; what may still wait for an answer is not used again. */
export async function onConnection<T>(
  pool: Pick<ApplicationPool, 'connect'>,
  use: (client: ApplicationClient) => Promise<T>,
): Promise<T> {
  const client = await pool.connect()
  let broken: Error | undefined
  const onError = (error: Error): void => void (broken = error)
  client.on('error', onError)
  try {
    return await use(client)
  } catch (error) {
    if (!isAbsent(error)) broken = error as Error
    throw error
  } finally {
    client.off('error', onError)
    client.release(broken)
  }
}
