"""A Hydra sweeper: searches with Optuna, through any launcher, interrupted at any time. Hydra finds it by itself.

Hydra imports every module of a plugin at every start, except those with a leading underscore: these may be slow.
"""
