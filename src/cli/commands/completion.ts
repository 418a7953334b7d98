import { Argument } from 'commander'
import type { CommandSpec } from '../command.ts'
import { renderCompletion, shells, type Shell } from '../shell-completion.ts'

export const completion: CommandSpec<object> = {
  name: 'completion',
  summary: 'print a script that completes commands, options and names of migrations',
  description: [
    'Install it once:',
    '  bash  crossfade completion bash > ~/.local/share/bash-completion/completions/crossfade',
    '  zsh   crossfade completion zsh > "${fpath[1]}/_crossfade"',
    '  fish  crossfade completion fish > ~/.config/fish/completions/crossfade.fish',
  ].join('\n'),
  examples: [
    { run: 'source <(crossfade completion bash)', does: 'for this shell only' },
    { run: 'crossfade completion fish > ~/.config/fish/completions/crossfade.fish', does: 'for good' },
  ],
  arguments: [new Argument('<shell>', 'the shell').choices(shells)],
  run({ program }, _, [shell = 'bash']) {
    const script = renderCompletion(shell as Shell, program)
    return Promise.resolve({ data: { shell, script }, text: script.trimEnd().split('\n') })
  },
}
