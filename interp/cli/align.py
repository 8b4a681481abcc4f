"""`interp align`: does a network compute what an algorithm computes, and how would we know?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console

from interp.cli.shared import Out, print_table, say, settings_of

SHOWN = ("map", "site", "size", "iia", "twin", "baseline", "verdict")


@dataclass(frozen=True, kw_only=True)
class Align:
    """Fit alignment maps between networks and an algorithm, run every control, give a verdict."""

    task: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="TASK")]]
    """equality, distributive, ioi or multiplication; a wrong name lists them."""
    out: Out
    """Folder of the records; a second start goes on where the first stopped."""
    algorithm: str | None = None
    """The algorithm that is tested, such as both_equality; by default the task's first."""
    rivals: tuple[str, ...] | None = None
    """Wrong algorithms to fit beside it; by default all that give the same answers."""
    maps: tuple[str, ...] = ("orthogonal",)
    """Families of maps: identity, mask, mask-pca, pca, difference, random, orthogonal, square,
    boundless, revnet-10x16, coupling-10x16. Any LxH gives L blocks of hidden size H."""
    sites: tuple[str, ...] | None = None
    """Layers of a small network (1, 2, 3) or sites of a language model (1.resid_post); by default
    every layer. The best on validation pairs is scored."""
    sizes: tuple[int, ...] | None = None
    """Coordinates of each variable; by default half of the width shared by the variables. The
    smallest within 0.02 of the best on validation pairs is scored."""
    budget: Literal["smoke", "standard", "paper"] = "smoke"
    """1,000 updates of 512 pairs, 5,000 of 512, or 10,000 of 6,400."""
    nets: int = 5
    """Networks, and as many random twins; of a language model, starts of each map and twins. A
    verdict of FOUND takes five or more."""
    folder: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Trained networks of the task; without it they are trained first, about 10 s each."""
    model: str | None = None
    """The decoder of `ioi` or `multiplication`: a folder, a registry name or a Hugging Face id."""
    revision: str | None = None
    """Branch, tag or commit of a Hugging Face id, such as step0."""
    dtype: Literal["float32", "float64"] | None = None
    """Of the decoder and its maps; by default float32. Deep maps of small decoders may need 64."""
    solved_only: bool = False
    """Keep only prompts that the decoder completes right; the share is told."""
    updates: int | None = None
    """Most updates of a fit, in place of the budget's."""
    twins_everywhere: bool = False
    """Fit random twins at every site and size, not only at the chosen ones."""
    waive_rival: str | None = None
    """Do without a rival algorithm, for this reason, which the verdict prints."""
    threads: int | None = None
    """Threads for arithmetic; by default torch's own choice."""

    def main(self, console: Console) -> int:
        """Run the command; return the exit status."""
        from interp.jobs import align as job
        from interp.jobs.tts import set_threads

        set_threads(self.threads)
        done = job.align(settings_of(self, job.Settings), out=self.out, console=console)
        say(console, f"{self.task}, tested for {done.verdicts[0]['algorithm']}:")
        print_table(console, SHOWN, done.verdicts)
        for row in done.verdicts:
            say(console, f"{row['map']}: {row['reason']}")
        say(console, f"Records and report: {self.out}")
        return 0
