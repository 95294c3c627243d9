"""Two Hydra sweepers, for any launcher: one runs grids, the other searches with Optuna.

`grid` runs every combination of values as Hydra's own sweeper does, and ends with a report. Hydra's own ends at the
first job that fails, and reports nothing.

`sweeper` searches, and may be interrupted at any time. Why it is our own: Hydra's Optuna sweeper requires Optuna below
3 (as of hydra-optuna-sweeper 1.3.0), and it has no way back into a sweep that was interrupted. It tells Optuna of a
batch only after the launcher has returned, so that an interruption loses what had ended in it. Started again, even with
a storage, it counts its trials and the numbers of its jobs from the beginning, draws new trials in the place of those
that were cut off, and writes into their folders. Here

- a trial writes what it came to into a file of its own, so that nothing that has ended is repeated;
- a trial that was interrupted runs again under its number, in its folder, and goes on from its last checkpoint
  (`ckpt_path=auto`);
- what a trial draws depends on the sweep's seed, the trial's number and the trials told before, never on how often the
  sweep was interrupted;
- a diverged trial is told as such, and an error of the machine ends the sweep without counting as a result.

Hydra finds both sweepers by itself.

Hydra imports every module of a plugin at every start, except those with a leading underscore: these may be slow.
"""
