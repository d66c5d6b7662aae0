"""Who is told of which alert: the words of Prometheus' Alertmanager, as definitions.

An alert has *labels*. *Matchers* over labels choose a *route*, which names the receiver, by
which labels alerts are told together, and how often. An *inhibition rule* keeps alerts quiet
while another one is there; a *silence* does so for a time.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from functools import lru_cache
from typing import Annotated, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from falaj.catalog.definitions import NAME, Definition
from falaj.kernel.call import AssetRef
from falaj.kernel.settings_receivers import Channel
from falaj.operations.model import Alert

Labels = Mapping[str, str]
LONGEST_PATTERN = 200
_STRANGE = re.compile(r"[^A-Za-z0-9_]")
_NESTED = re.compile(r"[+*?}]\)*[+*{]|\([^)]*[+*{|][^)]*\)[+*{]")
"""Repetitions of repetitions, whose matching can take time without end."""
LabelName = Annotated[str, Field(pattern=r"^[a-zA-Z_][a-zA-Z0-9_]*$", max_length=100)]


def labels_of(alert: Alert, *, tags: Iterable[str] = (), region: str | None = None) -> Labels:
    """The labels of an alert.

    ``alertname``, ``severity``, ``subject`` (``kind:key``), ``subject_kind``, ``region`` if its
    subject has one, and ``tag_NAME="true"`` for each tag of its subject.
    """
    labels = {
        "alertname": alert.name,
        "severity": str(alert.severity),
        "subject": str(alert.subject),
        "subject_kind": alert.subject.kind,
        **{f"tag_{_STRANGE.sub('_', tag)}": "true" for tag in tags},
    }
    return labels if region is None else {**labels, "region": region}


@lru_cache(maxsize=1024)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)


class Matcher(BaseModel):
    """What one label must be. A label that is not there is the empty text, as in Alertmanager.

    ``=~`` and ``!~`` take a regular expression that must match the whole value.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    label: LabelName
    op: Literal["=", "!=", "=~", "!~"] = "="
    value: str = Field(max_length=LONGEST_PATTERN)

    @model_validator(mode="after")
    def _is_pattern(self) -> Self:
        if self.op in ("=~", "!~"):
            if _NESTED.search(self.value):
                raise ValueError("the pattern repeats a repetition, which may take for ever")
            try:
                _compiled(self.value)
            except re.error as error:
                raise ValueError(f"{self.value!r} is no regular expression: {error}") from None
        return self

    def fits(self, labels: Labels) -> bool:
        """True if the labels are as this matcher says."""
        found = labels.get(self.label, "")
        if self.op in ("=", "!="):
            return (found == self.value) is (self.op == "=")
        return (_compiled(self.value).fullmatch(found) is not None) is (self.op == "=~")


Matchers = tuple[Matcher, ...]


def all_fit(matchers: Sequence[Matcher], labels: Labels) -> bool:
    """True if every matcher fits; also if there is none."""
    return all(matcher.fits(labels) for matcher in matchers)


class Escalation(BaseModel):
    """Who is told next when nobody acknowledges."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    after_minutes: float = Field(gt=0, le=7 * 24 * 60)
    """After the receiver before was told."""
    receiver: str = Field(pattern=NAME)


class AlertRoute(Definition):
    """Which alerts are told to whom. The first route that fits takes an alert, unless it goes
    on (``continues``); an alert that no route takes stands on the page and in the log alone."""

    kind: ClassVar[str] = "alert_route"

    receiver: str = Field(pattern=NAME)
    matchers: Matchers = ()
    """All must fit; none fits every alert."""
    order: int = Field(100, ge=0, le=10_000)
    """Routes are tried by their order, then by name."""
    continues: bool = False
    """Try the routes after it as well (Alertmanager's ``continue``)."""
    group_by: tuple[LabelName, ...] = ("alertname", "subject")
    """Alerts with the same values of these labels are told together; none: all of the route."""
    group_wait_seconds: float = Field(30, ge=0, le=3600)
    """How long a new group waits for more alerts before it is told."""
    group_interval_seconds: float = Field(300, ge=1, le=24 * 3600)
    """How long until news of a group that was told are told."""
    repeat_interval_seconds: float = Field(4 * 3600, ge=60, le=30 * 24 * 3600)
    """How long until a group without news is told again; not, when all is acknowledged."""
    escalation: tuple[Escalation, ...] = ()
    """Receivers one after the other, while an alert is not acknowledged."""
    enabled: bool = True

    def references(self) -> list[AssetRef]:
        """The receivers."""
        names = dict.fromkeys((self.receiver, *(step.receiver for step in self.escalation)))
        return [AssetRef(AlertReceiver.kind, name) for name in names]

    @property
    def group_wait(self) -> timedelta:
        """``group_wait_seconds``."""
        return timedelta(seconds=self.group_wait_seconds)

    @property
    def group_interval(self) -> timedelta:
        """``group_interval_seconds``."""
        return timedelta(seconds=self.group_interval_seconds)

    @property
    def repeat_interval(self) -> timedelta:
        """``repeat_interval_seconds``."""
        return timedelta(seconds=self.repeat_interval_seconds)


class InhibitRule(Definition):
    """A source alert keeps target alerts quiet while it is there.

    Only those that have the same values of the labels ``equal`` as the source. An alert that
    fits both sides is not kept quiet by one that does so too, hence never by itself.
    """

    kind: ClassVar[str] = "inhibit_rule"

    source_matchers: Matchers = Field(min_length=1)
    target_matchers: Matchers = Field(min_length=1)
    equal: tuple[LabelName, ...] = ()
    enabled: bool = True

    def inhibits(self, source: Labels, target: Labels) -> bool:
        """True if the source keeps the target quiet."""
        if not (all_fit(self.source_matchers, source) and all_fit(self.target_matchers, target)):
            return False
        both = all_fit(self.target_matchers, source) and all_fit(self.source_matchers, target)
        same = all(source.get(name, "") == target.get(name, "") for name in self.equal)
        return same and not both


class AlertReceiver(Definition):
    """Where alerts are told. What must stay secret stands in the settings, not here."""

    kind: ClassVar[str] = "alert_receiver"

    channel: Channel
    url: str = Field("", max_length=2000)
    """The server: of an Alertmanager (``https://alertmanager.internal``), of a mail server
    (``smtp://mail.internal:587`` with STARTTLS, ``smtps://…:465`` with TLS from the start), of
    PagerDuty if not the public one. The addresses of Slack, Teams and apprise are secrets."""
    secret: str = Field("", pattern=r"^([a-z][a-z0-9_]{0,62})?$")
    """The name in the setting ``receivers.secrets`` of the token, password or secret address;
    empty: this receiver's own name, with ``_`` for ``-``."""
    user: str = Field("", max_length=200)
    """Who signs in at the mail server or the Alertmanager; empty for nobody."""
    sender: str = Field("", max_length=200)
    """The address that mail comes from."""
    to: tuple[Annotated[str, Field(max_length=200)], ...] = ()
    """The addresses that mail goes to."""
    send_resolved: bool = True
    """Tell too when all is well again."""

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        scheme = self.url.partition(":")[0]
        if self.channel == "email":
            if scheme not in ("smtp", "smtps") or not self.sender or not self.to:
                raise ValueError("email needs url (smtp://… or smtps://…), sender and to")
            if any("\n" in one or "\r" in one or "@" not in one for one in (self.sender, *self.to)):
                raise ValueError("sender and to are addresses: name@server")
        elif self.channel == "alertmanager" and scheme != "https":
            raise ValueError("alertmanager needs url (https://…)")
        elif self.channel in ("slack", "teams", "apprise") and self.url:
            raise ValueError(f"the address of {self.channel} is a secret: see receivers.secrets")
        return self

    @property
    def secret_name(self) -> str:
        """The name of its secret in the settings."""
        return self.secret or self.name.replace("-", "_")


def routes_for(routes: Sequence[AlertRoute], labels: Labels) -> list[AlertRoute]:
    """The routes that take an alert, in their order."""
    found = []
    for route in sorted(routes, key=lambda one: (one.order, one.name)):
        if route.enabled and all_fit(route.matchers, labels):
            found.append(route)
            if not route.continues:
                break
    return found
