import { mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'
import ts from 'typescript'
import { describe, expect, test } from 'vitest'
import { definitionJsonSchema, resolveMigration } from '../../src/index.ts'
import { applicationMetrics, workerMetrics } from '../../src/telemetry/metrics.ts'

const root = fileURLToPath(new URL('../..', import.meta.url))

/** README and docs, without what a machine wrote or nobody reads as a page. */
function pages(): string[] {
  const docs = readdirSync(join(root, 'docs'), { withFileTypes: true, recursive: true })
    .filter((entry) => entry.isFile() && entry.name.endsWith('.md'))
    .map((entry) => join(entry.parentPath, entry.name))
  return [join(root, 'README.md'), join(root, 'CONTRIBUTING.md'), ...docs]
}

const blocks = pages().flatMap((page) =>
  [...readFileSync(page, 'utf8').matchAll(/```ts\n([\s\S]*?)```/g)]
    .map((match, i) => ({ name: `${relative(root, page)} #${i + 1}`, code: match[1] ?? '' }))
    .filter(({ code }) => code.includes("from 'crossfade-db")),
)

describe('documentation', () => {
  test('the TypeScript blocks that import the package compile', () => {
    expect(blocks.length).toBeGreaterThan(0)
    const folder = mkdtempSync(join(root, 'test/packaging/.docs-'))
    try {
      const files = blocks.map(({ code }, i) => {
        const file = join(folder, `block-${i}.ts`)
        writeFileSync(file, code)
        return file
      })
      const config = ts.readConfigFile(join(root, 'tsconfig.json'), (file) => ts.sys.readFile(file))
      const { options } = ts.parseJsonConfigFileContent(config.config, ts.sys, root)
      const program = ts.createProgram(files, {
        ...options,
        noEmit: true,
        paths: {
          'crossfade-db': [join(root, 'src/index.ts')],
          'crossfade-db/app': [join(root, 'src/app/index.ts')],
          'crossfade-db/app/openfeature': [join(root, 'src/app/openfeature.ts')],
          'crossfade-db/*': [join(root, 'src/*.ts')],
        },
      })
      const problems = ts
        .getPreEmitDiagnostics(program)
        .filter((problem) => problem.file?.fileName.startsWith(folder))
        .map(
          (problem) =>
            `${blocks[files.indexOf(problem.file?.fileName ?? '')]?.name}: ${ts.flattenDiagnosticMessageText(problem.messageText, '\n')}`,
        )
      expect(problems).toEqual([])
    } finally {
      rmSync(folder, { recursive: true })
    }
  })

  test('the definition in the README is valid', () => {
    const block = blocks.find(({ code }) => code.includes('defineMigration'))?.code ?? ''
    const literal = /defineMigration\(([\s\S]*)\)\s*$/.exec(block.trim())?.[1] ?? ''
    const definition = new Function(`return (${literal})`)() as unknown
    expect(resolveMigration(definition).mappings).toHaveLength(2)
  })

  test('every link to a file of the repository leads somewhere', () => {
    const dead = pages().flatMap((page) =>
      [...readFileSync(page, 'utf8').matchAll(/\]\((?!https?:|#)([^)#\s]+)(#[^)]*)?\)/g)]
        .map((match) => join(page, '..', match[1] ?? ''))
        .filter((target) => !ts.sys.fileExists(target) && !ts.sys.directoryExists(target))
        .map((target) => `${relative(root, page)} → ${relative(root, target)}`),
    )
    expect(dead).toEqual([])
  })

  test('the reference of the metrics says of each what the code says', () => {
    const reference = readFileSync(join(root, 'docs/reference/metrics.md'), 'utf8')
    const rows = [
      ...reference.matchAll(/^\| `([^`]+)`\s*\| (\w+)\s*\| ([^|]+?)\s*\| ([^|]+?)\s*\| (.+?)\s*\|$/gm),
    ]
    const expected = [...Object.values(applicationMetrics), ...Object.values(workerMetrics)].map(
      ({ name, isPrefixed, kind, unit, says, ...more }) => [
        isPrefixed ? `<prefix>.${name}` : name,
        kind,
        unit,
        'attributes' in more
          ? Object.entries<readonly string[]>(more.attributes)
              .map(([key, values]) => `\`${key}\`: ${values.join(', ')}`)
              .join('; ')
          : '–',
        says,
      ],
    )
    expect(rows.map(([, ...cells]) => cells)).toEqual(expected)
  })

  test('the reference of the definition names every setting', () => {
    const reference = readFileSync(join(root, 'docs/reference/definition.md'), 'utf8')
    const schema = definitionJsonSchema() as {
      properties: Record<string, { properties?: Record<string, unknown> }>
    }
    const missing = Object.entries(schema.properties).flatMap(([group, { properties }]) =>
      Object.keys(properties ?? {}).filter(
        (name) => !new RegExp(`${group}\\.[^|]*\\b${name}\\b`).test(reference),
      ),
    )
    expect(Object.keys(schema.properties).length).toBeGreaterThan(10)
    expect(missing).toEqual([])
  })
})
