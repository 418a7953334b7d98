import { InvalidArgumentError, Option } from 'commander'
import { nameArgument, type CommandSpec } from '../command.ts'
import type { FlagsNow } from '../local-flags.ts'
import { renderFields, renderTable } from '../output/table.ts'

interface FlagsOptions {
  readonly set?: Readonly<Record<string, number>>
  readonly database: string
}

/** `KEY=PERCENT`, again and again. */
function parseSetting(text: string, before: Readonly<Record<string, number>> = {}): Record<string, number> {
  const [, key = '', number] = /^(.+)=(\d+(?:\.\d{1,4})?)$/.exec(text) ?? []
  const percent = Number(number)
  if (number === undefined || percent > 100)
    throw new InvalidArgumentError('Write KEY=PERCENT, with a percentage from 0 to 100: read=0.')
  return { ...before, [key]: percent }
}

export const flags: CommandSpec<FlagsOptions> = {
  name: 'flags',
  summary: 'show the flags and who acts on them; the emergency brake',
  description:
    'Reads the database itself (CROSSFADE_DATABASE_URL), so it works while Temporal is away. --set says the most that a flag may be: ' +
    'instances follow within a second, and the ramp does not pass it. 100 lets the ramp have its way again.',
  examples: [
    { run: 'crossfade flags people', does: 'percentages, primary side, instances' },
    { run: 'crossfade flags people --set read=0', does: 'all reads to the old side, now' },
    { run: 'crossfade flags people --set read=100', does: 'as far as the ramp has come' },
  ],
  arguments: [nameArgument()],
  options: [
    new Option('--set <key=percent>', 'read, write, backfill, or the whole key of a flag').argParser(
      parseSetting,
    ),
    new Option('--database <name>', 'the database’s name, as in the definition').default('default'),
  ],
  async run({ streams }, options, [name = '']) {
    const { flagsLocally } = await import('../local-flags.ts')
    const now = await flagsLocally(name, options.database, options.set ?? {})
    return {
      data: { name, ...now },
      text: render(name, now, (text) => streams.style('dim', text)),
      ...(options.set === undefined
        ? {}
        : {
            next: [
              `Who has seen it: crossfade flags ${name}`,
              `The ramp goes on below it; to stop it: crossfade pause ${name}`,
            ],
          }),
    }
  },
}

function render(name: string, now: FlagsNow, dim: (text: string) => string): string[] {
  const { primary, epoch, instances } = now
  return [
    ...renderFields(
      [
        ['migration', name],
        ['primary', `${primary} side`],
        ['epoch', String(epoch)],
      ],
      dim,
    ),
    '',
    ...renderTable(
      ['flag', 'percent', 'ramp', 'ceiling'],
      now.flags.map(({ key, percent, wanted, ceiling }) => [
        key,
        `${percent} %`,
        `${wanted} %`,
        ceiling < 100 ? `${ceiling} %` : '–',
      ]),
      dim,
    ),
    '',
    ...(instances.length === 0
      ? ['No instance of an application has announced itself.']
      : renderTable(
          ['instance', 'version', 'acts on epoch', 'seen'],
          instances.map(({ id, version, epoch: seen, ageSec, isLive }) => [
            id,
            version,
            seen < 0 ? 'nothing yet' : String(seen),
            `${ageSec.toFixed(1)} s ago${isLive ? '' : ', its lease has run out'}`,
          ]),
          dim,
        )),
  ]
}
