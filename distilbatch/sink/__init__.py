"""Writes predictions to durable files that no reader sees yet; publishing them is not done here."""
