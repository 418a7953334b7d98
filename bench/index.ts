import { cpus, totalmem } from 'node:os'
import { parseArgs } from 'node:util'
import { backfill } from './backfill.ts'
import { column } from './column.ts'
import { dualWrite } from './dual-write.ts'
import { flags } from './flags.ts'
import { latency } from './latency.ts'
import { order } from './order.ts'
import { median, type Bench } from './support.ts'
import { resume } from './resume.ts'
import { verify } from './verify.ts'

const benches: Readonly<Record<string, Bench>> = {
  backfill,
  column,
  'dual-write': dualWrite,
  flags,
  latency,
  order,
  resume,
  verify,
}

const usage = (): string =>
  [
    'npm run bench -- NAME [--rows N] [--runs N] [--json]',
    '',
    ...Object.entries(benches).map(([name, { summary }]) => `  ${name.padEnd(12)}${summary}`),
    '',
  ].join('\n')

function refuse(message: string): number {
  process.stderr.write(`bench: ${message}\n\n${usage()}`)
  return 2
}

const options = {
  rows: { type: 'string' },
  runs: { type: 'string' },
  json: { type: 'boolean', default: false },
  help: { type: 'boolean', default: false },
} as const

type Arguments = ReturnType<typeof parseArgs<{ options: typeof options; allowPositionals: true }>>

/** @returns the exit code: 2 for what cannot be understood. */
async function main(): Promise<number> {
  let given: Arguments
  try {
    given = parseArgs({ options, allowPositionals: true })
  } catch (error) {
    return refuse(error instanceof Error ? error.message : String(error))
  }
  const { values, positionals } = given
  if (values.help) {
    process.stdout.write(usage())
    return 0
  }
  const [name = ''] = positionals
  const bench = Object.hasOwn(benches, name) ? benches[name] : undefined
  if (!bench || positionals.length > 1) return refuse(`there is no bench "${positionals.join(' ')}".`)
  const rows = Number(values.rows ?? bench.rows)
  const runs = Number(values.runs ?? bench.runs)
  if (![rows, runs].every((number) => Number.isSafeInteger(number) && number > 0))
    return refuse('--rows and --runs take whole numbers above 0.')
  const say = (text: string): void => void process.stderr.write(`bench ${name}: ${text}\n`)
  const { samples, ratios } = await bench.run({ rows, runs, say })
  const of = (pick: (values: readonly number[]) => number): Record<string, number> =>
    Object.fromEntries(Object.entries(samples).map(([key, list]) => [key, round(pick(list))]))
  const result = {
    name,
    machine: {
      cpus: cpus().length,
      model: cpus()[0]?.model ?? '',
      memoryGiB: Math.round(totalmem() / 2 ** 30),
      rows,
    },
    runs,
    medians: of(median),
    min: of((list) => Math.min(...list)),
    max: of((list) => Math.max(...list)),
    ratios: Object.fromEntries(Object.entries(ratios).map(([key, ratio]) => [key, round(ratio)])),
  }
  if (values.json) process.stdout.write(`${JSON.stringify(result)}\n`)
  else {
    console.table(
      Object.fromEntries(
        Object.keys(samples).map((key) => [
          key,
          { median: result.medians[key], min: result.min[key], max: result.max[key] },
        ]),
      ),
    )
    console.table(result.ratios)
  }
  return 0
}

const round = (value: number): number => (value >= 1000 ? Math.round(value) : Number(value.toPrecision(3)))

process.exitCode = await main()
