"""Training: for now a classification head on a frozen encoder; fine-tuning and distillation get files beside it."""
