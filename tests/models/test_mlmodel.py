"""Hostile ``MLmodel`` files are refused before they cost anything."""

import tracemalloc

import pytest

from falaj.kernel.errors import InvalidInput
from falaj.models.mlmodel import read_mlmodel

GOOD = b"flavors:\n  lightgbm:\n    data: model.lgb\n"


def bomb():
    """A few lines that stand for a million texts."""
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    levels += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 6)]
    return "\n".join([*levels, "flavors:", "  onnx:", "    data: *a5", ""]).encode()


def test_a_file_that_names_its_model_is_read():
    assert read_mlmodel(GOOD).flavour().file == "model.lgb"


def test_aliases_that_stand_for_a_million_texts_are_refused():
    tracemalloc.start()
    with pytest.raises(InvalidInput, match="describes no model"):
        read_mlmodel(bomb()).flavour()
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 2**20


def test_an_alias_is_refused_wherever_it_stands():
    with pytest.raises(InvalidInput, match="describes no model"):
        read_mlmodel(b"name: &a x\nother: *a\n" + GOOD)


@pytest.mark.parametrize("value", ["[model.lgb]", "{a: b}", "7", "x" * 501])
@pytest.mark.parametrize(
    "flavour",
    ["lightgbm:\n    data", "sklearn:\n    serialization_format: skops\n    pickled_model"],
)
def test_the_file_of_a_flavour_is_a_short_text(flavour, value):
    with pytest.raises(InvalidInput, match="names no file"):
        read_mlmodel(f"flavors:\n  {flavour}: {value}\n".encode()).flavour()
