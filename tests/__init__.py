"""The matrix over every generated variant, and the rest. Shared parts are imported as `tests.reference` and so on."""
