"""Made-up secrets of each kind that the scan knows; drawn here, so that none stands in a file."""

from __future__ import annotations

import random
import string
from collections.abc import Mapping

_chance = random.Random(11)  # noqa: S311 - nobody's secret
_WORD = string.ascii_letters + string.digits


def _drawn(n: int, letters: str = _WORD) -> str:
    return "".join(_chance.choice(letters) for _ in range(n))


_BASE32 = string.ascii_uppercase + "234567"

PLANTED: Mapping[str, tuple[str, ...]] = {
    "Falaj secret": ("falaj_" + "sk_" + _drawn(43), "falaj_" + "link_" + _drawn(43)),
    "AWS access key": ("AK" + "IA" + _drawn(16, _BASE32), "AS" + "IA" + _drawn(16, _BASE32)),
    "AWS secret key": (f'aws_secret_access_key = "{_drawn(38)}a1"',),
    "Google API key": ("AI" + "za" + _drawn(35),),
    "Google client secret": ("GOCSPX" + "-" + _drawn(28),),
    "Google access token": ("ya29" + "." + _drawn(60),),
    "Azure storage key": (f"AccountName=a;AccountKey={_drawn(86)}==;",),
    "Azure shared key": (f"Endpoint=sb://a;SharedAccessKey={_drawn(43)}=",),
    "Azure client secret": ("abc8" + "Q~" + _drawn(34),),
    "Azure shared access signature": (f"https://a.blob.x/c?sv=2022&sig={_drawn(43)}%3D",),
    "GitHub token": ("gh" + "p_" + _drawn(36), "github" + "_pat_" + _drawn(82)),
    "GitLab token": ("gl" + "pat-" + _drawn(20),),
    "Slack token": ("xo" + "xb-" + _drawn(40), "xa" + "pp-1-" + _drawn(40)),
    "Slack webhook": ("https://hooks.slack.com/" + f"services/T0A/B0B/{_drawn(24)}",),
    "private key": tuple(
        f"-----BEGIN {kind}PRIVATE KEY-----" for kind in ("", "RSA ", "EC ", "OPENSSH ")
    ),
    "JSON web token": ("ey" + f"J{_drawn(20)}.ey" + f"J{_drawn(40)}.{_drawn(43)}",),
    "connection URL with a password": (
        f"postgresql://amina:{_drawn(10)}@db/falaj", f"rediss://:{_drawn(12)}@cache:6379/0",
    ),
    "named secret": (f'DB_PASSWORD = "{_drawn(15)}7a"', f"api-key: {_drawn(24)}9z"),
}  # fmt: skip
"""Texts that hold a secret, by the kind that the scan tells."""

HARMLESS: tuple[str, ...] = (
    'password = os.environ["DB_PASSWORD"]',
    "token: ${CI_TOKEN_OF_DEPLOYMENT}",
    'secret = "changeme"',
    "postgresql://amina@db/falaj",
    "rediss://user:${REDIS_PASSWORD}@host:6379/0",
    "https://example.org/a:b@c",
    "The token is renewed each time, and tokens are counted.",
    "tokenizer = AutoTokenizer.from_pretrained(name)",
    "sha256:" + "ab12" * 16,
    "password_hash_algorithm: argon2id",
    "feature api_key_is_present: float64",
    "-----BEGIN PUBLIC KEY-----",
)
"""Texts that are none, and look a little like one."""
