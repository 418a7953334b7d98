import { Option } from 'commander'
import { nameArgument, type CommandSpec } from '../command.ts'
import { exitCodes } from '../exit-codes.ts'
import { byOption, send, waitOptions, type SendOptions } from '../send.ts'
import { whoAmI } from '../temporal.ts'

interface AbortOptions extends SendOptions {
  readonly reason?: string
  readonly keep?: boolean
}

export const abort: CommandSpec<AbortOptions> = {
  name: 'abort',
  summary: 'return traffic to the old side, then wind down',
  description:
    'Traffic goes back first, within a second. Then the new tables, triggers and our own schema are removed; --keep leaves them. After ' +
    'retire has stopped writes to the old side, traffic stays where it is. With --wait it exits with 0 once it is aborted.',
  examples: [
    { run: 'crossfade abort people --reason "error rate went up"', does: 'go back, clean up' },
    { run: 'crossfade abort people --keep --wait', does: 'go back, keep the new tables, wait for it' },
  ],
  arguments: [nameArgument()],
  options: [
    new Option('--reason <text>', 'kept in the audit'),
    new Option('--keep', 'leave what expand has created'),
    byOption(),
    ...waitOptions(),
  ],
  usesTemporal: true,
  async run(context, options, [name = '']) {
    const { reason, keep } = options
    const request = {
      by: whoAmI(options.by),
      ...(reason === undefined ? {} : { reason }),
      ...(keep ? { cleanUp: false } : {}),
    }
    const result = await send(context, name, options, (handle) => handle.abort(request), [
      `See it go back: crossfade status ${name} --watch`,
      `Start again later: crossfade run ${name}`,
    ])
    // Aborted is what was asked for.
    return result.exitCode === exitCodes.goneBack ? { ...result, exitCode: exitCodes.done } : result
  },
}
