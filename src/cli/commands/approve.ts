import { Option } from 'commander'
import { personGates, tokenGates, type PersonGate } from '../../core/gates.ts'
import { CrossfadeError } from '../../errors/index.ts'
import { nameArgument, type CommandSpec, type Context } from '../command.ts'
import { byOption, checkTimeout, send, waitOptions, type SendOptions } from '../send.ts'
import { whoAmI } from '../temporal.ts'

interface ApproveOptions extends SendOptions {
  readonly gate: PersonGate
  readonly token?: string
  readonly note?: string
  readonly confirm?: string
}

export const approve: CommandSpec<ApproveOptions> = {
  name: 'approve',
  summary: 'open the gate that waits for a person',
  description:
    'An approval counts only for the gate that is open when it arrives. expand and contract need the token that `crossfade plan` and ' +
    '`crossfade status` show. contract drops the old side: confirm it with --confirm NAME, or by typing the name when asked.',
  examples: [
    { run: 'crossfade approve people --gate expand --token 4f1c9a02', does: 'add the new schema' },
    { run: 'crossfade approve people --gate cutover --note "watched by team data"', does: 'ramp reads over' },
    {
      run: 'crossfade approve people --gate contract --token 4f1c9a02 --confirm people',
      does: 'drop the old side',
    },
  ],
  arguments: [nameArgument()],
  options: [
    new Option('-g, --gate <gate>', 'which gate').choices(personGates).makeOptionMandatory(),
    new Option('--token <token>', 'the token of the plan (expand, contract)'),
    byOption(),
    new Option('--note <text>', 'kept in the audit'),
    new Option('--confirm <name>', "the migration's name once more (contract)"),
    ...waitOptions(),
  ],
  usesTemporal: true,
  async run(context, options, [name = '']) {
    const { gate, token, note } = options
    checkTimeout(options)
    if (tokenGates.includes(gate) && token === undefined) throw tokenNeeded(name, gate)
    if (gate === 'contract') await confirmLoss(context, name, options.confirm)
    const approval = {
      gate,
      by: whoAmI(options.by),
      ...(token === undefined ? {} : { token }),
      ...(note === undefined ? {} : { note }),
    }
    return send(context, name, options, (handle) => handle.approve(approval), [
      `Follow it: crossfade status ${name} --watch`,
      `Take it back: crossfade abort ${name}`,
    ])
  },
}

/** Nobody drops a table by a habit of the fingers: the name is typed, by flag or by hand. `--yes` does not exist. */
async function confirmLoss(
  { streams, canAsk }: Context,
  name: string,
  confirmation: string | undefined,
): Promise<void> {
  const given =
    confirmation ??
    (canAsk
      ? await streams.ask(
          `Contract renames the old tables of ${name} away and later drops them: then there is no way back.\nType ${name} to go on: `,
        )
      : undefined)
  if (given?.trim() === name) return
  throw new CrossfadeError({
    kind: 'refused',
    code: 'CLI.NOT_CONFIRMED',
    message:
      given === undefined
        ? `Contract drops the old tables of ${name}, and nobody confirmed that.`
        : `"${given.trim()}" is not ${name}: the contract was not approved.`,
    mend: `Add --confirm ${name}.`,
  })
}

function tokenNeeded(name: string, gate: PersonGate): CrossfadeError {
  return new CrossfadeError({
    kind: 'input',
    code: 'CLI.TOKEN_NEEDED',
    message: `The approval of ${gate} carries the token of the plan that was read.`,
    mend: `Add --token TOKEN; \`crossfade plan ${name}\` and \`crossfade status ${name}\` show it.`,
  })
}
