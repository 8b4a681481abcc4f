"""`interp patch`, `interp path`, `interp circuit` and `interp steer`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from interp.cli.shared import OnModel, OnPairs, Out, settings_of


@dataclass(frozen=True, kw_only=True)
class Patch(OnPairs):
    """Patch activations of one run into another, place by place: what carries the answer?

    Each pair of prompts calls for two answers. Denoising puts the clean run's activation into the
    corrupted run, one place at a time, and asks how much of the clean answer comes back; noising
    asks how much is lost the other way round. Without a file the pairs are generated
    indirect-object sentences.
    """

    out: Out = Path("runs/patch")
    """Folder of the records and the report; a run that was stopped goes on there."""
    components: tuple[str, ...] = ("resid_pre",)
    """What to patch in each layer: resid_pre, attn_out, mlp_out, attn.z, attn.q, ..."""
    by: Literal["position", "head", "layer", "last"] = "position"
    """One place for each token, each head, each whole layer, or each layer's last token."""
    direction: Literal["denoise", "noise"] = "denoise"
    """Clean into corrupted, or corrupted into clean."""
    metric: str = "logit_diff"
    """logit_diff, prob, logprob, rank or kl."""
    layers: tuple[int, ...] = ()
    """Only these layers; by default all."""
    exact: bool = False
    """One plain forward pass a place instead of the shared computation."""
    memory_gib: float = 2.0
    """Memory for the activations of one forward pass; weights come on top."""

    def main(self, console: Console) -> int:
        """Run the command; return the exit status."""
        from interp.jobs import patching
        from interp.jobs.tts import set_threads

        set_threads(self.threads)
        outcome = patching.run(
            self.input,
            model=self.model,
            out=self.out,
            settings=settings_of(self, patching.Settings),
            dtype=self.dtype,
            device=self.device,
            memory_gib=self.memory_gib,
            console=console,
        )
        _print_ranked(outcome.rows, "place", console)
        null = max(row["null"] for row in outcome.rows)
        line = f"The null, a run patched with itself, moves it by at most {null:.2g}."
        console.print(line, soft_wrap=True, markup=False)
        return _closing(outcome, console)


def _print_ranked(rows, name: str, console: Console, top: int = 8) -> None:
    """Print the rows with the largest effects; each row has a mean effect and its interval."""
    ranked = sorted(rows, key=lambda row: -abs(row["effect"]))[:top]
    table = Table(name, "token", "effect", "95% interval over pairs", "share recovered")
    for row in ranked:
        share = "no gap" if row["recovered"] is None else f"{row['recovered']:.2f}"
        token = escape(repr(row["token"])) if row.get("token") else ""
        values = (f"{row['effect']:.3f}", _span(row, "effect"), share)
        table.add_row(escape(row[name]), token, *values)
    console.print(table)
    first = rows[0]
    console.print(
        f"The {len(ranked)} of {len(rows)} that move {first['metric']} most; {first['direction']}, "
        f"{first['pairs']} pairs.",
        soft_wrap=True,
        markup=False,
    )


def _span(row, value: str) -> str:
    low, high = row[f"{value}_low"], row[f"{value}_high"]
    return "no interval" if low is None else f"{low:.3f} to {high:.3f}"


def _closing(outcome, console: Console) -> int:
    """Print what was marked and where the records are; the exit status."""
    from interp.jobs.runs import rows

    for line in rows(outcome.store, "marked_pairs") if outcome.marked else ():
        console.print(f"  marked {line['id']}: {line['reason']}", soft_wrap=True, markup=False)
    console.print(f"Records and report: {outcome.store.folder}", soft_wrap=True, markup=False)
    return 3 if outcome.marked else 0


@dataclass(frozen=True, kw_only=True)
class Paths(OnPairs):
    """Patch paths: what does one part do to the answer through another part alone?

    A sender takes its value from the other prompt, everything between is frozen but for what
    --through names, and what the receivers then read is put into an otherwise intact run. Senders
    are heads, mlps, attention, embed, or ends such as 5.h3@last, 5.mlp_out, 5.resid; receivers are
    logits, 7.h1.q (or k, v, k_each, v_each, pattern), 7.q, 7.mlp, 7.resid.
    """

    out: Out = Path("runs/path")
    """Folder of the records and the report; a run that was stopped goes on there."""
    senders: tuple[str, ...] = ("heads",)
    """heads, mlps, attention, embed, or single ends such as 5.h3@last."""
    receivers: tuple[str, ...] = ("logits",)
    """Ends that receive, all of them at once."""
    through: Literal["direct", "mlps", "all"] = "direct"
    """What lies between and is computed anew: nothing, MLPs, or everything."""
    direction: Literal["denoise", "noise"] = "noise"
    """Corrupted senders in the clean run (noise), or clean ones in the corrupted run."""
    freeze_norms: bool = False
    """Keep the scale of every layer norm while the path is followed."""
    exact: bool = False
    """Two plain forward passes a path instead of the shared computation."""
    memory_gib: float = 2.0
    """Memory for what is recorded and for one forward pass; weights come on top."""

    def main(self, console: Console) -> int:
        """Run the command; return the exit status."""
        from interp.jobs import paths
        from interp.jobs.tts import set_threads

        set_threads(self.threads)
        outcome = paths.run(
            self.input,
            model=self.model,
            out=self.out,
            settings=settings_of(self, paths.Settings),
            dtype=self.dtype,
            device=self.device,
            memory_gib=self.memory_gib,
            console=console,
        )
        _print_ranked(outcome.rows, "path", console)
        if outcome.idle:
            line = f"{outcome.idle} paths are NO-OPS: their receivers did not move."
            console.print(line, soft_wrap=True, markup=False)
        return _closing(outcome, console)


@dataclass(frozen=True, kw_only=True)
class Circuit(OnPairs):
    """Find a circuit: score every edge, patch the strongest for real, measure what they explain.

    Edges are scored by attribution (EAP-IG) on half of the pairs; circuits of growing size are run
    on the other half, beside random edges of the same number. circuit.json is in the format of
    EAP-IG and MIB.
    """

    pairs: int = 8
    """How many pairs are generated where no file is given; half score, half measure."""
    out: Out = Path("runs/circuit")
    """Folder of the records, circuit.json and the report; a run that was stopped goes on there."""
    along: Literal["inputs", "activations", "none"] = "inputs"
    """What moves from clean to corrupted: the input, each activation in turn, or nothing (EAP)."""
    steps: int = 5
    """Gradients along the way."""
    edges: int = 40
    """How many edges the circuit keeps."""
    by: Literal["top", "greedy"] = "top"
    """The strongest edges, or backwards from the logits."""
    verify: int = 20
    """How many of the strongest edges are patched for real."""
    random: int = 3
    """Draws of random edges beside each circuit."""

    def main(self, console: Console) -> int:
        """Run the command; return the exit status."""
        from interp.jobs import circuits
        from interp.jobs.tts import set_threads

        set_threads(self.threads)
        outcome = circuits.run(
            self.input,
            model=self.model,
            out=self.out,
            settings=settings_of(self, circuits.Settings),
            dtype=self.dtype,
            device=self.device,
            console=console,
        )
        _print_circuit(outcome, console)
        return _closing(outcome, console)


def _print_circuit(outcome, console: Console, top: int = 8) -> None:
    table = Table("edge", "score", "effect when really patched", "in the circuit")
    for row in sorted(outcome.edges, key=lambda row: row["rank"])[:top]:
        real = "not run" if row["verified"] is None else f"{row['verified']:.3f}"
        inside = "yes" if row["in_circuit"] else "no"
        table.add_row(escape(row["edge"]), f"{row['score']:.3f}", real, inside)
    console.print(table)
    points = Table("share of edges", "edges", "faithfulness", "random edges, as many")
    for row in outcome.curve:
        values = (f"{row['faithfulness']:.3f}", f"{row['random']:.3f}")
        points.add_row(f"{row['fraction']:g}", str(row["n_edges"]), *values)
    console.print(points)
    first = outcome.curve[0]
    console.print(
        f"Area under the curve (CPR): {first['cpr']:.3f}, random edges {first['random_cpr']:.3f}. "
        f"Distance from the model (CMD): {first['cmd']:.3f}, random edges "
        f"{first['random_cmd']:.3f}.",
        soft_wrap=True,
        markup=False,
    )


@dataclass(frozen=True, kw_only=True)
class Steer(OnModel):
    """Steer: find a direction between contrasting texts, and measure each dose beside its damage.

    Layer and dose are chosen on half of the prompts and reported on the other half; the same doses
    of random directions of the same norm stand beside every number. Without a file the texts are
    generated sentences that like or dislike a thing.
    """

    input: tyro.conf.Positional[
        Annotated[Path | None, tyro.conf.arg(metavar="[CONTRASTS.jsonl]")]
    ] = None
    """Lines of three kinds: {"positive", "negative"} contrasting texts, {"prompt", "toward",
    "away"} prompts with two next tokens, {"neutral"} text that should stay likely."""
    out: Out = Path("runs/steer")
    """Folder of the records, the direction and the report; a run that was stopped goes on there."""
    method: Literal["difference_of_means", "pca_of_differences", "probe_normal"] = (
        "difference_of_means"
    )
    """How the direction is found."""
    layers: tuple[int, ...] = ()
    """Candidate layers; by default about six, spread over the model."""
    doses: tuple[float, ...] = (-1.0, -0.5, 0.5, 1.0)
    """In units of the direction's own norm."""
    positions: Literal["all", "last"] = "all"
    """Which tokens of a prompt are steered."""
    random: int = 8
    """Random directions beside each dose."""
    max_damage: float | None = None
    """The most nats a token of neutral text that a dose may cost to be chosen."""
    texts: int = 24
    """How many pairs of texts are generated where no file is given."""
    seed: int = 0
    """Which texts, split and random directions are drawn."""

    def main(self, console: Console) -> int:
        """Run the command; return the exit status."""
        from interp.jobs import steering
        from interp.jobs.tts import set_threads

        set_threads(self.threads)
        outcome = steering.run(
            self.input,
            model=self.model,
            out=self.out,
            settings=settings_of(self, steering.Settings),
            dtype=self.dtype,
            device=self.device,
            console=console,
        )
        _print_doses(outcome, console)
        return 0


def _print_doses(outcome, console: Console) -> None:
    table = Table("dose", "site", "effect", "over random directions", "damage, nats a token")
    held_out = [row for row in outcome.rows if row["split"] == "report"]
    for row in sorted(held_out, key=lambda row: row["coefficient"]):
        if row["method"] != "random":
            margin = f"{row['margin']:.3f} ({_span(row, 'margin')})"
            values = (f"{row['effect']:.3f}", margin, f"{row['damage']:.3f}")
            chosen = " (chosen)" if row["chosen"] else ""
            table.add_row(f"{row['coefficient']:g}{chosen}", escape(row["site"]), *values)
    console.print(table)
    first = outcome.rows[0]
    told = (
        "Layer and dose were chosen on the other half of the prompts"
        if held_out
        else "No dose stays within --max-damage, so none was chosen"
    )
    console.print(
        f"{told}. A dose of 0 moves the measure by {first['noop_effect']:.2g} and the neutral text "
        f"by {first['noop_damage']:.2g}.",
        soft_wrap=True,
        markup=False,
    )
    if outcome.direction is not None:
        console.print(f"Direction: {outcome.direction}", soft_wrap=True, markup=False)
    console.print(f"Records and report: {outcome.store.folder}", soft_wrap=True, markup=False)
