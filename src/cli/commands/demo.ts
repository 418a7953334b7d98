import { InvalidArgumentError, Option } from 'commander'
import type { ExitCode } from '../exit-codes.ts'
import { parseNumberOption, type CommandSpec } from '../command.ts'

interface DemoOptions {
  readonly rows?: number
  readonly engine?: 'postgres'
  readonly sync?: 'trigger' | 'application'
  readonly keep?: boolean
}

function parseRows(text: string): number {
  const rows = parseNumberOption(text.replaceAll('_', ''))
  if (!Number.isInteger(rows) || rows < 1) throw new InvalidArgumentError('It must be a whole number from 1.')
  return rows
}

export const demo: CommandSpec<DemoOptions> = {
  name: 'demo',
  summary: 'run a whole migration on this machine, under load, with crashes',
  description:
    'Starts its own Temporal, PostgreSQL and workers, kills some, and counts every row at the end. Nothing of yours is touched.',
  examples: [
    { run: 'crossfade demo', does: 'about a minute and a half' },
    { run: 'crossfade demo --rows 1000000 --json', does: 'one JSON object at the end' },
    { run: 'crossfade demo --sync application', does: 'a service of two instances captures its own writes' },
    { run: 'crossfade demo --keep', does: 'look around in the Temporal UI afterwards' },
  ],
  options: [
    new Option('--rows <n>', 'rows of the table (default: 300000)').argParser(parseRows),
    new Option('--engine <engine>', 'database engine').choices(['postgres']),
    new Option('--sync <method>', 'how writes reach the other side').choices(['trigger', 'application']),
    new Option('--keep', 'leave servers and data running at the end, until Ctrl-C'),
  ],
  async run({ json }, { rows, engine, sync, keep }) {
    const { runDemo } = await import('../../demo/index.ts')
    const given = { rows, engine, sync, keep, json }
    const options = Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined))
    return { data: {}, text: [], isShown: true, exitCode: (await runDemo(options, process)) as ExitCode }
  },
}
