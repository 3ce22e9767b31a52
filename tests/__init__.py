"""A package, so that pytest puts the project root on the path and `tests/agents` does not hide `agents`."""
