"""The command line: `interp demo|tts|latent|align|patch|path|circuit|steer|sweep|...`.

Exit status: 0 done, 1 a check failed, 2 bad input (one sentence, no traceback), 3 done but some
rows were marked.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, get_args

import tyro
from rich.console import Console

from interp.cli.align import Align
from interp.cli.interventions import Circuit, Patch, Paths, Steer
from interp.cli.latent import (
    LatentCommitment,
    LatentInfluence,
    LatentNecessity,
    LatentRollout,
    LatentTrain,
)
from interp.cli.models import Check, Models
from interp.cli.records import Report, Results
from interp.cli.scored import TtsCompare, TtsDirection, TtsPrune, TtsSteerTest
from interp.cli.sweeps import Sweep, SweepGc, SweepShow, SweepStatus
from interp.cli.thinking import Demo, Tts
from interp.errors import InputError, InterpError, nearest

Command = (
    Annotated[Demo, tyro.conf.subcommand("demo")]
    | Annotated[Tts, tyro.conf.subcommand("tts")]
    | Annotated[TtsDirection, tyro.conf.subcommand("tts-direction")]
    | Annotated[TtsSteerTest, tyro.conf.subcommand("tts-steer-test")]
    | Annotated[TtsPrune, tyro.conf.subcommand("tts-prune")]
    | Annotated[TtsCompare, tyro.conf.subcommand("tts-compare")]
    | Annotated[LatentTrain, tyro.conf.subcommand("latent-train")]
    | Annotated[LatentRollout, tyro.conf.subcommand("latent-rollout")]
    | Annotated[LatentNecessity, tyro.conf.subcommand("latent-necessity")]
    | Annotated[LatentInfluence, tyro.conf.subcommand("latent-influence")]
    | Annotated[LatentCommitment, tyro.conf.subcommand("latent-commitment")]
    | Annotated[Align, tyro.conf.subcommand("align")]
    | Annotated[Patch, tyro.conf.subcommand("patch")]
    | Annotated[Paths, tyro.conf.subcommand("path")]
    | Annotated[Circuit, tyro.conf.subcommand("circuit")]
    | Annotated[Steer, tyro.conf.subcommand("steer")]
    | Annotated[Sweep, tyro.conf.subcommand("sweep")]
    | Annotated[SweepStatus, tyro.conf.subcommand("sweep-status")]
    | Annotated[SweepShow, tyro.conf.subcommand("sweep-show")]
    | Annotated[SweepGc, tyro.conf.subcommand("sweep-gc")]
    | Annotated[Results, tyro.conf.subcommand("results")]
    | Annotated[Report, tyro.conf.subcommand("report")]
    | Annotated[Check, tyro.conf.subcommand("check")]
    | Annotated[Models, tyro.conf.subcommand("models")]
)


PARTS = {
    "sweep": ("grid file", ("status", "show", "gc")),
    "tts": ("file of problems", ("direction", "steer-test", "prune", "compare")),
    "latent": (None, ("train", "rollout", "necessity", "influence", "commitment")),
}
"""What a command does beside running the file that it is given."""
QUIET = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
}
"""Set, unless the user set them, before any library is imported."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run a command and exit."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    try:
        given = list(sys.argv[1:] if argv is None else argv)
        if told := _help(given):
            print(told)
            sys.exit(0)
        words = _words(given)
        command = tyro.cli(
            Command,
            prog="interp",
            description="Find out what inside a language model caused its answer, by intervening.",
            args=words,
        )
        status = command.main(Console(stderr=False))
    except InterpError as error:
        sys.stderr.write(f"interp: {error}\n")
        status = error.exit_code
    except KeyboardInterrupt:
        sys.stderr.write("interp: stopped; what was finished is kept, start again to go on.\n")
        status = 130
    except BrokenPipeError:
        status = 0
    sys.exit(status)


def _help(words: list[str]) -> str | None:
    """What a command that is nothing without a part says of its parts, where help is asked for."""
    name = words[0] if words else ""
    if words[1:] not in (["-h"], ["--help"]) or PARTS.get(name, ("", ()))[0] is not None:
        return None
    kinds = {kind.__metadata__[0].name: kind.__origin__ for kind in get_args(Command)}
    said = {part: str(kinds[f"{name}-{part}"].__doc__).split("\n")[0] for part in PARTS[name][1]}
    width = max(len(part) for part in said)
    lines = [f"  {part:<{width}}  {text}" for part, text in said.items()]
    return "\n".join([f"usage: interp {name} PART [-h] ...", "", *lines])


def _words(words: list[str]) -> list[str]:
    """The arguments with `sweep status` written as the subcommand that it is.

    Raises:
        InputError: a part of a command is misspelt or missing.
    """
    if not words or words[0] not in PARTS or (len(words) < 2 and PARTS[words[0]][0]):
        return words
    file, parts = PARTS[words[0]]
    given = words[1] if len(words) > 1 else ""
    if given in parts:  # a part, not a file of that name
        return [f"{words[0]}-{given}", *words[2:]]
    hint = nearest(given, parts) if given else ""
    if file is None:
        raise InputError(
            f"interp {words[0]}: say which part, one of {', '.join(parts)}; "
            f"`interp {words[0]} {parts[0]} --help` tells its arguments.{hint}"
        )
    if hint and not Path(given).exists():
        raise InputError(
            f"interp {words[0]} {given}: there is no {file} of that name, and the parts are "
            f"{', '.join(parts)}.{hint}"
        )
    return words
