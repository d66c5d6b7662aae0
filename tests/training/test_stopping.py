"""When a fit stops, and what it keeps to go on from."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from falaj.testing.smallbundles import Kept
from falaj.training.checkpoints import SealedCheckpoints
from falaj.training.stopping import Patience

losses = st.lists(st.floats(0, 10), min_size=1, max_size=40)


@given(losses, st.integers(1, 8))
def test_it_stops_after_so_many_rounds_without_a_better_one_and_keeps_the_first_best(
    losses, rounds
):
    patience = Patience(rounds=rounds)
    seen = []
    for loss in losses:
        seen.append(loss)
        patience = Patience.model_validate_json(patience.model_dump_json())
        patience.saw(loss)
        if patience.over:
            break
    assert patience.n_done == len(seen)
    assert patience.best == seen.index(min(seen)) + 1
    assert patience.over == (len(seen) - patience.best >= rounds)


def test_a_loss_that_is_no_number_is_never_the_best():
    patience = Patience(rounds=2)
    assert not patience.saw(float("nan"))
    assert patience.saw(1.0)
    assert not patience.saw(float("nan"))
    assert (patience.best, patience.over) == (2, False)


@pytest.fixture
def blobs(kept_in, tmp_path):
    found = kept_in(tmp_path / "kept")
    assert isinstance(found, Kept)
    return found.bundles._blobs


def test_only_the_newest_state_is_kept_and_only_once_it_is_noted(blobs):
    noted = []

    def note(digest):
        assert blobs.has(digest)
        assert all(blobs.has(one) for one in noted[-1:]), "the old one stays until then"
        noted.append(digest)

    checkpoints = SealedCheckpoints(blobs, "job_1", None, note, every_seconds=0)
    assert checkpoints.last() is None
    for n in (1, 2, 3):
        checkpoints.keep(n, lambda n=n: f"state {n}".encode())
    assert checkpoints.last() == b"state 3"
    assert [blobs.has(digest) for digest in noted] == [False, False, True]
    assert SealedCheckpoints(blobs, "job_1", noted[-1], note, every_seconds=0).last() == b"state 3"


def test_a_state_is_not_even_made_before_its_time(blobs):
    def never():
        raise AssertionError("it was asked for")

    SealedCheckpoints(blobs, "job_1", None, lambda digest: None, every_seconds=3600).keep(1, never)


def test_two_jobs_that_do_the_same_do_not_delete_each_others_states(blobs):
    noted = []
    for job in ("job_1", "job_2"):
        kept = SealedCheckpoints(blobs, job, None, noted.append, every_seconds=0)
        kept.keep(1, lambda: b"the same state")
    first, second = noted
    assert first != second
    blobs.forget(first)
    left = SealedCheckpoints(blobs, "job_2", second, noted.append, every_seconds=0)
    assert left.last() == b"the same state"


def test_a_fit_whose_state_is_gone_begins_anew(blobs):
    gone = blobs.keep(b"state")
    blobs.forget(gone)
    assert SealedCheckpoints(blobs, "job_1", gone, lambda _: None, every_seconds=0).last() is None
