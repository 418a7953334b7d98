import { mkdirSync, mkdtempSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { gunzipSync, gzipSync } from 'node:zlib'
import { buildSync } from 'esbuild'

/**
 * The code of a version beside its histories: its workflow, and its activities with the way into a database. Packages are left out, as
 * a later version brings its own.
 */

const root = fileURLToPath(new URL('../..', import.meta.url))
const released = fileURLToPath(new URL('released/', import.meta.url))

const entries = {
  workflows: `export { migration } from './src/workflows/index.ts'`,
  activities: `export { createActivities } from './src/activities/index.ts'; export { openDatabase } from './src/database/index.ts'`,
} as const

export function keepCode(version: string): void {
  mkdirSync(join(released, version), { recursive: true })
  for (const [name, contents] of Object.entries(entries)) {
    const { outputFiles } = buildSync({
      stdin: { contents, resolveDir: root, loader: 'ts' },
      bundle: true,
      write: false,
      packages: 'external',
      platform: 'node',
      format: 'esm',
      target: 'es2022',
      minifyWhitespace: true,
    })
    writeFileSync(join(released, version, `${name}.js.gz`), gzipSync(outputFiles[0]?.contents ?? ''))
  }
}

/** Both files of a version, where packages are found from. */
export function keptCode(version: string): { readonly workflows: string; readonly activities: string } {
  const folder = mkdtempSync(join(root, 'node_modules', '.crossfade-released-'))
  const unpack = (name: string): string => {
    const file = join(folder, `${name}.mjs`.replace('workflows.mjs', 'workflows.js'))
    writeFileSync(file, gunzipSync(readFileSync(join(released, version, `${name}.js.gz`))))
    return file
  }
  return { workflows: unpack('workflows'), activities: unpack('activities') }
}
