"""Tuning: studies of many trials, with Optuna; each trial is a run nested in its study's run."""
