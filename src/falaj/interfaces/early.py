"""What a process will import anyway, imported while it waits for its supervisor.

Only names of modules stand here: importing them early or late makes no difference but time.
The garbage collector rests meanwhile, and never looks at what was made: modules stay, and to look
through them again and again took an eighth of the time.
"""

from __future__ import annotations

import gc
from importlib import import_module

_EVERYWHERE = ("falaj.wiring.assembly", "falaj.wiring.traces")
_MODULES = {
    "control": (
        "falaj.interfaces.auth",
        "falaj.interfaces.http",
        "falaj.interfaces.people",
        "falaj.wiring.actions",
        "falaj.wiring.services",
        "uvicorn",
    ),
    "inference": (
        "falaj.serving.front",
        "falaj.serving.inference",
        "falaj.serving.predictionlog",
        "falaj.serving.storedfeatures",
        "falaj.wiring.dataplane",
        "falaj.wiring.services",
        "onnxruntime",
        "uvloop",
    ),
    "log": ("falaj.serving.logwriter", "falaj.serving.rings", "falaj.serving.spools"),
    "worker": ("falaj.wiring.work",),
    "pool": ("falaj.wiring.raypool",),
}


def imported(role: str) -> None:
    """Import what a process of that role needs."""
    gc.disable()
    try:
        for name in (*_EVERYWHERE, *_MODULES[role]):
            import_module(name)
    finally:
        gc.freeze()
        gc.enable()
