"""Converters and scorers, one file for each technology."""
