import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, onTestFinished, test } from 'vitest'
import { chooseMigration, findConfigFile, loadDefinitions } from './config-file.ts'

function folderWith(files: Record<string, string>): string {
  const folder = mkdtempSync(join(tmpdir(), 'crossfade-config-'))
  onTestFinished(() => rmSync(folder, { recursive: true }))
  for (const [name, text] of Object.entries(files)) writeFileSync(join(folder, name), text)
  return folder
}

const body = (name: string): string =>
  `{ "name": "${name}", "kind": "table", "mappings": [{ "source": "a", "target": "b", "key": { "id": "id" }, "columns": { "x": true }, "reverse": false }] }`
const module = (...names: string[]): string =>
  `import { defineMigration } from 'crossfade-db'\nconst all: unknown[] = [${names.map((name) => `defineMigration(${body(name)})`).join(', ')}]\nexport default ${names.length === 1 ? 'all[0]' : 'all'}\n`

const load = (cwd: string, config?: string): ReturnType<typeof loadDefinitions> =>
  loadDefinitions({ cwd, config, environment: {} })

test('--config wins over CROSSFADE_CONFIG, which wins over the current folder', () => {
  const cwd = folderWith({ 'migration.config.js': '' })
  const environment = { CROSSFADE_CONFIG: 'b.ts' }
  expect(findConfigFile({ cwd, environment, config: 'a.ts' })).toEqual({
    path: join(cwd, 'a.ts'),
    from: '--config',
  })
  expect(findConfigFile({ cwd, environment })).toEqual({ path: join(cwd, 'b.ts'), from: 'CROSSFADE_CONFIG' })
  expect(findConfigFile({ cwd, environment: {} })).toEqual({
    path: join(cwd, 'migration.config.js'),
    from: 'the current folder',
  })
})

test('a file of a folder above is not looked for', () => {
  const cwd = folderWith({})
  expect(findConfigFile({ cwd, environment: {} })).toBeUndefined()
})

test('TypeScript imports crossfade-db wherever it lies, and may hold one definition or several', async () => {
  const cwd = folderWith({ 'migration.config.ts': module('people'), 'two.ts': module('people', 'orders') })
  expect((await load(cwd)).migrations.map(({ name }) => name)).toEqual(['people'])
  const two = await load(cwd, 'two.ts')
  expect(two.migrations.map(({ name }) => name)).toEqual(['people', 'orders'])
  expect(chooseMigration(two, 'orders').name).toBe('orders')
  expect(() => chooseMigration(two, undefined)).toThrow(
    expect.objectContaining({ code: 'CONFIG.NAME_NEEDED' }),
  )
  expect(() => chooseMigration(two, 'nope')).toThrow(
    expect.objectContaining({ code: 'CONFIG.NO_SUCH_MIGRATION' }),
  )
})

test('CommonJS may export it, too', async () => {
  const cwd = folderWith({ 'migration.config.js': `module.exports = ${body('people')}` })
  expect((await load(cwd)).migrations[0]?.name).toBe('people')
})

test('JSON is the same without a module', async () => {
  const cwd = folderWith({ 'migration.config.json': `[${body('people')}]` })
  expect((await load(cwd)).migrations[0]?.backfill.batchSize).toBe(500)
})

test.each([
  ['missing.ts', 'CONFIG.NOT_FOUND'],
  ['broken.ts', 'CONFIG.BROKEN'],
  ['broken.json', 'CONFIG.BROKEN'],
  ['throws.ts', 'CONFIG.BROKEN'],
  ['empty.ts', 'CONFIG.EMPTY'],
  ['twice.ts', 'CONFIG.DUPLICATE'],
  ['invalid.ts', 'DEFINITION.INVALID'],
])('%s is refused as %s', async (file, code) => {
  const cwd = folderWith({
    'broken.ts': 'import {',
    'broken.json': '{ "name": ',
    'throws.ts': 'throw new Error("no such variable")',
    'empty.ts': 'export const people = 1',
    'twice.ts': module('people', 'people'),
    'invalid.ts': 'export default { name: "people" }',
  })
  await expect(load(cwd, file)).rejects.toMatchObject({ code, kind: 'input' })
})
