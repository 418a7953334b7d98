/**
 * A key's place among a million, the same in SQL (`bucket` of database/<dialect>/client-functions.ts):
 * the first four bytes of sha256(hex(sha256(salt)) ‖ key), modulo 1 000 000.
 * The salt's 64 hexadecimal digits fill one block of SHA-256, so the state after them is kept, and one block is left for each key.
 * In JavaScript, because a call of node:crypto costs 4 µs and this 0.4 µs.
 */

export const buckets = 1_000_000

const primes: number[] = []
for (let n = 2; primes.length < 64; n++) if (primes.every((prime) => n % prime !== 0)) primes.push(n)
const fraction = (x: number): number => ((x - Math.floor(x)) * 2 ** 32) | 0
const constants = Int32Array.from(primes, (prime) => fraction(Math.cbrt(prime)))
const initialState = Int32Array.from(primes.slice(0, 8), (prime) => fraction(Math.sqrt(prime)))

/** One block and its expansion. Nothing here waits, so one is enough for all. */
const words = new Int32Array(64)

/** FIPS 180-4, 6.2.2, over the block in `words`. */
function compress(state: Int32Array, into: Int32Array): void {
  for (let t = 16; t < 64; t++) {
    const x = words[t - 15] as number
    const y = words[t - 2] as number
    words[t] =
      (words[t - 16] as number) +
      (words[t - 7] as number) +
      (((x >>> 7) | (x << 25)) ^ ((x >>> 18) | (x << 14)) ^ (x >>> 3)) +
      (((y >>> 17) | (y << 15)) ^ ((y >>> 19) | (y << 13)) ^ (y >>> 10))
  }
  let a = state[0] as number
  let b = state[1] as number
  let c = state[2] as number
  let d = state[3] as number
  let e = state[4] as number
  let f = state[5] as number
  let g = state[6] as number
  let h = state[7] as number
  for (let t = 0; t < 64; t++) {
    const x =
      (h +
        (((e >>> 6) | (e << 26)) ^ ((e >>> 11) | (e << 21)) ^ ((e >>> 25) | (e << 7))) +
        (g ^ (e & (f ^ g))) +
        (constants[t] as number) +
        (words[t] as number)) |
      0
    const y =
      ((((a >>> 2) | (a << 30)) ^ ((a >>> 13) | (a << 19)) ^ ((a >>> 22) | (a << 10))) +
        ((a & b) | (c & (a | b)))) |
      0
    h = g
    g = f
    f = e
    e = (d + x) | 0
    d = c
    c = b
    b = a
    a = (x + y) | 0
  }
  into[0] = a + (state[0] as number)
  into[1] = b + (state[1] as number)
  into[2] = c + (state[2] as number)
  into[3] = d + (state[3] as number)
  into[4] = e + (state[4] as number)
  into[5] = f + (state[5] as number)
  into[6] = g + (state[6] as number)
  into[7] = h + (state[7] as number)
}

const result = new Int32Array(8)

/** The digest of what `state` stands for (`before` bytes) and of `text` after it, left in `result`. */
function digest(state: Int32Array, before: number, text: string): void {
  const { length } = text
  if (length > 55) return digestBytes(state, before, new TextEncoder().encode(text))
  let word = 0
  for (let i = 0; i < length; i++) {
    const code = text.charCodeAt(i)
    if (code > 127) return digestBytes(state, before, new TextEncoder().encode(text))
    word = (word << 8) | code
    if ((i & 3) === 3) words[i >> 2] = word
  }
  words[length >> 2] = ((word << 8) | 0x80) << ((3 - (length & 3)) << 3)
  for (let i = (length >> 2) + 1; i < 15; i++) words[i] = 0
  words[15] = (before + length) << 3
  compress(state, result)
}

function digestBytes(state: Int32Array, before: number, bytes: Uint8Array): void {
  const padded = new Uint8Array(((bytes.length + 8) >> 6) * 64 + 64)
  padded.set(bytes)
  padded[bytes.length] = 0x80
  const view = new DataView(padded.buffer)
  view.setUint32(padded.length - 4, (before + bytes.length) << 3)
  let from = state
  for (let block = 0; block < padded.length; block += 64) {
    for (let i = 0; i < 16; i++) words[i] = view.getInt32(block + 4 * i)
    compress(from, result)
    from = result
  }
}

/** @returns the bucket of a key, 0 to 999 999, for this salt. */
export function createBucketOf(salt: string): (key: string) => number {
  digestBytes(initialState, 0, new TextEncoder().encode(salt))
  const hex = [...result].map((word) => (word >>> 0).toString(16).padStart(8, '0')).join('')
  for (let i = 0; i < 16; i++)
    words[i] = [0, 1, 2, 3].reduce((word, j) => (word << 8) | hex.charCodeAt(4 * i + j), 0)
  const state = new Int32Array(8)
  compress(initialState, state)
  return (key) => {
    digest(state, 64, key)
    return ((result[0] as number) >>> 0) % buckets
  }
}
