"""Conformance suites of the platform's ports: every adapter inherits its port's suite."""
