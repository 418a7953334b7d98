"""What an instance acts on: looked at when the database notifies, and every 0.9 s in any case."""

import contextlib
import hashlib
import threading
import time

import psycopg
from psycopg import sql

GONE = (psycopg.errors.InvalidSchemaName, psycopg.errors.UndefinedFunction, psycopg.errors.UndefinedTable)
NOTHING = {"incarnation": "", "epoch": -1, "primary": "old", "flags": {}, "captures": {}}
CONTRACTED = """SELECT jsonb_build_object('incarnation', tableoid::text, 'epoch', epoch, 'primary', primary_side,
    'flags', '{{}}'::jsonb, 'captures', '{{}}'::jsonb) FROM {}.state"""


def schema_of(migration):
    return sql.Identifier(f"_crossfade_{migration}")


def call(migration, function, *arguments):
    listed = sql.SQL(", ").join(map(sql.Literal, arguments))
    return sql.SQL("SELECT {}.{}({})").format(schema_of(migration), sql.Identifier(function), listed)


class Flags:
    def __init__(self, migration, conninfo, instance, lease_s):
        self.migration, self.conninfo, self.instance, self.lease_s = migration, conninfo, instance, lease_s
        self.known, self.good_until, self.looking = NOTHING, 0.0, threading.RLock()
        self.refresh()  # raises where nothing can be known: then there is no instance
        threading.Thread(target=self.follow, daemon=True).start()

    def connect(self):
        limits = "-c statement_timeout=1000"
        return psycopg.connect(self.conninfo, autocommit=True, connect_timeout=2, options=limits)

    def refresh(self):
        with self.connect() as own:
            self.look(own)

    def look(self, own):
        with self.looking:  # one at a time: an older answer must not come after a newer one
            asked_at, before, found = time.monotonic(), self.known, NOTHING
            says = (self.instance, "python", before["incarnation"], before["epoch"], int(self.lease_s * 1000))
            contracted = sql.SQL(CONTRACTED).format(schema_of(self.migration))
            for question in (call(self.migration, "announce", *says), contracted):
                with contextlib.suppress(*GONE):
                    found = own.execute(question).fetchone()[0]
                    break
            self.known, self.good_until = found, asked_at + self.lease_s
            if found != before:
                self.look(own)  # says at once that it acts on something else now

    def follow(self):
        while True:
            with contextlib.suppress(psycopg.Error), self.connect() as own:
                own.execute(sql.SQL("LISTEN {}").format(schema_of(self.migration)))
                while True:
                    self.look(own)
                    list(own.notifies(timeout=0.9, stop_after=1))
            time.sleep(0.9)

    @property
    def is_fresh(self):
        return time.monotonic() < self.good_until

    def is_on(self, flag, key):
        percent = self.known["flags"].get(f"{self.migration}.{flag}")
        if percent is None or not self.is_fresh:
            return self.known["primary"] == "new"
        return self.bucket(key) < round(percent * 10_000)

    def bucket(self, key):
        salt = hashlib.sha256(self.migration.encode()).hexdigest()
        digest = hashlib.sha256((salt + ",".join(map(str, key))).encode()).digest()
        return int.from_bytes(digest[:4], "big") % 1_000_000
