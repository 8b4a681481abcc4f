# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Does it implement the algorithm?
#
# A network gives the right answers. Does it get them the way that *we* would: are there places in
# it that hold the intermediate results of an algorithm, and does the answer change as the algorithm
# says when they are exchanged?
#
# The usual test fits an *alignment map*: a change of coordinates at one layer, after which some
# coordinates are said to be a variable of the algorithm. Then these are taken from another input,
# and one counts how often the network answers what the algorithm would. The trap: a map that is
# flexible enough makes almost any network agree with almost any algorithm (Sutter et al. 2025,
# arXiv:2507.08802). So a high score alone shows nothing, and this notebook is about what must stand
# beside it.
#
# 1. an algorithm as a graph, and a network in which we know that it lies,
# 2. a rotation that finds it, beside baselines that fit nothing,
# 3. the wrong algorithm, which a rotation refuses and a flexible map accepts,
# 4. the controls that tell the two apart, and the verdict,
# 5. a probe that reads a variable which nothing uses.
#
# It needs the repository (the small networks lie in `experiments/records`), no GPU, no network and
# about a minute. Nothing in the prose is a measured number: what a sentence says, the cell before
# it computes.

# %%
SEED = 4287  # which of the ten planted networks
N_TRAIN, N_TEST = 32_768, 10_000  # distinct inputs; their splits share not one vector
N_PAIRS = 5_000  # pairs that each score is over

# %%
import json
import textwrap
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

warnings.filterwarnings("ignore", message="IProgress not found")

import plotly.graph_objects as go
import torch
from IPython.display import Markdown, display

torch.set_num_threads(1)
ROOT = next(p for p in (Path.cwd(), *Path.cwd().parents) if (p / "experiments").is_dir())
RECORDS = ROOT / "experiments" / "records"

from interp.errors import InputError
from interp.results import Store, render
from interp.results.report_charts import BLUE, INK, VERMILION

Row = dict[str, Any]


def show(data: Any, title: str, **layout: Any) -> None:
    """Show a figure under a title that says what it finds."""
    room = {"margin": {"t": 90}, "width": 900, "height": 440, **layout}
    go.Figure(data).update_layout(title=title, template="plotly_white", **room).show()


# %% [markdown]
# ## An algorithm is a graph
#
# The task is the distributive law. An input is six vectors, and the label is true where
# (x1 = x2 and x3 = x4) or (x3 = x4 and x5 = x6). One can factor out the equality in the middle. A
# `CausalModel` says so: variables, what each is computed from, and the function. It is a program
# that can be stopped in the middle: `do` forces a variable, whatever its parents say.

# %%
from interp.causal_models import CausalModel, Variable


def same(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return in which rows two vectors are equal."""
    return (a == b).all(-1)


factored = CausalModel(
    "factored",
    ("x1", "x2", "x3", "x4", "x5", "x6"),
    (
        Variable("middle", ("x3", "x4"), same),
        Variable("outer", ("x1", "x2", "x5", "x6"), lambda a, b, c, d: same(a, b) | same(c, d)),
        Variable("label", ("middle", "outer"), torch.logical_and),
    ),
    output="label",
)
display(Markdown(f"```mermaid\n{factored.mermaid()}\n```"))
print(f"what a network can be aligned to: {', '.join(factored.inner)}")

one, two = torch.ones(1, 4), torch.zeros(1, 4)
inputs = {"x1": one, "x2": one, "x3": one, "x4": two, "x5": one, "x6": two}
plain, forced = factored.run(inputs), factored.run(inputs, do={"middle": torch.tensor([True])})
for name in ("middle", "outer", "label"):
    print(f"{name:7} {plain[name].item()!s:6} with middle forced to be true: {forced[name].item()}")
try:
    CausalModel("circular", ("x",), (Variable("a", ("b",), abs), Variable("b", ("a",), abs)), "a")
except InputError as error:
    print(f"\nInputError: {error}")

# %% [markdown]
# The library has this algorithm under the name `and_or`, and beside it the other side of the law,
# `and_or_and`: it computes the two conjunctions and then asks whether one of them holds. Both give
# the same label on every input. No test of behaviour can tell them apart; an intervention can.

# %%
from interp.data.alignment_tasks import task_named

RIGHT, WRONG = "and_or", "and_or_and"
task = task_named("distributive")
display(Markdown(f"```mermaid\n{task.algorithm(WRONG).mermaid()}\n```"))
drawn = task.inputs(5_000, seed=1)
label, *others = (
    model.run(drawn)["label"] for model in (factored, task.algorithm(RIGHT), task.algorithm(WRONG))
)
agree = torch.stack([label == other for other in others]).all(0)
print(f"inputs on which all three agree: {int(agree.sum())} of {len(agree)}")

# %% [markdown]
# ## A network in which we know the answer
#
# `experiments/records/alignment_nets/planted_and_or` holds small networks that were *trained by
# interventions*: at layer 2 the first twelve neurons hold `middle` and the last twelve `outer`. The
# check below knows nothing of that. It cuts the network at a layer: each input runs once up to the
# cut, and afterwards only what lies behind it runs, for as many changed states as one likes.
#
# A *pair* is a base, a source for each variable, which variables are exchanged, and what the
# algorithm then answers. Only in *sensitive* pairs does that differ from the answer to the base: on
# all others doing nothing is right.

# %%
from interp.alignment.subjects import LayerSubject
from interp.models.classifiers import load, site, untrained

network = load(RECORDS / "alignment_nets" / "planted_and_or", SEED)
splits = {"train": N_TRAIN, "validation": N_TEST, "test": N_TEST}
tables = {
    name: {split: task.table(name, n, seed=1, split=split) for split, n in splits.items()}
    for name in (RIGHT, WRONG)
}
with torch.no_grad():
    answered = network(tables[RIGHT]["test"].inputs).argmax(1)
accuracy = float((answered == task.labels(tables[RIGHT]["test"])).double().mean())
print(f"right answers on test inputs: {accuracy:.1%}")
test_pairs = {name: tables[name]["test"].pairs(N_PAIRS, seed=3) for name in (RIGHT, WRONG)}
for name, pairs in test_pairs.items():
    print(f"{name:10} {len(pairs)} test pairs, {int(pairs.sensitive.sum())} of them sensitive")

# %% [markdown]
# ## What needs no fitting
#
# First what a score has to beat. None of these fits a map to interventions: swap the whole state,
# a random subspace, the leading principal directions, the difference of means; do nothing; always
# say the same. Where there is a choice, the best one is taken.

# %%
from interp.alignment.baselines import baselines, best, interval

SIZE = 12  # coordinates for each variable: half of the layer


def cuts(net: torch.nn.Sequential, name: str, layer: int = 2) -> dict[str, Any]:
    """Cut a network at a layer, on each split of an algorithm's inputs."""
    subject = LayerSubject(net, site(layer))
    return {split: subject.cut(table.inputs) for split, table in tables[name].items()}


def stand_beside(net: torch.nn.Sequential, name: str) -> dict[str, Any]:
    """Score every baseline on an algorithm's test pairs, at layer 2."""
    cut, sizes = cuts(net, name), dict.fromkeys(tables[name]["test"].variables, SIZE)
    given = (cut["train"], tables[name]["train"])
    return baselines(cut["test"], test_pairs[name], sizes, train=given)


beside = {name: stand_beside(network, name) for name in (RIGHT, WRONG)}
lines = [
    {"baseline": which, **{name: f"{beside[name][which].highest:.3f}" for name in beside}}
    | {f"{name}, sensitive": f"{beside[name][which].split.sensitive:.3f}" for name in beside}
    for which in beside[RIGHT]
]
print("share of pairs with the algorithm's answer (IIA), at layer 2")
print(render(lines, "table", width=110))

# %% [markdown]
# Chance would be a poor thing to compare with: some of these stand far above one half.
#
# ## A rotation
#
# The classic map (distributed alignment search, Geiger et al. 2023, arXiv:2303.02536): rotate the
# layer, call some coordinates `middle` and others `outer`. Only the rotation is learned; the
# network is frozen. Layers are compared on validation pairs; test pairs are scored once.

# %%
from interp.alignment.exactness import inverse_error, noop_error
from interp.alignment.families import build
from interp.alignment.fitting import Budget, Fitted, Scores, fit, fresh, score


@dataclass(frozen=True)
class Found:
    """A fitted map, and what the network answers under it on test pairs."""

    cuts: dict[str, Any]
    fitted: Fitted
    scores: Scores

    @property
    def validation(self) -> float:
        """The loss at which the map was kept, in nats a pair."""
        return min(loss for _, loss in self.fitted.validation)

    def row(self) -> Row:
        """The score with its interval over bases, and train IIA beside it."""
        over = interval(self.scores)
        sensitive = self.scores.iia_of(self.scores.pairs.sensitive)
        return {
            "train IIA": f"{self.fitted.train_iia:.3f}",
            "test IIA": f"{over.estimate:.3f} ({over.low:.3f} to {over.high:.3f})",
            "sensitive": f"{sensitive:.3f}",
            "updates": self.fitted.steps,
        }


BUDGETS = {  # a few hundred updates; `interp align` spends 1,000 or more on each fit
    "orthogonal": Budget(steps=300, learning_rate=5e-3),
    "revnet-10x24": Budget(steps=500, learning_rate=2e-3),
}


def align(
    net: torch.nn.Sequential, name: str, family: str, layer: int = 2, size: int = SIZE
) -> Found:
    """Fit a map of one family for one algorithm, and score it."""
    table, cut = tables[name], cuts(net, name, layer)
    start = build(family, cut["train"].d, table["train"].variables, size)
    feed = fresh(table["train"].pairs, BUDGETS[family].batch, 1)
    held = (cut["validation"], table["validation"].pairs(N_PAIRS, seed=2))
    made = fit(cut["train"], start, feed, BUDGETS[family], validation=held)
    return Found(cut, made, score(cut["test"], made.map, test_pairs[name]))


layers = {layer: align(network, RIGHT, "orthogonal", layer) for layer in (1, 2, 3)}
for layer, each in layers.items():
    print(f"layer {layer}: loss on validation pairs {each.validation:.3f} nats")
PLANTED = 2
rotation = layers[PLANTED]
print(f"\nlayer {PLANTED}, on test pairs")
print(render([{"map": "rotation", "algorithm": RIGHT, **rotation.row()}], "table", width=110))

phi, cut = rotation.fitted.map, rotation.cuts["test"]
nothing, back = noop_error(cut, phi, test_pairs[RIGHT]), inverse_error(phi, cut.states)
print(f"a state's variables swapped with its own: largest change of a logit {nothing.logit}")
print(f"mapped and mapped back: largest relative error {back.run:.1e} (float64 {back.double:.1e})")

# %% [markdown]
# At the planted layer nearly every exchange does what the algorithm says. And not there alone: the
# layer below serves as well, the one above worse. So a layer that fits is rarely *the* layer, and
# a report has to name its runner-up. We stay where the variables were planted; who does not know
# takes the best layer on validation pairs.
#
# Doing nothing changes nothing, bit for bit: an error there would have made every other number
# worthless.
#
# ## The wrong algorithm
#
# Now the same for `and_or_and`, which this network does *not* compute inside, by a rotation and by
# a map that can bend: ten reversible blocks (a RevNet), each a small network of its own. Then both
# on the network's *random twin*: the same network before it was trained. It knows nothing.

# %%
twin = untrained("planted_and_or", SEED)
MAPS = {"orthogonal": "rotation", "revnet-10x24": "RevNet"}
found = {("planted", RIGHT, "orthogonal"): rotation}  # all at the planted layer
for kind, net in (("planted", network), ("twin", twin)):
    for name in (RIGHT, WRONG):
        for family in MAPS:
            if (kind, name, family) not in found and (kind, name) != ("twin", WRONG):
                found[kind, name, family] = align(net, name, family)
tops = {("planted", name): best(each.values()).highest for name, each in beside.items()}
tops["twin", RIGHT] = best(stand_beside(twin, RIGHT).values()).highest
lines = [
    {"network": kind, "algorithm": name, "map": MAPS[family], **each.row()}
    | {"best baseline": f"{tops[kind, name]:.3f}"}
    for (kind, name, family), each in found.items()
]
print(render(lines, "table", width=140))

places = [("planted", RIGHT), ("planted", WRONG), ("twin", RIGHT)]
ticks = [name if kind == "planted" else f"{name},<br>random twin" for kind, name in places]
bars: list[Any] = []
for family, colour, pattern in (("orthogonal", BLUE, ""), ("revnet-10x24", VERMILION, "/")):
    spans = [interval(found[*place, family].scores) for place in places]
    ends = {
        "array": [span.high - span.estimate for span in spans],
        "arrayminus": [span.estimate - span.low for span in spans],
    }
    bars.append(
        go.Bar(
            name=MAPS[family],
            x=ticks,
            y=[span.estimate for span in spans],
            error_y={"type": "data", "symmetric": False, **ends},
            marker={"color": colour, "pattern": {"shape": pattern}},
        )
    )
line = {"color": INK, "symbol": "line-ew-open", "size": 120, "line": {"width": 3}}
high = [tops[place] for place in places]
bars.append(go.Scatter(name="best baseline", x=ticks, y=high, mode="markers", marker=line))
title = "The rotation takes the right algorithm only; the RevNet takes both"
yaxis = {"title": "Test IIA", "range": [0, 1.08]}
show(bars, title, yaxis=yaxis, barmode="group")

# %% [markdown]
# Here is the trap. By its score alone the RevNet "shows" that the network computes the two
# conjunctions. It does not: we know what was planted. The rotation, which can do less, says more.
#
# The twin gives no such warning *here*: at this budget the RevNet does not bend a random network to
# the task, and both maps stay near what fits nothing. With more updates or wider blocks it can, as
# the paper shows. One control that comes out well is not enough; each closes another way to be
# wrong.
#
# ## Pairs that tell the two apart
#
# Under the same intervention the two algorithms often say different things. On such
# *distinguishing* pairs exactly one of them is right, so one can ask which one the network follows
# under a map.

# %%
from interp.alignment.capacity import obeyed
from interp.data.counterfactuals import distinguishing

told = {}
for name, rival in ((RIGHT, WRONG), (WRONG, RIGHT)):
    sides = distinguishing(tables[name]["test"], tables[rival]["test"], 2_000, seed=5)
    for family in MAPS:
        each = found["planted", name, family]
        told[name, family] = obeyed(each.cuts["test"], each.fitted.map, *sides)
lines = [
    {"map": MAPS[family], "fitted for": name, "pairs": each.n}
    | {"follows it": f"{each.mine.estimate:.3f}", "its rival": f"{each.theirs.estimate:.3f}"}
    for (name, family), each in told.items()
]
print(render(lines, "table"))

# %% [markdown]
# Under the RevNet the network follows whichever algorithm the map was fitted for. A map under which
# *both* of two contradicting stories hold tells of the map, not of the network.
#
# ## Memorising
#
# How much can a map learn by heart? Give each a few hundred pairs whose labels are shuffled, so
# that there is nothing to find. Train IIA shows how far it gets; a report without it hides that.

# %%
from interp.alignment.fitting import fixed

N_SHUFFLED = 400
lines = []
for family in MAPS:
    each = found["planted", RIGHT, family]
    pairs = tables[RIGHT]["train"].pairs(N_SHUFFLED, seed=6).shuffled(seed=7)
    start = build(family, each.cuts["train"].d, pairs.variables, SIZE)
    budget = replace(BUDGETS[family], steps=400)
    own = fit(
        each.cuts["train"],
        start,
        fixed(pairs, budget.batch, 1),
        budget,
        validation=(each.cuts["train"], pairs),
    )
    learned = score(each.cuts["train"], own.map, pairs).iia
    true = score(each.cuts["test"], own.map, test_pairs[RIGHT]).iia
    lines.append(
        {"map": MAPS[family], "parameters": own.map.n_parameters}
        | {"train IIA, shuffled labels": f"{learned:.3f}", "test IIA, true labels": f"{true:.3f}"}
    )
print(render(lines, "table", width=110))

# %% [markdown]
# The map that can bend learns far more by heart. And one that was fitted to nothing may still score
# on true labels about what a random subspace does, well above one half: one more reason to print
# the baselines.
#
# ## Is the direction read, and where does an edit land?
#
# Two more ways to be fooled. A direction may work through a part that the network ignores in normal
# use (Makelov et al. 2023, arXiv:2311.17030): so a narrow rotation is split into the part
# that the layers above read and the rest, and each is swapped alone. And an inverse can land
# anywhere: so the distance of edited states to natural ones is held against what natural states
# have among themselves.

# %%
from interp.alignment.divergence import divergence, edited_states
from interp.alignment.maps import Identity
from interp.alignment.null_space import null_space

narrow = align(network, RIGHT, "orthogonal", size=4)
parts = null_space(narrow.cuts["test"], narrow.fitted.map, test_pairs[RIGHT])
print(f"rotation of 4 coordinates for each variable; {parts.n_read} of 24 directions are read")
for what in ("none", "full", "read", "rest"):
    print(f"  swapped: {what:4}  IIA {getattr(parts, what).iia:.3f}")
print(f"  share of the gain that the read part keeps: {parts.kept:.0%}")

cut, known = rotation.cuts["test"], rotation.cuts["train"].states[:8_000]
neurons = Identity(cut.d, {"middle": range(SIZE), "outer": range(SIZE, 2 * SIZE)})
measured = [(RIGHT, "planted neurons", neurons)] + [
    (name, MAPS[family], each.fitted.map)
    for (kind, name, family), each in found.items()
    if kind == "planted"
]
lines = []
for name, called, phi in measured:
    pairs = test_pairs[name][:2_000]
    edited = edited_states(cut, phi, pairs)
    far = divergence(edited, cut.states[pairs.base.unique()], known)
    lines.append(
        {"algorithm": name, "map": called, "IIA": f"{score(cut, phi, pairs).iia:.3f}"}
        | {"beyond 99% of natural states": f"{far.flagged:.1%}"}
        | {"distance": f"{far.edited:.2f}", "natural": f"{far.natural:.2f}"}
    )
print()
print(render(lines, "table", width=110))

# %% [markdown]
# The rest alone does what no swap does, and the read part alone keeps some of the effect, not all:
# the network reads these directions, though not the whole of them, and their read part moves it
# less far. How far hangs on where the fit ended: many narrow rotations score alike.
#
# The second table is the subtler one. The planted neurons, exchanged as they are, leave the states
# where natural ones lie. The fitted maps reach the same accuracy from far outside, the RevNet for
# the wrong algorithm from farthest of all. So equal accuracy is not an equal mechanism: what the
# network does out there is not what it does. Even the right rotation is one of many that score
# alike; a smaller size leaves it less room.
#
# ## The verdict
#
# Numbers invite stories, so the words are fixed: INVALID, NOT FOUND, VACUOUS FOR THIS MAP, FOUND
# UNDER {map}, IN DISTRIBUTION, and FOUND UNDER {map}, GENERALISES. The first three may be said as
# soon as there is one reason for them. FOUND is refused while any of thirteen guards is missing.

# %%
from interp.alignment.capacity import Control, Rival
from interp.alignment.evidence import Evidence
from interp.alignment.verdicts import verdict


def control(called: str, each: Found) -> Control:
    """State a fit as a control."""
    return Control(called, each.fitted.train_iia, interval(each.scores), (each.scores.iia,), None)


def evidence(name: str, family: str) -> Evidence:
    """Put together what this notebook has measured about one algorithm under one map."""
    each, other = found["planted", name, family], WRONG if name == RIGHT else RIGHT
    rival = control(other, found["planted", other, family])
    return Evidence(
        algorithm=name,
        map=MAPS[family],
        site="layer 2",
        inputs="inputs as they are drawn for training",
        test=interval(each.scores),
        task_accuracy=accuracy,
        train_iia=each.fitted.train_iia,
        baselines=beside[name],
        rival=Rival(other, told[name, family], rival),
        twin=control("twin", found["twin", RIGHT, family]) if name == RIGHT else None,
    )


for name in (RIGHT, WRONG):
    for family, called in MAPS.items():
        try:
            said = str(verdict(evidence(name, family)))
        except InputError as error:
            said = f"NO VERDICT: {error}"
        print(f"{name} under the {called}\n{textwrap.fill(said, 100)}\n")

# %% [markdown]
# The RevNet's score for the right algorithm is worth no more than its score for the wrong one: each
# makes the other vacuous. And what looks best of all still gets no verdict, because one network and
# a few controls are not enough: the message says what is lacking.
#
# `interp align` runs all of it: five networks and five twins, every layer, rivals, shuffled and
# arbitrary labels, the capacity curve, description length, a positive control. Its records are
# committed where the study was made, and need no model to be read.

# %%
STUDIES = RECORDS / "align_study"
runs = sorted(path.parent for path in STUDIES.glob("*/manifest.json"))
verdicts = [
    {"run": run.name, **row} for run in runs for row in Store.open(run).rows("align_verdicts")
]
columns = ("run", "algorithm", "map", "site", "iia", "twin", "baseline", "verdict")
if verdicts:
    print(render([{name: row[name] for name in columns} for row in verdicts], "table", width=170))
    planted = [
        row for row in verdicts if row["run"].startswith("planted") and row["map"] == "orthogonal"
    ]
    row = next((row for row in planted if row["verdict"].startswith("FOUND")), verdicts[0])
    print(f"\n{row['run']}, {row['map']}")
    print(textwrap.fill(f"{row['verdict']}: {row['reason']} {row['claim']}", 100), "\n")
    guards = [
        {"guard": each["guard"], "found": each["found"]}
        for each in Store.open(STUDIES / row["run"]).rows("align_guards")
        if each["map"] == row["map"]
    ]
    for each in guards:
        text = f"{each['guard']:24} {each['found']}"
        print(textwrap.fill(text, 100, subsequent_indent=" " * 25))
else:
    print("No records of `interp align` lie in experiments/records/align_study. They are made by")
    print("  python -m experiments.align_study --subject planted-and-or \\")
    print("      --records experiments/records/align_study")

# %% [markdown]
# ## Decodable is not used
#
# A probe asks less than an alignment map: can the variable be *read* from a layer? That it can says
# nothing of its use. So a probe here always comes with a causal test in the same call: the state is
# edited until the probe reads another value, and one counts how often the answer follows, beside
# random edits of the same length.
#
# (A site is named by the network's own modules: `3` ends its second layer, `5` its third.)
#
# The subject is a network that was wired by hand, neuron by neuron, to answer whether
# (x1 = x2) = (x3 = x4). After its second layer `left` (x1 = x2) is computed and compared. After
# the third a copy of it is still there, and no weight reads it.

# %%
from interp.alignment import hand_wired
from interp.alignment.probes import probe_and_test
from interp.models.classifiers import mlp

wired, data = hand_wired.equality_net(), hand_wired.table(5)
bare = mlp(data.inputs.shape[1], hand_wired.HIDDEN, 3, 2, seed=1)
order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))
values = {name: data.values[name] for name in hand_wired.VARIABLES}


def right_answers(values: Any, rows: torch.Tensor) -> torch.Tensor:
    """Return which answer is right when the variables have these values."""
    agree = (values["left"] == values["right"]).long()
    return torch.nn.functional.one_hot(agree, 2).bool()


for layer in (2, 3):
    (probed,) = probe_and_test(
        LayerSubject(wired, site(layer)).cut(data.inputs),
        values,
        train=order[:400],
        test=order[400:],
        raw=data.inputs,
        untrained=LayerSubject(bare, site(layer)).cut(data.inputs).states,
        answers=right_answers,
        variables=("left",),
    )
    print(textwrap.fill(f"layer {layer}: {probed}", 100), "\n")

cut, pairs = LayerSubject(wired, site(3)).cut(data.inputs), data.pairs(3_000, seed=1)
decoys = Identity(hand_wired.HIDDEN, hand_wired.DECOYS[site(3)])
sensitive = score(cut, decoys, pairs).iia_of(pairs.sensitive)
print(f"layer 3, the copies exchanged neuron for neuron: {sensitive:.3f} of sensitive pairs")

# %% [markdown]
# The probe is as accurate at layer 3 as at layer 2, and beats every baseline at both. The answer
# follows at layer 2 only. Without the second half of that sentence the first would have been a
# finding.
#
# ## A harder subject: multiplication
#
# Small transformers that were trained to multiply have inner variables that are known, too: the
# running sums of long multiplication. The map below asks of each digit of the product which digits
# of the factors it hangs on (Bai et al. 2025, arXiv:2510.00184): one digit is replaced, and what
# the network's own answer loses is counted. A network that multiplies hangs on all digits of the
# factors from the answer's own place downwards.

# %%
HEAT = RECORDS / "multiplication_study" / "heat_maps.jsonl"
if HEAT.is_file():
    rows = [json.loads(line) for line in HEAT.read_text(encoding="utf-8").splitlines()]
    names = list(dict.fromkeys(row["network"] for row in rows))
    shown = "sft" if "sft" in names else names[0]
    rows = [row for row in rows if (row["network"], row["prefix"]) == (shown, "original")]
    digits = list(dict.fromkeys(row["digit"] for row in rows))
    places = sorted({row["answer"] for row in rows})
    effect = {(row["digit"], row["answer"]): row["effect"] for row in rows}
    heat = go.Heatmap(
        x=[f"c{k}" for k in places],
        y=digits,
        z=[[effect[digit, k] for k in places] for digit in digits],
        colorscale="Blues",
        colorbar={"title": "Logit lost"},
    )
    print(f"networks: {', '.join(names)}; shown: {shown}, {rows[0]['pairs']} pairs")
    title = f"What each answer digit hangs on ({shown}; digit 0 is the lowest)"
    axes = {"xaxis": {"title": "Answer digit"}, "yaxis": {"title": "Operand digit replaced"}}
    show(heat, title, **axes)
else:
    print("No records of multiplication lie in experiments/records/multiplication_study. They are")
    print("made by: python -m experiments.multiplication")

# %% [markdown]
# ## What this shows, and what it does not
#
# - In this network the variables of `and_or` are held at the planted layer, linearly, and are used.
#   We knew; the point is that the check ranks the right algorithm above the wrong one.
# - An accuracy under a map is a statement about *network and map*. Give the simplest map that
#   works, and say what a richer one can do for the wrong algorithm and for a random network.
# - One network, one seed of each map, a few hundred updates; the intervals are over bases alone.
#   `interp align` has networks as units, too.
# - "Implements" is a word of the last verdict only, and always of a map, a site and a distribution
#   of inputs. Inputs here are vectors without identities, so none can be held out; in the sentences
#   of `ioi` names can.
#
# ## What to run next
#
# Everything above as commands; each writes records and a report.
#
# ```
# interp align distributive --folder experiments/records/alignment_nets/planted_and_or \
#     --algorithm and_or --sites 2 --out runs/right
# interp align distributive --folder experiments/records/alignment_nets/planted_and_or \
#     --algorithm and_or_and --maps revnet-10x24 --sites 2 --out runs/wrong
# interp report runs/right
# ```
#
# All subjects, and the published values beside ours:
#
# ```
# python -m experiments.align_study --subject equality
# python -m experiments.align_study --subject ioi
# python -m experiments.align_reference --budget standard --parts orthogonal planted revnet
# ```
