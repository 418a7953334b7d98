import pg from 'pg'
import { openApplicationSide } from '../../../src/database/application.ts'
import { createFlagStore } from '../../../src/flags/flag-store.ts'

/** An instance of an application that says, for every message, what it acts on in that moment. */
const [url, flag = '', leaseMs, name = 'm'] = process.argv.slice(2)
const pool = new pg.Pool({ connectionString: url, max: 1 })
const side = openApplicationSide(pool, name)
const store = await createFlagStore({
  side,
  salt: name,
  instance: { id: 'frozen', version: '1', leaseMs: Number(leaseMs) },
})
process.on('message', () => process.send?.({ isOn: store.isOn(flag, 'k'), epoch: store.epoch }))
process.send?.('ready')
