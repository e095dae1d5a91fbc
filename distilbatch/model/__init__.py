"""DistilBERT in plain torch: configuration, modules, checkpoints. Import from its files; this one loads nothing."""
