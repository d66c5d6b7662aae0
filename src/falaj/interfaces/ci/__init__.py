"""``falaj ci``: workflows for CI systems, and what their jobs run."""
