"""What serving needs of others, by role."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from falaj.trust.bindings import NOTHING, Presented

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray
    from sqlalchemy.engine import Connection

    from falaj.kernel.call import Caller
    from falaj.serving.model import Approved, RequestField, ServableModel
    from falaj.trust.sealing import Source


class FeatureReader(Protocol):
    """Reads the feature vectors of one feature service; compiled once, called per request.

    Safe to call from one thread at a time; does no SQL and does not block on a lock that
    another process may hold for long.
    """

    names: tuple[str, ...]
    """The columns of the answer, in order."""
    asks_nothing: bool
    """True if every column is a request field just as it came: there is nothing to read."""

    def read(
        self, rows: Sequence[Any], at_us: int | NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[np.uint8], NDArray[np.int64]]:
        """The vectors of n input rows as they stand at an instant (one for all, or each its).

        Args:
            rows: as the plan decodes them: structs with a field of the request as attribute.
            at_us: Unix microseconds.

        Returns:
            values float32 [n, f], C-contiguous (NaN where there is none), their
            ``FeatureStatus`` uint8 [n, f], and the event times in Unix microseconds int64
            [n, f] (0 where there is none). They may be views that nobody may write to.

        Raises:
            InvalidInput: a row lacks a key, or a key has a type that no entity has.
            Unavailable: the online store does not answer.
        """
        ...


class FeatureReaders(Protocol):
    """Compiles readers from the documents of feature services."""

    def compile(
        self, document: Mapping[str, Any], categories: Mapping[str, Sequence[str]]
    ) -> FeatureReader:
        """A reader of the service that a document describes.

        Args:
            document: as ``describe`` gave it.
            categories: for a feature that is a word, the known words; its number is the
                place of the word, and an unknown word is NaN.

        Raises:
            InvalidInput, NotFound: the document cannot be served.
        """
        ...

    def describe(
        self, connection: Connection, service: str
    ) -> tuple[dict[str, Any], tuple[RequestField, ...]]:
        """The document of a feature service as it stands now, and the request fields
        (entity keys and on-demand arguments) that it asks of a client."""
        ...


class LoadedModel(Protocol):
    """A model in memory. ``run`` is pure, and safe to call from many threads.

    A model that waits for another process has a true attribute ``waits``: its caller
    must not be the thread of an event loop.
    """

    n_inputs: int

    def run(self, rows: NDArray[np.float32]) -> NDArray[np.floating[Any]]:
        """Outputs [n, k] for rows float32 [n, n_inputs], C-contiguous; NaN is missing.

        For a binary classifier k is 1: the probability of the positive class.

        Raises:
            InvalidInput: the rows have another width.
            ModelFailed: the model failed on them.
        """
        ...


class Explainer(Protocol):
    """Tells how much each input of a row moved its score. Pure, and safe on many threads."""

    def contributions(self, rows: NDArray[np.float32]) -> NDArray[np.float64]:
        """For rows float32 [n, n_inputs] float64 [n, n_inputs + 1].

        The last column is the base value: what the model says of a row it knows nothing
        of. A row of the answer adds up to the model's raw score of that row (for a
        classifier the log odds). NaN is a missing value, as for ``run``.
        """
        ...


@runtime_checkable
class Explains(Protocol):
    """A runtime whose models can be explained."""

    def explainer(self, model: ServableModel) -> Explainer:
        """What explains a model of one of its formats.

        Raises:
            Corrupt: the bytes are no such model.
            InvalidInput: models of this shape (several outputs) have no explanation.
        """
        ...


@runtime_checkable
class GeneratingModel(LoadedModel, Protocol):
    """A model whose answer to a row also comes in parts, one after another.

    Its ``run`` gives the outputs that are logged; ``generate`` what a client reads meanwhile
    as events. A model without ``generate`` is a plain ``LoadedModel``.
    """

    def generate(self, row: NDArray[np.float32]) -> Iterator[str]:
        """The parts of the answer to one row float32 [n_inputs]; NaN is missing.

        Each step may block: it is called on a thread, for several rows at once on several
        threads. Where the iterator has a ``close``, it is called once nobody reads on, never
        while a step is under way.
        """
        ...


class Runtime(Protocol):
    """Loads models of the formats that it knows.

    Never runs code that a model brings along in the process of its caller, and never
    unpickles. Loads its library when it loads its first model.
    """

    formats: tuple[str, ...]

    def load(self, model: ServableModel) -> LoadedModel:
        """The model, ready to run.

        Raises:
            Corrupt: the bytes are no such model.
            InvalidInput: its inputs or outputs are not what its bundle says.
        """
        ...


class Bundles(Protocol):
    """Opens model bundles by digest."""

    def open(self, digest: str) -> ServableModel:
        """The model of a bundle whose bytes and signature verify.

        Raises:
            Corrupt: the bundle was changed, is incomplete or is not signed by us.
            NotFound: there is none of that digest.
        """
        ...


class ApprovedModels(Protocol):
    """Tells which model versions may be served."""

    def approved(self, connection: Connection, model: str, version: int | None) -> Approved:
        """The version in production, or a named one if it is approved for production.

        Raises:
            NotFound: no such model or version.
            Conflict: none is, or that one is not, approved for production, or it is in
                quarantine.
        """
        ...

    def challenging(self, connection: Connection, model: str, version: int) -> Approved:
        """A version that may be tried beside the champion, under a rollout's own change.

        It need not be approved for production: it stands in staging (or production), its
        latest gates were passed, and its bundle verifies.

        Raises:
            NotFound: no such model or version.
            Conflict: it is in an earlier stage or archived, failed its gates since, or is in
                quarantine.
        """
        ...

    def may_return(self, connection: Connection, model: str, version: int) -> None:
        """Return if a version that served once may serve again, as after a rollback.

        One that a newer version replaced may; one that somebody took out of production
        (archived it, say) may not.

        Raises:
            NotFound: no such model or version.
            Conflict: it was taken out of production, or is in quarantine.
        """
        ...


class Verifier(Protocol):
    """Tells who holds a token."""

    def verify(self, token: str, presented: Presented = NOTHING) -> Caller:
        """The caller; raises Unauthenticated. May block for a short while.

        ``presented`` is what came beside the token; one that is bound to a key is refused
        without it.
        """
        ...


class Spool(Protocol):
    """A durable local append of Arrow rows (the lake's spool)."""

    def append(self, rows: pa.Table) -> object:
        """Add rows to the open segment."""
        ...

    def flush(self) -> object:
        """Return when all appended rows are on disk, encrypted."""
        ...


class Spools(Protocol):
    """Opens spools by the name of the table that their rows are for."""

    def open(self, table: str) -> Spool: ...


class KeptSpool(Protocol):
    """A durable local append that knows what it was given before."""

    def keep(self, data: Source, size: int, name: str) -> object:
        """Return when the bytes are on disk, encrypted; the same name is kept once.

        ``size`` is about how many they are; they are read in pieces.
        """
        ...


class KeptSpools(Protocol):
    """Opens them by the name of the table that their rows are for."""

    def open(self, table: str) -> KeptSpool: ...
