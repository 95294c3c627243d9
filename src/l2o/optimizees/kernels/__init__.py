"""Losses of small networks and their gradients, fast: compiled in C++ for CPUs."""
