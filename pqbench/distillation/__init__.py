"""Distillation: the targets and the training loop that distillers share."""
