import type { Application } from './application.ts'
import { seededId } from './customers.ts'
import type { Seen } from './ledger.ts'
import type { Change, NewCustomer, Step } from './sides.ts'

/** What users of the application do. */
export type Operation =
  | { readonly kind: 'read'; readonly name: string; readonly id: number; readonly email?: string }
  | {
      readonly kind: 'write'
      readonly name: string
      /** The keys that it may change, as far as they are known before. */
      readonly ids: readonly number[]
      /** One alone is one statement on the old table, and needs no transaction there. */
      readonly steps: readonly Step[]
      readonly rollsBack: boolean
      acknowledged(seen: readonly Seen[]): void
    }

const random = Math.random
const pick = <T>(list: readonly T[]): T => list[Math.floor(random() * list.length)] as T
const between = (least: number, most: number): number => least + Math.floor(random() * (most - least + 1))

const firstNames = ['Ada', 'Grace', 'Alan', 'Edsger', 'Barbara', 'Donald', 'Frances', 'Tony', 'Radia', 'Ken']
const lastNames = ['Lovelace', 'Hopper', 'Turing', 'Dijkstra', 'Liskov', 'Knuth', 'O’Neil', 'van Rossum']
const cities = ['Berlin', 'Paris', 'Madrid', 'Oslo', 'São Paulo', 'Accra', 'Kyoto', 'Łódź']
const domains = ['example.com', 'example.org', 'Example.NET']

let emails = 0
const newEmail = (): string => `${pick(firstNames)}.${process.pid}.${(emails += 1)}@${pick(domains)}`

const newAddress = () => ({
  street: `New Street ${between(1, 900)}`,
  postcode: String(between(10_000, 99_999)),
  city: pick(cities),
  country: pick(['DE', 'FR', 'ES', 'NO', 'BR', 'GH', 'JP', 'PL']),
})

const newCustomer = (): NewCustomer => ({
  version: 1,
  first: pick(firstNames),
  last: pick(lastNames),
  email: newEmail(),
  phone: random() < 0.7 ? `+49 30 ${between(1_000_000, 9_999_999)}` : null,
  ...newAddress(),
  locale: pick(['de', 'fr', 'es', 'nb', 'pt', 'en', 'ja', 'pl']),
  status: 'active',
  cents: between(0, 50_000),
})

const newChange = (): Change =>
  pick<() => Change>([
    () => ({ what: 'status', status: pick(['active', 'paused', 'blocked']) }),
    () => ({ what: 'pay', cents: between(-5_000, 9_000) }),
    () => ({ what: 'pay', cents: between(-5_000, 9_000) }),
    () => ({ what: 'prefer', locale: pick(['de', 'fr', 'es', 'nb', 'pt', 'en']) }),
    () => ({ what: 'rename', first: pick(firstNames), last: pick(lastNames) }),
    () => ({ what: 'email', email: newEmail() }),
    () => ({ what: 'move', ...newAddress() }),
  ])()

/** Changes that may be made to many at once: an e-mail address belongs to one. */
const newSharedChange = (): Change => {
  for (;;) {
    const change = newChange()
    if (change.what !== 'email') return change
  }
}

/** A key that is probably there: some are hot, some new, most lie anywhere. */
function pickId({ rows, recentlyAdded }: Application): number {
  const dice = random()
  const recent = recentlyAdded[Math.floor(random() * recentlyAdded.length)]
  if (dice < 0.15 && recent !== undefined) return recent
  if (dice < 0.25) return seededId(1 + Math.floor(random() * Math.min(200, rows)))
  return seededId(1 + Math.floor(random() * rows))
}

const mostRemembered = 2_000

function remember(list: number[], ids: readonly number[]): void {
  list.push(...ids)
  if (list.length > mostRemembered) list.splice(0, list.length - mostRemembered)
}

const someIds = (application: Application, count: number): number[] =>
  [...new Set(Array.from({ length: count }, () => pickId(application)))].sort((a, b) => a - b)

type Write = Operation & { kind: 'write' }
const write = (
  name: string,
  ids: readonly number[],
  steps: readonly Step[],
  more: Partial<Pick<Write, 'rollsBack' | 'acknowledged'>> = {},
): Write => ({
  kind: 'write',
  name,
  ids,
  steps,
  rollsBack: false,
  acknowledged: () => undefined,
  ...more,
})

function insert(application: Application, count: number): Operation {
  const customers = Array.from({ length: count }, newCustomer)
  return write(count === 1 ? 'insert' : 'insert many', [], [{ does: 'add', customers }], {
    acknowledged: (seen) =>
      remember(
        application.recentlyAdded,
        seen.map(({ id }) => id),
      ),
  })
}

function change(application: Application, count: number): Operation {
  const ids = someIds(application, count)
  const what = ids.length === 1 ? newChange() : newSharedChange()
  return write(ids.length === 1 ? 'update' : 'update many', ids, [{ does: 'change', ids, change: what }])
}

function remove(application: Application, count: number): Operation {
  const ids = someIds(application, count)
  return write(ids.length === 1 ? 'delete' : 'delete many', ids, [{ does: 'remove', ids }], {
    acknowledged: (seen) =>
      remember(
        application.removed,
        seen.map(({ id }) => id),
      ),
  })
}

/** A deleted customer comes back under the same number. */
function restore(application: Application): Operation {
  const id = application.removed.pop()
  const known = id === undefined ? undefined : application.ledger.get(id)
  if (id === undefined || known === undefined || known.image !== undefined || known.isUncertain)
    return insert(application, 1)
  const customer = { ...newCustomer(), id, version: known.version + 1 }
  return write('restore', [id], [{ does: 'add', customers: [customer] }])
}

/** Several statements that belong together; some of them are taken back. */
function transaction(application: Application, rollsBack: boolean): Operation {
  const [first = 1, second = first] = someIds(application, 2)
  const cents = between(1, 1_000)
  const customer = newCustomer()
  return write(
    rollsBack ? 'transaction rolled back' : 'transaction',
    [first, second],
    [
      { does: 'change', ids: [first], change: { what: 'pay', cents: -cents } },
      { does: 'change', ids: [second], change: { what: 'pay', cents } },
      { does: 'add', customers: [customer] },
      ...(rollsBack ? [{ does: 'remove', ids: [second] } as const] : []),
    ],
    { rollsBack },
  )
}

/** How often what happens, in parts of a hundred. */
const mix: readonly [number, (application: Application, email: string | undefined) => Operation][] = [
  [50, (application) => ({ kind: 'read', name: 'find', id: pickId(application) })],
  [
    6,
    (application, email) => {
      const id = pickId(application)
      return email === undefined
        ? { kind: 'read', name: 'find', id }
        : { kind: 'read', name: 'find by e-mail', id, email }
    },
  ],
  [23, (application) => change(application, 1)],
  [8, (application) => insert(application, 1)],
  [3, (application) => remove(application, 1)],
  [2, restore],
  [2, (application) => change(application, between(5, 30))],
  [1, (application) => insert(application, between(5, 20))],
  [1, (application) => remove(application, between(2, 5))],
  [2, (application) => transaction(application, false)],
  [2, (application) => transaction(application, true)],
]
const parts = mix.reduce((sum, [share]) => sum + share, 0)

export function pickOperation(application: Application, email: string | undefined): Operation {
  let dice = random() * parts
  for (const [share, make] of mix) {
    dice -= share
    if (dice < 0) return make(application, email)
  }
  return insert(application, 1)
}
