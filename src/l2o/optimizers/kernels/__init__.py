"""The mathematics of update rules, fast: compiled in C++ for CPUs, in Triton for GPUs."""
