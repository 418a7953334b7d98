import { readFileSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, test } from 'vitest'
import { CrossfadeError, docsLink, isCrossfadeError, toEnvelope } from './index.ts'

const root = fileURLToPath(new URL('../..', import.meta.url))

function sources(folder: string): string[] {
  return readdirSync(folder, { withFileTypes: true, recursive: true })
    .filter((entry) => entry.isFile() && entry.name.endsWith('.ts') && !entry.name.endsWith('.test.ts'))
    .map((entry) => join(entry.parentPath, entry.name))
}

const codes = new Set(
  sources(join(root, 'src')).flatMap((file) =>
    [
      ...readFileSync(file, 'utf8').matchAll(
        /'((?:CLI|CONFIG|DEFINITION|PLAN|DATABASE|DDL|SYNC|FLAGS|BACKFILL|VERIFY|CUTOVER|CONTRACT|TEMPORAL|INTERNAL)\.[A-Z_]+)'/g,
      ),
    ].map((match) => match[1] ?? ''),
  ),
)

const sample = new CrossfadeError({
  kind: 'refused',
  code: 'PLAN.DRIFT',
  message: 'what',
  mend: 'how',
  details: { table: 't' },
})

describe('errors', () => {
  test('every code that the sources raise is explained in docs/errors.md, and none is explained that nobody raises', () => {
    const docs = readFileSync(join(root, 'docs/errors.md'), 'utf8')
    const explained = [...docs.matchAll(/`([A-Z]+\.[A-Z_]+)`/g)].map((match) => match[1] ?? '')
    expect([...codes].filter((code) => !explained.includes(code))).toEqual([])
    expect(explained.filter((code) => !codes.has(code))).toEqual([])
    for (const code of codes) expect(docs).toContain(`id="${docsLink(code).split('#')[1]}"`)
  })

  test('namespaces are a closed list', () => {
    const known = [
      'CLI',
      'CONFIG',
      'DEFINITION',
      'PLAN',
      'DATABASE',
      'DDL',
      'SYNC',
      'FLAGS',
      'BACKFILL',
      'VERIFY',
      'CUTOVER',
      'CONTRACT',
      'TEMPORAL',
      'INTERNAL',
    ]
    expect([...codes].filter((code) => !known.includes(code.split('.')[0] ?? ''))).toEqual([])
  })

  test('an error is recognised across JSON, and its envelope holds neither cause nor stack', () => {
    const json = JSON.parse(JSON.stringify(sample)) as unknown
    expect(isCrossfadeError(json)).toBe(true)
    expect(json).toEqual({
      kind: 'refused',
      code: 'PLAN.DRIFT',
      message: 'what',
      mend: 'how',
      details: { table: 't' },
    })
    expect(toEnvelope(sample)).toEqual(json)
    expect(isCrossfadeError(new Error('PLAN.DRIFT'))).toBe(false)
  })
})
