"""Triton with its Python binding (nvidia-pytriton) on the CPU; JSON over its V2 endpoint."""

from __future__ import annotations

import argparse
import os
import socket
import sys
import sysconfig

import numpy as np
from onnx_model import OnnxModel
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])


def main() -> None:
    """Serve until SIGTERM."""
    # Triton's Python stub must load the libpython of this very interpreter: that of another
    # patch version does not fit to the standard library.
    library = sysconfig.get_config_var("LIBDIR")
    if library and not os.environ.get("LD_LIBRARY_PATH", "").startswith(library):
        os.environ["LD_LIBRARY_PATH"] = library
        os.execv(sys.executable, [sys.executable, *sys.argv])
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", required=True)
    parser.add_argument("--port", type=int, required=True)
    given = parser.parse_args()
    model = OnnxModel(given.folder)

    @batch
    def infer(rows: np.ndarray) -> list[np.ndarray]:
        return [model.scores(rows).reshape(-1, 1)]

    config = TritonConfig(
        http_address="127.0.0.1",
        http_port=given.port,
        grpc_address="127.0.0.1",
        grpc_port=free_port(),
        allow_grpc=False,
        allow_metrics=False,
        log_verbose=0,
    )
    with Triton(config=config) as triton:
        triton.bind(
            model_name="bench",
            infer_func=infer,
            inputs=[Tensor(name="rows", dtype=np.float32, shape=(20,))],
            outputs=[Tensor(name="score", dtype=np.float32, shape=(1,))],
            config=ModelConfig(
                max_batch_size=64, batcher=DynamicBatcher(max_queue_delay_microseconds=0)
            ),
        )
        triton.serve()


if __name__ == "__main__":
    main()
