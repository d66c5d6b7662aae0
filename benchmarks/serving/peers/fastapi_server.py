"""FastAPI as its documentation shows it, on uvicorn with uvloop and httptools."""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import uvicorn
from fastapi import FastAPI
from onnx_model import OnnxModel
from pydantic import BaseModel, create_model

NAMES = [f"x{place}" for place in range(20)]


class Prediction(BaseModel):
    """One row's answer."""

    score: float


class Predictions(BaseModel):
    """The answer."""

    predictions: list[Prediction]


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", required=True)
    parser.add_argument("--port", type=int, required=True)
    given = parser.parse_args()
    fields: dict[str, Any] = dict.fromkeys(NAMES, (float, ...))
    row = create_model("Row", **fields)
    request: Any = create_model("Body", inputs=(list[row], ...))  # type: ignore[valid-type]
    model = OnnxModel(given.folder)
    app = FastAPI()

    async def predict(body: Any) -> Predictions:
        rows = np.array(
            [[getattr(one, name) for name in NAMES] for one in body.inputs], dtype=np.float32
        )
        scores = model.scores(rows)
        return Predictions(predictions=[Prediction(score=float(score)) for score in scores])

    predict.__annotations__.update({"body": request, "return": Predictions})
    app.post("/predict")(predict)
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=given.port,
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_level="error",
    )


if __name__ == "__main__":
    main()
