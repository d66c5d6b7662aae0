"""Artifacts of a run with MLflow's client: ``transfer.py <artifact uri> <folder> <bytes> …``."""

import filecmp
import json
import os
import sys
from pathlib import Path

import requests
from mlflow.store.artifact import http_artifact_repo
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

uri, folder, *sizes = sys.argv[1:]
folder = Path(folder)
parts, ranges = [], []
put, fetched = requests.put, http_artifact_repo.download_chunk
requests.put = lambda url, **given: parts.append(url) or put(url, **given)
http_artifact_repo.download_chunk = lambda **given: ranges.append(1) or fetched(**given)

repository = get_artifact_repository(uri)
whole = folder / "whole"
for size in map(int, sizes):
    file = whole / "deep" / f"{size}.bin"
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("wb") as target:
        for first in range(0, size, 1 << 20):
            target.write(os.urandom(min(1 << 20, size - first)))
(whole / "name with spaces é.txt").write_text("words")
repository.log_artifacts(str(whole), "kept")
repository.log_artifact(str(whole / "name with spaces é.txt"))
(folder / "back").mkdir()
repository.download_artifacts("kept", str(folder / "back"))
same = all(
    filecmp.cmp(whole / "deep" / f"{size}.bin", folder / "back/kept/deep" / f"{size}.bin", False)
    for size in sizes
)
listed = {one.path: one.file_size for one in repository.list_artifacts("kept/deep")}
top = sorted(one.path for one in repository.list_artifacts())
repository.delete_artifacts("kept")
left = [one.path for one in repository.list_artifacts()]
told = {"same": same, "listed": listed, "top": top, "left": left}
print(json.dumps({**told, "parts": len(parts), "ranges": len(ranges)}))
