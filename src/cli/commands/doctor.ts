import { Option } from 'commander'
import type { Migration } from '../../definition/index.ts'
import type { CommandSpec, Context, Result, TemporalOptions } from '../command.ts'
import type { Check } from '../checks.ts'
import { findConfigFile, loadDefinitions } from '../config-file.ts'
import { exitCodes } from '../exit-codes.ts'
import { renderFields } from '../output/table.ts'
import { locateService, type Sourced, type TemporalService } from '../service.ts'
import { maskSecrets } from '../output/streams.ts'
import { configOption } from './plan.ts'

interface DoctorOptions extends TemporalOptions {
  readonly config?: string
  readonly fix?: boolean
}

export const doctor: CommandSpec<DoctorOptions> = {
  name: 'doctor',
  summary: 'check everything a migration needs, with a mend for each finding',
  description:
    'Shows which config file is used and where each value came from, then checks Node, Temporal, its search attributes, workers and every ' +
    'database of the config file. Exits with 5 when something failed. --fix registers missing search attributes, and changes nothing else.',
  examples: [
    { run: 'crossfade doctor', does: 'all checks' },
    { run: 'crossfade doctor --fix', does: 'register missing search attributes, too' },
  ],
  options: [configOption(), new Option('--fix', 'mend what can be mended without harm')],
  usesTemporal: true,
  async run(context, options) {
    const { checkNode, checkDatabase, checkTemporal, failedBy, passed, skipped } =
      await import('../checks.ts')
    const checks: Check[] = [checkNode()]
    let migrations: Migration[] = []
    const file = findConfigFile(options)
    if (!file) checks.push(skipped('Config file', 'none here; `crossfade init NAME` writes one'))
    else
      try {
        migrations = (await loadDefinitions(options)).migrations
        checks.push(passed('Config file', `${file.path}: ${migrations.map(({ name }) => name).join(', ')}`))
      } catch (error) {
        checks.push(failedBy('Config file', error))
      }
    const service = await locateService(options)
    checks.push(...(await checkTemporal(service, { fix: options.fix === true })))
    const databases = new Map<string, Migration[]>()
    for (const migration of migrations)
      databases.set(migration.database, [...(databases.get(migration.database) ?? []), migration])
    if (databases.size === 0 && valueOfDatabase('default').value !== '') databases.set('default', [])
    if (databases.size === 0)
      checks.push(skipped('Database', 'no config file names one, and CROSSFADE_DATABASE_URL is not set'))
    for (const [name, users] of databases) checks.push(...(await checkDatabase(name, users)))
    return answer(context, checks, valuesOf(service, file, [...databases.keys()]))
  },
}

type Values = readonly (readonly [string, Sourced])[]

function valuesOf(
  service: TemporalService,
  file: ReturnType<typeof findConfigFile>,
  databases: readonly string[],
): Values {
  return [
    ['config file', { value: file?.path ?? '', from: file?.from ?? 'nowhere' }],
    ['Temporal address', service.address],
    ['namespace', service.namespace],
    ['task queue', service.taskQueue],
    ...databases.map((name): [string, Sourced] => [`database ${name}`, valueOfDatabase(name)]),
  ]
}

function valueOfDatabase(name: string): Sourced {
  const own = `CROSSFADE_DATABASE_${name.toUpperCase()}_URL`
  const variable = [own, ...(name === 'default' ? ['CROSSFADE_DATABASE_URL'] : [])].find(
    (each) => process.env[each],
  )
  if (variable === undefined) return { value: '', from: `nowhere (${own} is not set)` }
  return { value: maskSecrets(process.env[variable] ?? ''), from: variable }
}

function answer({ streams }: Context, checks: readonly Check[], values: Values): Result {
  const { style } = streams
  const marks = {
    passed: style('green', 'PASSED '),
    failed: style('red', 'FAILED '),
    skipped: style('dim', 'SKIPPED'),
  }
  const width = Math.max(...checks.map(({ name }) => name.length))
  const failures = checks.filter(({ state }) => state === 'failed')
  return {
    exitCode: failures.length > 0 ? exitCodes.findings : exitCodes.done,
    data: { checks, values: Object.fromEntries(values) },
    text: [
      style('bold', 'Values, and where each came from'),
      ...renderFields(
        values.map(([name, { value, from }]) => [
          name,
          value === '' ? from : `${value}  ${style('dim', `(${from})`)}`,
        ]),
        (text) => style('dim', text),
      ),
      '',
      style('bold', 'Checks'),
      ...checks.flatMap(({ name, state, found, mend }) => [
        `  ${marks[state]}  ${name.padEnd(width)}  ${found}`,
        ...(mend === undefined ? [] : [`           ${' '.repeat(width)}${style('cyan', '→')} ${mend}`]),
      ]),
    ],
    next: [
      failures.length === 0
        ? 'Everything is in place. See what would happen: crossfade plan'
        : `${failures.length} of ${checks.length} checks failed. Mend them, then: crossfade doctor`,
    ],
  }
}
