"""Where and with what code a run runs, as far as this machine can tell."""

from __future__ import annotations

import hashlib
import inspect
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from types import ModuleType

from falaj.kernel.errors import InvalidInput
from falaj.training.model import CodeVersion, Environment

RECORDED = (
    "falaj",
    "duckdb",
    "lightgbm",
    "lightning",
    "numpy",
    "onnx",
    "onnxmltools",
    "onnxruntime",
    "pyarrow",
    "scikit-learn",
    "scipy",
    "skl2onnx",
    "torch",
    "xgboost",
    "xgboost-cpu",
)
_GIT_SECONDS = 5


def environment() -> Environment:
    """Python, machine, and the versions of the packages that can change a model."""
    packages = {}
    for name in RECORDED:
        try:
            packages[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return Environment(
        python=platform.python_version(),
        platform=f"{platform.system()} {platform.release()}",
        machine=platform.machine(),
        n_cpus=os.cpu_count() or 1,
        packages=packages,
    )


def code_version(thing: type | ModuleType | object) -> CodeVersion:
    """The code that defines a class, module or function: its content, and its commit if any.

    Raises:
        InvalidInput: it has no source file (it was typed into a shell).
    """
    name = getattr(thing, "__qualname__", None) or getattr(thing, "__name__", str(thing))
    module = getattr(thing, "__module__", "")
    try:
        path = Path(inspect.getfile(thing))  # type: ignore[arg-type]
        content = path.read_bytes()
    except (TypeError, OSError):
        raise InvalidInput(
            f"The code of {name} has no source file, so that no run could name it.",
            hint="Put it into a Python file.",
        ) from None
    commit = _git(path.parent, "rev-parse", "HEAD")
    dirty = None
    if commit is not None and _git(path.parent, "ls-files", "--error-unmatch", path.name) is None:
        commit = None  # a file that merely lies within somebody's checkout
    if commit is not None:
        dirty = bool(_git(path.parent, "status", "--porcelain"))
    return CodeVersion(
        commit=commit,
        dirty=dirty,
        content_hash="sha256:" + hashlib.sha256(content).hexdigest(),
        entry=f"{module}:{name}" if module else name,
    )


def _git(folder: Path, *arguments: str) -> str | None:
    """What git says in a folder, or None where there is no git, no checkout or no answer."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=_GIT_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
