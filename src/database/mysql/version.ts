import type { ServerVersion } from '../examination.ts'

/** Replication makes some MariaDB servers begin with 5.5.5-; the name is always there. */
export const isMariaDb = (version: string): boolean => /mariadb/i.test(version)

/** SHOW REPLICA STATUS came with MySQL 8.0.22; 10.11 is the oldest MariaDB that the tests run against. */
const oldest = {
  mysql: { text: 'MySQL 8.0.22', number: 80_022 },
  mariadb: { text: 'MariaDB 10.11', number: 101_100 },
}

/**
 * What a server says of its version, read for its numbers: MariaDB, Percona Server and Aurora say more than MySQL does, and after 9.7
 * the numbers of MySQL are those of a calendar. Aurora gives no third number: it is that of its oldest release.
 */
export function parseVersion(version: string, comment: string): ServerVersion {
  const engine = isMariaDb(version) ? 'mariadb' : 'mysql'
  const [, major = '0', minor = '0', patch] = /^(?:5\.5\.5-)?(\d+)\.(\d+)(?:\.(\d+))?/.exec(version) ?? []
  const isAurora = /aurora/i.test(version)
  const product =
    engine === 'mariadb'
      ? 'MariaDB'
      : isAurora
        ? 'Aurora MySQL'
        : /percona/i.test(comment)
          ? 'Percona Server'
          : 'MySQL'
  const third = patch ?? (isAurora ? '23' : '0')
  return {
    text: `${product} ${[major, minor, ...(patch === undefined ? [] : [patch])].join('.')}`,
    number: Number(major) * 10_000 + Number(minor) * 100 + Number(third),
    oldest: oldest[engine],
    deadlockTimeoutMs: undefined,
  }
}
