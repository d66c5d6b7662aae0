"""Where a network is trained, and with which numbers: decided in one place, from plain facts."""

from __future__ import annotations

from dataclasses import dataclass

from falaj.kernel.errors import InvalidInput

DEVICES, PRECISIONS = ("auto", "cpu", "cuda"), ("auto", "float32", "bf16")


@dataclass(frozen=True)
class Placement:
    """A device, whether its matrix products are in bf16, whether rows wait in pinned memory."""

    device: str
    bf16: bool
    pinned: bool


def placed(*, device: str, precision: str, has_cuda: bool, has_bf16: bool) -> Placement:
    """The placement that fits what is asked for and what is there.

    ``auto`` takes a GPU where there is one, and bf16 on a GPU that computes in it. On a CPU
    numbers are float32 unless bf16 is asked for. Memory is pinned for a GPU alone, where it
    lets rows be copied while the one before is learned from.

    Args:
        has_cuda: whether PyTorch finds a GPU.
        has_bf16: whether that GPU computes in bf16.

    Raises:
        InvalidInput: a word is not known, or a GPU is asked for where there is none.
    """
    for name, value, known in (("device", device, DEVICES), ("precision", precision, PRECISIONS)):
        if value not in known:
            raise InvalidInput(
                f"The parameter {name!r} is {value!r}.", hint=f"Choose one of: {', '.join(known)}."
            )
    if device == "cuda" and not has_cuda:
        raise InvalidInput(
            "The job asks for a GPU, and PyTorch finds none where it runs.",
            hint="Use device auto or cpu, or run the job where there is one.",
        )
    on_gpu = has_cuda and device != "cpu"
    if precision == "bf16" and on_gpu and not has_bf16:
        raise InvalidInput("The GPU does not compute in bf16.", hint="Use precision auto.")
    bf16 = precision == "bf16" or (precision == "auto" and on_gpu and has_bf16)
    return Placement("cuda" if on_gpu else "cpu", bf16, pinned=on_gpu)
