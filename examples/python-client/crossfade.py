"""One instance of an application, as docs/protocol.md has it. A key is a tuple of the values of its columns."""

import contextlib
import json

import psycopg
from psycopg import sql

from flags import GONE, Flags, call
from other_side import OtherSide


class Crossfade:
    def __init__(self, migration, conninfo, instance, lease_s=5.0):
        self.migration = migration
        self.flags = Flags(migration, conninfo, instance, lease_s)
        self.other_side = OtherSide(self.flags)

    def read(self, key, old, new):
        """`old` and `new` ask the same of each side, and return None where nothing is there."""
        if self.flags.known["primary"] == "new":
            return new()
        if self.flags.is_on("new_schema_read", key) and not self.other_side.awaits(key):
            with contextlib.suppress(Exception):
                if (found := new()) is not None:
                    return found
        return old()

    def write(self, connection, source, keys, old, new):
        """In a transaction of its own: `connection` is not in autocommit. It is run again where the primary side moves meanwhile."""
        for attempt in range(5):
            written = []
            try:
                side = self.standing()["primary"]
                result = (new if side == "new" else old)(connection)
                log = self.standing()["captures"].get(source, {}).get(side)
                if log is None:
                    capture = sql.SQL("SELECT")
                else:
                    written = [(log, [str(part) for part in key]) for key in keys]
                    capture = call(self.migration, f"capture_{log}", json.dumps([key for _, key in written]))
                    self.other_side.expect(written)
                connection.execute(capture + sql.SQL("; COMMIT"), prepare=False)
                return result
            except psycopg.Error as error:
                is_moved = error.diag.constraint_name == "crossfade_primary"
                is_over = written and isinstance(error, GONE)  # taken back between the look and the capture
                if attempt == 4 or not (is_moved or is_over):
                    raise
            finally:
                with contextlib.suppress(psycopg.Error):
                    connection.rollback()  # after COMMIT there is nothing to do
                self.other_side.follow(written)
            self.flags.refresh()

    def standing(self):
        """After the lease, what is known may be long past."""
        if not self.flags.is_fresh:
            self.flags.refresh()
        return self.flags.known

    def close(self):
        """Nobody waits for this instance any more."""
        with self.flags.connect() as own, contextlib.suppress(*GONE):
            own.execute(call(self.migration, "leave", self.flags.instance))
