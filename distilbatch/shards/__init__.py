"""Cuts fragments into shards, the units of work and of commit; pure functions, no input or output."""
