import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { expect, onTestFinished, test } from 'vitest'

const script = fileURLToPath(new URL('summarise-tests.mjs', import.meta.url))

interface TestFile {
  status: 'passed' | 'failed'
  assertionResults: { status: 'passed' | 'failed' | 'skipped' | 'pending' | 'todo' }[]
}

function summarise(report: { testResults: TestFile[] } | string): {
  line: string | undefined
  code: number | null
} {
  const folder = mkdtempSync(join(tmpdir(), 'crossfade-summary-'))
  onTestFinished(() => rmSync(folder, { recursive: true }))
  const file = join(folder, 'report.json')
  writeFileSync(file, typeof report === 'string' ? report : JSON.stringify(report))
  const { stdout, status } = spawnSync(process.execPath, [script, file], { encoding: 'utf8' })
  return { line: stdout.trimEnd().split('\n').at(-1), code: status }
}

const fileOf = (
  status: TestFile['status'],
  ...tests: TestFile['assertionResults'][0]['status'][]
): TestFile => ({
  status,
  assertionResults: tests.map((state) => ({ status: state })),
})

test('counts over all files; what was skipped is named only where there is some', () => {
  const first = fileOf('passed', 'passed', 'passed')
  expect(summarise({ testResults: [first, fileOf('passed', 'passed')] })).toEqual({
    line: '3 passed, 0 failed',
    code: 0,
  })
  expect(summarise({ testResults: [first, fileOf('passed', 'skipped', 'pending', 'todo')] })).toEqual({
    line: '2 passed, 0 failed, 3 skipped',
    code: 0,
  })
  expect(summarise({ testResults: [first, fileOf('failed', 'passed', 'failed')] })).toEqual({
    line: '3 passed, 1 failed',
    code: 1,
  })
})

test('a file that could not be loaded, and a hook that failed after its tests, are failures', () => {
  const testResults = [fileOf('passed', 'passed'), fileOf('failed'), fileOf('failed', 'passed')]
  expect(summarise({ testResults })).toEqual({ line: '2 passed, 2 failed', code: 1 })
})

test('nothing that passed is a failure, and so is a report that was not finished', () => {
  expect(summarise({ testResults: [] })).toEqual({ line: '0 passed, 0 failed', code: 1 })
  expect(summarise('{"testResults":[')).toEqual({ line: '0 passed, 1 failed', code: 1 })
})
