"""Figures drawn from stored records: one module a figure, `figure(records) -> plotly Figure`.

No figure runs a model or averages anything that its title and axes do not name. `python -m
figures` draws all of them again from `experiments/records/` into `figures/out/`.
"""
