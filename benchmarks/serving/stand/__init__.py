"""The test stand of the serving benchmarks: servers on one core, load from the other."""
