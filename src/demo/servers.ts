import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { startPostgres, type PostgresServer } from '../dev/postgres-server.ts'
import { startTemporalServer, type TemporalServer } from '../dev/temporal-server.ts'
import { bundleWorkflows } from '../worker.ts'
import { searchAttributeNames } from '../workflows/search-attributes.ts'

/** What the demo runs on: real servers that are its own, on free ports, gone when it ends. */
export interface Servers {
  readonly postgres: PostgresServer
  readonly temporal: TemporalServer
  /** The workflow's code, bundled once for all workers. */
  readonly bundlePath: string
  /** Logs and what else must not outlive the demo. */
  readonly folder: string
  /** @returns what would not end */
  stop(): Promise<void>
}

/** As safe as a server is out of the box (fsync, synchronous commit); only sized for a table that is rewritten once. */
const postgresSettings = { shared_buffers: '256MB', max_wal_size: '2GB', work_mem: '16MB' }

export async function startServers(): Promise<Servers> {
  const folder = mkdtempSync(join(tmpdir(), 'crossfade-demo-'))
  isolateFromProfiles(folder)
  const [postgres, temporal, bundle] = await Promise.allSettled([
    startPostgres({ settings: postgresSettings }),
    startTemporalServer({
      searchAttributes: Object.fromEntries(searchAttributeNames.map((name) => [name, 'Keyword' as const])),
      // Without it the server rounds every timer up to a second, and a ramp of seconds would show more waiting than work.
      extraArgs: ['--dynamic-config-value', 'history.timerProcessorMaxTimeShift="10ms"'],
    }),
    bundleWorkflows(),
  ])
  const stop = async (): Promise<void> => {
    await Promise.allSettled([
      postgres.status === 'fulfilled' ? postgres.value.stop() : undefined,
      temporal.status === 'fulfilled' ? temporal.value.stop() : undefined,
    ])
    rmSync(folder, { recursive: true, force: true })
  }
  for (const started of [postgres, temporal, bundle])
    if (started.status === 'rejected') {
      await stop()
      throw started.reason
    }
  const [{ value: postgresServer }, { value: temporalServer }, { value: code }] = [
    postgres as PromiseFulfilledResult<PostgresServer>,
    temporal as PromiseFulfilledResult<TemporalServer>,
    bundle as PromiseFulfilledResult<Awaited<ReturnType<typeof bundleWorkflows>>>,
  ]
  const bundlePath = join(folder, 'workflow-bundle.js')
  writeFileSync(bundlePath, 'code' in code ? code.code : '')
  return { postgres: postgresServer, temporal: temporalServer, bundlePath, folder, stop }
}

/** The user's own Temporal profile (another address, TLS, an API key) must not reach into the demo. */
function isolateFromProfiles(folder: string): void {
  for (const name of Object.keys(process.env)) if (name.startsWith('TEMPORAL_')) delete process.env[name]
  const emptyConfig = join(folder, 'temporal.toml')
  writeFileSync(emptyConfig, '[profile.default]\n')
  process.env['TEMPORAL_CONFIG_FILE'] = emptyConfig
}
