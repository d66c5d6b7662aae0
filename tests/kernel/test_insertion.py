from __future__ import annotations

import threading

from sqlalchemy import select

from falaj.kernel.database import Database
from falaj.kernel.insertion import insert_if_absent
from falaj.kernel.outbox import outbox_places


def _place(database: Database, seq: int) -> bool:
    with database.transaction() as connection:
        return insert_if_absent(connection, outbox_places, {"subscriber": "one", "seq": seq})


def test_the_first_row_of_a_key_stays(database: Database) -> None:
    assert _place(database, 1)
    assert not _place(database, 2)
    with database.reading() as connection:
        assert connection.execute(select(outbox_places.c.seq)).scalars().all() == [1]


def test_of_many_at_once_one_inserts(database: Database) -> None:
    barrier = threading.Barrier(6)
    inserted: list[bool] = []

    def one(n: int) -> None:
        barrier.wait()
        inserted.append(_place(database, n))

    threads = [threading.Thread(target=one, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(inserted) == [False] * 5 + [True]
