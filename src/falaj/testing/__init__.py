"""What tests of Falaj and of its adapters stand on: real throw-away servers, fakes of the
door's ports, and conformance suites that every adapter of a port inherits.

Nothing here is imported by the platform itself.
"""
