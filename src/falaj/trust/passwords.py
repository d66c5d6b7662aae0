"""Passwords: which are accepted, how they are kept (argon2id), how they are compared."""

from __future__ import annotations

import re
import unicodedata
from base64 import b64encode
from itertools import pairwise
from secrets import token_bytes

from argon2 import PasswordHasher, Type
from argon2.exceptions import InvalidHashError, VerificationError, VerifyMismatchError

from falaj.kernel.errors import Corrupt, InvalidInput

SHORTEST = 12
LONGEST = 256

_COMMON = re.compile(
    "qwertyuiop|asdfghjkl|administrator|contrasena|motdepasse|password|passwort|iloveyou|letmein"
    "|football|baseball|sunshine|princess|superman|changeme|abudhabi|whatever|starwars|welcome"
    "|default|emirates|trustno|company|freedom|dragon|monkey|batman|shadow|master|secret|qwerty"
    "|qwertz|azerty|asdfgh|zxcvbnm|summer|winter|spring|autumn|admin|falaj|dubai|hello|login"
    "|guest|senha|abcdefgh|abcdef|root|user|temp|test|love|abcd|abc"
)
_LEET = str.maketrans("013457$@!", "oieastsai")
_SEQUENCES = ("abcdefghijklmnopqrstuvwxyz", "01234567890123456789", "qwertyuiopasdfghjklzxcvbnm")


class Passwords:
    """Hashes and compares passwords with argon2id.

    Args:
        time_cost, memory_kib, lanes: argon2 parameters; the defaults are RFC 9106's second
            recommended option (3 passes over 64 MiB, 4 lanes).
    """

    def __init__(self, *, time_cost: int = 3, memory_kib: int = 65_536, lanes: int = 4) -> None:
        self._hasher = PasswordHasher(
            time_cost=time_cost, memory_cost=memory_kib, parallelism=lanes, type=Type.ID
        )
        # The form of a hash with these parameters, of no password: comparing with it takes
        # as long as with any other, and making it costs nothing when a process starts.
        salt, digest = _encoded(16), _encoded(32)
        self._nobody = f"$argon2id$v=19$m={memory_kib},t={time_cost},p={lanes}${salt}${digest}"

    def hash(self, password: str) -> str:
        """The argon2id hash of a password, with its salt and parameters."""
        return self._hasher.hash(_normal(password))

    def fits(self, hashed: str | None, password: str) -> bool:
        """True if the password is the one that was hashed.

        Without a hash (no such account) the same work is done in vain, so that the time of the
        answer does not tell whether an account exists.

        Raises:
            Corrupt: the stored hash is not an argon2 hash.
        """
        try:
            self._hasher.verify(hashed or self._nobody, _normal(password))
        except VerifyMismatchError:
            return False
        except (InvalidHashError, VerificationError) as error:
            raise Corrupt(
                "A stored password hash cannot be read.",
                hint="Invite the person again; the database may have been tampered with.",
            ) from error
        return hashed is not None

    def outdated(self, hashed: str) -> bool:
        """True if a hash was made with other parameters than today's."""
        return self._hasher.check_needs_rehash(hashed)


def check_strength(password: str, *, name: str) -> None:
    """Refuse passwords that a guesser tries first.

    Raises:
        InvalidInput: too short, too long, too uniform, a sequence, a common word with
            decoration, or built on the account's own name.
    """
    problem = _weakness(_normal(password), name)
    if problem:
        raise InvalidInput(
            f"This password {problem}.",
            hint=f"Use at least {SHORTEST} characters; four unrelated words make a good one.",
        )


def _weakness(password: str, name: str) -> str:
    folded = password.casefold()
    plain = re.sub(r"[^a-z0-9]", "", folded)
    built_on_name = len(name) > 2 and name in folded and len(password) - len(name) < SHORTEST
    problems = (
        (len(password) < SHORTEST, f"is shorter than {SHORTEST} characters"),
        (len(password) > LONGEST, f"is longer than {LONGEST} characters"),
        (len(set(folded)) < 6, "has fewer than six different characters"),
        (built_on_name, "is built on the account's name"),
        (_is_run(plain), "is a keyboard or alphabet sequence"),
        (_is_decoration(folded), "is a common word with decoration"),
        (not any(character.isalpha() for character in password), "has no letters"),
    )
    return next((told for wrong, told in problems if wrong), "")


def _is_decoration(folded: str) -> bool:
    """True if little but digits and signs is left when the common words are taken out."""
    foreign = sum(1 for character in folded if not character.isascii() and character.isalpha())
    for spelling in (folded, folded.translate(_LEET)):
        letters = re.sub(r"[^a-z]", "", spelling)
        rest = _COMMON.sub("", letters)
        if rest != letters and len(rest) + foreign < 4:
            return True
    return False


def _is_run(plain: str) -> bool:
    return any(_run(plain, row) or _run(plain, row[::-1]) for row in _SEQUENCES)


def _run(text: str, row: str) -> bool:
    """True if the text is mostly one stretch of a row, repeated."""
    stretch = 0
    longest = 0
    for left, right in pairwise(text):
        stretch = stretch + 1 if left + right in row else 0
        longest = max(longest, stretch + 1)
    return longest >= max(8, len(text) * 3 // 4)


def _encoded(n_bytes: int) -> str:
    """Random bytes in unpadded base64, as argon2's encoding has them."""
    return b64encode(token_bytes(n_bytes)).decode().rstrip("=")


def _normal(password: str) -> str:
    """NFKC, so that the same keys on another keyboard give the same password."""
    return unicodedata.normalize("NFKC", password)
