import { nameArgument, type CommandSpec } from '../command.ts'
import { byOption, send, waitOptions, type SendOptions } from '../send.ts'
import { whoAmI } from '../temporal.ts'

export const resume: CommandSpec<SendOptions> = {
  name: 'resume',
  summary: 'go on after a pause, or after a person has mended what stopped it',
  examples: [
    { run: 'crossfade resume people', does: 'go on' },
    { run: 'crossfade resume people --wait --timeout 2h', does: 'go on, and follow it' },
  ],
  arguments: [nameArgument()],
  options: [byOption(), ...waitOptions()],
  usesTemporal: true,
  run: (context, options, [name = '']) =>
    send(context, name, options, (handle) => handle.resume({ by: whoAmI(options.by) }), [
      `Follow it: crossfade status ${name} --watch`,
    ]),
}
