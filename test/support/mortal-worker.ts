import { fork, type ChildProcess } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { buildSync } from 'esbuild'
import type { TestContext } from 'vitest'
import type { Activities } from '../../src/activities/contract.ts'

export interface MortalOrder {
  readonly name: keyof Activities
  readonly input: unknown
  /** Whether it kills itself at all. */
  readonly dies: boolean
  /** The commits after which it lives on, by their labels. */
  readonly survived: readonly string[]
}

export interface MortalAnswer {
  readonly ready?: true
  readonly result?: unknown
  /** What the attempt said that it was doing, as labels begin. */
  readonly steps?: readonly string[]
  readonly failed?: string
  /** The label of the commit after which it is killed now. */
  readonly died?: string
}

const root = fileURLToPath(new URL('../..', import.meta.url))

let program: string | undefined

/** Bundled, because hundreds are started: in one file it is there in a third of the time. */
function programFile(): string {
  if (program !== undefined) return program
  program = join(mkdtempSync(join(tmpdir(), 'crossfade-mortal-')), 'worker.mjs')
  buildSync({
    entryPoints: [join(root, 'test', 'support', 'programs', 'mortal-worker.ts')],
    outfile: program,
    bundle: true,
    platform: 'node',
    format: 'esm',
    target: 'node20',
    logLevel: 'error',
    // What is not ESM in it still asks for Node's own modules by require.
    banner: {
      js: `import { createRequire } from 'node:module'; const require = createRequire(import.meta.url);`,
    },
  })
  const folder = dirname(program)
  process.once('exit', () => rmSync(folder, { recursive: true, force: true }))
  return program
}

/**
 * A process that runs activities of ours as a worker does, and is killed with SIGKILL after each of its commits: the first time that it
 * comes to one, it dies there, so that the next process finds what was committed and nothing else.
 */
export class MortalWorker {
  readonly #url: string
  #next: Promise<ChildProcess>
  #current: ChildProcess | undefined
  readonly #children: ChildProcess[] = []
  readonly #survived: string[]
  /** The steps of DDL that were begun, as labels begin. */
  readonly steps = new Set<string>()
  #isOver = false

  /** `survived`: commits after which it was killed before, in another life. */
  constructor(t: Pick<TestContext, 'onTestFinished'>, url: string, survived: readonly string[] = []) {
    this.#survived = [...survived]
    this.#url = url
    this.#next = this.#spawn()
    t.onTestFinished(() => this.end())
  }

  /** The commits after which it was killed. */
  get deaths(): readonly string[] {
    return this.#survived
  }

  /** Runs one attempt: it ends with the activity's result, or in a death, whose label is told. */
  async attempt(
    name: keyof Activities,
    input: unknown,
    dies: boolean,
  ): Promise<{ readonly result: unknown } | { readonly died: string }> {
    if (this.#current === undefined) {
      this.#current = await this.#next
      this.#next = this.#spawn() // starts while this one works
    }
    const child = this.#current
    const order: MortalOrder = { name, input, dies, survived: this.#survived }
    const answer = await new Promise<MortalAnswer>((resolve, reject) => {
      let died: string | undefined
      const onMessage = (message: MortalAnswer): void => {
        if (message.died !== undefined) died = message.died
        else if (message.ready === undefined) settle(() => resolve(message))
      }
      const onExit = (code: number | null, signal: string | null): void =>
        settle(() => {
          if (died !== undefined && signal === 'SIGKILL') resolve({ died })
          else reject(new Error(`The worker ended by itself in ${name}: ${code ?? signal}`))
        })
      const settle = (end: () => void): void => {
        child.off('message', onMessage)
        child.off('exit', onExit)
        end()
      }
      child.on('message', onMessage)
      child.on('exit', onExit)
      child.send(order)
    })
    for (const step of answer.steps ?? []) this.steps.add(step)
    if (answer.failed !== undefined) throw new Error(`${name} failed: ${answer.failed}`)
    if (answer.died === undefined) return { result: answer.result }
    this.#survived.push(answer.died)
    this.#current = undefined
    return { died: answer.died }
  }

  /** The most memory that the process under way has held. */
  peakBytes(): number {
    const status = readFileSync(`/proc/${this.#current?.pid ?? 'self'}/status`, 'utf8')
    return 1024 * Number(/^VmHWM:\s+(\d+) kB$/m.exec(status)?.[1])
  }

  /** SIGSTOP: it keeps its connections, and does not know that time passes. */
  freeze(): void {
    this.#current?.kill('SIGSTOP')
  }

  thaw(): void {
    this.#current?.kill('SIGCONT')
  }

  /** Nobody is connected any more, until the next attempt. */
  async rest(): Promise<void> {
    const child = this.#current
    this.#current = undefined
    if (child) await killed(child)
  }

  async end(): Promise<void> {
    if (this.#isOver) return
    this.#isOver = true
    await Promise.all(this.#children.map(killed))
  }

  #spawn(): Promise<ChildProcess> {
    const child = fork(programFile(), [this.#url], {
      cwd: root,
      stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
    })
    this.#children.push(child)
    return new Promise((resolve) => child.once('message', () => resolve(child)))
  }
}

function killed(child: ChildProcess): Promise<void> {
  return new Promise((resolve) => {
    if (child.exitCode !== null || child.signalCode !== null) return resolve()
    child.once('exit', () => resolve())
    child.kill('SIGKILL')
  })
}
