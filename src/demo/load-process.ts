import { spawn, type ChildProcess } from 'node:child_process'
import { closeSync, openSync } from 'node:fs'
import { dieWithParent } from '../dev/die-with-parent.ts'
import { CrossfadeError } from '../errors/index.ts'
import type { LoadCommand, LoadFigures, LoadMessage, LoadOptions, LoadReport } from './load.ts'
import { ownScript } from './own-script.ts'

/** The application's process, seen from the demo. */
export interface Load {
  /** The newest figures. */
  readonly figures: LoadFigures | undefined
  /** Replaces the first release by the one that follows the flags. */
  deploy(): Promise<void>
  /** Returns the times so far, and forgets them. */
  forget(): Promise<LoadReport>
  /** Ends all sessions in good order, and stores the ledger in `demo.ledger`. */
  stop(): Promise<LoadReport>
  kill(): void
}

export function startLoad(options: LoadOptions, logFile: string): Load {
  const log = openSync(logFile, 'a')
  // A process group of its own: Ctrl-C is for the demo, which then ends the load in its own way.
  const child = spawn(process.execPath, [...process.execArgv, ownScript('./load'), JSON.stringify(options)], {
    stdio: ['ignore', log, log, 'ipc'],
    detached: true,
  })
  closeSync(log)
  const release = child.pid === undefined ? undefined : dieWithParent(child.pid, 'SIGKILL')
  child.once('exit', () => release?.())
  let figures: LoadFigures | undefined
  child.on('message', (message: LoadMessage) => {
    if (message.kind === 'figures') figures = message
  })
  const tell = (command: LoadCommand): Promise<LoadReport> => answerOf(child, command, logFile)
  return {
    get figures() {
      return figures
    },
    async deploy() {
      await tell('deploy')
    },
    forget: () => tell('forget'),
    stop: () => tell('stop'),
    kill: () => void child.kill('SIGKILL'),
  }
}

function answerOf(child: ChildProcess, command: LoadCommand, logFile: string): Promise<LoadReport> {
  return new Promise((resolve, reject) => {
    const settle = (settled: () => void): void => {
      child.off('message', onMessage)
      child.off('exit', onExit)
      settled()
    }
    const onMessage = (message: LoadMessage): void => {
      if (message.kind === 'done' && message.command === command) settle(() => resolve(message.report))
    }
    const onExit = (): void =>
      settle(() =>
        reject(
          new CrossfadeError({
            kind: 'bug',
            code: 'INTERNAL.UNEXPECTED',
            message: `The process of the demo's load ended before it had answered "${command}".`,
            mend: `See ${logFile}.`,
          }),
        ),
      )
    child.on('message', onMessage)
    child.once('exit', onExit)
    if (child.connected) child.send(command)
    else onExit()
  })
}
