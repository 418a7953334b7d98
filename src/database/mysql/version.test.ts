import { expect, test } from 'vitest'
import { isMariaDb, parseVersion } from './version.ts'

test.each([
  ['9.7.4-2', '(Debian)', 'MySQL 9.7.4', 90_704],
  ['8.0.36', 'MySQL Community Server - GPL', 'MySQL 8.0.36', 80_036],
  ['8.4.3-3', 'Percona Server (GPL), Release 3', 'Percona Server 8.4.3', 80_403],
  ['26.7.0', 'MySQL Community Server - GPL', 'MySQL 26.7.0', 260_700],
  ['8.0.mysql_aurora.3.05.2', 'Source distribution', 'Aurora MySQL 8.0', 80_023],
  ['10.11.19-MariaDB-0+deb12u1-log', 'Debian 12', 'MariaDB 10.11.19', 101_119],
  ['5.5.5-10.6.14-MariaDB', 'managed by https://aws.amazon.com/rds/', 'MariaDB 10.6.14', 100_614],
  ['11.8.2-MariaDB-ubu2404', 'mariadb.org binary distribution', 'MariaDB 11.8.2', 110_802],
  ['5.7.44-log', 'MySQL Community Server (GPL)', 'MySQL 5.7.44', 50_744],
])('%s (%s) is %s', (version, comment, text, number) => {
  const parsed = parseVersion(version, comment)
  expect(parsed).toMatchObject({ text, number })
  const isOld = text === 'MariaDB 10.6.14' || text === 'MySQL 5.7.44'
  expect(parsed.number < parsed.oldest.number).toBe(isOld)
  expect(parsed.oldest.text.startsWith('MariaDB')).toBe(isMariaDb(version))
})
