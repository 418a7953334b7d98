import { accessSync, constants, existsSync, readFileSync, statSync } from 'node:fs'
import { homedir } from 'node:os'
import { delimiter, dirname, join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'

/**
 * Where fetched binaries are kept: CROSSFADE_CACHE, else `.cache` of a clone of this project, else the user's own cache.
 * scripts/setup.mjs fills the same folder.
 */
export function cacheFolder(): string {
  const given = process.env['CROSSFADE_CACHE']
  if (given) return resolve(given)
  const root = dirname(dirname(dirname(fileURLToPath(import.meta.url))))
  if (existsSync(join(root, 'scripts', 'setup.mjs')) && isOurs(root)) return join(root, '.cache')
  return join(process.env['XDG_CACHE_HOME'] || join(homedir(), '.cache'), 'crossfade')
}

function isOurs(root: string): boolean {
  try {
    return (
      (JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as { name?: unknown }).name ===
      'crossfade-db'
    )
  } catch {
    return false
  }
}

/** The first executable file of that name on the PATH. */
export function findOnPath(name: string): string | undefined {
  return (process.env['PATH'] ?? '')
    .split(delimiter)
    .map((folder) => join(folder, name))
    .find(isExecutable)
}

export function isExecutable(file: string): boolean {
  try {
    accessSync(file, constants.X_OK)
    return statSync(file).isFile()
  } catch {
    return false
  }
}
