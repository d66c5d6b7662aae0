"""LightGBM's own models, run by LightGBM through its C interface.

One row at a time goes through the interface that LightGBM made for it: what a call needs
besides the row is prepared once. See the decision on runtimes for what that saves.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from numpy.typing import NDArray

from falaj.kernel.errors import Corrupt, InvalidInput
from falaj.models.lightgbm_text import checked
from falaj.serving.errors import ModelFailed
from falaj.serving.model import ServableModel
from falaj.serving.widths import check_inputs, check_rows, columns_of

_FLOAT32, _NORMAL, _CONTRIBUTIONS, _ROW_MAJOR, _ALL = 0, 0, 3, 1, -1
_PARAMETERS = b"num_threads=1 verbosity=-1"


class LightGbmRuntime:
    """Loads LightGBM's model text; one thread for each run."""

    formats: tuple[str, ...] = ("lightgbm",)

    def load(self, model: ServableModel) -> LightGbmModel:
        """The model as a booster; see ``Runtime.load``."""
        booster = _booster(model)
        return LightGbmModel(booster, model)

    def explainer(self, model: ServableModel) -> LightGbmExplainer:
        """TreeSHAP as LightGBM computes it; see ``Explains.explainer``."""
        booster = _booster(model)
        check_inputs(model, booster.num_feature())
        if booster.num_model_per_iteration() != 1:
            raise InvalidInput(
                "A model of several classes has no single score to explain.",
                hint="Ask without explain=contributions.",
            )
        return LightGbmExplainer(booster)


def _booster(model: ServableModel) -> Any:
    text = checked(model.model)
    import lightgbm

    try:
        return lightgbm.Booster(model_str=text)
    except Exception as error:  # LightGBM raises a family of its own
        raise Corrupt(
            f"The model is not one that LightGBM can load: {str(error)[:200]}",
            hint="Make the bundle again from its run.",
        ) from error


class _Calls:
    """The C interface on one booster, for float32 matrices."""

    def __init__(self, booster: Any) -> None:
        import lightgbm

        self._library: Any = vars(lightgbm.basic)["_LIB"]  # the loaded library
        self._booster = booster  # owns the handle
        self._handle = booster._handle
        self.n_inputs: int = booster.num_feature()

    def prepared(self) -> ctypes.c_void_p:
        """What a call for one row needs besides the row."""
        found = ctypes.c_void_p()
        self._check(
            self._library.LGBM_BoosterPredictForMatSingleRowFastInit(
                self._handle, _NORMAL, 0, _ALL, _FLOAT32, ctypes.c_int32(self.n_inputs),
                _PARAMETERS, ctypes.byref(found),
            )
        )  # fmt: skip
        return found

    def free(self, prepared: ctypes.c_void_p) -> None:
        """Give back what ``prepared`` made."""
        self._library.LGBM_FastConfigFree(prepared)

    def one(
        self, prepared: ctypes.c_void_p, row: NDArray[np.float32], out: NDArray[np.float64]
    ) -> None:
        """Score one row."""
        told = ctypes.c_int64()
        self._check(
            self._library.LGBM_BoosterPredictForMatSingleRowFast(
                prepared, ctypes.c_void_p(row.ctypes.data), ctypes.byref(told),
                ctypes.c_void_p(out.ctypes.data),
            )
        )  # fmt: skip

    def many(self, rows: NDArray[np.float32], out: NDArray[np.float64], kind: int) -> None:
        """Score, or explain, a C-contiguous matrix."""
        told = ctypes.c_int64()
        self._check(
            self._library.LGBM_BoosterPredictForMat(
                self._handle, ctypes.c_void_p(rows.ctypes.data), _FLOAT32,
                ctypes.c_int32(len(rows)), ctypes.c_int32(self.n_inputs), _ROW_MAJOR, kind, 0,
                _ALL, _PARAMETERS, ctypes.byref(told), ctypes.c_void_p(out.ctypes.data),
            )
        )  # fmt: skip
        if told.value != out.size:
            raise ModelFailed(
                f"LightGBM gave {told.value} numbers in the place of {out.size}.",
                hint="Roll the endpoint back: `falaj endpoints rollback NAME`.",
            )

    def _check(self, code: int) -> None:
        if code != 0:
            self._library.LGBM_GetLastError.restype = ctypes.c_char_p
            why = self._library.LGBM_GetLastError() or b""
            raise ModelFailed(
                f"LightGBM failed: {why.decode(errors='replace')[:200]}.",
                hint="Roll the endpoint back: `falaj endpoints rollback NAME`.",
            )


class LightGbmModel:
    """One LightGBM model."""

    def __init__(self, booster: Any, model: ServableModel) -> None:
        self._calls = _Calls(booster)
        self.n_inputs = self._calls.n_inputs
        check_inputs(model, self.n_inputs)
        self._width: int = booster.num_model_per_iteration()
        self._columns = columns_of(model, self._width)
        self._prepared = self._calls.prepared()

    def __del__(self) -> None:
        prepared = self.__dict__.get("_prepared")
        if prepared is not None:
            self._calls.free(prepared)

    def run(self, rows: NDArray[np.float32]) -> NDArray[np.floating[Any]]:
        """Outputs float64 [n, k]; see ``LoadedModel.run``."""
        check_rows(rows, self.n_inputs)
        n = len(rows)
        out = np.empty((n, self._width))
        rows = np.ascontiguousarray(rows, dtype=np.float32)
        if n == 1:
            self._calls.one(self._prepared, rows, out)
        elif n:
            self._calls.many(rows, out, _NORMAL)
        return out[:, self._columns]


class LightGbmExplainer:
    """TreeSHAP contributions of one LightGBM model; see ``Explainer``."""

    def __init__(self, booster: Any) -> None:
        self._calls = _Calls(booster)

    def contributions(self, rows: NDArray[np.float32]) -> NDArray[np.float64]:
        """Contributions to the raw score, the base value last."""
        check_rows(rows, self._calls.n_inputs)
        out = np.empty((len(rows), self._calls.n_inputs + 1))
        if len(rows):
            self._calls.many(np.ascontiguousarray(rows, dtype=np.float32), out, _CONTRIBUTIONS)
        return out
