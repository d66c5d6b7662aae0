"""Cookies of the pages, and where a page may lead after a sign-in."""

from __future__ import annotations

import re
import secrets
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import Response

SESSION = "__Host-falaj-session"
"""Who is signed in. The prefix makes browsers refuse it without Secure, or of another host."""
FORM = "__Host-falaj-form"
"""A random value for forms of those who are not signed in."""
PASSING = "__Host-falaj-provider"
"""What a browser keeps while its person is at an identity provider; it opens nothing."""
_LONGEST = 200
_PAGES = frozenset({"/", "/account", "/device", "/step-up"})
_ROOMS = re.compile(
    r"/(alerts|changes|contracts|endpoints|incidents|monitors|problems|rollouts|service-levels"
    r"|silences|sources)(/[A-Za-z0-9_-]+(/performance)?)?"
)
"""Pages that only tell: an alert's message leads to them, and so does the sign-in after it."""


def cookie(request: Request, name: str, *, longest: int = _LONGEST) -> str:
    """What a cookie holds; empty if the browser sent none, or too long a one."""
    value = request.cookies.get(name, "")
    return value if len(value) <= longest else ""


def put_cookie(response: Response, name: str, value: str) -> None:
    """Have the browser keep a cookie until it is closed, for our own pages alone."""
    response.set_cookie(name, value, path="/", secure=True, httponly=True, samesite="strict")


def put_passing_cookie(response: Response, name: str, value: str, *, seconds: int) -> None:
    """Have the browser keep a cookie for a while, and send it also when another site leads here."""
    response.set_cookie(
        name, value, path="/", secure=True, httponly=True, samesite="lax", max_age=seconds
    )


def drop_cookie(response: Response, name: str) -> None:
    """Have the browser forget a cookie."""
    response.delete_cookie(name, path="/", secure=True, httponly=True, samesite="strict")


def new_form_value() -> str:
    """A random value for a browser that has no session."""
    return secrets.token_urlsafe(32)


def own_page(asked: str, *, otherwise: str = "/account") -> str:
    """The path to one of our own pages that ``asked`` names, or ``otherwise``.

    Nothing else is followed after a sign-in: no other host, however it is written.
    """
    if not asked.isascii() or not asked.isprintable() or "\\" in asked:
        return otherwise
    try:
        parts = urlsplit(asked)
    except ValueError:
        return otherwise
    if parts.scheme or parts.netloc or asked.startswith("//"):
        return otherwise
    if parts.path not in _PAGES and not _ROOMS.fullmatch(parts.path):
        return otherwise
    return f"{parts.path}?{parts.query}" if parts.query else parts.path
