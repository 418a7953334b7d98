import type { Command, Option } from 'commander'

export const shells = ['bash', 'zsh', 'fish'] as const
export type Shell = (typeof shells)[number]

interface CompletedOption {
  readonly flags: readonly string[]
  readonly does: string
  readonly values: readonly string[]
  readonly takesValue: boolean
}

interface CompletedCommand {
  readonly name: string
  readonly does: string
  readonly takesName: boolean
  readonly words: readonly string[]
  readonly options: readonly CompletedOption[]
}

/** What a shell must know of the tree. */
function describeTree(program: Command): CompletedCommand[] {
  const visible = program.createHelp().visibleCommands(program)
  return visible.map((command) => {
    const [argument] = command.registeredArguments
    const isHelp = command.name() === 'help'
    return {
      name: command.name(),
      does: command.summary(),
      takesName: argument?.name() === 'name' && !command.name().startsWith('init'),
      words: isHelp
        ? [
            'exit-codes',
            'environment',
            ...visible.map((each) => each.name()).filter((name) => name !== 'help'),
          ]
        : (argument?.argChoices ?? []),
      options: command.createHelp().visibleOptions(command).map(describeOption),
    }
  })
}

const describeOption = (option: Option): CompletedOption => ({
  flags: [option.short, option.long].flatMap((flag) => (flag ? [flag] : [])),
  does: option.description,
  values: option.argChoices ?? [],
  takesValue: option.required || option.optional,
})

export function renderCompletion(shell: Shell, program: Command): string {
  const commands = describeTree(program)
  if (shell === 'bash') return renderBash(commands)
  return shell === 'zsh' ? renderZsh(commands) : renderFish(commands)
}

function renderBash(commands: readonly CompletedCommand[]): string {
  const branch = ({ name, takesName, words, options }: CompletedCommand): string => {
    const withValues = options.filter(({ takesValue }) => takesValue)
    const cases = withValues.map(
      ({ flags, values }) =>
        `        ${flags.join('|')}) ${values.length > 0 ? `COMPREPLY=($(compgen -W '${values.join(' ')}' -- "$current"))` : 'compopt -o default'}; return ;;`,
    )
    return [
      `    ${name})`,
      ...(cases.length > 0 ? ['      case "$before" in', ...cases, '      esac'] : []),
      `      if [[ $current == -* ]]; then words='${options.flatMap(({ flags }) => flags).join(' ')}'`,
      ...(takesName
        ? [`      else words="$(crossfade __names 2>/dev/null)"`]
        : words.length > 0
          ? [`      else words='${words.join(' ')}'`]
          : []),
      '      fi ;;',
    ].join('\n')
  }
  return [
    '# Completion of crossfade for bash: source it, or put it where bash-completion looks.',
    '_crossfade() {',
    '  local current="${COMP_WORDS[COMP_CWORD]}" before="${COMP_WORDS[COMP_CWORD-1]}" words=""',
    '  COMPREPLY=()',
    '  if [[ $COMP_CWORD -eq 1 ]]; then',
    `    words='${commands.map(({ name }) => name).join(' ')} --help --version'`,
    '  else case "${COMP_WORDS[1]}" in',
    ...commands.map(branch),
    '  esac; fi',
    '  COMPREPLY=($(compgen -W "$words" -- "$current"))',
    '}',
    'complete -F _crossfade crossfade',
    '',
  ].join('\n')
}

/** Single quotes inside of single quotes; a colon would end a word that zsh describes. */
const quoted = (text: string): string => text.replaceAll("'", "'\\''")
const inZsh = (text: string): string => quoted(text).replaceAll(/[[\]:]/g, '\\$&')

function renderZsh(commands: readonly CompletedCommand[]): string {
  const argumentOf = ({ flags, does, values, takesValue }: CompletedOption): string => {
    const value = takesValue ? `:value:${values.length > 0 ? `(${values.join(' ')})` : '_files'}` : ''
    return flags.map((flag) => `'${flag}[${inZsh(does)}]${value}'`).join(' ')
  }
  const branch = ({ name, takesName, words, options }: CompletedCommand): string => {
    const rest = takesName
      ? ["'1:migration:($(crossfade __names 2>/dev/null))'"]
      : words.length > 0
        ? [`'1: :(${words.join(' ')})'`]
        : []
    return `      ${name}) _arguments ${[...rest, ...options.map(argumentOf)].join(' \\\n        ')} ;;`
  }
  return [
    '#compdef crossfade',
    '# Completion of crossfade for zsh: save it as _crossfade in a folder of $fpath.',
    '_crossfade() {',
    '  local -a commands=(',
    ...commands.map(({ name, does }) => `    '${name}:${inZsh(does)}'`),
    '  )',
    '  if (( CURRENT == 2 )); then',
    "    _describe 'command' commands",
    '  else',
    '    local chosen=$words[2]',
    '    shift words; (( CURRENT-- ))',
    '    case $chosen in',
    ...commands.map(branch),
    '    esac',
    '  fi',
    '}',
    'compdef _crossfade crossfade',
    '',
  ].join('\n')
}

function renderFish(commands: readonly CompletedCommand[]): string {
  const line = (...parts: string[]): string => `complete -c crossfade ${parts.join(' ')}`
  return [
    '# Completion of crossfade for fish: save it as ~/.config/fish/completions/crossfade.fish.',
    line('-f'),
    ...commands.flatMap(({ name, does, takesName, words, options }) => {
      const within = `-n '__fish_seen_subcommand_from ${name}'`
      return [
        line("-n '__fish_use_subcommand'", `-a ${name}`, `-d '${quoted(does)}'`),
        ...(takesName ? [line(within, "-a '(crossfade __names 2>/dev/null)'")] : []),
        ...(words.length > 0 ? [line(within, `-a '${words.join(' ')}'`)] : []),
        ...options.map(({ flags, does: what, values, takesValue }) =>
          line(
            within,
            ...flags.map((flag) => (flag.startsWith('--') ? `-l ${flag.slice(2)}` : `-s ${flag.slice(1)}`)),
            ...(takesValue ? [values.length > 0 ? `-x -a '${values.join(' ')}'` : '-r -F'] : []),
            `-d '${quoted(what)}'`,
          ),
        ),
      ]
    }),
    '',
  ].join('\n')
}
