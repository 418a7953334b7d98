import type { TableName } from '../core/link.ts'
import type { Transaction } from './database.ts'
import type { DdlStep, Scope, TargetTableSpec, Uncarried } from './steps.ts'

/** Something that means a table and not its name: after an exchange of names it would go on with the old one. */
export interface Dependent {
  /** `view public.names`: the same before and after the exchange. */
  readonly name: string
  readonly kind:
    | 'foreign key'
    | 'function'
    | 'inheritance'
    | 'other'
    | 'policy'
    | 'publication'
    | 'rule'
    | 'setting'
    | 'trigger'
    | 'view'
  /**
   * `follows`: the exchange of names takes it along. `stuck`: it cannot, for the reason that `mend` answers. `stays`: it is the old
   * table's own, or covers both tables, and nobody takes it anywhere.
   */
  readonly fate: 'follows' | 'stuck' | 'stays'
  readonly mend: string
  /** How to do without its being taken along. */
  readonly elsewhere: string
  /** Columns of the table that it names, and that another table must have to take its place. */
  readonly columns: readonly string[]
  /** Where it is a part of another table: that one, which is locked with the exchange. */
  readonly table?: TableName
  /** In the engine's own words: what locks it, and what takes it to the table that has the name then. */
  readonly lock: string | undefined
  readonly move: readonly string[]
  /** A foreign key that held for every row: it holds for new ones when it is moved, and the others are proven afterwards. */
  readonly isProven?: boolean
}

export interface Dependents {
  /** @param leftAs what the table will be called when they are moved; by default its present name. */
  read(tx: Transaction, table: TableName, leftAs?: TableName): Promise<Dependent[]>
  /** After the exchange of names. What has been moved is in the journal, and so is what has to be proven afterwards. */
  move(tx: Transaction, scope: Scope, dependents: readonly Dependent[]): Promise<void>
  /** Takes back those of `dependents` that were moved. One that cannot go back stays, and keeps nobody from going back. */
  moveBack(tx: Transaction, scope: Scope, dependents: readonly Dependent[]): Promise<void>
  /** Foreign keys that were moved and whose standing rows are not proven yet. */
  unproven(tx: Transaction, scope: Scope): Promise<DdlStep[]>
  /** Why `to` cannot take the place of `from` for them; where it does not stand yet, as far as its description says. */
  misfits(
    tx: Transaction,
    dependents: readonly Dependent[],
    from: TableName,
    to: TableName,
    spec?: TargetTableSpec,
  ): Promise<readonly Uncarried[]>
}
