import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { inject, type TestContext } from 'vitest'
import { required } from './migration.ts'
import type { TestDatabase } from './postgres.ts'

const folder = fileURLToPath(new URL('../../examples/python-client', import.meta.url))

/** What examples/python-client/service.py says when it ends: what it counted, by its threads together. */
export interface PythonCounts {
  readonly done: number
  readonly failed: readonly string[]
  /** Own writes that it did not read back. */
  readonly wrong: readonly string[]
  readonly 'old write': number
  readonly 'new write': number
  readonly 'old read': number
  readonly 'new read': number
}

export interface PythonService {
  /** From here on it writes and reads, until it is told to end. */
  begin(): void
  kill(signal: 'SIGSTOP' | 'SIGCONT'): void
  end(): Promise<PythonCounts>
}

/** Runs it as one instance of the application, which has announced itself by then. */
export async function startPythonService(
  t: Pick<TestContext, 'onTestFinished'>,
  database: TestDatabase,
  { migration, instance, leaseSec }: { migration: string; instance: string; leaseSec: number },
): Promise<PythonService> {
  const child = spawn('python3', ['service.py', migration, instance, String(leaseSec)], {
    cwd: folder,
    env: {
      ...process.env,
      PYTHONPATH: required(inject('psycopg'), 'psycopg'),
      PYTHONDONTWRITEBYTECODE: '1',
      DATABASE_URL: database.url,
    },
    stdio: ['pipe', 'pipe', 'inherit'],
  })
  const exited = once(child, 'exit')
  t.onTestFinished(async () => {
    child.kill('SIGKILL')
    await exited
  })
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]()
  const next = async (): Promise<unknown> => {
    const { value } = (await lines.next()) as { value: string | undefined }
    if (value === undefined) throw new Error('The service in Python has ended: what it said stands above.')
    return JSON.parse(value) as unknown
  }
  await next()
  return {
    begin: () => void child.stdin.write('begin\n'),
    kill: (signal) => void child.kill(signal),
    async end() {
      child.stdin.end()
      return (await next()) as PythonCounts
    },
  }
}
