"""What the networks that multiply compute inside: swaps, probes, knockouts and shapes of digits.

    python -m experiments.multiplication

reads the networks of `experiments.train_multiplication` and writes
`experiments/records/multiplication_study` (some CPU minutes): `digits.jsonl` (accuracy and loss of
each digit of the answer), `heat_maps.jsonl`, `probes.jsonl`, `read_outs.jsonl`, `knockouts.jsonl`,
`fourier.jsonl`, `clouds.jsonl`, `views.jsonl` (points in 3-D) and `manifest.json`. All rows name
the network; a network that has not been trained is left out and the manifest says so.

**Probes** read chat_k at the position that *predicts* c_k (at c_k itself the digit stands in the
input), from the residual stream after the last layer's attention: ridge regression in closed form,
in float64, scored by mean absolute error on pairs that it was not fitted on. Beside it stand three
baselines: a constant, a linear read-out of the raw operand digits, and the same probe of the
untrained network. `beyond` says whether the probe beats all three by more than two standard errors
of the paired difference. Beyond or not, a probe is no causal test:
states are moved until the probe reads another sum, along the direction in which states move with
it (`patterns`), and the answer must follow more often than after random moves of that length.

**Knockouts** cut one attention edge, from an operand digit to the position that predicts c_k, in
one head; the rest of the row is renormalised. The effect is the rise of the loss of c_k, in nats.

Source: Bai et al. 2025, arXiv:2510.00184.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import tyro
from jaxtyping import Bool, Float
from rich.console import Console
from rich.table import Table
from torch import Tensor

from experiments import train_multiplication as trained
from interp.alignment import digit_swaps, geometry, linear_probes, probe_edits
from interp.alignment import probes as probing
from interp.alignment.digit_swaps import PREFIXES, swap_map
from interp.alignment.geometry import fourier_fit, principal, sum_of_clouds
from interp.alignment.linear_probes import ProbeSettings
from interp.alignment.probes import ProbeTest, probe_and_test
from interp.alignment.subjects import Cut
from interp.attention_edits import Knockout
from interp.data import multiplication as task
from interp.engine.loading import load
from interp.engine.model import Model
from interp.errors import InputError
from interp.models.multiplier import N_HEADS, N_LAYERS
from interp.results import manifest

RECORDS = Path(__file__).parent / "records" / "multiplication_study"
NETWORKS: tuple[trained.Recipe, ...] = ("sft", "auxiliary", "icot", "two_digit")
SITE = f"{N_LAYERS - 1}.resid_mid"
"""Where probes read: the residual after the last layer's attention, before its MLP."""
ROWS = 1000
"""Rows in one forward pass."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Look inside each network."""

    networks: tuple[trained.Recipe, ...] = NETWORKS
    """Which; those that have not been trained are left out."""
    swaps: int = 500
    """Pairs of the heat maps."""
    fitted: int = 6000
    """Pairs on which probes are fitted."""
    scored: int = 2000
    """Pairs on which probes and digits are scored; no network of three digits has seen them."""
    cut: int = 200
    """Pairs on which edges are cut."""
    shaped: int = 4000
    """Pairs of the shapes."""
    seed: int = 1
    """Of all pairs."""
    trained: Path = trained.RECORDS
    """Folder of the networks."""
    out: Path = RECORDS
    """Folder to write."""

    def __post_init__(self) -> None:
        for name in ("swaps", "fitted", "scored", "cut", "shaped"):
            if getattr(self, name) < 2:
                raise InputError(f"{name}={getattr(self, name)}: give 2 or more.")


class Network(NamedTuple):
    """One trained network and the data that it is looked at with."""

    name: trained.Recipe
    model: Model
    untrained: Model
    n_digits: int
    split: task.Split

    def draw(self, n: int, seed: int, *, split: task.Split | None = None) -> task.Products:
        """Draw pairs of the network's own kind; by default those it has not been trained on."""
        stream = torch.Generator().manual_seed(seed)
        return task.draw(n, self.n_digits, stream, split=split or self.split)


def network(name: trained.Recipe, folder: Path) -> Network:
    """Load a trained network beside its untrained twin."""
    settings = trained.Config(recipe=name)
    split: task.Split = "any" if settings.split == "any" else "held_out"
    twin = trained.initial(settings).eval()
    return Network(
        name, load(trained.load_trained(name, folder)), load(twin), settings.n_digits, split
    )


# ------------------------------------------------------------------------------- digits and swaps


def digits(net: Network, config: Config) -> Iterator[dict[str, Any]]:
    """One row for each digit of the answer: accuracy free-running, loss behind the right prefix."""
    data = net.draw(config.scored, config.seed)
    right = trained.generated(net.model.hf, data) == data.c
    losses = digit_losses(net.model, data)
    exact = float(right.all(dim=1).double().mean())
    for k in range(2 * net.n_digits):
        yield {
            "network": net.name,
            "digit": k,
            "accuracy": float(right[:, k].double().mean()),
            "loss": float(losses[:, k].mean()),
            "exact": exact,
            "pairs": len(data),
        }


@torch.no_grad()
def digit_losses(model: Model, data: task.Products) -> Float[Tensor, "row answer"]:
    """Return the loss of each digit behind the right earlier ones, in nats."""
    ids = task.encode(data)
    return trained.answer_loss(model.run(ids).logits, ids, 2 * data.n_digits)


def heat_maps(net: Network, config: Config) -> Iterator[dict[str, Any]]:
    """One row for each operand digit, answer digit and prefix."""
    data = net.draw(config.swaps, config.seed + 1)
    for prefix in PREFIXES:
        found = swap_map(net.model, data, prefix=prefix, seed=config.seed)
        for row, name in enumerate(found.digits):
            for k in range(2 * net.n_digits):
                yield {
                    "network": net.name,
                    "prefix": prefix,
                    "digit": name,
                    "answer": k,
                    "effect": float(found.effect[row, k]),
                    "error": float(found.error[row, k]),
                    "pairs": found.n_pairs,
                }


# ----------------------------------------------------------------------------------------- probes


def probes(net: Network, config: Config) -> Iterator[dict[str, Any]]:
    """One row for each chat_k: the probe, its baselines, and whether the answer follows edits."""
    data, train, test = probe_pairs(net, config)
    bare = states(net.untrained, data, SITE)
    held = states(net.model, data, SITE)
    for k in range(2 * net.n_digits):
        name = f"chat_{k}"
        (found,) = probe_and_test(
            last_cut(net.model, held[:, k]),
            {name: data.chat[:, k].double()},
            train=train,
            test=test,
            raw=data.operands.double(),
            untrained=bare[:, k],
            answers=lambda values, rows, name=name: right_tokens(values[name]),
            settings=ProbeSettings(along="patterns", random_edits=3),
        )
        at = {"network": net.name, "position": task.predicting(net.n_digits)[k]}
        yield {**at, **probe_row(found), "pairs": len(test)}


def probe_pairs(net: Network, config: Config) -> tuple[task.Products, Tensor, Tensor]:
    """Return different pairs, and which of them are fitted on and which are scored.

    Networks of three digits are scored on pairs that they were not trained on either.
    """
    stream = torch.Generator().manual_seed(config.seed)
    n = config.fitted + config.scored
    if net.split == "any":
        data = task.draw_distinct(n, net.n_digits, stream)
    else:
        parts = [
            task.draw_distinct(config.fitted, net.n_digits, stream, split="train"),
            task.draw_distinct(config.scored, net.n_digits, stream, split="held_out"),
        ]
        a, b = (torch.cat([getattr(part, name) for part in parts]) for name in "ab")
        data = task.products(a, b)
    rows = torch.arange(n)
    return data, rows[: config.fitted], rows[config.fitted :]


def last_cut(model: Model, held: Float[Tensor, "input d"]) -> Cut:
    """Return the states at `SITE` at one position, and what the network makes of changed ones.

    Nothing after the last layer's attention mixes positions, so a state alone gives its logits.
    """
    parts = ("transformer.h.1.ln_2", "transformer.h.1.mlp", "transformer.ln_f", "lm_head")
    norm, mlp, last_norm, unembed = (model.hf.get_submodule(name) for name in parts)

    def finish(changed: Tensor, rows: Tensor) -> Tensor:
        return unembed(last_norm(changed + mlp(norm(changed))))

    return Cut(SITE, held, finish)


def right_tokens(chat: Float[Tensor, " row"]) -> Bool[Tensor, "row d_vocab"]:
    """Return which token is right for each running sum: its last digit."""
    last = chat.round().long() % task.BASE
    return torch.nn.functional.one_hot(last, len(task.VOCABULARY)).bool()


def probe_row(found: ProbeTest) -> dict[str, Any]:
    """Return both halves of a probe's result as one row."""
    decoded, used = found.decoded, found.used
    return {
        "variable": found.variable,
        "site": found.site,
        "verdict": found.verdict,
        "error": decoded.held_out.estimate,
        "error low": decoded.held_out.low,
        "error high": decoded.held_out.high,
        "error in training": decoded.train,
        **decoded.baselines,
        "beyond": decoded.beyond.estimate,
        "beyond low": decoded.beyond.low,
        "beyond high": decoded.beyond.high,
        "edited": used.n,
        "follows": None if used.follows is None else used.follows.estimate,
        "follows random edits": used.random,
        "edit norm": used.norm,
        "placebo": used.placebo,
        "right": used.right,
        "right without": used.right_without,
        "right without random": used.right_without_random,
        "reason": used.reason,
    }


def states(model: Model, data: task.Products, site: str) -> Float[Tensor, "row answer *d"]:
    """Return what a site holds at the positions that predict c_0, c_1, ..."""
    positions = list(task.predicting(data.n_digits))
    parts = task.encode(data)[:, : positions[-1] + 1].split(ROWS)
    found = [model.run(part, capture=[site], logits="last").acts[site] for part in parts]
    return torch.cat([part[:, positions] for part in found])


def read_outs(net: Network, config: Config) -> Iterator[dict[str, Any]]:
    """For the network of the auxiliary loss: the error of its own read-outs of chat_k."""
    if net.name != "auxiliary":
        return
    data = net.draw(config.scored, config.seed)
    read_out, scale = trained.load_read_out(config.trained), trained.Config().scale
    z = states(net.model, data, f"{N_LAYERS - 1}.attn.z")
    with torch.no_grad():
        found = scale * read_out(z.flatten(2))
    for k in range(2 * net.n_digits):
        for i, head in enumerate(read_out.heads):
            miss = (found[:, k, i] - data.chat[:, k]).abs().mean()
            yield {
                "network": net.name,
                "variable": f"chat_{k}",
                "head": head,
                "error": float(miss),
                "pairs": len(data),
            }


# -------------------------------------------------------------------------------------- knockouts


def knockouts(net: Network, config: Config) -> Iterator[dict[str, Any]]:
    """One row for each head, answer digit and operand digit: what cutting that edge costs."""
    data = net.draw(config.cut, config.seed + 3)
    ids, positions = task.encode(data), task.predicting(net.n_digits)
    sites = [f"{layer}.attn.pattern" for layer in range(N_LAYERS)]
    whole = net.model.run(ids, capture=sites)
    clean = trained.answer_loss(whole.logits, ids, 2 * net.n_digits)
    for layer, site in enumerate(sites):
        for head in range(N_HEADS):
            for k, query in enumerate(positions):
                for column in range(2 * net.n_digits):
                    key = task.digit_position(column, net.n_digits)
                    edit = Knockout(site, heads=head, positions=query, keys=key)
                    after, off = without(net.model, ids, edit)
                    losses = trained.answer_loss(after, ids, 2 * net.n_digits)[:, k]
                    yield {
                        "network": net.name,
                        "layer": layer,
                        "head": head,
                        "answer": k,
                        "digit": task.digit_name(column, net.n_digits),
                        "weight": float(whole.acts[site][:, head, query, key].mean()),
                        "effect": float((losses - clean[:, k]).mean()),
                        "row sum off": off,
                        "pairs": len(data),
                    }


def without(model: Model, ids: Tensor, edit: Knockout) -> tuple[Tensor, float]:
    """Run with an edge cut; return the logits, and how far its row's sum is from 1 at most."""
    site = str(edit.site)
    run = model.run(ids, edits=[edit], capture=[site])
    return run.logits, float((run.acts[site].nansum(dim=-1) - 1).abs().max())


# ----------------------------------------------------------------------------------------- shapes


def fourier(net: Network, config: Config) -> Iterator[dict[str, Any]]:
    """Fourier fits of embeddings, of what the last MLP writes, and of final states by digit."""
    data = net.draw(config.shaped, config.seed + 4)
    gpt2 = net.model.hf
    embedding = gpt2.get_parameter("transformer.wte.weight").detach()
    written = gpt2.get_parameter(f"transformer.h.{N_LAYERS - 1}.mlp.c_proj.weight").detach()
    unembed = gpt2.get_parameter("lm_head.weight").detach()
    rows = {
        "embedding": embedding[: task.BASE].T,
        "last MLP to logits": written @ unembed[: task.BASE].T,
    }
    final = states(net.model, data, "ln_final")
    for k in range(2 * net.n_digits):
        if len(data.c[:, k].unique()) == task.BASE:
            rows[f"final state at c{k}"] = class_means(final[:, k], data.c[:, k]).T
    for name, each in rows.items():
        fit = fourier_fit(each, seed=config.seed)
        kept = {"median": fit.median, "null": fit.null, "shuffled": fit.shuffled}
        yield {"network": net.name, "rows": name, "n": len(each), **kept}


def class_means(points: Float[Tensor, "row d"], labels: Tensor) -> Float[Tensor, "10 d"]:
    """Return the mean of the points of each digit."""
    return torch.stack([points[labels == digit].mean(dim=0) for digit in range(task.BASE)])


def clouds(net: Network, config: Config) -> Iterator[dict[str, Any]]:
    """For each first-layer head and answer digit, the pair of operand digits it mixes most.

    Near-uniform attention mixes any two digits, so the untrained network's heads are sums too: a
    sum says something only where the two digits explain much more than there.
    """
    twin = states(net.untrained, net.draw(config.shaped, config.seed + 4), "0.attn.result")
    for head, k, z, pattern, data in mixtures(net, config):
        first, second = mixed_pair(pattern, net.n_digits)
        labels = data.operands[:, first], data.operands[:, second]
        shape, bare = (
            sum_of_clouds(z, *labels),
            sum_of_clouds(twin[:, k, head], *labels, shuffles=1),
        )
        names = {"first digit": first, "second digit": second}
        yield {
            "network": net.name,
            "layer": 0,
            "head": head,
            "answer": k,
            **{name: task.digit_name(column, net.n_digits) for name, column in names.items()},
            **asdict(shape),
            "untrained_cells": bare.cells,
            "untrained_additive": bare.additive,
            "pairs": len(data),
        }


def mixtures(
    net: Network, config: Config
) -> Iterator[tuple[int, int, Tensor, Tensor, task.Products]]:
    """Head, answer digit, the head's output, its mean attention at that query, and the pairs."""
    data = net.draw(config.shaped, config.seed + 4)
    z = states(net.model, data, "0.attn.result")
    some = task.encode(data)[:ROWS]
    pattern = net.model.run(some, capture=["0.attn.pattern"]).acts["0.attn.pattern"].mean(dim=0)
    for head in range(N_HEADS):
        for k, query in enumerate(task.predicting(net.n_digits)):
            yield head, k, z[:, k, head], pattern[head, query], data


def mixed_pair(weights: Float[Tensor, " key"], n_digits: int) -> tuple[int, int]:
    """Return the columns of the digit of a and the digit of b that a query attends to most."""
    keys = [task.digit_position(column, n_digits) for column in range(2 * n_digits)]
    on_digits = weights[keys]
    return int(on_digits[:n_digits].argmax()), n_digits + int(on_digits[n_digits:].argmax())


def views(net: Network, config: Config) -> Iterator[dict[str, Any]]:
    """Points in 3-D: final states by digit, and the most additive head's cell means."""
    data = net.draw(config.shaped, config.seed + 4)
    final = states(net.model, data, "ln_final")
    for k in range(2 * net.n_digits):
        if len(data.c[:, k].unique()) < task.BASE:
            continue
        seen = principal(class_means(final[:, k], data.c[:, k]))
        yield from _points(net.name, f"final state at c{k}", seen, [(n,) for n in range(task.BASE)])
    for k in range(1, 3):
        yield from _cloud_view(net, config, k)


def _cloud_view(net: Network, config: Config, k: int) -> Iterator[dict[str, Any]]:
    """The cell means of the head that says most about its two digits at one answer digit."""
    best: tuple[float, Tensor, list[tuple[int, int]], str] | None = None
    for head, at, z, pattern, data in mixtures(net, config):
        if at != k:
            continue
        first, second = mixed_pair(pattern, net.n_digits)
        i, j = data.operands[:, first], data.operands[:, second]
        cells = sum_of_clouds(z, i, j, shuffles=1).cells
        if best is None or cells > best[0]:
            kinds = sorted(set(zip(i.tolist(), j.tolist(), strict=True)))
            means = [z[(i == x) & (j == y)].mean(dim=0) for x, y in kinds]
            names = (task.digit_name(column, net.n_digits) for column in (first, second))
            best = cells, torch.stack(means), kinds, f"a0.h{head} at c{k} by {', '.join(names)}"
    assert best is not None
    yield from _points(net.name, best[3], principal(best[1]), best[2])


def _points(
    network: str, view: str, seen: geometry.Principal, labels: Sequence[tuple[int, ...]]
) -> Iterator[dict[str, Any]]:
    shares = [float(share) for share in seen.shares]
    for label, point in zip(labels, seen.coordinates.tolist(), strict=True):
        at = [round(x, 5) for x in point]
        yield {"network": network, "view": view, "label": list(label), "at": at, "shares": shares}


# ---------------------------------------------------------------------------------------- records

PARTS = {
    "digits": digits,
    "heat_maps": heat_maps,
    "probes": probes,
    "read_outs": read_outs,
    "knockouts": knockouts,
    "fourier": fourier,
    "clouds": clouds,
    "views": views,
}
"""What is computed of each network, one file each."""


def run(config: Config, console: Console) -> tuple[dict[str, list[dict[str, Any]]], list[str]]:
    """Return the rows of each part, and the networks that have not been trained."""
    there: list[trained.Recipe] = [
        n for n in config.networks if (config.trained / n / "manifest.json").is_file()
    ]
    if not there:
        raise InputError(
            f"None of {', '.join(config.networks)} is in {config.trained}: train one with "
            "python -m experiments.train_multiplication."
        )
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in PARTS}
    for name in there:
        net = network(name, config.trained)
        for part, compute in PARTS.items():
            begun = time.process_time()
            rows[part] += compute(net, config)
            console.print(f"{name} {part}: {time.process_time() - begun:.1f} CPU s")
    return rows, [name for name in config.networks if name not in there]


def describe(config: Config, flags: Sequence[str]) -> manifest.Manifest:
    """Make the manifest of a run that begins now."""
    settings = {k: v for k, v in asdict(config).items() if k not in ("out", "trained")}
    folders = [config.trained / name for name in config.networks]
    hashes = {
        f"{folder.name} {what}": value
        for folder in folders
        if (folder / "manifest.json").is_file()
        for what, value in manifest.read_manifest(folder / "manifest.json").model.items()
    }
    modules = (trained, task, digit_swaps, geometry, linear_probes, probe_edits, probing)
    code = [__file__, *(str(module.__file__) for module in modules)]
    return manifest.collect(
        experiment="multiplication",
        settings=settings,
        model=hashes,
        data={"pairs": f"draw, seeds {config.seed} to {config.seed + 4}"},
        seeds=[config.seed],
        device="cpu",
        code=manifest.source_hash(code),
        command=["python", "-m", "experiments.multiplication", *flags],
    )


def write(folder: Path, name: str, rows: Iterable[dict[str, Any]]) -> None:
    """Write rows as lines of JSON; floats to six significant digits."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({k: _short(v) for k, v in row.items()}, allow_nan=False) for row in rows]
    (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _short(value: Any) -> Any:
    if isinstance(value, list):
        return [_short(each) for each in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def main(argv: Sequence[str] | None = None) -> None:
    """Compute all parts of all networks, and write them; the manifest comes last."""
    flags = list(sys.argv[1:] if argv is None else argv)
    config, console = tyro.cli(Config, args=flags, description=__doc__), Console()
    torch.set_num_threads(1)
    made, begun = describe(config, flags), time.process_time()
    rows, missing = run(config, console)
    for part, each in rows.items():
        write(config.out, part, each)
    made.spent.update(cpu_seconds=round(time.process_time() - begun, 1))
    made.notes.update(not_trained=missing)
    manifest.write_manifest(config.out / "manifest.json", made)
    console.print(*tables(rows))


def tables(rows: dict[str, list[dict[str, Any]]]) -> list[Table]:
    """Lay out digits, the heat maps with the original prefix, and the probes."""
    first = Table("network", "digit", "accuracy", "loss", "exact", title="Digits")
    for row in rows["digits"]:
        values = (f"{row[name]:.3f}" for name in ("accuracy", "loss", "exact"))
        first.add_row(row["network"], f"c{row['digit']}", *values)
    names = ("error", "constant", "raw inputs", "untrained network", "shuffled labels")
    second = Table("network", "variable", *names, "verdict", title="Mean absolute error")
    for row in rows["probes"]:
        values = (f"{row[name]:.2f}" for name in names)
        second.add_row(row["network"], row["variable"], *values, row["verdict"])
    third = Table("network", "digit", "effect on c0, c1, ...", title="Digit swaps")
    for row in rows["heat_maps"]:
        if row["answer"] == 0 and row["prefix"] == "original":
            key = (row["network"], row["digit"], row["prefix"])
            line = [
                f"{x['effect']:5.1f}"
                for x in rows["heat_maps"]
                if (x["network"], x["digit"], x["prefix"]) == key
            ]
            third.add_row(row["network"], row["digit"], " ".join(line))
    return [first, second, third]


if __name__ == "__main__":
    main()
