import { Option } from 'commander'
import { nameArgument, type CommandSpec } from '../command.ts'
import { byOption, send, type SendOptions } from '../send.ts'
import { whoAmI } from '../temporal.ts'

interface PauseOptions extends SendOptions {
  readonly reason?: string
}

export const pause: CommandSpec<PauseOptions> = {
  name: 'pause',
  summary: 'stop work without losing its place',
  description: 'Both sides stay in step meanwhile; only the work of the phase stops.',
  examples: [
    { run: 'crossfade pause people', does: 'until somebody resumes' },
    { run: 'crossfade pause people --reason "sale until 18:00"', does: 'with the reason in the audit' },
  ],
  arguments: [nameArgument()],
  options: [new Option('--reason <text>', 'kept in the audit'), byOption()],
  usesTemporal: true,
  run: (context, options, [name = '']) =>
    send(
      context,
      name,
      options,
      (handle) =>
        handle.pause({
          by: whoAmI(options.by),
          ...(options.reason === undefined ? {} : { reason: options.reason }),
        }),
      [`Go on: crossfade resume ${name}`],
    ),
}
