"""What an ``MLmodel`` file says: which flavour can become a bundle, and the model's inputs.

A flavour is taken if reading its file runs nothing: LightGBM's text, XGBoost's JSON and
UBJSON, ONNX, and scikit-learn as skops wrote it. Pickles are refused wherever they are.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from falaj.kernel.errors import InvalidInput, Unavailable
from falaj.models.model import ModelFormat
from falaj.training.artifactpaths import artifact_path
from falaj.training.encoding import EncodedFeature

FILE = "MLmodel"
LARGEST_FILE = 1 << 20
_NUMBERS = frozenset({"double", "float", "integer", "long", "boolean"})
_PICKLES = (".pkl", ".pickle", ".joblib", ".cloudpickle")
_MOST_INPUTS = 10_000
_DEEPEST = 30
_LONGEST_PATH = 500


@dataclass(frozen=True)
class Flavour:
    """The flavour that is taken.

    ``model_format`` is the one of ``file``; None for what skops wrote, which is converted.
    """

    name: str
    file: str
    model_format: ModelFormat | None


@dataclass(frozen=True)
class MlModel:
    """An ``MLmodel`` file as it was read."""

    flavours: Mapping[str, Mapping[str, Any]]
    signature: Mapping[str, Any]

    def flavour(self) -> Flavour:
        """The first flavour that can become a bundle.

        Raises:
            InvalidInput: there is none; says of each why not.
        """
        reasons = []
        for name, told in self.flavours.items():
            try:
                found = _taken(name, told)
            except InvalidInput as error:
                reasons.append(error.message)
                continue
            if found is not None:
                return found
        raise InvalidInput(
            " ".join(reasons)
            or f"No flavour of the model can be served: it has {', '.join(self.flavours) or 'none'}"
            " (python_function runs its author's program).",
            hint="Log it with mlflow.lightgbm (a Booster), mlflow.xgboost, mlflow.onnx, or "
            "mlflow.sklearn with serialization_format='skops'.",
        )

    def inputs(self) -> tuple[EncodedFeature, ...]:
        """The inputs of the signature, in order; all of them numbers.

        Raises:
            InvalidInput: there is no signature with named columns, or a column is no number.
        """
        columns = list(self._columns())
        if not columns:
            raise InvalidInput(
                "The model has no signature with named columns.",
                hint="Log it with a signature of a data frame, or name its inputs: --inputs.",
            )
        for name, kind in columns:
            if kind not in _NUMBERS:
                raise InvalidInput(
                    f"The input {name[:80]!r} is of the type {kind[:40]!r}, not a number.",
                    hint="Name the inputs with their known words: --inputs.",
                )
        return tuple(EncodedFeature(name=name) for name, _ in columns)

    def _columns(self) -> Iterator[tuple[str, str]]:
        text = self.signature.get("inputs")
        try:
            listed = json.loads(text) if isinstance(text, str) else None
        except (ValueError, RecursionError):
            listed = None
        for one in listed[:_MOST_INPUTS] if isinstance(listed, list) else []:
            if isinstance(one, dict) and isinstance(one.get("name"), str) and one["name"]:
                kind = one.get("type")
                yield one["name"], kind if isinstance(kind, str) else "no word"


def read_mlmodel(data: bytes) -> MlModel:
    """What the file says.

    Raises:
        InvalidInput: it is no such file.
        Unavailable: PyYAML is not there.
    """
    try:
        import yaml
    except ModuleNotFoundError:
        raise Unavailable(
            "MLflow's models are described in YAML, and PyYAML is not there.",
            hint="Install it on the machine of the job worker: pip install pyyaml.",
        ) from None
    try:
        text, depth = data.decode("utf-8"), 0
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            # The reader's time grows with the square of the depth; and with aliases a few lines
            # stand for billions of them.
            if depth > _DEEPEST or isinstance(event, yaml.AliasEvent):
                raise _no_mlmodel()
        document = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise _no_mlmodel() from error
    if not isinstance(document, dict) or not isinstance(document.get("flavors"), dict):
        raise _no_mlmodel()
    flavours = {
        str(name): told for name, told in document["flavors"].items() if isinstance(told, dict)
    }
    signature = document.get("signature")
    return MlModel(flavours, signature if isinstance(signature, dict) else {})


def _no_mlmodel() -> InvalidInput:
    return InvalidInput(
        f"The file {FILE} describes no model.", hint="Log the model again with MLflow's client."
    )


def _taken(name: str, told: Mapping[str, Any]) -> Flavour | None:
    """The flavour, or None if it is of no kind that is known here; raises InvalidInput."""
    if name == "sklearn":
        file = _text(name, told, "pickled_model")
        if told.get("serialization_format") != "skops":
            raise _pickled(name, file)
        return Flavour(name, artifact_path(file), None)
    formats = {
        "lightgbm": ModelFormat.LIGHTGBM,
        "xgboost": ModelFormat.XGBOOST,
        "onnx": ModelFormat.ONNX,
    }
    if name not in formats:
        return None
    file = _text(name, told, "data")
    if file.lower().endswith((*_PICKLES, ".skops")):
        raise _pickled(name, file)
    return Flavour(name, artifact_path(file), formats[name])


def _text(name: str, told: Mapping[str, Any], key: str) -> str:
    """The path that a flavour names, or nothing; raises InvalidInput for what is no short text."""
    value = told.get(key, "")
    if not isinstance(value, str) or len(value) > _LONGEST_PATH:
        raise InvalidInput(
            f"The flavour {name} names no file: {key} is no text of at most {_LONGEST_PATH}"
            " characters."
        )
    return value


def _pickled(name: str, file: str) -> InvalidInput:
    kind = "an object that skops wrote" if file.endswith(".skops") else "a pickle"
    return InvalidInput(
        f"The flavour {name} is {kind} ({file[:80]!r}); to read it would run what it holds."
    )
