"""On-demand functions that try to be more than a formula."""

from __future__ import annotations

import pytest

from falaj.features.ondemand import compiled
from falaj.kernel.errors import InvalidInput

HOSTILE = {
    "a module under the name of another": "    math = np\n    return math.load('x')\n",
    "a C library": (
        "    math = np\n    math = math.ctypeslib\n    math = math.ctypes\n"
        "    math = math.CDLL(None)\n    math = math.getpid\n    return math()\n"
    ),
    "a loop variable": "    for math in [np]:\n        return math.load('x')\n",
    "a comprehension": "    return [math.load('x') for math in [np]]\n",
    "a walrus": "    return (math := np) and math.load('x')\n",
    "an inner argument": "    return (lambda math: math.load('x'))(np)\n",
    "an inner function": "    def math(y):\n        return y\n    return math(x)\n",
    "an unpacking": "    math, y = np, x\n    return math.load('x')\n",
    "a module as a value": "    y = np\n    return y\n",
    "numpy changed for everybody": "    np.where = x\n    return x\n",
    "a constant changed for everybody": "    math.pi += 1\n    return x\n",
    "a class pattern": "    match x:\n        case int(__class__=c):\n            return c\n",
    "try with groups": "    try:\n        return x\n    except* int:\n        return 0\n",
    "a dunder name": "    __x = 1\n    return __x\n",
    "depth": "    return " + "-" * 19_000 + "x\n",
    "length": "    return x\n" + "    # long\n" * 5_000,
    "a zero byte": "    return x\x00\n",
}


@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE)
def test_a_function_that_reaches_beyond_computing_is_refused(body: str) -> None:
    with pytest.raises(InvalidInput):
        compiled("def f(x):\n" + body)


def test_an_argument_cannot_take_the_place_of_a_module() -> None:
    with pytest.raises(InvalidInput, match="argument named math"):
        compiled("def f(math):\n    return math.load('x')\n")


def test_a_plain_formula_still_computes() -> None:
    function = compiled(
        "def f(x, y):\n    far = np.where(x > 1, math.pi, 0.0)\n"
        "    return np.add(far, y).round(2)\n"
    )
    assert function(2, 1.0) == 4.14
