"""Which worker gets which cell: one keeps to a subject as long as that has cells left."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from interp.sweeps.plan import Planned

Group = tuple[str, ...]


class Queue:
    """Cells that wait, by the subject that they share."""

    def __init__(self, cells: Iterable[Planned]) -> None:
        self._waiting: dict[Group, deque[Planned]] = {}
        self._held: dict[int, Group] = {}
        for cell in cells:
            self.put(cell)

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def put(self, cell: Planned) -> None:
        """Add a cell behind the others of its subject."""
        self._waiting.setdefault(cell.group, deque()).append(cell)

    def take(self, worker: int) -> Planned | None:
        """The next cell for a worker, None where no cell waits.

        A worker goes on with its own subject; then it takes the subject that nobody holds and that
        has most cells left; then it helps with the longest.
        """
        group = self._held.get(worker)
        if group not in self._waiting:
            group = self._choose(worker)
        if group is None:
            return None
        self._held[worker] = group
        cell = self._waiting[group].popleft()
        if not self._waiting[group]:
            del self._waiting[group]
        return cell

    def _choose(self, worker: int) -> Group | None:
        others = {group for holder, group in self._held.items() if holder != worker}
        free = [group for group in self._waiting if group not in others]
        return max(free or self._waiting, key=lambda g: len(self._waiting[g]), default=None)

    def forget(self, worker: int) -> None:
        """A worker died, and its subject with it."""
        self._held.pop(worker, None)
