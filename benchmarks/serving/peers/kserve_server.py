"""KServe's model server at its best setting for one core: no gRPC, no log line a request."""

from __future__ import annotations

import argparse
import logging
import sys
from typing import Any


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", required=True)
    parser.add_argument("--port", type=int, required=True)
    given = parser.parse_args()
    del sys.argv[1:]  # kserve reads the command line when it is imported

    import kserve
    import numpy as np
    from kserve import model_server
    from onnx_model import OnnxModel

    class Classifier(kserve.Model):
        def __init__(self) -> None:
            super().__init__("bench")
            self._model = OnnxModel(given.folder)
            self.ready = True

        async def predict(
            self, payload: dict[str, Any], headers: Any = None, response_headers: Any = None
        ) -> dict[str, Any]:
            rows = np.array(payload["instances"], dtype=np.float32)
            return {"predictions": self._model.scores(rows).tolist()}

    class Bound(model_server.RESTServer):
        """KServe listens on all addresses and logs each access; neither is wanted here."""

        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            self.config.host = "127.0.0.1"
            access = logging.getLogger("uvicorn.access")
            access.handlers, access.propagate = [], False

    model_server.RESTServer = Bound
    server = kserve.ModelServer(
        http_port=given.port, enable_grpc=False, enable_latency_logging=False, event_loop="uvloop"
    )
    for name in ("kserve", "kserve.trace"):
        logging.getLogger(name).setLevel(logging.ERROR)
    server.start([Classifier()])


if __name__ == "__main__":
    main()
