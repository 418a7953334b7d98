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

/** What a person does: More Actions, Send a Signal, the signal by its name, its JSON, Submit. */
async function sendSignal(page: Page, name: string, payload: object, picture?: string): Promise<void> {
  await page.getByRole('button', { name: 'More Actions' }).first().click()
  await page.getByText('Send a Signal').click()
  await page.getByText('Select a signal').click()
  await page
    .getByRole('option', { name: new RegExp(`^${name}`) })
    .first()
    .click()
  const editor = page.locator('[role="dialog"] .cm-content, [role="dialog"] textarea').first()
  await editor.click()
  await page.keyboard.insertText(JSON.stringify(payload))
  await page.getByRole('heading', { name: 'Send a Signal' }).click() // leaving the box formats the JSON
  if (picture !== undefined) await page.screenshot({ path: join(pictures, picture) })
  await page.getByRole('button', { name: 'Submit' }).click()
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
    const details = page.locator('body')
    await eventually(async () => (await details.innerText()).includes('Waiting for approval of expand'), {
      timeoutMs: 30_000,
      what: 'the details on the page',
    })
    const text = await details.innerText()
    expect(text).toContain(`{"gate":"expand","by":"your name","token":"${waiting.token}"}`)
    await page.screenshot({ path: join(pictures, 'gate.png') })

    await sendSignal(page, 'approve', { gate: 'expand', by: 'ana', token: waiting.token }, 'signal.png')
    await eventually(async () => (await phaseOf(handle)) === 'backfill', {
      timeoutMs: 30_000,
      what: 'the backfill',
    })
    await eventually(async () => ((await handle.status()).detail?.backfill.rowsDone ?? 0) > 0, {
      timeoutMs: 60_000,
      what: 'rows',
    })
    await page.reload()
    await eventually(async () => /Backfill\s+█*░/.test(await details.innerText()), {
      timeoutMs: 30_000,
      what: 'the bar',
    })
    await page.screenshot({ path: join(pictures, 'details.png') })

    await sendSignal(page, 'pause', { by: 'ana', reason: 'lunch' })
    await eventually(async () => (await handle.status()).waitingFor === 'resume', {
      timeoutMs: 30_000,
      what: 'the pause',
    })
    await page.reload()
    await eventually(async () => (await details.innerText()).includes('Paused by ana'), {
      timeoutMs: 30_000,
      what: 'the pause on the page',
    })
    await page.screenshot({ path: join(pictures, 'paused.png') })

    await sendSignal(page, 'abort', { by: 'ana', reason: 'only trying' })
    const { outcome } = await handle.result()
    expect(outcome).toBe('aborted')
    await page.reload()
    await eventually(async () => (await details.innerText()).includes('aborted, the old side serves'), {
      timeoutMs: 30_000,
      what: 'the end on the page',
    })
    await page.goto(page.url().replace('user-metadata', 'timeline'))
    await eventually(async () => (await details.innerText()).includes('approval gate: expand'), {
      timeoutMs: 30_000,
      what: 'the gate in the timeline',
    })
    await page.screenshot({ path: join(pictures, 'timeline.png') })
    await page.close()
  })

  test('an approval that does not fit is refused, and the page says why', async () => {
    const handle = await client.start(definition('ui-refusal'))
    await eventually(async () => (await handle.status()).detail?.gate, {
      timeoutMs: 30_000,
      what: 'the gate of expand',
    })
    const page = await openDetails(handle)
    await sendSignal(page, 'approve', { gate: 'expand', by: 'ana', token: 'wrong' })
    await eventually(
      async () =>
        (await page.locator('body').innerText()).includes('refused approve: the token does not fit'),
      { timeoutMs: 30_000, what: 'the refusal on the page' },
    ).catch(async () => {
      await page.reload()
      await eventually(
        async () =>
          (await page.locator('body').innerText()).includes('refused approve: the token does not fit'),
        { timeoutMs: 30_000, what: 'the refusal on the page' },
      )
    })
    expect((await handle.status()).detail?.gate?.approval).toBeUndefined()
    await handle.abort({ by: 'test' })
    await handle.result()
    await page.close()
  })
})
