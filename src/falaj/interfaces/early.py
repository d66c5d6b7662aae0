"""What a process will import anyway, imported while it waits for its supervisor.

Only names of modules stand here: importing them early or late makes no difference but time.
"""

from __future__ import annotations

from importlib import import_module

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
    for name in _MODULES[role]:
        import_module(name)
