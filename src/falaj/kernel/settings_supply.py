"""Settings of the supply chain of models."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict


class SupplyChainSettings(BaseModel):
    """What is known of vulnerabilities, and which formats are taken."""

    model_config = ConfigDict(extra="forbid")

    pickles: bool = False
    """Take pickled models of scikit-learn, by an exact list of names, in a confined process."""
    vulnerabilities: Path | None = None
    """A file of OSV records (``PyPI/all.zip`` of osv.dev, or JSON lines); no network is asked."""
