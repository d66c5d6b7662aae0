"""A browser for tests: keeps cookies, fills in the forms of pages, runs no script.

What our own script does with passkeys is done by ``passkey``, with an authenticator of
``falaj.testing.authenticators``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any

import httpx

from falaj.testing.authenticators import Authenticator


@dataclass
class Form:
    """A form of a page: where it goes, and its fields as the page fills them in."""

    action: str
    fields: dict[str, str] = field(default_factory=dict)


class _Forms(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.forms: list[Form] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        told = {name: value or "" for name, value in attrs}
        if tag == "form":
            self.forms.append(Form(told.get("action", "")))
        elif tag == "input" and self.forms and "name" in told:
            self.forms[-1].fields[told["name"]] = told.get("value", "")


def forms(page: httpx.Response) -> list[Form]:
    """The forms of a page."""
    parser = _Forms()
    parser.feed(page.text)
    return parser.forms


class Browser:
    """One browser of one person.

    Args:
        web: an HTTP client of the control plane that follows no redirects.
    """

    def __init__(self, web: httpx.Client) -> None:
        self.web = web

    def open(self, path: str) -> httpx.Response:
        """The page at a path; redirects are not followed."""
        return self.web.get(path, follow_redirects=False)

    def send(self, page: httpx.Response, action: str, **filled: str) -> httpx.Response:
        """Fill in and send the first form of a page that goes to ``action``.

        Of several ones that hold a hidden field, the one that holds it as it is filled in.
        """
        found = [form for form in forms(page) if form.action == action]
        same = [form for form in found if filled.items() <= form.fields.items()]
        return self.post(action, {**(same or found)[0].fields, **filled})

    def post(self, path: str, fields: dict[str, str], **more: Any) -> httpx.Response:
        """Send a form that no page has given."""
        return self.web.post(path, data=fields, follow_redirects=False, **more)

    def token(self, path: str = "/login") -> str:
        """The token of the forms that a page gives this browser."""
        return forms(self.open(path))[0].fields["token"]

    def login(self, name: str, password: str, code: str, then: str = "") -> httpx.Response:
        """Sign in with password and code."""
        page = self.open(f"/login?next={then}" if then else "/login")
        return self.send(page, "/login", name=name, password=password, code=code)

    def passkey(self, device: Authenticator, base: str, page: str, **fields: str) -> httpx.Response:
        """What ``static/passkey.js`` does: ask for options, then hand on the device's answer."""
        told = {"token": self.token(page), **fields} if page else dict(fields)
        options = self.web.post(f"{base}/options", json=told)
        if options.status_code != 200:
            return options
        asked = options.json()
        credential = device.create(asked) if "rp" in asked else device.get(asked)
        return self.web.post(base, json={**told, "credential": credential})
