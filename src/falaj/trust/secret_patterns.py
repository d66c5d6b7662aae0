"""What secrets look like: the patterns of the scan, each with the kind that it tells.

A pattern begins with literal marks: only text that holds one of them is searched, so that
megabytes of weights cost next to nothing. All repetitions are bounded. Where the mark itself
cannot be mistaken nothing is asked of the letter before it: in a binary file that may be
the length of the text.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

_LEAST_ENTROPY = 3.2
"""Bits a letter; words and dates lie below, random text of twelve letters above."""
_LEAST_LENGTH = 12


@dataclass(frozen=True)
class Pattern:
    """One kind of secret.

    ``marks`` are in lower case: texts are compared in lower case with them.
    """

    kind: str
    marks: tuple[str, ...]
    expression: re.Pattern[str]
    judged: bool = False
    """True if the group ``value`` must look random, or at least be no placeholder."""


def _of(kind: str, marks: str, expression: str, *, judged: bool = False) -> Pattern:
    return Pattern(kind, tuple(marks.split()), re.compile(expression, re.ASCII), judged)


PATTERNS: tuple[Pattern, ...] = (
    _of("Falaj secret", "falaj_", r"falaj_[a-z]{1,20}_[A-Za-z0-9_-]{40,100}"),
    _of("AWS access key", "akia asia", r"(?<![A-Z0-9])(?:AKIA|ASIA)[A-Z2-7]{16}(?![A-Z0-9])"),
    _of(
        "AWS secret key", "aws",
        r"(?i:aws).{0,30}?(?i:secret|key).{0,20}?[\"'=:\s](?P<value>[A-Za-z0-9/+]{40})"
        r"(?![A-Za-z0-9/+=])",
        judged=True,
    ),
    _of("Google API key", "aiza", r"(?<![A-Za-z0-9_-])AIza[A-Za-z0-9_-]{35}(?![A-Za-z0-9_-])"),
    _of("Google client secret", "gocspx-", r"GOCSPX-[A-Za-z0-9_-]{28}"),
    _of("Google access token", "ya29.", r"(?<![A-Za-z0-9])ya29\.[A-Za-z0-9_-]{30,500}"),
    _of("Azure storage key", "accountkey=", r"(?i:AccountKey)=[A-Za-z0-9+/]{80,100}={0,2}"),
    _of("Azure shared key", "sharedaccesskey=", r"(?i:SharedAccessKey)=[A-Za-z0-9+/]{40,50}=?"),
    _of("Azure client secret", "q~", r"(?<![\w~.-])[\w~.-]{3}\dQ~[\w~.-]{31,34}(?![\w~.-])"),
    _of("Azure shared access signature", "sig=", r"[?&]sig=[A-Za-z0-9%+/]{40,100}"),
    _of("GitHub token", "ghp_ gho_ ghu_ ghs_ ghr_", r"gh[pousr]_[A-Za-z0-9]{36,255}"),
    _of("GitHub token", "github_pat_", r"github_pat_[A-Za-z0-9_]{60,100}"),
    _of("GitLab token", "glpat- gldt- glrt- glptt- glcbt- glsoat- glft- glimt- glagent-",
        r"gl(?:pat|dt|rt|ptt|cbt|soat|ft|imt|agent)-[A-Za-z0-9_.-]{20,100}"),
    _of("Slack token", "xox", r"xox[abeoprs]-[A-Za-z0-9-]{10,250}"),
    _of("Slack token", "xapp-", r"xapp-\d-[A-Za-z0-9-]{10,250}"),
    _of("Slack webhook", "hooks.slack.com",
        r"hooks\.slack\.com/(?:services|workflows)/[A-Za-z0-9/_+-]{20,100}"),
    _of("private key", "private key", r"-----BEGIN (?:[A-Z0-9]{1,20} ){0,3}PRIVATE KEY"),
    _of("JSON web token", "eyj",
        r"(?<![A-Za-z0-9_-])eyJ[A-Za-z0-9_-]{8,4000}\.eyJ[A-Za-z0-9_-]{8,8000}"
        r"\.[A-Za-z0-9_-]{16,2000}"),
    _of("connection URL with a password", "://",
        r"(?i:[a-z][a-z0-9+.-]{1,30})://[^\s/:@\"'<>]{0,100}:(?P<value>[^\s/@\"'<>]{1,200})@[^\s@]"),
    _of(
        "named secret", "password passwd secret token apikey api_key api-key access_key access-key "
        "private_key credential",
        r"(?i:password|passwd|secret|token|api[_-]?key|access[_-]?key|private_key|credentials?)"
        r"[A-Za-z0-9_-]{0,20}[\"'\]]{0,2}\s{0,5}(?::|=>?|,)\s{0,5}[rbuf]{0,2}[\"']?"
        r"(?P<value>[^\s\"',;)}]{12,200})",
        judged=True,
    ),
)  # fmt: skip
"""In the order in which they are looked for; a place is told once, with the first kind."""

SECRET_NAME = re.compile(
    r"(?i)(password|passwd|secret|token|api[_-]?key|access[_-]?key|private[_-]?key|credential)"
)
"""Names under which a value that looks random is taken for a secret."""
_PLACEHOLDER = re.compile(
    r"(?i)^(?:[$%{<*].*|.*(?:\.\.\.|…|\*\*\*|\$\{|\{\{|xxxx|example|changeme|placeholder).*"
    r"|your[_-].*|password|passwd|secret|none|null|true|false|env[:.].*|os\.environ.*)$"
)


def looks_random(value: str) -> bool:
    """True if a text has letters and digits and the entropy of one that a machine drew."""
    if len(value) < _LEAST_LENGTH or _PLACEHOLDER.match(value):
        return False
    has = {letter.isdigit() for letter in value if letter.isalnum()}
    return has == {True, False} and entropy(value) >= _LEAST_ENTROPY


def entropy(text: str) -> float:
    """Shannon entropy of a text's letters, bits a letter."""
    n = len(text)
    return -sum(count / n * math.log2(count / n) for count in Counter(text).values())


def matches(text: str) -> Iterator[tuple[int, int, str]]:
    """Where secrets stand in a text: begin, end and kind of each."""
    lowered = text.lower()
    for pattern in PATTERNS:
        if not any(mark in lowered for mark in pattern.marks):
            continue
        for found in pattern.expression.finditer(text):
            value = found.groupdict().get("value")
            if pattern.judged and not looks_random(value or ""):
                continue
            if value is not None and _PLACEHOLDER.match(value):
                continue
            yield found.start(), found.end(), pattern.kind
