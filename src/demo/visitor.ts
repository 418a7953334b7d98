import { randomUUID } from 'node:crypto'
import { CrossfadeError } from '../errors/index.ts'
import { judgeRead, noteError, noteTime, type Application, type User } from './application.ts'
import { pickOperation, type Operation } from './operations.ts'
import type { ReadAnswer, WriteAnswer, WriteRequest } from './requests.ts'

/** One user of the service, over HTTP. */
export class Visitor implements User {
  readonly #application: Application
  readonly #url: string
  #lastEmail: string | undefined

  constructor(application: Application, url: string) {
    this.#application = application
    this.#url = url
  }

  close(): Promise<void> {
    return Promise.resolve()
  }

  async once(): Promise<void> {
    const operation = pickOperation(this.#application, this.#lastEmail)
    try {
      if (operation.kind === 'read') await this.#read(operation)
      else await this.#write(operation)
    } catch (error) {
      noteError(this.#application, operation, error)
      if (operation.kind === 'write' && !operation.rollsBack) this.#application.ledger.doubt(operation.ids)
    }
  }

  async #read({ id, email }: Operation & { kind: 'read' }): Promise<void> {
    const application = this.#application
    const expected = application.ledger.get(id)
    const { epoch: known } = application
    const by = email === undefined ? `id=${id}` : `email=${encodeURIComponent(email)}`
    const { found, side, primary, epoch, isFallback } = await this.#ask<ReadAnswer>(`/customers?${by}`)
    if (isFallback) application.fallbacks += 1
    // Who answers by older flags than somebody has answered by before may not know that the other side leads by now.
    const isLeading = side === primary && epoch >= known
    if (email === undefined) judgeRead(application, expected, found, isLeading)
    if (found) this.#lastEmail = found.email
  }

  async #write(operation: Operation & { kind: 'write' }): Promise<void> {
    const { steps, rollsBack } = operation
    const request: WriteRequest = { id: randomUUID(), steps, rollsBack }
    const { seen } = await this.#ask<WriteAnswer>('/writes', request)
    if (rollsBack) {
      this.#application.rolledBack += 1
      return
    }
    this.#application.ledger.acknowledge(seen)
    operation.acknowledged(seen)
  }

  async #ask<Answer extends { readonly epoch: number }>(path: string, body?: object): Promise<Answer> {
    const application = this.#application
    const startedAt = performance.now()
    const response = await fetch(
      `${this.#url}${path}`,
      body && { method: 'POST', body: JSON.stringify(body) },
    )
    const answer = await response.text()
    noteTime(application, performance.now() - startedAt, `${body ? 'POST' : 'GET'} ${path}`)
    if (!response.ok) throw failedRequest(response.status, answer)
    const parsed = JSON.parse(answer) as Answer
    application.epoch = Math.max(application.epoch, parsed.epoch)
    return parsed
  }
}

const failedRequest = (status: number, answer: string): CrossfadeError =>
  new CrossfadeError({
    kind: 'bug',
    code: 'INTERNAL.UNEXPECTED',
    message: `The service answered ${status}: ${answer.slice(0, 200)}`,
    mend: 'Report it with the versions.',
  })
