"""Where a network is trained: decided from facts, so that a GPU's choice is tested without one."""

import pytest

from falaj.kernel.errors import InvalidInput
from falaj.training.placement import Placement, placed


@pytest.mark.parametrize(
    ("device", "precision", "cuda", "bf16", "wanted"),
    [
        ("auto", "auto", False, False, Placement("cpu", bf16=False, pinned=False)),
        ("auto", "auto", True, True, Placement("cuda", bf16=True, pinned=True)),
        ("auto", "auto", True, False, Placement("cuda", bf16=False, pinned=True)),
        ("cuda", "float32", True, True, Placement("cuda", bf16=False, pinned=True)),
        ("cpu", "auto", True, True, Placement("cpu", bf16=False, pinned=False)),
        ("cpu", "bf16", False, False, Placement("cpu", bf16=True, pinned=False)),
    ],
)
def test_a_gpu_is_taken_with_bf16_and_pinned_memory_where_it_has_them(
    device, precision, cuda, bf16, wanted
):
    assert placed(device=device, precision=precision, has_cuda=cuda, has_bf16=bf16) == wanted


@pytest.mark.parametrize(
    ("device", "precision", "cuda", "told"),
    [
        ("cuda", "auto", False, "finds none"),
        ("cuda", "bf16", True, "does not compute in bf16"),
        ("tpu", "auto", True, "'device'"),
        ("cpu", "half", True, "'precision'"),
    ],
)
def test_what_cannot_be_had_is_refused(device, precision, cuda, told):
    with pytest.raises(InvalidInput, match=told):
        placed(device=device, precision=precision, has_cuda=cuda, has_bf16=False)
