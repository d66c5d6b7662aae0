"""Conformance suites of ports, shipped so that every adapter can inherit them."""
