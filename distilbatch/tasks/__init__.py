"""One file a task: what to ask of the texts, and head output to predictions to Arrow columns, on numpy arrays."""
