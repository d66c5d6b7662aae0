"""Fixtures of the room's tests."""

import pyarrow.compute  # noqa: F401 - loaded before hypothesis looks at the clock
from falaj.testing.fixtures import *  # noqa: F403
