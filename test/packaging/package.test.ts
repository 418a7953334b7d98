import { execFileSync } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'

const root = fileURLToPath(new URL('../..', import.meta.url))

interface Manifest {
  readonly version: string
  readonly bin: { readonly crossfade: string }
  readonly exports: Readonly<Record<string, string | { readonly types: string; readonly default: string }>>
}

const manifest = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as Manifest

/** The package as a user gets it: packed, unpacked, with its dependencies beside it. */
let user = ''
let installed = ''

beforeAll(() => {
  execFileSync('npm', ['run', 'build'], { cwd: root, stdio: 'pipe' })
  user = mkdtempSync(join(tmpdir(), 'crossfade-user-'))
  const [packed] = JSON.parse(
    execFileSync('npm', ['pack', '--json', '--pack-destination', user], { cwd: root, encoding: 'utf8' }),
  ) as { filename: string }[]
  installed = join(user, 'node_modules/crossfade-db')
  mkdirSync(installed, { recursive: true })
  execFileSync('tar', ['xzf', join(user, packed?.filename ?? ''), '--strip-components=1', '-C', installed])
  symlinkSync(join(root, 'node_modules'), join(installed, 'node_modules'))
  writeFileSync(join(user, 'package.json'), JSON.stringify({ type: 'module' }))
})

afterAll(() => {
  rmSync(user, { recursive: true, force: true })
})

const node = (script: string): string =>
  execFileSync(process.execPath, ['--input-type=module', '-e', script], { cwd: user, encoding: 'utf8' })

describe('the packed package', () => {
  test('has every file that it exports, types included', () => {
    const files = Object.values(manifest.exports).flatMap((entry) =>
      typeof entry === 'string' ? [entry] : [entry.types, entry.default],
    )
    expect([...files, manifest.bin.crossfade].filter((file) => !existsSync(join(installed, file)))).toEqual(
      [],
    )
    expect(existsSync(join(installed, 'dist/workflow-bundle.js'))).toBe(true)
  })

  test('holds no sources, tests or local files', () => {
    for (const name of ['src', 'test', '.cache', 'scripts'])
      expect(existsSync(join(installed, name))).toBe(false)
  })

  test('every entry can be imported', () => {
    for (const entry of Object.keys(manifest.exports).filter(
      (name) => name !== './package.json' && name !== './workflows',
    ))
      expect(node(`console.log(Object.keys(await import('crossfade-db${entry.slice(1)}')).length > 0)`)).toBe(
        'true\n',
      )
  })

  test('a definition can be made without loading Temporal or a driver', () => {
    const loaded = node(
      `await import('crossfade-db'); const { createRequire } = await import('node:module'); ` +
        `const cached = Object.keys(createRequire(import.meta.url).cache); ` +
        `console.log(JSON.stringify(cached.filter((file) => /node_modules.(@temporalio|pg|mysql2)./.test(file))))`,
    )
    expect(JSON.parse(loaded)).toEqual([])
  })

  test('a service pays little for its side: no Temporal, no driver, at most 30 ms and 10 MiB', () => {
    const measured = Array.from({ length: 5 }, () =>
      JSON.parse(
        node(
          `const { createRequire } = await import('node:module'); await import('node:fs'); await import('node:crypto'); globalThis.gc?.(); ` +
            `const before = process.memoryUsage().rss, cpu = process.cpuUsage(); await import('crossfade-db/app'); ` +
            `const { user, system } = process.cpuUsage(cpu), ms = (user + system) / 1000, mib = (process.memoryUsage().rss - before) / 2 ** 20; ` +
            `const cached = Object.keys(createRequire(import.meta.url).cache); ` +
            `console.log(JSON.stringify({ ms, mib, loaded: cached.filter((file) => /node_modules.(?!crossfade-db.dist)/.test(file)) }))`,
        ),
      ),
    ) as { ms: number; mib: number; loaded: string[] }[]
    expect(measured.flatMap(({ loaded }) => loaded)).toEqual([])
    // Time of a core, and the quietest of them: what else this machine does must not count.
    expect(Math.min(...measured.map(({ ms }) => ms))).toBeLessThan(30)
    expect(Math.min(...measured.map(({ mib }) => mib))).toBeLessThan(10)
  })

  test('a service without the optional peers loads its side, and needs one of them for OpenFeature alone', () => {
    const withoutPeers = (entry: string): string =>
      node(
        `import { register } from 'node:module'; ` +
          `register('data:text/javascript,' + encodeURIComponent("export async function resolve(name, context, next) { if (/^@open(telemetry|feature)/.test(name)) throw Object.assign(new Error(name), { code: 'ERR_MODULE_NOT_FOUND' }); return next(name, context) }")); ` +
          `const pool = { connect: () => Promise.reject(new Error('asked')), options: {} }; pool.constructor = class { on() {} end() {} connect() { return Promise.reject(new Error('asked')) } }; ` +
          `await import('crossfade-db/${entry}').then(({ createCrossfade }) => createCrossfade?.({ migration: 'm', database: pool })).catch(({ message }) => console.log(message))`,
      )
    expect(withoutPeers('app')).toBe('asked\n')
    expect(withoutPeers('app/openfeature')).toBe('@openfeature/server-sdk\n')
  })

  test('the command line answers', () => {
    const help = execFileSync(process.execPath, [join(installed, manifest.bin.crossfade), '--help'], {
      cwd: user,
      encoding: 'utf8',
    })
    expect(help).toContain('crossfade')
  })
})
