"""Runtimes and readers, one file for each technology; imported by the wiring alone."""
