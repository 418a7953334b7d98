import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, onTestFinished, test } from 'vitest'
import { loadDefinitions } from './config-file.ts'
import { renderTemplate, templates, type TemplateName } from './templates.ts'

const names = Object.keys(templates) as TemplateName[]

test.each(names.flatMap((name) => [[name, 'module', 'c.ts'] as const, [name, 'json', 'c.json'] as const]))(
  'the template %s as %s is a valid definition that says the same',
  async (name, format, file) => {
    const cwd = mkdtempSync(join(tmpdir(), 'crossfade-template-'))
    onTestFinished(() => rmSync(cwd, { recursive: true }))
    writeFileSync(join(cwd, file), renderTemplate(templates[name], 'accounts', format))
    const { migrations } = await loadDefinitions({ cwd, config: file, environment: {} })
    const { resolveMigration } = await import('../definition/index.ts')
    expect(migrations).toEqual([resolveMigration(templates[name].definition('accounts'))])
  },
)

test.each(names)('every comment of the template %s stands above something', (name) => {
  const text = renderTemplate(templates[name], 'accounts', 'module')
  for (const comment of Object.values(templates[name].comments)) expect(text).toContain(`// ${comment}\n`)
})
