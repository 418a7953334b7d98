import { Option } from 'commander'
import { parseConfigure, type LiveSettings } from '../../core/messages.ts'
import { CrossfadeError } from '../../errors/index.ts'
import { nameArgument, parseNumberOption, type CommandSpec } from '../command.ts'
import { byOption, send, type SendOptions } from '../send.ts'
import { whoAmI } from '../temporal.ts'

interface ConfigureOptions extends SendOptions, Omit<LiveSettings, 'maxReplicationLagSec'> {
  readonly maxReplicationLag?: number
}

const number = (flags: string, does: string): Option => new Option(flags, does).argParser(parseNumberOption)

export const configure: CommandSpec<ConfigureOptions> = {
  name: 'configure',
  summary: 'change limits of a running migration',
  description: 'Takes effect at the next chunk; what is not named stays as it is.',
  examples: [
    { run: 'crossfade configure people --max-replication-lag 20', does: 'allow replicas 20 s' },
    {
      run: 'crossfade configure people --profile fast --max-concurrency 4',
      does: 'larger chunks, fewer lanes',
    },
  ],
  arguments: [nameArgument()],
  options: [
    number('--batch-size <rows>', 'rows of a first chunk; chunks then adapt'),
    number('--max-batch-size <rows>', 'most rows of a chunk'),
    number('--max-concurrency <lanes>', 'most lanes, 1 to 64'),
    number('--rate-limit-ms <ms>', 'least delay between chunks of a lane'),
    number('--target-chunk-ms <ms>', 'how long a chunk should take; less disturbs less'),
    number('--max-replication-lag <seconds>', 'lanes pause while a replica is further behind'),
    new Option('--profile <profile>', 'pace of what is not set').choices(['gentle', 'fast']),
    byOption(),
  ],
  usesTemporal: true,
  run: async (context, options, [name = '']) => {
    const {
      batchSize,
      maxBatchSize,
      maxConcurrency,
      rateLimitMs,
      targetChunkMs,
      maxReplicationLag,
      profile,
    } = options
    const given = {
      batchSize,
      maxBatchSize,
      maxConcurrency,
      rateLimitMs,
      targetChunkMs,
      maxReplicationLagSec: maxReplicationLag,
      profile,
    }
    const settings = Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined))
    const parsed = parseConfigure({ by: whoAmI(options.by), ...settings })
    if (!parsed.ok)
      throw new CrossfadeError({
        kind: 'input',
        code: 'CLI.INVALID_SETTING',
        message: `Nothing was changed: ${parsed.problem}.`,
        mend: '`crossfade configure --help` lists the settings.',
      })
    return send(context, name, options, (handle) => handle.configure(parsed.value), [
      `See the effect: crossfade status ${name} --watch`,
    ])
  },
}
