// Starts a PostgreSQL and a Temporal, prints their pids, and waits to be killed.
import { startPostgres } from '../../../../src/dev/postgres-server.ts'
import { startTemporalServer } from '../../../../src/dev/temporal-server.ts'

const postgres = await startPostgres()
const temporal = await startTemporalServer({ searchAttributes: {}, uiPort: false })
process.stdout.write(
  `${JSON.stringify({ postgres: postgres.pid, temporal: temporal.pid, dataDir: postgres.dataDir })}\n`,
)
setInterval(() => undefined, 60_000)
