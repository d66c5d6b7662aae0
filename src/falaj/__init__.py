"""Falaj."""
