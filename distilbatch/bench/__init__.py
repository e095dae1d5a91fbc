"""Benchmarks that a user can run: this machine's limit, ourselves and our peers, over the same documents in turn."""
