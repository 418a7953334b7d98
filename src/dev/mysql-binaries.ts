import { spawnSync } from 'node:child_process'
import { existsSync, readdirSync } from 'node:fs'
import { dirname, join, resolve } from 'node:path'
import { CrossfadeError } from '../errors/index.ts'
import { cacheFolder, findOnPath, isExecutable } from './cache-folder.ts'

export type MysqlEngine = 'mysql' | 'mariadb'

export interface MysqlBinaries {
  readonly engine: MysqlEngine
  /** As the server prints it. */
  readonly version: string
  /** The command of the server, with what stands before its options. */
  readonly server: readonly string[]
  /** Where it finds its messages. */
  readonly placeOptions: readonly string[]
  /** MariaDB's own program that makes a data folder; MySQL's server does that itself. */
  readonly installer: string | undefined
}

const environmentVariable = { mysql: 'CROSSFADE_MYSQLD', mariadb: 'CROSSFADE_MARIADBD' } as const

/**
 * A server's binaries, as something that can be run here: named by the environment, on the PATH, or what scripts/setup.mjs has fetched.
 * @throws DATABASE.NO_BINARIES with what installs them
 */
export function findMysql(engine: MysqlEngine): MysqlBinaries {
  const named = process.env[environmentVariable[engine]]
  const candidates = named ? [[resolve(named)]] : [...onPath(engine), ...inCache(engine)]
  for (const server of candidates) {
    const version = versionOf(server)
    // Debian's MariaDB is called mysqld, too.
    if (version === undefined || /MariaDB/i.test(version) !== (engine === 'mariadb')) continue
    const binary = server.at(-1) ?? ''
    const base = dirname(dirname(binary))
    const installer = [join(base, 'bin', 'mariadb-install-db'), findOnPath('mariadb-install-db')].find(
      (file) => file !== undefined && isExecutable(file),
    )
    if (engine === 'mariadb' && installer === undefined) continue
    return {
      engine,
      version,
      server,
      placeOptions: [`--basedir=${base}`, `--lc-messages-dir=${join(base, 'share', 'mysql')}`],
      installer,
    }
  }
  const found = named
    ? `${environmentVariable[engine]}=${named} is no ${engine} server that runs here.`
    : undefined
  throw new CrossfadeError({
    kind: 'unavailable',
    code: 'DATABASE.NO_BINARIES',
    ...(engine === 'mysql'
      ? {
          message: found ?? 'There is no MySQL server on this machine.',
          mend: 'Get one: node scripts/setup.mjs --tests (on Debian), brew install mysql, or name it: CROSSFADE_MYSQLD=/path/to/mysqld',
        }
      : {
          message: found ?? 'There is no MariaDB server with mariadb-install-db on this machine.',
          mend: 'Install it: apt-get install mariadb-server-core mariadb-client-core (or brew install mariadb), or name it: CROSSFADE_MARIADBD=/path/to/mariadbd',
        }),
  })
}

function onPath(engine: MysqlEngine): string[][] {
  const name = engine === 'mysql' ? 'mysqld' : 'mariadbd'
  return [findOnPath(name), `/usr/sbin/${name}`]
    .filter((file) => file !== undefined && isExecutable(file))
    .map((file) => [file as string])
}

/** What came from another release of Debian runs with the loader and the libraries of that release, which came with it. */
function inCache(engine: MysqlEngine): string[][] {
  const usr = join(cacheFolder(), 'mysql', 'usr')
  if (engine !== 'mysql' || !existsSync(join(usr, 'lib'))) return []
  return readdirSync(join(usr, 'lib'))
    .filter((name) => name.endsWith('-linux-gnu'))
    .flatMap((name) => {
      const libraries = join(usr, 'lib', name)
      const loader = readdirSync(libraries).find((file) => /^ld-linux-.*\.so\.\d$/.test(file))
      return loader
        ? [[join(libraries, loader), '--library-path', libraries, join(usr, 'sbin', 'mysqld')]]
        : []
    })
}

function versionOf([program = '', ...args]: readonly string[]): string | undefined {
  const options = { encoding: 'utf8', timeout: 10_000 } as const
  const { error, status, stdout } = spawnSync(program, [...args, '--no-defaults', '--version'], options)
  return error === undefined && status === 0 ? stdout.trim() : undefined
}
