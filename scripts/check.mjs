// What CI runs before the tests: `npm run check`. All of it is run, and what failed is named at the end.
import { spawnSync } from 'node:child_process'
import { setUp, root } from './setup.mjs'

const code = setUp()
if (code !== 0) process.exit(code)

const npm = (script, ...args) => [
  'npm',
  'run',
  '--silent',
  script,
  ...(args.length > 0 ? ['--', ...args] : []),
]
const hasCompose = spawnSync('docker', ['compose', 'version'], { stdio: 'ignore' }).status === 0

const steps = [
  { name: 'typecheck', command: npm('typecheck') },
  { name: 'lint', command: npm('lint') },
  { name: 'format', command: npm('format:check') },
  { name: 'boundaries', command: npm('check:boundaries') },
  { name: 'unit tests', command: npm('test:unit') },
  hasCompose
    ? { name: 'docker-compose.yml', command: ['docker', 'compose', 'config', '-q'] }
    : { name: 'docker-compose.yml', skipped: 'there is no `docker compose` on this machine' },
]

const failed = []
for (const { name, command, skipped } of steps) {
  if (skipped) {
    process.stderr.write(`check: ${name}: skipped, ${skipped}\n`)
    continue
  }
  const start = performance.now()
  const result = spawnSync(command[0], command.slice(1), {
    cwd: root,
    stdio: ['ignore', 'inherit', 'inherit'],
    shell: process.platform === 'win32',
  })
  const seconds = ((performance.now() - start) / 1000).toFixed(1)
  const isFine = !result.error && result.status === 0
  if (!isFine) failed.push(name)
  process.stderr.write(`check: ${name}: ${isFine ? 'fine' : 'FAILED'} (${seconds} s)\n`)
}
if (failed.length > 0) {
  process.stderr.write(`check: failed: ${failed.join(', ')}\n`)
  process.exitCode = 1
}
