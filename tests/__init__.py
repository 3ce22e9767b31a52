"""A package so that pytest puts the project's root, and not this folder, on the path: `tests/agents` is not `agents`."""
