"""MLServer's way to serve a model of one's own: a custom inference runtime."""

from __future__ import annotations

import numpy as np
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse
from onnx_model import OnnxModel


class Runtime(MLModel):
    """The classifier in the folder that ``uri`` names."""

    async def load(self) -> bool:
        """Called once by MLServer."""
        self._model = OnnxModel(self.settings.parameters.uri)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Answer one V2 request."""
        rows = NumpyCodec.decode_input(payload.inputs[0]).astype(np.float32, copy=False)
        output = NumpyCodec.encode_output("score", self._model.scores(rows).reshape(-1, 1))
        return InferenceResponse(model_name=self.name, outputs=[output])
