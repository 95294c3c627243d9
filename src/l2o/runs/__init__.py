"""What a run does on a machine: checkpoints, logs, locks, ranks, signals."""
