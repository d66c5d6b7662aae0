"""Fits on several workers, each with a part of the rows, that go on when one of them is lost."""
