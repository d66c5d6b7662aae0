"""Trainers, one file for each technology."""
