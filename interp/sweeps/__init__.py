"""Grids of cells: the same grid file runs in this process, in local workers, or on a cluster."""

from __future__ import annotations
