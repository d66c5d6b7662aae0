"""Checkpoints, proofs, and the seven edits that nobody may make unnoticed."""

import threading
from datetime import timedelta

import pytest
from sqlalchemy import func, select, text

from falaj.kernel.clock import SetClock, SystemClock
from falaj.kernel.errors import Conflict, Corrupt, NotFound, Unavailable
from falaj.testing.audit import START, Tamperer, fill, make_entry
from falaj.trust import audit_verification
from falaj.trust.adapters.keys_file import FileKeyring, MachineSeal
from falaj.trust.adapters.witness_file import FileWitness
from falaj.trust.audit import SqlAuditLog
from falaj.trust.audit_checkpoints import Checkpointer, Checkpoints
from falaj.trust.audit_model import FindingKind
from falaj.trust.audit_pages import PagesAhead
from falaj.trust.audit_proofs import record_bytes, verify_consistency_proof, verify_record_proof
from falaj.trust.audit_tables import audit_checkpoints, audit_records
from falaj.trust.audit_verification import Verifier
from falaj.trust.ports import Sighting, Signature


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keys")
    seal = MachineSeal.create(folder / "secret")
    return FileKeyring.create(folder / "keys.json", seal, clock=SystemClock())


@pytest.fixture
def checkpoints(keys):
    return Checkpoints(keys)


@pytest.fixture
def witness(tmp_path):
    return FileWitness(tmp_path / "witness" / "audit.jsonl")


@pytest.fixture
def sign(database, checkpoints, witness):
    """Signs the log as it is and tells the witness."""
    clock = SetClock(START)
    checkpointer = Checkpointer(database, checkpoints, clock=clock, witness=witness)
    return lambda: checkpointer.run_once(force=True)


@pytest.fixture
def verify(database, checkpoints, witness):
    def run(*, witnessed=False):
        with database.reading() as connection:
            found = Verifier(checkpoints, witness=witness if witnessed else None)
            return found.verify(connection)

    return run


@pytest.fixture
def log(database, sign, verify):
    """40 records: signed at 10, 20 and 30, ten not signed yet."""
    for first in (1, 11, 21):
        fill(database, 10, first=first)
        sign()
    fill(database, 10, first=31)
    assert verify(witnessed=True).sound
    return Tamperer(database)


def kinds(found):
    return [(item.kind, item.seq) for item in found.findings]


def test_a_whole_log_is_sound(log, verify):
    found = verify(witnessed=True)
    assert (found.sound, found.n_records, found.n_checkpoints) == (True, 40, 3)
    assert (found.signed, found.witnessed, found.n_findings) == (30, 30, 0)
    assert verify().witnessed is None


def test_an_empty_log_is_sound(verify):
    found = verify(witnessed=True)
    assert (found.sound, found.n_records, found.signed, found.witnessed) == (True, 0, 0, 0)


# The seven edits.


@pytest.mark.parametrize(
    "edit",
    [
        "at = at + 1",
        "call_id = 'call_x'",
        "parent = 'call_x'",
        "principal = 'user:nobody'",
        "via = 'job'",
        "address = NULL",
        "action = 'models.get2'",
        "resource = 'x:y'",
        "outcome = 'refused'",
        "body = replace(body, 'flight', 'other')",
    ],
)
@pytest.mark.parametrize("seq", [1, 15, 40])
def test_edit_1_a_changed_record_is_found_whichever_column_was_changed(log, verify, edit, seq):
    log.run(f"UPDATE audit_records SET {edit} WHERE seq = {seq}")
    found = verify()
    assert kinds(found) == [(FindingKind.ALTERED, seq)]
    assert f"Record {seq}" in found.findings[0].message


def test_edit_1_a_changed_hash_is_found(log, verify):
    value = "zeroblob(32)" if log._database.is_sqlite else r"'\x00'::bytea"
    log.run(f"UPDATE audit_records SET hash = {value} WHERE seq = 15")
    assert (FindingKind.ALTERED, 15) in kinds(verify())


def test_edit_1_a_record_changed_together_with_its_hash_is_found_at_the_next_one(log, verify):
    log.run("UPDATE audit_records SET principal = 'user:nobody' WHERE seq = 15")
    with log._database.reading() as connection:
        kept = connection.execute(
            select(audit_records.c.hash).where(audit_records.c.seq == 16)
        ).scalar_one()
    log.rechain(15)
    log.run("UPDATE audit_records SET hash = :kept WHERE seq = 16", kept=kept)
    found = verify()
    assert (FindingKind.ALTERED, 16) in kinds(found)
    assert "record 15" in found.findings[0].message


@pytest.mark.parametrize(("low", "high"), [(1, 1), (15, 15), (15, 17), (1, 12), (30, 31), (9, 22)])
def test_edit_2_deleted_records_are_found(log, verify, low, high):
    log.run(f"DELETE FROM audit_records WHERE seq BETWEEN {low} AND {high}")
    found = verify()
    missing = [item for item in found.findings if item.kind == FindingKind.MISSING]
    assert [seq for item in missing for seq in range(item.seq, item.until + 1)] == list(
        range(low, high + 1)
    )
    assert found.n_records == 40 - (high - low + 1)


def test_edit_2_a_deleted_record_is_found_when_the_later_ones_close_the_gap(log, verify):
    log.run("DELETE FROM audit_records WHERE seq = 15")
    log.move(16, -1)
    assert kinds(verify())[0] == (FindingKind.ALTERED, 15)


def test_edit_3_an_inserted_record_is_found(log, verify):
    log.move(15, 1)
    log.insert_record(15, principal="user:nobody")
    found = verify()
    assert kinds(found)[0] == (FindingKind.ALTERED, 16)
    assert "inserted" in found.findings[0].message


@pytest.mark.parametrize(("one", "other"), [(15, 16), (5, 35), (39, 40)])
def test_edit_4_records_that_changed_places_are_found(log, verify, one, other):
    log.run(f"UPDATE audit_records SET seq = 999 WHERE seq = {one}")
    log.run(f"UPDATE audit_records SET seq = {one} WHERE seq = {other}")
    log.run(f"UPDATE audit_records SET seq = {other} WHERE seq = 999")
    found = kinds(verify())
    assert (FindingKind.ALTERED, one) in found and (FindingKind.ALTERED, other) in found


@pytest.mark.parametrize("end", [0, 1, 15, 29])
def test_edit_5_a_cut_end_is_found(log, verify, end):
    log.run(f"DELETE FROM audit_records WHERE seq > {end}")
    found = verify()
    assert (FindingKind.CUT, end + 1) in kinds(found)
    assert found.findings[-1].until == 30


@pytest.mark.parametrize(("seq", "first"), [(1, 1), (15, 11), (30, 21)])
def test_edit_6_a_chain_made_anew_is_found_between_its_checkpoints(log, verify, seq, first):
    log.run(f"UPDATE audit_records SET principal = 'user:nobody' WHERE seq = {seq}")
    log.rechain()
    found = verify()
    assert kinds(found)[0] == (FindingKind.RECHAINED, first)
    assert found.findings[0].seq <= seq <= found.findings[0].until
    assert not found.sound


def test_edit_6_a_deleted_and_an_inserted_record_do_not_hide_behind_a_new_chain(log, verify):
    log.run("DELETE FROM audit_records WHERE seq = 15")
    log.move(16, -1)
    log.rechain()
    assert kinds(verify())[0] == (FindingKind.RECHAINED, 11)


def test_edit_7_a_log_put_back_to_an_old_checkpoint_is_found_by_the_witness(log, verify):
    log.run("DELETE FROM audit_records WHERE seq > 20")
    log.run("DELETE FROM audit_checkpoints WHERE size > 20")
    assert verify().sound  # nothing inside the database shows it
    found = verify(witnessed=True)
    assert kinds(found) == [(FindingKind.ROLLED_BACK, 21)]
    assert "ends at record 20" in found.findings[0].message


def test_edit_7_a_log_put_back_and_filled_again_is_found_by_the_witness(
    log, verify, sign, checkpoints, witness
):
    def other_worker():
        worker = Checkpointer(log._database, checkpoints, clock=SystemClock(), witness=witness)
        return worker.run_once(force=True)

    log.run("DELETE FROM audit_records WHERE seq > 20")
    log.run("DELETE FROM audit_checkpoints WHERE size > 20")
    fill(log._database, 20, first=50)
    found = verify(witnessed=True)
    assert kinds(found) == [(FindingKind.ROLLED_BACK, 30)]
    assert "not those" in found.findings[0].message
    for signs in (sign, other_worker):  # nor is the witness led to the new history
        with pytest.raises(Conflict, match="30 records"):
            signs()
    assert (FindingKind.ROLLED_BACK, 30) in kinds(verify(witnessed=True))


def test_edit_7_another_checkpoint_of_the_witnessed_size_is_found(log, verify, database, keys):
    log.run("DELETE FROM audit_records WHERE seq > 20")
    log.run("DELETE FROM audit_checkpoints WHERE size > 20")
    fill(database, 10, first=50)
    with database.transaction() as connection:
        Checkpoints(keys).make(connection, START)
    assert (FindingKind.ROLLED_BACK, 30) in kinds(verify(witnessed=True))


# Checkpoints.


@pytest.mark.parametrize(
    "edit",
    [
        "statement = replace(statement, '20', '21')",
        "statement = 'rubbish'",
        "key_id = 'key_other'",
        "algorithm = 'none'",
        "size = 19",
    ],
)
def test_a_forged_checkpoint_is_found(log, verify, edit):
    log.run(f"UPDATE audit_checkpoints SET {edit} WHERE size = 20")
    found = verify()
    assert found.findings[0].kind == FindingKind.CHECKPOINT
    assert "forged" in found.findings[0].message


def test_a_removed_checkpoint_is_found_by_the_link_over_it(log, verify):
    log.run("DELETE FROM audit_checkpoints WHERE size = 20")
    assert kinds(verify()) == [(FindingKind.CHECKPOINT, 11)]


def test_a_removed_last_checkpoint_is_found_by_the_witness(log, verify):
    log.run("DELETE FROM audit_checkpoints WHERE size = 30")
    assert verify().sound
    found = verify(witnessed=True)
    assert kinds(found) == [(FindingKind.ROLLED_BACK, 30)]
    assert "removed" in found.findings[0].message


def test_a_damaged_frontier_stops_new_checkpoints_and_is_found_where_it_matters(log, verify, sign):
    value = "zeroblob(7)" if log._database.is_sqlite else r"'\x00'::bytea"
    log.run(f"UPDATE audit_checkpoints SET frontier = {value} WHERE size = 30")
    with pytest.raises(Corrupt, match="tree"):
        sign()
    log.run("UPDATE audit_records SET principal = 'x' WHERE seq = 25")
    log.rechain()
    assert [kind for kind, _ in kinds(verify())] == [FindingKind.RECHAINED, FindingKind.CHECKPOINT]


def test_two_damages_in_different_places_are_both_named(log, verify):
    log.run("UPDATE audit_records SET principal = 'x' WHERE seq IN (5, 35)")
    assert kinds(verify()) == [(FindingKind.ALTERED, 5), (FindingKind.ALTERED, 35)]


def test_only_the_first_findings_are_listed_and_all_are_counted(log, verify):
    log.run("UPDATE audit_records SET principal = 'x'")
    found = verify()
    assert (len(found.findings), found.n_findings) == (20, 40)


def test_pages_of_the_check_meet_without_a_seam(log, verify, monkeypatch):
    monkeypatch.setattr(audit_verification, "_PAGE", 7)
    assert verify(witnessed=True).sound
    log.run("DELETE FROM audit_records WHERE seq BETWEEN 6 AND 15")
    found = verify()
    missing = [item for item in found.findings if item.kind == FindingKind.MISSING]
    assert [seq for item in missing for seq in range(item.seq, item.until + 1)] == list(
        range(6, 16)
    )


def test_sqlite_bytes_that_look_like_the_text_in_json_are_found(sqlite_database, keys, checkpoints):
    import base64

    fill(sqlite_database, 3)
    tamperer = Tamperer(sqlite_database)
    tamperer.run("UPDATE audit_records SET via = 'abcd' WHERE seq = 2")
    tamperer.rechain()
    tamperer.run("UPDATE audit_records SET via = :raw WHERE seq = 2", raw=base64.b64decode("abcd"))
    with sqlite_database.reading() as connection:
        found = Verifier(checkpoints).verify(connection)
    assert not found.sound


def test_progress_is_told(log, database, checkpoints):
    seen = []
    with database.reading() as connection:
        Verifier(checkpoints).verify(connection, progress=lambda at, of: seen.append((at, of)))
    assert seen == [(10, 40), (20, 40), (30, 40), (40, 40)]


def test_a_log_that_grows_during_the_check_is_not_taken_for_damaged(database, checkpoints):
    fill(database, 50)
    stopped = threading.Event()
    checkpointer = Checkpointer(database, checkpoints, clock=SystemClock(), every=5)

    def grow():
        first = 51
        while not stopped.is_set():
            fill(database, 5, first=first)
            first += 5
            checkpointer.run_once()

    thread = threading.Thread(target=grow)
    thread.start()
    try:
        for _ in range(15):
            with database.reading() as connection:
                found = Verifier(checkpoints).verify(connection)
            assert found.sound, found.findings
    finally:
        stopped.set()
        thread.join()


# The checkpointer.


def test_a_checkpoint_is_due_after_so_many_records_or_so_much_time(database, checkpoints):
    clock = SetClock(START)
    checkpointer = Checkpointer(
        database, checkpoints, clock=clock, every=10, max_age=timedelta(seconds=60)
    )
    assert checkpointer.run_once() is None
    fill(database, 9)
    assert checkpointer.run_once() is None
    fill(database, 1, first=10)
    made = checkpointer.run_once()
    assert (made.size, made.previous) == (10, "00" * 32)
    assert checkpointer.run_once(force=True) is None
    fill(database, 1, first=11)
    assert checkpointer.run_once() is None
    clock.move(timedelta(seconds=71))
    later = checkpointer.run_once()
    assert (later.size, later.at) == (11, clock.now())


def test_workers_that_sign_at_once_make_one_chain_of_checkpoints(database, checkpoints):
    fill(database, 5)
    errors = []

    def work():
        try:
            for _ in range(5):
                Checkpointer(database, checkpoints, clock=SystemClock()).run_once(force=True)
                fill(database, 1)
        except Exception as error:  # noqa: BLE001 - shown by the assertion below
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    with database.reading() as connection:
        found = Verifier(checkpoints).verify(connection)
    assert found.sound and found.n_records == 25


def test_a_log_with_a_hole_is_not_signed_any_further(log, sign):
    log.run("DELETE FROM audit_records WHERE seq = 35")
    with pytest.raises(Corrupt, match="35"):
        sign()


def test_a_rotated_signing_key_signs_on_and_old_checkpoints_stay_good(log, sign, verify, keys):
    keys.rotate("audit")
    made = sign()
    assert made.key_id == list(keys.public_keys("audit"))[-1]
    assert verify(witnessed=True).sound


def test_a_checkpoint_of_another_log_is_refused(log, database, keys):
    with database.reading() as connection:
        assert not Verifier(Checkpoints(keys, log="elsewhere")).verify(connection).sound


# Proofs.


def test_every_signed_record_can_be_proven_to_a_third_party(log, database, checkpoints, keys):
    public = keys.public_key("audit")
    with database.reading() as connection:
        for seq in range(1, 31):
            proof = checkpoints.record_proof(connection, seq)
            verify_record_proof(
                proof, public_key=keys.public_keys("audit")[proof.checkpoint.key_id]
            )
            assert f"[{seq}," in proof.record
        for seq in (31, 40):
            with pytest.raises(Conflict, match="checkpoint"):
                checkpoints.record_proof(connection, seq)
        for seq in (0, -1, 41):
            with pytest.raises(NotFound):
                checkpoints.record_proof(connection, seq)
    assert len(public) == 32


def test_a_proof_that_was_touched_proves_nothing(log, database, checkpoints):
    with database.reading() as connection:
        proof = checkpoints.record_proof(connection, 15)
    signed = proof.checkpoint
    for changed in (
        {"record": proof.record.replace("flight", "fright")},
        {"record": "rubbish"},
        {"record": "[]"},
        {"previous": "00" * 32},
        {"previous": "x"},
        {"path": proof.path[:-1]},
        {"path": proof.path[::-1]},
        {"path": ["x"]},
        {"public_key": "00" * 32},
        {"public_key": "x"},
        {"checkpoint": signed.model_copy(update={"root": "00" * 32})},
        {"checkpoint": signed.model_copy(update={"size": 21})},
        {"checkpoint": signed.model_copy(update={"statement": "[]"})},
        {"checkpoint": signed.model_copy(update={"signature": "x"})},
        {"checkpoint": signed.model_copy(update={"signature": "00" * 64})},
        {"checkpoint": signed.model_copy(update={"algorithm": "none"})},
    ):
        with pytest.raises(Corrupt):
            verify_record_proof(proof.model_copy(update=changed))
    with pytest.raises(Corrupt):
        verify_record_proof(proof, public_key=bytes(32))


def test_a_tampered_record_has_no_proof(log, database, checkpoints):
    log.run("UPDATE audit_records SET principal = 'x' WHERE seq = 15")
    with database.reading() as connection, pytest.raises(Corrupt):
        checkpoints.record_proof(connection, 15)


def test_every_checkpoint_is_proven_to_continue_every_earlier_one(log, database, checkpoints):
    with database.reading() as connection:
        for old in (10, 20, 30):
            for new in (10, 20, 30):
                if old > new:
                    with pytest.raises(Conflict):
                        checkpoints.consistency_proof(connection, old, new)
                    continue
                proof = checkpoints.consistency_proof(connection, old, new)
                verify_consistency_proof(proof)
                if old != new:
                    for path in (proof.path[:-1], ["x"], [*proof.path, "00" * 32]):
                        with pytest.raises(Corrupt):
                            verify_consistency_proof(proof.model_copy(update={"path": path}))
        with pytest.raises(NotFound):
            checkpoints.consistency_proof(connection, 10, 25)


# The witness.


def seen(size):
    return Sighting(size, b"statement %d" % size, Signature("key_1", "Ed25519", b"\1" * 64))


def test_a_witness_remembers_the_greatest_checkpoint_over_restarts(witness, tmp_path):
    assert witness.latest() is None
    for size in (10, 20, 20):
        witness.keep(seen(size))
    again = FileWitness(tmp_path / "witness" / "audit.jsonl")
    assert again.latest() == seen(20)
    assert len((tmp_path / "witness" / "audit.jsonl").read_bytes().splitlines()) == 2


def test_a_witness_does_not_take_an_older_or_another_checkpoint(witness):
    witness.keep(seen(20))
    other = Sighting(20, b"another", Signature("key_1", "Ed25519", b"\2" * 64))
    for refused in (seen(10), other):
        with pytest.raises(Conflict, match="20"):
            witness.keep(refused)
    assert witness.latest() == seen(20)


def test_a_line_cut_short_by_a_crash_is_left_behind(witness, tmp_path):
    path = tmp_path / "witness" / "audit.jsonl"
    witness.keep(seen(10))
    whole = path.read_bytes()
    path.write_bytes(whole + whole[: len(whole) // 2])
    assert witness.latest() == seen(10)
    witness.keep(seen(20))
    assert witness.latest() == seen(20)


def test_a_long_witness_file_is_read_from_its_end(witness, tmp_path):
    for size in range(1, 800):
        witness.keep(seen(size))
    assert (tmp_path / "witness" / "audit.jsonl").stat().st_size > 2 * 65_536
    assert witness.latest() == seen(799)


def test_a_witness_file_that_is_none_is_told(witness, tmp_path):
    path = tmp_path / "witness" / "audit.jsonl"
    path.parent.mkdir()
    path.write_text("rubbish\n")
    with pytest.raises(Corrupt, match="no sighting"):
        witness.latest()
    with pytest.raises(Unavailable):
        FileWitness(tmp_path).latest()
    with pytest.raises(Unavailable):
        FileWitness(tmp_path).keep(seen(1))


def test_a_witness_that_holds_what_this_log_never_signed_is_told(log, verify, witness, tmp_path):
    (tmp_path / "witness" / "audit.jsonl").unlink()
    witness.keep(seen(30))
    assert kinds(verify(witnessed=True)) == [(FindingKind.CHECKPOINT, 30)]


def test_the_witness_catches_up_after_it_was_away(database, checkpoints, tmp_path):
    folder = tmp_path / "away"
    witness = FileWitness(folder / "audit.jsonl")
    checkpointer = Checkpointer(database, checkpoints, clock=SystemClock(), witness=witness)
    fill(database, 3)
    checkpointer.run_once(force=True)
    folder.rename(tmp_path / "kept")
    folder.write_text("in the way")
    fill(database, 1, first=4)
    with pytest.raises(Unavailable):
        checkpointer.run_once(force=True)
    stranger = Checkpointer(database, checkpoints, clock=SystemClock(), witness=witness)
    with pytest.raises(Unavailable):  # a new worker signs nothing before it has seen the witness
        stranger.run_once(force=True)
    folder.unlink()
    (tmp_path / "kept").rename(folder)
    assert checkpointer.run_once() is None
    assert witness.latest().size == 4
    with database.reading() as connection:
        assert connection.execute(select(func.count()).select_from(audit_checkpoints)).scalar() == 2


def test_checkpoints_only_grow(database, sign):
    fill(database, 3)
    sign()
    for sql in ("DELETE FROM audit_checkpoints", "UPDATE audit_checkpoints SET size = 9"):
        with pytest.raises(Exception, match="append-only"), database.engine.begin() as connection:
            connection.execute(text(sql))


def test_the_log_knows_its_size(database):
    fill(database, 4)
    with database.reading() as connection:
        assert SqlAuditLog().size(connection) == 4


def test_text_that_sqlite_writes_in_another_way_is_no_finding(sqlite_database, keys, checkpoints):
    odd = [
        "\x7f",
        "\u2028\u2029",
        "/<>&'",
        '"\\',
        "\b\f\n\r\t\x01\x1f",
        "😀ف",
        "",
        "a\0b",
        "\\u0041",
    ]
    with sqlite_database.transaction() as connection:
        entries = [make_entry(n, principal=text, resource=text, details={text: text, "n": 1.5})
                   for n, text in enumerate(odd * 3)]  # fmt: skip
        SqlAuditLog().append_many(connection, entries)
    with sqlite_database.reading() as connection:
        found = Verifier(checkpoints).verify(connection)
    assert (found.sound, found.n_records) == (True, len(odd) * 3)


def test_what_is_read_ahead_is_what_is_there(sqlite_database, monkeypatch):
    fill(sqlite_database, 50)
    with sqlite_database.reading() as connection:
        ahead = PagesAhead(connection.connection.driver_connection, 50, page=8)
        at, records = 0, []
        while at < 50:
            page = ahead.part(at, at + 5)
            assert page.low == at
            records += page.records
            at = page.high
        rows = connection.execute(select(audit_records).order_by(audit_records.c.seq)).all()
        assert records == [record_bytes(row) for row in rows]
        assert ahead.part(3, 4).records == records[3:4]  # and back again
        ahead.close()
    assert not [one for one in threading.enumerate() if one.name.startswith("falaj-audit")]


def widths(connection, **sizes):
    """How many records each page has that is read of a log of 100."""
    ahead, at, found = PagesAhead(connection.connection.driver_connection, 100, **sizes), 0, []
    while at < 100:
        page = ahead.part(at, 100)
        found.append(page.high - page.low)
        at = page.high
    ahead.close()
    return found


def test_pages_grow_as_long_as_their_records_fit(sqlite_database, monkeypatch):
    fill(sqlite_database, 100)
    with sqlite_database.reading() as connection:
        grown = widths(connection, page=4, largest=16)
        assert (grown[0], max(grown), sum(grown)) == (4, 16, 100)
        monkeypatch.setattr("falaj.trust.audit_pages._LARGEST_BYTES", 2_500)  # some 8 records
        small = widths(connection, page=4, largest=16)
        assert max(small[3:]) < 10
        assert sum(small) == 100


def test_what_is_read_ahead_is_given_up_when_the_log_is_read_no_further(sqlite_database):
    fill(sqlite_database, 100)
    with sqlite_database.reading() as connection:
        ahead = PagesAhead(connection.connection.driver_connection, 100, page=10, largest=10)
        assert ahead.part(0, 10).high == 10
        assert ahead.part(50, 60).low == 50  # those behind the first page are of no use
        ahead.close()
        assert connection.execute(select(func.count()).select_from(audit_records)).scalar() == 100


def test_a_page_that_is_not_whole_is_looked_at_closely(sqlite_database):
    fill(sqlite_database, 40)
    log = Tamperer(sqlite_database)
    log.run("DELETE FROM audit_records WHERE seq = 12")
    log.run("UPDATE audit_records SET hash = hex(hash) WHERE seq = 30")
    with sqlite_database.reading() as connection:
        ahead = PagesAhead(connection.connection.driver_connection, 40, page=10, largest=10)
        assert [ahead.part(low, low + 10) is None for low in (0, 10, 20, 30)] == [
            False, True, True, False
        ]  # fmt: skip
        ahead.close()
