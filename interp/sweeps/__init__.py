"""Grids of cells: the same grid file runs in this process, in local workers, or on a cluster.

grid = read_grid("experiments/grids/tts_smoke.yaml")
done = run_grid(grid, "runs/sweeps")
steps = interp.results.frame("runs/sweeps/sweeps/tts_smoke", "steps")
"""

from __future__ import annotations

from interp.sweeps.drive import Summary, run_grid
from interp.sweeps.experiment import Experiment, Made
from interp.sweeps.grid import Grid, parse_grid, read_grid

__all__ = ["Experiment", "Grid", "Made", "Summary", "parse_grid", "read_grid", "run_grid"]
