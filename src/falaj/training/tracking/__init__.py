"""Tracking: experiments, runs and what runs carry. Look first at ``runs.py``."""
