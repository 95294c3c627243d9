"""The train loader: window numbers. Its position is the learner's own count, so a resumed run goes on mid-epoch."""

from collections.abc import Callable, Iterator
from typing import Any


class Windows:
    """The windows of one epoch that are still to come; `done` tells how many the run has behind it, over all epochs.

    A plain iterable on purpose: Lightning would shard a `DataLoader` over the ranks, and each rank draws tasks of its
    own. It has a `state_dict`, as Lightning asks of a loader that resumes mid-epoch, but nothing of its own to save.
    """

    def __init__(self, per_epoch: int, done: Callable[[], int]):
        self.per_epoch, self.done = per_epoch, done

    def __len__(self) -> int:
        return self.per_epoch

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.done() % self.per_epoch, self.per_epoch))

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass
