import { Option } from 'commander'
import { formatInstant } from '../../core/durations.ts'
import type { CommandSpec, TemporalOptions } from '../command.ts'
import { renderTable } from '../output/table.ts'
import { withClient } from '../temporal.ts'

interface ListOptions extends TemporalOptions {
  readonly running?: boolean
}

export const list: CommandSpec<ListOptions> = {
  name: 'list',
  summary: 'list migrations, those that run first',
  examples: [
    { run: 'crossfade list', does: 'all that Temporal remembers' },
    { run: 'crossfade list --running --json', does: 'for scripts' },
  ],
  options: [new Option('--running', 'only those that run')],
  usesTemporal: true,
  run: ({ streams }, options) =>
    withClient(options, async (client) => {
      const found = (await client.list()).filter(
        ({ execution }) => !options.running || execution === 'RUNNING',
      )
      const isRunning = (execution: string): number => (execution === 'RUNNING' ? 0 : 1)
      found.sort(
        (a, b) => isRunning(a.execution) - isRunning(b.execution) || b.startedAt.localeCompare(a.startedAt),
      )
      const [first] = found
      return {
        data: { migrations: found.map(({ detail: _, activities: __, ...rest }) => rest) },
        text: first
          ? renderTable(
              ['NAME', 'STATE', 'PHASE', 'WAITING FOR', 'DATABASE', 'STARTED (UTC)'],
              found.map(({ name, execution, phase, waitingFor, database, startedAt }) => [
                name,
                execution.toLowerCase(),
                phase,
                waitingFor === 'nothing' ? '–' : waitingFor,
                database,
                formatInstant(Date.parse(startedAt)),
              ]),
              (text) => streams.style('dim', text),
            )
          : ['There is no migration.'],
        next: [first ? `See one: crossfade status ${first.name}` : 'Start one: crossfade run NAME'],
      }
    }),
}
