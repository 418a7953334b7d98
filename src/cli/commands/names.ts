import { loadDefinitions } from '../config-file.ts'
import type { CommandSpec, TemporalOptions } from '../command.ts'
import { isListening, locateService } from '../service.ts'
import { withClient } from '../temporal.ts'

/** For completion: every name that is known here, one a line. Never fails, and never takes long. */
export const names: CommandSpec<TemporalOptions> = {
  name: '__names',
  summary: 'print the names of migrations, for completion',
  examples: [
    { run: 'crossfade __names', does: 'one a line' },
    { run: 'crossfade __names --json', does: 'the same as JSON' },
  ],
  usesTemporal: true,
  async run(_, options) {
    const found = await Promise.all([
      loadDefinitions({}).then(
        ({ migrations }) => migrations.map(({ name }) => name),
        () => [],
      ),
      running(options).catch(() => []),
    ])
    const unique = [...new Set(found.flat())].sort()
    return { data: { names: unique }, text: unique }
  },
}

async function running(options: TemporalOptions): Promise<string[]> {
  const { address } = await locateService(options)
  if (!(await isListening(address.value))) return []
  return withClient(options, async (client) => (await client.list()).map(({ name }) => name))
}
