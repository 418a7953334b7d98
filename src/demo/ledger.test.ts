import { describe, expect, test } from 'vitest'
import { Ledger } from './ledger.ts'

describe('the ledger keeps the last acknowledged write of a key', () => {
  test('whatever order the answers come in', () => {
    const ledger = new Ledger()
    ledger.acknowledge([{ id: 1, version: 3, image: 'third' }])
    ledger.acknowledge([{ id: 1, version: 2, image: 'second' }])
    expect(ledger.get(1)).toEqual({ version: 3, image: 'third', isUncertain: false })
    expect(ledger.writes).toBe(2)
  })

  test('a deletion comes after the version that it deleted, and before the one that came back', () => {
    const ledger = new Ledger()
    ledger.acknowledge([{ id: 1, version: 5, image: undefined }])
    ledger.acknowledge([{ id: 1, version: 5, image: 'fifth' }])
    expect(ledger.get(1)?.image).toBeUndefined()
    ledger.acknowledge([{ id: 1, version: 6, image: 'back' }])
    expect(ledger.get(1)?.image).toBe('back')
  })

  test('a write without an answer leaves its key in doubt for good', () => {
    const ledger = new Ledger()
    ledger.acknowledge([{ id: 1, version: 1, image: 'first' }])
    ledger.doubt([1, 2])
    ledger.acknowledge([{ id: 1, version: 2, image: 'second' }])
    expect(ledger.get(1)).toEqual({ version: 2, image: 'second', isUncertain: true })
    expect(ledger.get(2)).toEqual({ version: 0, image: undefined, isUncertain: true })
    expect([...ledger.batches(1)].map((batch) => batch.length)).toEqual([1, 1])
  })
})
