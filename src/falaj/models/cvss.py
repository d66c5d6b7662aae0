"""The base score of a CVSS 3.0 or 3.1 vector, by the equations of its specification.

Source: FIRST, Common Vulnerability Scoring System v3.1, sections 7.1 and 7.4, appendix A.
"""

from __future__ import annotations

import math

_VALUES = {
    "AV": {"N": 0.85, "A": 0.62, "L": 0.55, "P": 0.2},
    "AC": {"L": 0.77, "H": 0.44},
    "UI": {"N": 0.85, "R": 0.62},
    "C": {"H": 0.56, "L": 0.22, "N": 0.0},
    "I": {"H": 0.56, "L": 0.22, "N": 0.0},
    "A": {"H": 0.56, "L": 0.22, "N": 0.0},
}
_PRIVILEGES = {
    "U": {"N": 0.85, "L": 0.62, "H": 0.27},
    "C": {"N": 0.85, "L": 0.68, "H": 0.5},
}


def base_score(vector: str) -> float | None:
    """The score from 0 to 10; None if the text is no vector of version 3."""
    head, _, rest = vector.partition("/")
    if head not in ("CVSS:3.0", "CVSS:3.1"):
        return None
    told = dict(part.split(":", 1) for part in rest.split("/") if ":" in part)
    try:
        value = {name: words[told[name]] for name, words in _VALUES.items()}
        changed = {"C": True, "U": False}[told["S"]]
        privileges = _PRIVILEGES[told["S"]][told["PR"]]
    except KeyError:
        return None
    kept = (1 - value["C"]) * (1 - value["I"]) * (1 - value["A"])
    lost = 1 - kept
    impact = 7.52 * (lost - 0.029) - 3.25 * (lost - 0.02) ** 15 if changed else 6.42 * lost
    if impact <= 0:
        return 0.0
    exploitability = 8.22 * value["AV"] * value["AC"] * privileges * value["UI"]
    total = (impact + exploitability) * (1.08 if changed else 1.0)
    return _rounded_up(min(total, 10.0))


def _rounded_up(number: float) -> float:
    """To one decimal upwards, in whole numbers, as appendix A of the specification does it."""
    whole = round(number * 100_000)
    return whole / 100_000 if whole % 10_000 == 0 else (math.floor(whole / 10_000) + 1) / 10
