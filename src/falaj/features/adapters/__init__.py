"""Technologies behind the ports of features; imported by the wiring alone."""
