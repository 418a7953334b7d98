import { spawn } from 'node:child_process'
import { rmSync } from 'node:fs'

/** Asks the server to end, waits for it (10 s), and removes what was made for it only. */
const watchdogScript = `
read line && exit
pid=$1; signal=$2; shift 2
kill -s "$signal" "$pid"
tries=0
while kill -0 "$pid" 2>/dev/null && [ "$tries" -lt 100 ]; do sleep 0.1; tries=$((tries + 1)); done
kill -s KILL "$pid" 2>/dev/null
[ "$#" -eq 0 ] || rm -rf -- "$@"
`

/**
 * Sees to it that a server started by this process does not outlive it, however this process ends: also by SIGKILL, when
 * no handler runs. A watchdog reads from a pipe that only this process holds open; the kernel closes it when the process
 * dies, and then the watchdog ends `pid` and removes `folders`. Call the returned function once `pid` is gone.
 *
 * There is no watchdog on Windows: there the server is killed on an ordinary exit only.
 */
export function dieWithParent(
  pid: number,
  signal: 'SIGKILL' | 'SIGQUIT',
  folders: readonly string[] = [],
): () => void {
  if (process.platform === 'win32') return killOnExit(pid, folders)

  // `read` fails on a closed pipe and succeeds on a line: the line is how the watchdog is sent home.
  const args = ['-c', watchdogScript, 'crossfade-watchdog', String(pid), signal.slice(3), ...folders]
  const watchdog = spawn('/bin/sh', args, { stdio: ['pipe', 'ignore', 'ignore'], detached: true, cwd: '/' })
  watchdog.on('error', () => undefined)
  watchdog.stdin.on('error', () => undefined)
  watchdog.unref()
  if ('unref' in watchdog.stdin && typeof watchdog.stdin.unref === 'function') watchdog.stdin.unref()
  let isReleased = false
  return () => {
    if (isReleased) return
    isReleased = true
    watchdog.stdin.end('gone\n')
  }
}

function killOnExit(pid: number, folders: readonly string[]): () => void {
  const onExit = (): void => {
    try {
      process.kill(pid)
      for (const folder of folders) rmSync(folder, { recursive: true, force: true })
    } catch {
      // it has ended by itself, or holds its files a moment longer
    }
  }
  process.once('exit', onExit)
  return () => process.off('exit', onExit)
}
