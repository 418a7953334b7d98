import { mkdtempSync, mkdirSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { chromium, type Browser, type Page } from 'playwright-core'
import { pino } from 'pino'
import { afterAll, beforeAll, describe, expect, inject, test } from 'vitest'
import { connectCrossfade, type CrossfadeClient, type MigrationHandle } from '../../src/client.ts'
import { startTemporalServer, type TemporalServer } from '../../src/dev/temporal-server.ts'
import type { DefinitionInput } from '../../src/index.ts'
import { createWorker, type CrossfadeWorker } from '../../src/worker.ts'
import { searchAttributeNames } from '../../src/workflows/search-attributes.ts'
import { required } from '../support/migration.ts'
import { databaseForAll } from '../support/postgres.ts'
import { eventually } from '../support/wait.ts'

/** Pictures of what people see; `CROSSFADE_PICTURES=folder` keeps them. */
const pictures = process.env['CROSSFADE_PICTURES'] ?? mkdtempSync(join(tmpdir(), 'crossfade-pictures-'))

const definition = (name: string): DefinitionInput => ({
  name,
  kind: 'table',
  mappings: [
    {
      source: 'users',
      target: 'people',
      key: { id: 'id' },
      columns: { full_name: "first || ' ' || last", email: 'lower(email)' },
      reverse: {
        columns: {
          first: "split_part(full_name, ' ', 1)",
          last: "split_part(full_name, ' ', 2)",
          email: true,
        },
      },
    },
  ],
  expand: {
    tables: [
      {
        table: 'people',
        columns: { id: 'bigint NOT NULL', full_name: 'text NOT NULL', email: 'text NOT NULL' },
        primaryKey: ['id'],
        indexes: [{ name: 'people_email', on: '(email)' }],
      },
    ],
  },
  cutover: { ramp: [{ percent: 100, hold: '1h' }] },
  backfill: { batchSize: 100, maxBatchSize: 200, maxConcurrency: 2 },
})

const database = databaseForAll()
let temporal: TemporalServer
let worker: CrossfadeWorker
let client: CrossfadeClient
let browser: Browser

beforeAll(async () => {
  mkdirSync(pictures, { recursive: true })
  const { pool, url } = database.current
  await pool.query(
    'CREATE TABLE users (id int PRIMARY KEY, first text NOT NULL, last text NOT NULL, email text NOT NULL)',
  )
  await pool.query(
    `INSERT INTO users SELECT i, 'first' || i, 'last' || i, 'u' || i || '@example.com' FROM generate_series(1, 20000) i`,
  )
  await pool.query('ANALYZE users')
  temporal = await startTemporalServer({
    searchAttributes: Object.fromEntries(searchAttributeNames.map((name) => [name, 'Keyword' as const])),
  })
  worker = await createWorker({
    address: temporal.address,
    databaseUrls: { default: url },
    workflowBundlePath: required(inject('workflowBundlePath'), 'the workflow bundle'),
    log: pino({ level: 'silent' }),
  })
  client = await connectCrossfade({ address: temporal.address })
  browser = await chromium.launch({
    executablePath: required(inject('chromium'), 'Chromium'),
    args: [
      '--headless',
      '--no-sandbox',
      '--disable-gpu',
      '--disable-quic',
      '--no-first-run',
      '--disable-background-networking',
      '--disable-component-update',
      '--disable-sync',
    ],
  })
})

afterAll(async () => {
  await browser.close()
  await client.close()
  await worker.stop()
  await temporal.stop()
})

/** The tab of the workflow's page that shows its current details. */
async function openDetails(handle: MigrationHandle): Promise<Page> {
  const page = await browser.newPage({ viewport: { width: 1440, height: 1100 } })
  const { runId } = await handle.status()
  await page.goto(
    `${required(temporal.uiUrl, 'the UI')}/namespaces/default/workflows/${encodeURIComponent(handle.workflowId)}/${runId}/user-metadata`,
  )
  return page
}

/** Everything on the page as text: the UI renders Markdown in frames of its own. */
async function textOf(page: Page): Promise<string> {
  const texts = await Promise.all(
    page.frames().map((frame) =>
      frame
        .locator('body')
        .innerText({ timeout: 1000 })
        .catch(() => ''),
    ),
  )
  return texts.join('\n')
}

/** Waits for a text on the page, pressing the UI's own key for fresh details. */
async function untilPageSays(page: Page, what: string | RegExp): Promise<string> {
  return eventually(
    async () => {
      const text = await textOf(page)
      if (typeof what === 'string' ? text.includes(what) : what.test(text)) return text
      await page.keyboard.press('r')
      return false
    },
    { timeoutMs: 40_000, intervalMs: 500, what: `${String(what)} on the page` },
  )
}

type Kind = 'signal' | 'update'

const menuItem: Readonly<Record<Kind, string>> = { signal: 'Send a Signal', update: 'Send an Update' }

/** What a person does: More Actions, Send a Signal (or an Update), its name, its JSON, a click beside the box, Submit. */
async function send(page: Page, kind: Kind, name: string, payload: object, picture?: string): Promise<void> {
  // While a workflow moves, the UI may draw the page anew and close the form: a person opens it again, and so do we.
  await eventually(
    () =>
      fillForm(page, kind, name, payload).then(
        () => true,
        () => page.reload().then(() => false),
      ),
    { timeoutMs: 60_000, what: `the form of ${name}` },
  )
  if (picture !== undefined) await page.screenshot({ path: join(pictures, picture) })
  const dialog = page.locator('dialog[open]')
  await dialog.getByTestId('confirm-modal-button').click()
  await dialog.waitFor({ state: 'hidden' })
}

async function fillForm(page: Page, kind: Kind, name: string, payload: object): Promise<void> {
  const timeout = 8_000
  await page.getByRole('button', { name: 'More Actions' }).first().click({ timeout })
  await page.locator('.menu-item-wrapper:visible', { hasText: menuItem[kind] }).first().click({ timeout })
  const dialog = page.locator('dialog[open]')
  await dialog.getByTestId(`${kind}-select-button`).click({ timeout })
  const options = dialog.locator(`#${kind}-select-select [role=option]`)
  await options
    .filter({ hasText: new RegExp(`^\\s*${name}`) })
    .first()
    .click({ timeout })
  await dialog.locator('.cm-content').first().click({ timeout })
  await page.keyboard.insertText(JSON.stringify(payload))
  await dialog.getByText('Single JSON payload supported.').click({ timeout }) // leaving the box lays the JSON out
}

async function phaseOf(handle: MigrationHandle): Promise<string> {
  return (await handle.status()).detail?.phase ?? '?'
}

describe('the page of a migration in the Temporal UI', () => {
  test('shows where it stands and the exact signal; sending it from the form moves it on, pauses and aborts', async () => {
    const handle = await client.start(definition('ui-people'))
    const waiting = await eventually(async () => (await handle.status()).detail?.gate, {
      timeoutMs: 30_000,
      what: 'the gate of expand',
    })
    const page = await openDetails(handle)
    const text = await untilPageSays(page, 'Waiting for approval of expand')
    expect(text).toContain(`{"gate":"expand","by":"your name","token":"${waiting.token}"}`)
    await page.screenshot({ path: join(pictures, 'gate.png') })

    await send(page, 'signal', 'approve', { gate: 'expand', by: 'ana', token: waiting.token }, 'signal.png')
    await eventually(async () => (await phaseOf(handle)) === 'backfill', {
      timeoutMs: 30_000,
      what: 'the backfill',
    })
    await eventually(async () => ((await handle.status()).detail?.backfill.rowsDone ?? 0) > 0, {
      timeoutMs: 60_000,
      what: 'rows',
    })
    await untilPageSays(page, /Backfill\s+█*░/)
    await page.screenshot({ path: join(pictures, 'details.png') })

    await send(page, 'signal', 'pause', { by: 'ana', reason: 'lunch' })
    await eventually(async () => (await handle.status()).waitingFor === 'resume', {
      timeoutMs: 30_000,
      what: 'the pause',
    })
    await untilPageSays(page, 'Paused by ana')
    await page.screenshot({ path: join(pictures, 'paused.png') })

    await send(page, 'signal', 'abort', { by: 'ana', reason: 'only trying' })
    const { outcome } = await handle.result()
    expect(outcome).toBe('aborted')
    await page.reload()
    await untilPageSays(page, 'aborted, the old side serves')
    await page.goto(page.url().replace('user-metadata', 'timeline'))
    const timeline = await untilPageSays(page, 'winding down')
    for (const line of ['copying, lane 1 of 1', 'applying the change log', 'pause', 'abort'])
      expect(timeline).toContain(line)
    await page.screenshot({ path: join(pictures, 'timeline.png') })
    await page.close()
  })

  test('an approval that does not fit is refused: by signal the page says why, by update the form does', async () => {
    const handle = await client.start(definition('ui-refusal'))
    const gate = await eventually(async () => (await handle.status()).detail?.gate, {
      timeoutMs: 30_000,
      what: 'the gate of expand',
    })
    const page = await openDetails(handle)
    await send(page, 'signal', 'approve', { gate: 'expand', by: 'ana', token: 'wrong' })
    await untilPageSays(page, 'refused approve: the token does not fit')
    expect((await handle.status()).detail?.gate?.approval).toBeUndefined()

    await fillForm(page, 'update', 'approve', { gate: 'expand', by: 'ana', token: 'wrong' })
    const dialog = page.locator('dialog[open]')
    await dialog.getByTestId('confirm-modal-button').click()
    await eventually(async () => (await dialog.innerText()).includes('the token does not fit'), {
      timeoutMs: 20_000,
      what: 'the refusal in the form',
    })
    await page.screenshot({ path: join(pictures, 'update-refused.png') })
    await page.keyboard.press('Escape')
    await page.reload()

    await send(page, 'update', 'approve', { gate: 'expand', by: 'ana', token: gate.token })
    await eventually(async () => (await phaseOf(handle)) !== 'expand', {
      timeoutMs: 30_000,
      what: 'the next phase',
    })
    expect((await handle.audit()).some(({ what, by }) => what === 'approved expand' && by === 'ana')).toBe(
      true,
    )
    await handle.abort({ by: 'test' })
    await handle.result()
    await page.close()
  })
})
