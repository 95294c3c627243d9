"""Meta-training: the update rule's parameters φ are trained by an ordinary optimizer."""
