"""Typed, sortable identifiers: ``run_0199…`` is a run, and a later run sorts after it.

An id is a prefix that names the type, an underscore, and a UUIDv7 (RFC 9562) in hex:
48 bits of Unix milliseconds, then random bits.
"""

from __future__ import annotations

import os
import re
import time

_PATTERN = re.compile(r"^[a-z]{2,12}_[0-9a-f]{32}$")
PREFIXES = {
    "call": "one call through the door",
    "job": "a durable job",
    "event": "an event of the outbox",
    "change": "a change that waits for or has an approval",
    "alert": "an alert",
    "incident": "an incident",
    "prob": "a problem: the cause of incidents",
    "silence": "a silence of alerts",
    "notice": "a message about alerts on its way to a receiver",
    "exp": "an experiment",
    "usage": "what one fit of a run used",
    "run": "a training run",
    "stream": "sealed bytes of any size",
    "upload": "an artifact that is sent in parts",
    "logged": "a logged model (its id for MLflow's client has `m-` for the prefix)",
    "gates": "a report of a version's gates",
    "aliasmove": "a move of an alias of a model",
    "ts": "a pinned training set",
    "pred": "a prediction",
    "release": "a release of an endpoint",
    "load": "one load of a source",
    "user": "a person's account",
    "group": "a group of people that an identity provider keeps",
    "session": "a login session",
    "passkey": "a passkey of a person",
    "problem": "an error whose text is in the log",
    "token": "a token family",
    "key": "a key-encryption key",
    "uses": "counted uses of keys, on their way to the audit log",
    "segment": "a segment of a spool",
    "push": "a push of events into a stream",
    "read": "an online read of features",
    "report": "a report of a monitor",
    "check": "a check of a monitor that its schedule asked for",
    "retraining": "a retraining that something caused",
    "parity": "a check of parity",
    "erasure": "a certificate that a data subject was erased",
    "prun": "a run of a pipeline",
    "backfill": "a back-fill of a pipeline",
    "delivery": "an event on its way to a webhook",
    "scaling": "a decision on the number of inference workers",
    "rol": "a run of a rollout",
}


def new_id(prefix: str) -> str:
    """A new id of the given type, greater than those made in earlier milliseconds."""
    if prefix not in PREFIXES:
        raise ValueError(f"unknown id prefix {prefix!r}; add it to PREFIXES with its meaning")
    milliseconds = time.time_ns() // 1_000_000
    raw = bytearray(milliseconds.to_bytes(6, "big") + os.urandom(10))
    raw[6] = 0x70 | (raw[6] & 0x0F)
    raw[8] = 0x80 | (raw[8] & 0x3F)
    return f"{prefix}_{raw.hex()}"


def is_id(text: str, prefix: str) -> bool:
    """True if ``text`` is a well-formed id of that type."""
    return text.startswith(prefix + "_") and _PATTERN.match(text) is not None
