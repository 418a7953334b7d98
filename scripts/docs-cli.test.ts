import { readFileSync } from 'node:fs'
import { expect, test } from 'vitest'
// @ts-expect-error -- a script without types
import { renderReference } from './docs-cli.mjs'

test('docs/reference/cli.md is current (npm run docs:cli writes it)', async () => {
  const render = renderReference as () => Promise<string>
  expect(readFileSync(new URL('../docs/reference/cli.md', import.meta.url), 'utf8')).toBe(await render())
})
