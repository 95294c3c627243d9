"""The train loader, which gives the numbers of windows. A run resumes within an epoch by the learner's own count."""

from collections.abc import Callable, Iterator
from typing import Any


class Windows:
    """Gives the windows of one epoch that are still to come. `done` counts those that the run has behind it, in all.

    `limit` is Lightning's `limit_train_batches`: a number of windows, or a part of an epoch. Lightning cuts the epoch
    there, so that every epoch has the same number of windows and ends with its validation.

    The loader is a plain iterable on purpose: Lightning would shard a `DataLoader` over the ranks, but each rank draws
    tasks of its own. Lightning asks a loader that resumes within an epoch for a `state_dict`; this one has nothing to
    save.
    """

    def __init__(self, per_epoch: int, done: Callable[[], int], limit: int | float | None = None):
        self.per_epoch, self.done = per_epoch, done
        parts = isinstance(limit, float) and int(limit * per_epoch)
        self.used = max(1, parts or per_epoch) if not isinstance(limit, int) else min(per_epoch, max(1, limit))

    def __len__(self) -> int:
        return self.per_epoch

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.done() % self.used, self.used))

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass
