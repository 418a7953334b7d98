import { expect, test } from 'vitest'
import { fit, maskSecrets, visibleLength } from './streams.ts'

test('the password of a URL is masked, whatever is around it', () => {
  expect(maskSecrets('postgres://me:s3cr3t@db:5432/app')).toBe('postgres://me:***@db:5432/app')
  expect(maskSecrets('at "mysql://root:p@ss/word@db/x", and http://a@b')).toBe(
    'at "mysql://root:***@db/x", and http://a@b',
  )
  expect(maskSecrets('{"url":"postgres://u:x@h/d","by":"ops@example.com"}')).toBe(
    '{"url":"postgres://u:***@h/d","by":"ops@example.com"}',
  )
})

test('a URL without a password, and the example of one, stay as they are', () => {
  for (const text of [
    'postgres://me@db/app',
    'http://127.0.0.1:8233/x',
    'postgres://user:password@host:5432/app',
  ])
    expect(maskSecrets(text)).toBe(text)
})

test('a line is cut to what is seen, not to its escapes', () => {
  const red = '\u001b[31mabcdef\u001b[39m'
  expect(visibleLength(red)).toBe(6)
  expect(fit(red, 6)).toBe(red)
  expect(fit(red, 4)).toBe('\u001b[31mabc\u001b[39m…')
})
