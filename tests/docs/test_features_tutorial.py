"""The tutorial of features is executed as it stands, in an empty folder."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from falaj.testing.pages import blocks, squeezed
from falaj.testing.programs import program_environment

PAGE = Path(__file__).parents[2] / "docs" / "tutorials" / "features.md"


@pytest.mark.timeout(600)
def test_the_tutorial_of_features_does_what_it_says(tmp_path: Path) -> None:
    folder = tmp_path / "rooms"
    (folder / "definitions").mkdir(parents=True)
    environment = {**program_environment(tmp_path), "COLUMNS": "100"}
    printed = ""
    for block in blocks(PAGE):
        if block.language == "text":
            for line in filter(None, map(squeezed, block.text.splitlines())):
                assert line in squeezed(printed), f"line {block.line}: {line}\n{printed}"
        elif block.mark == "file":
            (folder / block.value).write_text(block.text, encoding="utf-8")
        else:
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", block.text],
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=300,
            )
            printed = done.stdout
            assert done.returncode == 0, f"line {block.line}: {block.text}\n{printed}"
