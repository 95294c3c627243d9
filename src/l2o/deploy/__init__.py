"""Trained update rules in use: as torch optimizers, as files, on the Hugging Face Hub."""
