"""The train loader: the numbers of windows. Its position is the learner's own count, so a run resumes mid-epoch."""

from collections.abc import Callable, Iterator
from typing import Any


class Windows:
    """The windows of one epoch that are still to come; `done` tells how many the run has behind it, over all epochs.

    `limit` is Lightning's `limit_train_batches`: a number of windows, or a part of an epoch. Lightning cuts the epoch
    there, and the next one begins anew, so that every epoch has as many windows, and ends with its validation.

    A plain iterable on purpose: Lightning would shard a `DataLoader` over the ranks, and each rank draws tasks of its
    own. It has a `state_dict`, as Lightning asks of a loader that resumes mid-epoch, but nothing of its own to save.
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
