import { userInfo } from 'node:os'
import type { CrossfadeClient } from '../client.ts'
import type { TemporalOptions } from './command.ts'

/** Only what was given: what is left out, client and worker find as every Temporal tool does. */
export const toClientOptions = ({ address, namespace, taskQueue }: TemporalOptions): TemporalOptions => ({
  ...(address === undefined ? {} : { address }),
  ...(namespace === undefined ? {} : { namespace }),
  ...(taskQueue === undefined ? {} : { taskQueue }),
})

/** Runs `fn` with a connected client. @throws `TEMPORAL.UNREACHABLE` */
export async function withClient<T>(
  options: TemporalOptions,
  fn: (client: CrossfadeClient) => Promise<T>,
): Promise<T> {
  const { connectCrossfade } = await import('../client.ts')
  const client = await connectCrossfade(toClientOptions(options))
  try {
    return await fn(client)
  } finally {
    await client.close()
  }
}

/** Who sends a message, where --by does not say it. */
export function whoAmI(by: string | undefined, environment: NodeJS.ProcessEnv = process.env): string {
  const given = by ?? environment['CROSSFADE_BY']
  if (given) return given
  try {
    return userInfo().username
  } catch {
    return environment['USER'] ?? environment['USERNAME'] ?? 'unknown' // a container's user need not have a name
  }
}
