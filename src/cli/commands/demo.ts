import { InvalidArgumentError, Option } from 'commander'
import { exitCodes } from '../exit-codes.ts'
import { parseNumberOption, type CommandSpec } from '../command.ts'

/** What `src/demo` is given; it prints nothing by itself. */
export interface DemoOptions {
  readonly rows?: number
  readonly engine?: string
  readonly sync?: string
  readonly keep?: boolean
  readonly move?: boolean
  readonly document?: boolean
  readonly json?: boolean
}

interface Demo {
  runDemo(
    options: DemoOptions & { readonly log: (line: string) => void },
  ): Promise<{ readonly ok: boolean; readonly text?: readonly string[] }>
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
    { run: 'crossfade demo', does: 'about a minute' },
    { run: 'crossfade demo --rows 1000000 --json', does: 'one JSON object at the end' },
  ],
  options: [
    new Option('--rows <n>', 'rows of the table').argParser(parseRows),
    new Option('--engine <engine>', 'database engine').choices(['postgres']),
    new Option('--sync <method>', 'how writes reach the other side').choices(['trigger']),
    new Option('--keep', 'leave servers and data running at the end'),
  ],
  async run({ streams }, { rows, engine, sync, keep, move, document, json }) {
    const extension = import.meta.url.endsWith('.ts') ? 'ts' : 'js'
    const { runDemo } = (await import(new URL(`../../demo/index.${extension}`, import.meta.url).href)) as Demo
    const given = { rows, engine, sync, keep, move, document, json }
    const options = Object.fromEntries(
      Object.entries(given).filter(([, value]) => value !== undefined),
    ) as DemoOptions
    const { ok, text = [], ...result } = await runDemo({ ...options, log: (line) => streams.note(line) })
    return { ok, exitCode: ok ? exitCodes.done : exitCodes.failed, data: result, text }
  },
}
