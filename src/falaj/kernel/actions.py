"""``@action`` and ``Service``: a platform verb, declared once.

From one declaration come the Python call, the HTTP route, the command, the name of the
permission and the audit record. The signature is the schema: arguments and results are
pydantic models, dataclasses or plain types.
"""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Self, TypeVar, get_type_hints

from pydantic import (
    BaseModel,
    ConfigDict,
    Secret,
    SecretStr,
    TypeAdapter,
    ValidationError,
    create_model,
)

from falaj.kernel.binary import media_type_of
from falaj.kernel.call import AssetRef, Call
from falaj.kernel.errors import InvalidInput

F = TypeVar("F", bound=Callable[..., Any])
PLATFORM = "platform"
"""The kind of resource of an action that is about no single asset."""
_MARK = "__falaj_action__"
_PLACEHOLDER = re.compile(r"{(\w+)(?::path)?}")


@dataclass(frozen=True)
class _Mark:
    method: str
    path: str
    on: str
    step_up: bool
    mutates: bool
    reads_first: bool


def action(
    *,
    get: str = "",
    post: str = "",
    delete: str = "",
    on: str = PLATFORM,
    step_up: bool = False,
    reads: bool = False,
    reads_first: bool = False,
) -> Callable[[F], F]:
    """Declare a service method as an action.

    Args:
        get, post, delete: the route, exactly one of them; ``{name}`` takes the argument
            of that name from the path.
        on: the kind of asset that the action is about. Its key is made of the path's
            arguments, joined by ``/``.
        step_up: True if it needs a second factor from the last five minutes.
        reads: True if a POST changes nothing. A repeat of it is answered anew, so that no
            answer has to be kept, which may be about persons.
        reads_first: True if it reads for long and then writes little, all of it by
            ``Call.after_reading``. The door then lets it read without the transaction in
            which it writes: others may write meanwhile.
    """
    given = [
        (method, path)
        for method, path in (("GET", get), ("POST", post), ("DELETE", delete))
        if path
    ]
    if len(given) != 1:
        raise TypeError("an action has exactly one of get=, post=, delete=")
    ((method, path),) = given

    def mark(function: F) -> F:
        mutates = method != "GET" and not reads
        setattr(function, _MARK, _Mark(method, path, on, step_up, mutates, reads_first))
        return function

    return mark


@dataclass(frozen=True)
class Action:
    """One declared verb of the platform, with all that an interface needs to offer it."""

    service: str
    verb: str
    method: str
    path: str
    on: str
    step_up: bool
    mutates: bool
    function: Callable[..., Any] = field(repr=False)
    reads_first: bool = False

    @property
    def name(self) -> str:
        """The permission's name, ``service.verb``."""
        return f"{self.service}.{self.verb}"

    @property
    def command(self) -> str:
        """The verb as the command line writes it."""
        return self.verb.replace("_", "-")

    @property
    def summary(self) -> str:
        """The first sentence of the docstring."""
        text = inspect.getdoc(self.function) or ""
        return text.split("\n\n")[0].replace("\n", " ")

    @cached_property
    def path_arguments(self) -> tuple[str, ...]:
        """The names of the arguments that the route takes from its path."""
        return tuple(_PLACEHOLDER.findall(self.path))

    @cached_property
    def signature(self) -> inspect.Signature:
        """The signature without ``self``, its annotations resolved."""
        hints = get_type_hints(self.function, include_extras=True)
        signature = inspect.signature(self.function)
        parameters = [
            parameter.replace(annotation=hints.get(name, Any))
            for name, parameter in signature.parameters.items()
            if name != "self"
        ]
        return inspect.Signature(parameters, return_annotation=hints.get("return", Any))

    @cached_property
    def binary_argument(self) -> str | None:
        """The name of the argument that is the body of a request as it is, if there is one."""
        parameters = self.signature.parameters.items()
        return next((name for name, one in parameters if media_type_of(one.annotation)), None)

    @cached_property
    def binary_answer(self) -> str | None:
        """The media type of an answer that is bytes; None if it is JSON."""
        return media_type_of(self.signature.return_annotation)

    @cached_property
    def arguments_model(self) -> type[BaseModel]:
        """A pydantic model of the arguments; unknown ones are refused."""
        fields: dict[str, Any] = {
            name: (
                parameter.annotation,
                ... if parameter.default is inspect.Parameter.empty else parameter.default,
            )
            for name, parameter in self.signature.parameters.items()
        }
        return create_model(
            "".join(part.title() for part in re.split(r"[._]", self.name)) + "Arguments",
            __config__=ConfigDict(extra="forbid", arbitrary_types_allowed=False),
            **fields,
        )

    @cached_property
    def result(self) -> TypeAdapter[Any]:
        """Serialises and rebuilds the result."""
        return TypeAdapter(self.signature.return_annotation)

    def checked(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments, validated and converted.

        Raises:
            InvalidInput: names each argument that is wrong and why.
        """
        try:
            model = self.arguments_model.model_validate(dict(arguments))
        except ValidationError as error:
            problems = [
                {"argument": ".".join(str(part) for part in item["loc"]), "problem": item["msg"]}
                for item in error.errors(include_input=False, include_url=False)
            ]
            told = "; ".join(f"{item['argument']}: {item['problem']}" for item in problems[:5])
            raise InvalidInput(
                f"{self.name} was given arguments that it cannot take: {told}.",
                hint=f"`falaj {self.service} {self.command} --help` says what it takes.",
                problems=problems,
            ) from None
        checked = {name: getattr(model, name) for name in type(model).model_fields}
        for name in self.path_arguments:
            self.segment(name, str(checked[name]))
            if not is_writable(str(checked[name])):
                # It would name a resource that no database, and so no audit record, can hold.
                raise InvalidInput(f"The argument {name!r} of {self.name} is not plain text.")
        return checked

    def segment(self, name: str, text: str) -> str:
        """The text of an argument that stands in the path, if a path can hold it.

        Near and far refuse the same: ``..`` in an address leads to another action.

        Raises:
            InvalidInput: it is empty, ``.`` or ``..``, or holds a ``/`` that the route does
                not take.
        """
        takes_slashes = f"{{{name}:path}}" in self.path
        parts = text.split("/") if takes_slashes else [text]
        if not text or {".", ".."} & set(parts) or (not takes_slashes and "/" in text):
            raise InvalidInput(
                f"{self.name} was given {name} = {text!r}, which names nothing.",
                hint="Give the whole name, without `/`, `.` or `..` alone.",
            )
        return text

    def recorded(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments as the audit record keeps them: JSON, without secrets, cut to size."""
        kept: dict[str, Any] = {}
        for name, value in arguments.items():
            kept[name] = _recordable(value)
        return kept

    def resource(self, arguments: Mapping[str, Any]) -> AssetRef:
        """The asset that these (checked) arguments name."""
        key = "/".join(str(arguments[name]) for name in self.path_arguments if name in arguments)
        return AssetRef(self.on, key or "*")


class Recorded:
    """An argument that says itself what the audit record keeps of it."""

    __slots__ = ()

    def recorded(self) -> Mapping[str, Any]:
        """JSON-ready facts, in few words and without personal data."""
        raise NotImplementedError


_LONGEST_RECORDED_TEXT = 500


def is_writable(text: str) -> bool:
    """True if every database can hold a text: no NUL, no half of a surrogate pair."""
    return "\0" not in text and not any("\ud800" <= letter <= "\udfff" for letter in text)


def _recordable(value: Any) -> Any:
    if isinstance(value, SecretStr | Secret):
        return "(secret)"
    if isinstance(value, str):
        return (
            value if len(value) <= _LONGEST_RECORDED_TEXT else value[:_LONGEST_RECORDED_TEXT] + "…"
        )
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, bytes):
        return f"({len(value)} bytes)"
    if isinstance(value, list | tuple | set) and (
        len(value) > 20 or any(isinstance(item, Mapping) for item in value)
    ):
        # Rows of data may be personal: the record says how many there were, not what they say.
        return f"({len(value)} items)"
    rendered: Any = value
    if isinstance(value, Recorded):
        rendered = value.recorded()
    elif not _is_plain(value):
        rendered = _adapter(type(value)).dump_python(value, mode="json", fallback=str)
    text = str(rendered)
    return rendered if len(text) <= 2_000 else f"({len(text)} characters)"


_adapters: dict[type, TypeAdapter[Any]] = {}
_MOST_ADAPTERS = 1_000


def _adapter(kind: type) -> TypeAdapter[Any]:
    """What writes values of a type as JSON: making it takes longer than most actions."""
    found = _adapters.get(kind)
    if found is None:
        if len(_adapters) >= _MOST_ADAPTERS:
            _adapters.clear()
        found = _adapters[kind] = TypeAdapter(kind)
    return found


_PLAIN = (str, int, float, type(None))


def _is_plain(value: Any) -> bool:
    """True for a dictionary or a list that is JSON as it stands."""
    if type(value) is dict:
        return all(type(key) is str and type(item) in _PLAIN for key, item in value.items())
    return type(value) is list and all(type(item) in _PLAIN for item in value)


class Service:
    """A group of actions. Its name is its ``name``; its docstring says what it is for.

    A service holds what it needs (its constructor takes it). The door binds a copy of it
    to each call, so a method finds its own call in ``self.call``. A large one may be written
    as several classes, each derived from the one before; all have the last one's name.
    """

    name: ClassVar[str]
    _call: Call | None = None

    @property
    def call(self) -> Call:
        """The call that is being served."""
        if self._call is None:
            raise RuntimeError(f"{type(self).__name__} is reached through a door, not directly")
        return self._call

    def bound(self, call: Call) -> Self:
        """A copy of this service that serves one call."""
        clone = copy.copy(self)
        clone._call = call
        return clone

    @classmethod
    def actions(cls) -> Iterator[Action]:
        """The actions that this service declares, in the order of their declaration."""
        declared = [item for kind in reversed(cls.__mro__) for item in vars(kind).items()]
        for verb, function in declared:
            mark = getattr(function, _MARK, None)
            if isinstance(mark, _Mark):
                yield Action(
                    service=cls.name,
                    verb=verb,
                    method=mark.method,
                    path=mark.path,
                    on=mark.on,
                    step_up=mark.step_up,
                    mutates=mark.mutates,
                    function=function,
                    reads_first=mark.reads_first,
                )
