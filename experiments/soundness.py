"""Attack a small model of legal moves, and test whether the board that it holds drives it.

    python -m experiments.soundness

reads `experiments/records/rook` (king and rook against king, see `experiments.train_rook`) and
writes `experiments/records/soundness` (about three minutes on one core): `rows.jsonl`, one row a
result, and `manifest.json`. A row's `kind` is one of

    attack   success of RM, SMM, AD, IMO and BSO from random legal prefixes
    overlap  at each layer, agreement of the played moves and those legal on the decoded board
    probe    at each layer and for each piece, what is decoded and whether an edit is followed
    edit     at each layer, the played moves after Black's king is moved by edit, beside the moves
             that are legal with it there, with it where it was, and after random edits

Everything is scored on games of another seed than the model and the probes were fitted on.
Source: Shah et al., arXiv:2602.05903, whose models of whole chess are a thousand times as large:
no number here is comparable with theirs.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from jaxtyping import Bool, Int
from rich.console import Console
from torch import Tensor
from transformers import GPT2LMHeadModel

from experiments import train_rook, training
from experiments.study import rounded, write_rows
from interp.alignment import linear_probes, probe_edits, probes, soundness
from interp.alignment.linear_probes import LinearProbe, ProbeSettings
from interp.alignment.probes import ProbeTest
from interp.alignment.subjects import Cut
from interp.data import rook_endgame
from interp.data.rook_endgame import BLACK, PIECES, Rules, random_games
from interp.errors import InputError
from interp.results import manifest

RECORDS = training.RECORDS / "soundness"
ALONG: tuple[Literal["weights", "patterns"], ...] = ("weights", "patterns")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Attack the model in `model` and test what its layers hold."""

    model: Path = train_rook.RECORDS
    """Folder of the trained model."""
    prefixes: int = 400
    """Random legal prefixes that are attacked."""
    warm_up: int = 4
    """Moves of both sides in a prefix, an even number."""
    moves: int = 8
    """White's moves in an attack, at most."""
    fit: int = 2500
    """Positions on which probes are fitted, one a game."""
    test: int = 300
    """Positions on which they are scored and edited, one a game."""
    seed: int = 0
    out: Path = RECORDS
    """Folder to write."""

    def __post_init__(self) -> None:
        small = [n for n in ("prefixes", "moves", "fit", "test") if getattr(self, n) < 1]
        if small:
            raise InputError(f"{small[0]}={getattr(self, small[0])}: give 1 or more.")
        if self.warm_up < 0 or self.warm_up % 2:
            raise InputError(f"warm_up={self.warm_up}: White is to move after an even number.")


@dataclass(frozen=True, eq=False)
class Games:
    """Games up to a position with Black to move, one a game, all with different positions."""

    tokens: Int[Tensor, "game pos"]
    """Filled up with `<end>` after the position."""
    last: Int[Tensor, " game"]
    """The place of the last token before it."""
    positions: Int[Tensor, " game"]


def games(rules: Rules, n: int, plies: int, seed: int) -> Games:
    """Draw games and cut each after one of White's moves; no position stands twice."""
    stream = torch.Generator().manual_seed(seed)
    tokens, found = random_games(rules, 4 * n, plies, stream)
    fine = (found != rules.over) & (found % 2 == BLACK)
    last = (fine * torch.rand(fine.shape, generator=stream)).argmax(1)
    rows = torch.arange(len(tokens))
    chosen, seen = [], set()
    for row, position in enumerate(found[rows, last].tolist()):
        if fine[row, last[row]] and position not in seen:
            seen.add(position)
            chosen.append(row)
    keep = torch.tensor(chosen[:n])
    if len(keep) < n:
        raise InputError(f"{4 * n} games have {len(keep)} different positions and {n} are asked.")
    last = last[keep]
    shown = torch.where(torch.arange(tokens.shape[1]) <= last[:, None], tokens[keep], 0)
    return Games(shown, last, found[keep, last])


@torch.no_grad()
def states(model: GPT2LMHeadModel, data: Games, layer: int) -> Tensor:
    """Return the residual stream after a block, where the next token is predicted `[game d]`."""
    hidden = []

    def keep(module: object, args: object, out: Any) -> None:
        hidden.append(out if isinstance(out, Tensor) else out[0])

    handle = model.transformer.h[layer].register_forward_hook(keep)
    try:
        model(data.tokens)
    finally:
        handle.remove()
    return hidden[0][torch.arange(len(data.tokens)), data.last]


def cut(model: GPT2LMHeadModel, data: Games, layer: int) -> Cut:
    """Return the model cut after a block, at the position that predicts the next token."""

    def finish(changed: Tensor, rows: Tensor) -> Tensor:
        last = data.last[rows]

        def write(module: object, args: object, out: Any) -> Any:
            whole = (out if isinstance(out, Tensor) else out[0]).clone()
            whole[torch.arange(len(rows)), last] = changed.to(whole)
            return whole if isinstance(out, Tensor) else (whole, *out[1:])

        handle = model.transformer.h[layer].register_forward_hook(write)
        try:
            logits = model(data.tokens[rows]).logits
        finally:
            handle.remove()
        return logits[torch.arange(len(rows)), last]

    return Cut(f"{layer}.resid_post", states(model, data, layer), finish)


# ---------------------------------------------------------------- results


def attacks(
    model: GPT2LMHeadModel, rules: Rules, board: dict[str, LinearProbe], config: Config
) -> Iterator[dict[str, Any]]:
    """Yield the success of each attack, with what it did on the way."""
    stream = torch.Generator().manual_seed(config.seed + 3)
    tokens, found = random_games(rules, 4 * config.prefixes, max(1, config.warm_up), stream)
    width = 3 + config.warm_up
    running = found[:, width - 1] != rules.over
    prefixes = tokens[running, :width].unique(dim=0)[: config.prefixes]
    last = model.config.n_layer - 1

    @torch.no_grad()
    def reader(rows: Tensor) -> Tensor:
        return model(rows, logits_to_keep=1).logits[:, -1].log_softmax(1)

    def at_end(rows: Tensor) -> Tensor:
        ends = torch.full((len(rows),), rows.shape[1] - 1)
        return states(model, Games(rows, ends, ends), last)

    loss = soundness.probe_loss(rules, board, at_end)
    for attack in soundness.ATTACKS:
        made = soundness.play(
            attack, rules, reader, prefixes, moves=config.moves, seed=config.seed, board_loss=loss
        )
        yield {
            "kind": "attack",
            "attack": attack,
            "prefixes": len(made.won),
            "success": made.success.estimate,
            "low": made.success.low,
            "high": made.success.high,
            "mean moves": float(made.moves.double().mean()),
            "example": rules.text(made.tokens[made.won][0].tolist()) if made.won.any() else None,
        }


def layer_rows(
    trained: Cut,
    untrained: Cut,
    data: Games,
    rules: Rules,
    board: dict[str, LinearProbe],
    train: Tensor,
    test: Tensor,
) -> Iterator[dict[str, Any]]:
    """Yield what one layer's probes are worth: overlap, both halves of each test, and the edit."""
    squares = rules.squares(data.positions)
    at, legal = trained.states[test], rules.legal[data.positions[test]]
    with torch.no_grad():
        played = _played(trained.finish(at, test))
    decoded = rules.legal[soundness.decoded_position(rules, board, at, data.positions[test])]
    found = soundness.overlap(legal, played, decoded)
    yield {"kind": "overlap", "site": trained.site, "n": len(test), **asdict(found)}
    for along in ALONG:
        tests = probes.probe_and_test(
            trained,
            squares,
            train=train,
            test=test,
            raw=raw_inputs(rules, data),
            untrained=untrained.states,
            answers=lambda asked, rows: allowed(rules, asked),
            kinds=data.positions,
            settings=ProbeSettings(along=along, random_edits=3),
        )
        yield from ({**flat(each), "along": along} for each in tests)
        root = probe_edits.covariance_root(trained.states[train]) if along == "patterns" else None
        found = edited(trained, data, rules, board, test, root)
        yield {"kind": "edit", "site": trained.site, "along": along, **found}


def allowed(rules: Rules, squares: Any) -> Bool[Tensor, "n token"]:
    """Return what Black may play with the pieces on some squares; nothing if they cannot stand so.

    A position cannot be where two pieces share a square or the kings touch.
    """
    at = {piece: squares[piece] for piece in PIECES}
    size = rules.size
    gap = [(at["K"] // size - at["k"] // size).abs(), (at["K"] % size - at["k"] % size).abs()]
    apart = torch.maximum(*gap) > 1
    fine = apart & (at["R"] != at["K"]) & (at["R"] != at["k"])
    return rules.legal[rules.number(at["K"], at["R"], at["k"]) + BLACK] & fine[:, None]


def edited(
    trained: Cut,
    data: Games,
    rules: Rules,
    board: dict[str, LinearProbe],
    test: Tensor,
    root: Tensor | None,
) -> dict[str, Any]:
    """Move Black's king by edit and compare the played moves with those legal there."""
    squares = rules.squares(data.positions)
    stream = torch.Generator().manual_seed(1)
    asked = {name: of[test] for name, of in squares.items()}
    asked["k"] = asked["k"][torch.randperm(len(test), generator=stream)]
    there = allowed(rules, asked)
    keep = there.any(1) & (asked["k"] != squares["k"][test])
    moved = probe_edits.moved(trained.states[test[keep]], board, "k", asked["k"][keep], root=root)
    rows, there = test[keep][moved.reached], there[keep][moved.reached]
    new, here = moved.states[moved.reached], rules.legal[data.positions[rows]]
    change = new - trained.states[rows]
    with torch.no_grad():
        after = _played(trained.finish(new, rows))
        twin = trained.states[rows] + probe_edits.random_edits(change, stream, root=root)
        chance = _played(trained.finish(twin, rows))
    return {
        "n": len(rows),
        "unreached": int((~moved.reached).sum()),
        "IoU with the edited board": float(soundness.iou(after, there).mean()),
        "IoU with the true board": float(soundness.iou(after, here).mean()),
        "IoU of both boards": float(soundness.iou(there, here).mean()),
        "IoU with the edited board, random edit": float(soundness.iou(chance, there).mean()),
        "IoU with the true board, random edit": float(soundness.iou(chance, here).mean()),
    }


def flat(test: ProbeTest) -> dict[str, Any]:
    """Return one probe's row: everything but the sentence."""
    used = {k: v for k, v in asdict(test.used).items() if k not in ("verdict", "reason")}
    return {
        "kind": "probe",
        "site": test.site,
        "variable": test.variable,
        "verdict": test.verdict,
        "measure": test.decoded.measure,
        "held out": asdict(test.decoded.held_out),
        "train": test.decoded.train,
        "baselines": dict(test.decoded.baselines),
        "beyond": asdict(test.decoded.beyond),
        **used,
    }


def raw_inputs(rules: Rules, data: Games) -> Tensor:
    """Return what the model is told as numbers: the last eight tokens, one-hot, oldest last."""
    back = (data.last[:, None] - torch.arange(8)).clamp(min=0)
    seen = data.tokens.gather(1, back)
    return torch.nn.functional.one_hot(seen, rules.n_tokens).flatten(1).float()


def _played(logits: Tensor) -> Bool[Tensor, "n token"]:
    return logits.softmax(1) > soundness.PLAYED


def rows(config: Config, console: Console) -> Iterator[dict[str, Any]]:
    """Yield all results."""
    made = manifest.read_manifest(config.model / "manifest.json").settings
    told = {k: v for k, v in made.items() if k in train_rook.Config.__dataclass_fields__}
    recipe = train_rook.Config(**{**told, "out": config.model})
    model, blank = train_rook.load_trained(config.model), train_rook.untrained(recipe)
    rules = Rules(recipe.size)
    data = games(rules, config.fit + config.test, recipe.plies, config.seed + 2)
    train = torch.arange(config.fit)
    test = config.fit + torch.arange(config.test)
    board: dict[str, LinearProbe] = {}
    for layer in range(recipe.n_layers):
        trained = cut(model, data, layer)
        board = fit_board(rules, data, trained, train)
        console.print(f"layer {layer}")
        yield from layer_rows(trained, cut(blank, data, layer), data, rules, board, train, test)
    console.print("attacks")
    yield from attacks(model, rules, board, config)


def fit_board(rules: Rules, data: Games, trained: Cut, train: Tensor) -> dict[str, LinearProbe]:
    """Fit a softmax probe of each piece's square."""
    return {
        piece: linear_probes.fit_probe(
            trained.states[train],
            at[train],
            settings=ProbeSettings(kind="logistic"),
            n_classes=rules.n_squares,
        )
        for piece, at in rules.squares(data.positions).items()
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and write."""
    config = tyro.cli(Config, args=argv, description=__doc__)
    torch.set_num_threads(1)
    console, begun = Console(), time.perf_counter()
    found = list(rows(config, console))
    write_rows(config.out, found)
    save(config, seconds=time.perf_counter() - begun)
    for row in found:
        console.print_json(json.dumps(rounded(row)))


MODULES = (linear_probes, probe_edits, probes, soundness, rook_endgame, train_rook)
"""What decides the rows, beside this file."""


def save(config: Config, *, seconds: float) -> None:
    """Write the manifest."""
    settings = {k: v for k, v in asdict(config).items() if k not in ("out", "model")}
    made = manifest.collect(
        experiment="soundness",
        settings=settings,
        model={"sha256 model.safetensors": manifest.file_hash(config.model / training.FILES[0])},
        data={"games": f"random games, seeds {config.seed + 2} and {config.seed + 3}"},
        seeds=[config.seed],
        device="cpu",
        code=manifest.source_hash([__file__, *(str(module.__file__) for module in MODULES)]),
        command=["python", "-m", "experiments.soundness"],
    )
    made.spent.update(seconds=round(seconds, 1))
    manifest.write_manifest(config.out / "manifest.json", made)


if __name__ == "__main__":
    main()
