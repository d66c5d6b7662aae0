"""What a brought model must give, by the task of its policy."""

import numpy as np
import pytest

from falaj.kernel.errors import InvalidInput
from falaj.models.brought import answers
from falaj.training.targets import BINARY, Target

NUMBER = Target(task="regression")
WORDS = Target(task="classes", classes=("a", "b"))


@pytest.mark.parametrize(
    ("target", "scores"),
    [
        (BINARY, [0.0, 0.5, 1.0]),
        (NUMBER, [-1e9, 0.0, 231.4]),
        (WORDS, [[0.25, 0.75], [1.0, 0.0]]),
        (WORDS, [[0.2503, 0.75]]),  # float32 does not sum exactly
    ],
)
def test_what_the_task_asks_for_is_taken(target, scores):
    given = np.array(scores)
    assert answers(given, "m.onnx", target) is given


@pytest.mark.parametrize(
    ("target", "scores", "why"),
    [
        (BINARY, [0.5, 1.5], "no probabilities"),
        (BINARY, [0.5, np.nan], "no probabilities"),
        (NUMBER, [1.0, np.nan], "not finite"),
        (NUMBER, [np.inf], "not finite"),
        (WORDS, [[0.5, 0.6]], "sum is not 1"),
        (WORDS, [[np.nan, 0.6]], "sum is not 1"),
        (WORDS, [[-0.5, 1.5]], "no probabilities"),
    ],
)
def test_what_it_does_not_ask_for_is_refused(target, scores, why):
    with pytest.raises(InvalidInput, match=why) as caught:
        answers(np.array(scores), "m.onnx", target)
    assert "missing values" in caught.value.hint
