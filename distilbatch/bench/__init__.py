"""Benchmarks that a user can run: what this machine does with this job."""
