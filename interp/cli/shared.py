"""Kinds of arguments that several commands take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

Out = Annotated[Path, tyro.conf.arg(metavar="DIR")]
Run = tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="DIR")]]
