// Sets up what is missing, then runs one target with the terminal as it is: stdout has only the target's output.
//
//   node scripts/with-setup.mjs TARGET [--] [arguments of the target]

import { spawn } from 'node:child_process'
import * as os from 'node:os'
import * as path from 'node:path'
import { pathToFileURL } from 'node:url'
import { cacheDir, root, setUp } from './setup.mjs'

const [target = '', ...rest] = process.argv.slice(2)
const given = rest[0] === '--' ? rest.slice(1) : rest
const kinds = ['unit', 'integration', 'workflow', 'replay', 'model', 'torture', 'e2e', 'packaging']

function commandOf(name) {
  const tsx = ['--import', pathToFileURL(path.join(root, 'node_modules', 'tsx', 'dist', 'loader.mjs')).href]
  const cli = [...tsx, path.join(root, 'src', 'cli', 'main.ts')]
  const vitest = [path.join(root, 'node_modules', 'vitest', 'vitest.mjs'), 'run']
  if (name === 'demo' || name === 'dev') return { args: [...cli, name, ...given], tests: false }
  if (name === 'bench')
    return { args: [...tsx, path.join(root, 'bench', 'index.ts'), ...given], tests: false }
  if (name === 'crossfade') return { args: [...cli, ...given], tests: false }
  if (name === 'test') return { args: [...vitest, ...given], tests: true }
  const kind = name.replace(/^test:/, '')
  if (kinds.includes(kind))
    return { args: [...vitest, '--project', kind, ...given], tests: kind !== 'unit' && kind !== 'model' }
  return undefined
}

const command = commandOf(target)
if (!command) {
  const targets = ['demo', 'bench', 'dev', 'crossfade', 'test', ...kinds.map((kind) => `test:${kind}`)]
  process.stderr.write(`with-setup: no target "${target}"; there are ${targets.join(', ')}.\n`)
  process.exit(2)
}

const code = setUp({ tests: command.tests })
if (code !== 0) process.exit(code)

// `npm run` starts in the project's root: a command line belongs to where it was typed.
const typedIn = process.env['INIT_CWD']
const cwd = typedIn && (target === 'crossfade' || target === 'dev') ? typedIn : root
const child = spawn(process.execPath, command.args, {
  cwd,
  stdio: 'inherit',
  env: { ...process.env, CROSSFADE_CACHE: cacheDir, TSX_TSCONFIG_PATH: path.join(root, 'tsconfig.json') },
})
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) {
  process.on(signal, () => {
    // A terminal sends Ctrl-C to the child as well: passing it on would make it two, and the second one forces.
    if (signal !== 'SIGINT' || !process.stdin.isTTY) child.kill(signal)
  })
}
// A signal to npm ends npm and the shell that it runs, and reaches nobody else: their end is taken as the signal.
const parent = process.ppid
setInterval(() => {
  if (process.ppid !== parent) child.kill('SIGTERM')
}, 500).unref()
child.on('error', (error) => {
  process.stderr.write(`with-setup: ${error.message}\n`)
  process.exitCode = 1
})
child.on('exit', (exitCode, signal) => {
  process.exitCode = signal ? 128 + os.constants.signals[signal] : (exitCode ?? 1)
})
