"""Bounds that both the server and its client hold to."""

#: Longest time that a request may allow itself at the server.
MAX_TIMEOUT_MS = 600_000
