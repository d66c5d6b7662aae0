"""``part``: an attribute that is made when it is first asked for, once for all threads."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Generic, Protocol, Self, TypeVar, overload

T = TypeVar("T")


class Whole(Protocol):
    """What has parts."""

    @property
    def making(self) -> AbstractContextManager[Any]:
        """A lock that the thread which holds it may take again: parts are made of parts."""
        ...


class part(Generic[T]):  # noqa: N801 - used as a decorator, as `property` is
    """Makes an attribute of a method, once: two threads that ask at once get the same one.

    ``functools.cached_property`` may make two since Python 3.12; a store must not be opened
    twice in one process. What was made stands in the instance, so later reads take no lock.
    """

    def __init__(self, make: Callable[[Any], T]) -> None:
        self._make = make
        self.__doc__ = make.__doc__

    def __set_name__(self, kind: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, whole: None, kind: type) -> Self: ...
    @overload
    def __get__(self, whole: Whole, kind: type) -> T: ...
    def __get__(self, whole: Whole | None, kind: type) -> Self | T:
        if whole is None:
            return self
        with whole.making:
            kept: dict[str, T] = vars(whole)
            if self._name not in kept:
                kept[self._name] = self._make(whole)
            return kept[self._name]
