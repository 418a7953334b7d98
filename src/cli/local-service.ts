import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { startTemporalServer, type TemporalServer } from '../dev/temporal-server.ts'
import { isPortFree } from '../dev/free-port.ts'
import { CrossfadeError } from '../errors/index.ts'
import { searchAttributeNames } from '../workflows/search-attributes.ts'
import { isListening, type Sourced } from './service.ts'

export interface LocalTemporal {
  readonly address: string
  readonly uiUrl: string | undefined
  /** Undefined where a server was there already: that one is nobody's to stop. */
  readonly started: TemporalServer | undefined
}

const usualPort = 7233
const usualUiPort = 8233

/**
 * The Temporal server that answers already, else a development server that keeps everything in `folder`.
 * @throws `TEMPORAL.UNREACHABLE`, `TEMPORAL.NO_CLI`, `TEMPORAL.NO_SERVER`
 */
export async function findOrStartTemporal(address: Sourced, folder: string): Promise<LocalTemporal> {
  const [, host = '', port] = /^\[?(.*?)\]?(?::(\d+))?$/.exec(address.value) ?? []
  const isLocal = ['127.0.0.1', 'localhost', '::1'].includes(host)
  if (await isListening(address.value)) {
    const uiPort = Number(port ?? usualPort) + 1000
    const hasUi = isLocal && (await isListening(`127.0.0.1:${uiPort}`))
    return {
      address: address.value,
      uiUrl: hasUi ? `http://127.0.0.1:${uiPort}` : undefined,
      started: undefined,
    }
  }
  if (!isLocal)
    throw new CrossfadeError({
      kind: 'unavailable',
      code: 'TEMPORAL.UNREACHABLE',
      message: `No Temporal server answers at ${address.value} (from ${address.from}), and only a local one can be started here.`,
      mend: 'Unset TEMPORAL_ADDRESS to start a local server, or start that one.',
    })
  mkdirSync(folder, { recursive: true })
  const wanted = Number(port ?? usualPort)
  const uiPort = (await isPortFree(wanted + 1000))
    ? wanted + 1000
    : (await isPortFree(usualUiPort))
      ? usualUiPort
      : undefined
  const started = await startTemporalServer({
    dbFilename: join(folder, 'temporal.db'),
    port: wanted,
    uiPort,
    searchAttributes: Object.fromEntries(searchAttributeNames.map((name) => [name, 'Keyword' as const])),
    logFile: join(folder, 'temporal.log'),
  })
  return { address: started.address, uiUrl: started.uiUrl, started }
}
