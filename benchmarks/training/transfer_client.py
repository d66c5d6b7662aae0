"""One upload and one download with MLflow's client; prints their seconds as JSON.

Run by the client's own interpreter: ``transfer_client.py <artifact uri> <file> <folder>``.
"""

import json
import sys
import time
from pathlib import Path

from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

uri, file, folder = sys.argv[1:]
repository = get_artifact_repository(uri)
repository.list_artifacts()  # the connection and the imports are not what is measured
begun = time.perf_counter()
repository.log_artifact(file, "data")
uploaded = time.perf_counter() - begun
begun = time.perf_counter()
repository.download_artifacts("data/" + Path(file).name, folder)
downloaded = time.perf_counter() - begun
print(json.dumps({"up": uploaded, "down": downloaded}))
