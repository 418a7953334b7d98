import { openDatabase } from '../../src/database/index.ts'

/** All that the catalogue says of the user's schemas, a line for each thing: what must be the same after going back. */
export async function inventory({ url }: { readonly url: string }): Promise<string[]> {
  const opened = await openDatabase('default', { url, maxConnections: 1 })
  try {
    return await opened.transaction((tx) => opened.dialect.catalog.inventory(tx))
  } finally {
    await opened.close()
  }
}
