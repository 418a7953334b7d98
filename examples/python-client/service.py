"""A service that counts, for the test: each thread adds one to counters, reads back what it wrote, and says at the end what it saw.

python3 service.py MIGRATION INSTANCE LEASE_S    It begins with the first line on stdin, and ends with stdin.
"""

import collections
import json
import os
import sys
import threading
import time

import psycopg

from crossfade import Crossfade

SHARED = range(1, 41)
migration, instance, lease_s = sys.argv[1], sys.argv[2], float(sys.argv[3])
url = os.environ["DATABASE_URL"]
crossfade = Crossfade(migration, url, instance, lease_s)
seen = collections.Counter()  # a thread's own names only, so that no two threads add to one
failed, wrong = [], []
ended = threading.Event()


def work(thread):
    connection = psycopg.connect(url)
    own = [(id,) for id in range(100 + 10 * thread, 110 + 10 * thread)]  # nobody else writes these
    counted = collections.Counter()

    def ask(side, statement, key):
        seen[f"{side} {thread}"] += 1
        row = connection.execute(statement, key).fetchone()
        return row and row[0]

    for i in range(sys.maxsize):
        if ended.is_set():
            break
        key = own[i // 2 % 10] if i % 2 else (SHARED[i * 7 % 40],)
        try:
            answer = crossfade.write(
                connection,
                "public.counters",
                [key],
                lambda on: ask("old write", "UPDATE counters SET n = n + 1 WHERE id = %s RETURNING n", key),
                lambda on: ask("new write", "UPDATE tallies SET tally = tally + 1 WHERE id = %s RETURNING tally", key),
            )
            counted[key] += 1
            read = crossfade.read(
                key,
                lambda: ask("old read", "SELECT n FROM counters WHERE id = %s", key),
                lambda: ask("new read", "SELECT tally FROM tallies WHERE id = %s", key),
            )
            connection.rollback()
            if key in own and not answer == read == counted[key]:
                wrong.append(f"{key}: counted {counted[key]}, wrote {answer}, read {read}")
        except Exception as error:
            failed.append(repr(error))
            connection.rollback()
        time.sleep(0.002)
    connection.close()
    seen[f"done {thread}"] = counted.total()


print(json.dumps({"instance": instance}), flush=True)
sys.stdin.readline()
threads = [threading.Thread(target=work, args=[thread]) for thread in range(2)]
for thread in threads:
    thread.start()
sys.stdin.read()
ended.set()
for thread in threads:
    thread.join()
crossfade.close()
total = collections.Counter()
for name, count in seen.items():
    total[name.rsplit(" ", 1)[0]] += count
print(json.dumps({"failed": failed[:5], "wrong": wrong[:5], **total}), flush=True)
