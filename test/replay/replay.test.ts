import { readFileSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { Worker, type WorkflowBundlePath } from '@temporalio/worker'
import { describe, expect, inject, test } from 'vitest'
import { required } from '../support/migration.ts'

const folder = fileURLToPath(new URL('histories/', import.meta.url))
const files = readdirSync(folder).filter((file) => file.endsWith('.json'))

interface History {
  readonly events: { activityTaskScheduledEventAttributes?: { activityType?: { name?: string } } }[]
}

const read = (file: string): History => JSON.parse(readFileSync(join(folder, file), 'utf8')) as History

const workflowBundle = (): WorkflowBundlePath => ({
  codePath: required(inject('workflowBundlePath'), 'the workflow bundle'),
})

const replay = (history: History): Promise<void> =>
  Worker.runReplayHistory({ workflowBundle: workflowBundle() }, history, 'crossfade/replayed')

describe('recorded histories', () => {
  test('there are some of every kind of life', () => {
    for (const kind of [
      'flags',
      'swap',
      'pause-configure-abort',
      'abort-after-retire',
      'trouble-resume',
      'ramp-rolled-back',
      'dry-run',
      'continue-as-new',
    ])
      expect(
        files.some((file) => file.includes(kind)),
        kind,
      ).toBe(true)
  })

  test.each(files)('%s replays', async (file) => {
    await replay(read(file))
  })

  test('a history that this code would not have made is noticed', async () => {
    const history = read(files.find((file) => file.includes('-flags')) ?? '')
    const scheduled = history.events.flatMap(
      (event) => event.activityTaskScheduledEventAttributes?.activityType ?? [],
    )
    const [first] = scheduled
    if (first) first.name = 'checkCapture' // it begins with a plan
    await expect(replay(history)).rejects.toThrow(/TMPRL1100/)
  })
})
