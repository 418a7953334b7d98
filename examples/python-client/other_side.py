"""After the commit: the other side is written at once, and until a key has arrived there, this instance knows that it has not."""

import contextlib
import json
import queue
import threading
import time

import psycopg

from flags import GONE, call


class OtherSide:
    def __init__(self, flags):
        self.flags = flags
        self.expected, self.ended, self.left = [], queue.SimpleQueue(), []
        threading.Thread(target=self.work, daemon=True).start()

    def expect(self, written):
        """Before COMMIT: the next read may come right after it."""
        self.expected.extend(key for _, key in written)

    def awaits(self, key):
        return list(map(str, key)) in self.expected

    def follow(self, written):
        """Committed, rolled back, or nobody knows: the change log does."""
        for each in written:
            self.ended.put(each)

    def work(self):
        while True:
            with contextlib.suppress(psycopg.Error), self.flags.connect() as own:
                own.execute("SET synchronous_commit = off")  # what a crash undoes is back in the change log
                while True:
                    self.copy(own, self.take())
            time.sleep(1)

    def take(self):
        taken = []
        with contextlib.suppress(queue.Empty):
            taken.append(self.ended.get(timeout=0.25))
            while len(taken) < 50:
                taken.append(self.ended.get_nowait())
        self.left += taken
        return taken

    def copy(self, own, taken):
        for log in {log for log, _ in self.left}:
            keys = [key for of, key in taken if of == log and self.flags.is_on("new_schema_write", key)]
            with contextlib.suppress(psycopg.Error):  # what fails, the appliers copy
                if keys:
                    own.execute(call(self.flags.migration, f"apply_{log}", json.dumps(keys)))
            left = [key for of, key in self.left if of == log]
            try:
                pending = own.execute(call(self.flags.migration, f"pending_{log}", json.dumps(left))).fetchone()[0]
            except GONE:
                pending = []  # the migration is over
            for key in [key for key in left if key not in pending]:
                self.left.remove((log, key))
                self.expected.remove(key)
