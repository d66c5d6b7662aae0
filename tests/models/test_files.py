"""What a model's file begins with."""

import pickle

import pytest

from falaj.models.files import is_pickle


@pytest.mark.parametrize(
    "text",
    ["class Model:\n    pass\n", "import numpy as np\nclass Model: ...\n",
     "import os\nimport sys\n", "from x import y\n", "# a comment\nclass Model: ...\n"],
)  # fmt: skip
def test_a_module_of_python_is_no_pickle_however_it_begins(text):
    assert not is_pickle(text.encode())


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_of_every_protocol_is_one(protocol):
    assert is_pickle(pickle.dumps(pytest.approx, protocol))
    assert is_pickle(b"cos\nsystem\n(S'true'\ntR.")
    assert is_pickle(b"(S'true'\nios\nsystem\n.")
