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
# # Find a circuit
#
# A circuit is the part of a model that does one thing: which heads, what each reads from which
# other, and the path from there to the answer. This notebook finds two.
#
# 1. In a small trained model, where the whole circuit fits into one picture and can be checked to
#    the last edge.
# 2. In SmolLM2, where only its last step is found, with the controls that such a claim needs.
#
# Every patch here states its direction. *Noising* puts corrupted activations into the clean run and
# asks how much is lost; *denoising* puts clean ones into the corrupted run and asks how much comes
# back. Every number stands beside a null or a control.
#
# It needs the repository (the small model lies in `experiments/records`), no GPU, and two minutes.
# Where SmolLM2 cannot be loaded, a tiny random model takes its place: the numbers of part 2 then
# mean nothing, and its remarks do not hold.

# %%
MODEL = "smollm2-135m"  # of part 2
PAIRS = 12  # prompt pairs of part 2: half to choose heads on, half to test them on

# %%
import os
import random
import string
import sys
import tempfile
import warnings
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
warnings.filterwarnings("ignore", message="IProgress not found")  # no bars, so no widgets for them

import plotly.graph_objects as go
import torch
from jaxtyping import Float
from torch import Tensor

ROOT = next(p for p in (Path.cwd(), *Path.cwd().parents) if (p / "experiments").is_dir())
sys.path.insert(0, str(ROOT))  # for `experiments`, which is not in the installed package

import interp
from experiments.train_induction import load_trained
from interp.models.registry import availability
from interp.results import plots, render

RUN_FOLDER = Path(tempfile.mkdtemp()) / "circuit"  # where part 2 writes its records


def show(spec: dict, title: str, **layout: Any) -> None:
    """Show a figure's specification under a title that says what it finds."""
    go.Figure(spec).update_layout(title=title, **layout).show()


# %% [markdown]
# # Part 1: every edge of an induction circuit
#
# The model is a GPT-2 of two layers with four heads each, trained for two minutes on rows of random
# letters in which some come again. Nobody wired it (`experiments/train_induction.py` is the
# recipe). After `... A B ... A` it says `B`. We repeat random sequences: the letters of the first
# round cannot be known (and were not trained), those of the second can.

# %%
trained = interp.load(load_trained())
n_layers, n_heads = trained.sizes.n_layers, trained.sizes.n_heads
PERIOD, BOS = 12, 0
names = ["<bos>", *string.ascii_uppercase, *"abcdef"]  # of the tokens 0 to 32

rng = random.Random(0)
alphabet = range(1, len(names))
sequences = [rng.sample(alphabet, PERIOD) for _ in range(32)]
repeated = [[BOS, *letters, *letters] for letters in sequences]

layers = range(n_layers)
run = trained.run(repeated, capture=[f"{layer}.attn.pattern" for layer in layers])
ids = torch.tensor(repeated)
p_next = run.logits[:, :-1].softmax(-1).gather(2, ids[:, 1:, None])[..., 0].mean(0)
print("sequence:", " ".join(names[token] for token in repeated[0]))
print(f"probability of the right next letter, mean over {len(repeated)} sequences:")
print(f"  first time {p_next[:PERIOD].mean():.3f} (chance {1 / len(alphabet):.3f})")
print(f"  again      {p_next[PERIOD + 1 :].mean():.3f}, from the second repeated letter on")

# %% [markdown]
# ## Look at the patterns
#
# A head's *attention pattern* says how much each token (row) looks at each earlier one (column).
# Two kinds of stripes matter here. A *previous-token head* looks one back. An *induction head*
# looks at what followed the same letter last time, here 11 back (`PERIOD - 1`). The score of a
# head is its mean weight on that stripe (Olsson et al. 2022, arXiv:2209.11895); a head that looks
# at all tokens alike is the null.


# %%
def stripe(
    pattern: Float[Tensor, "row head pos_q pos_k"], back: int, *, start: int = 1
) -> Float[Tensor, " head"]:
    """Return each head's mean weight on the token `back` places before, for queries from `start`.

    From 0 to 1. Source: Olsson et al. 2022, arXiv:2209.11895.
    """
    return pattern.diagonal(-back, 2, 3)[..., max(start - back, 0) :].mean(dim=(0, 2))


scores = {"previous": (1, 1), "induction": (PERIOD - 1, PERIOD + 1)}
flat = torch.ones(1, 1, len(repeated[0]), len(repeated[0])).tril()
flat = flat / flat.sum(-1, keepdim=True)
for name, (back, start) in scores.items():
    rows = [
        {"layer": layer, "head": head, "place": f"{layer}.h{head}", "score": score}
        for layer in layers
        for head, score in enumerate(
            stripe(run.acts[f"{layer}.attn.pattern"], back, start=start).tolist()
        )
    ]
    print(f"{name}: null {stripe(flat, back, start=start).item():.2f};", end=" ")
    print(", ".join(f"{row['place']} {row['score']:.2f}" for row in rows))
    title = f"The {name} score of each head"
    show(plots.place_map(rows, "score", "Score (0 to 1)"), title, width=600)

# %%
labels = [names[token] for token in repeated[0]]
for site, head in (("0.attn.pattern", 2), ("1.attn.pattern", 3)):
    weights = run.acts[site][0, head].tolist()
    title = f"Head {site[0]}.h{head} on one repeated sequence"
    show(plots.attention_map(weights, labels), title, width=760)

# %% [markdown]
# One head of layer 0 looks one back (0.69, null 0.12), and all four heads of layer 1 look where an
# induction head should (0.58 to 0.81, null 0.05). That is a guess about what they do, not yet a
# finding: a head may look somewhere and have no say in the answer.
#
# ## Pairs that differ in one thing
#
# The clean prompt is `... A B ... C D ... A`, and the model should say `B`. The corrupted one
# exchanges the first `A` with `C`: `... C B ... A D ... A`, and now it should say `D`. All else is
# the same. The measure is the logit difference of `B` and `D`, in nats.


# %%
class Pair(NamedTuple):
    """Two prompts that differ in where the last letter stood before."""

    clean: list[int]
    corrupted: list[int]
    right: int  # the answer of the clean prompt
    wrong: int  # the answer of the corrupted prompt
    here: int  # position of A in the clean prompt; B follows
    there: int  # position of C in the clean prompt; D follows


def draw_pair(rng: random.Random) -> Pair:
    """Draw letters, and the two that are exchanged."""
    letters = rng.sample(alphabet, PERIOD)
    apart = [(a, c) for a in range(PERIOD - 1) for c in range(PERIOD - 1) if abs(a - c) > 1]
    a, c = rng.choice(apart)
    exchanged = letters.copy()
    exchanged[a], exchanged[c] = letters[c], letters[a]
    clean, corrupted = ([BOS, *row, letters[a]] for row in (letters, exchanged))
    return Pair(clean, corrupted, letters[a + 1], letters[c + 1], a + 1, c + 1)


from interp.metrics import LogitDiff, Rank

rng = random.Random(1)
pairs = [draw_pair(rng) for _ in range(32)]
clean, corrupted, right, wrong, here, there = (list(column) for column in zip(*pairs, strict=True))
metric = LogitDiff(right, wrong)
which = torch.arange(len(pairs))
for kind, prompts in (("clean", clean), ("corrupted", corrupted)):
    logits = trained.run(prompts, logits="last").logits
    print(f"{kind:10}", " ".join(names[token] for token in prompts[0]), end="   ")
    print(f"logit difference {metric(logits, which).mean():+.2f} nats, mean of {len(pairs)} pairs")

# %% [markdown]
# ## Activation patching: which heads matter?
#
# Noising, head by head: `attn.z` (what a head gathered) of the corrupted run enters the clean run.
# All eight patches are cells of one `sweep`. The null patches the clean run with itself.

# %%
from interp.engine.sweep import At, sweep

places = [At(f"{layer}.attn.z", heads=head) for layer in layers for head in range(n_heads)]
noised = sweep(trained, clean, places, metric, source=corrupted, say=None)
itself = sweep(trained, clean, places, metric, source=clean, say=None)
assert noised.source is not None
gap = (noised.source - noised.base).mean().item()
head_rows = [
    {"layer": i // n_heads, "head": i % n_heads, "effect": effect}
    for i, effect in enumerate(noised.effect.mean(1).tolist())
]
for row in head_rows:
    print(f"{row['layer']}.h{row['head']}: {row['effect']:+7.2f} nats")
print(f"all of the corrupted run: {gap:+.2f}; null: {itself.effect.abs().max():.1g} at most")
title = "Noising one head: the change of the logit difference"
show(plots.place_map(head_rows, "effect", "Change (nats)"), title, width=600)

# %% [markdown]
# The previous-token head alone carries the whole gap (-16.57 of -16.54 nats). Each induction head
# carries a part, from -1.22 to -6.80. The other three heads of layer 0 carry nothing (0.03 at
# most).
#
# ## Path patching: what does one head do for another?
#
# The heads of layer 1 could read what 0.h2 wrote in three ways: to decide what to look for
# (queries, `q`), what to be found by (keys, `k`), or what to pass on (values, `v`). Path patching
# noises one such edge and leaves every other path as it was (Wang et al. 2022, arXiv:2211.00593).
# The other heads of layer 0 as senders are the control.

# %%
from interp.patching.path import path_patch

senders = [f"0.h{head}" for head in range(n_heads)]
receivers = [f"1.h{head}.{port}" for port in "qkv" for head in range(n_heads)]
edges = [(sender, receiver) for sender in senders for receiver in receivers]
all_keys = ("0.h2", [f"1.h{head}.k" for head in range(n_heads)])
paths = path_patch(trained, clean, corrupted, [*edges, all_keys], metric, say=None)

effects = paths.effect.mean(1).tolist()
path_rows = [
    {"sender": sender, "receiver": receiver.removeprefix("1."), "effect": effect}
    for (sender, receiver), effect in zip(edges, effects, strict=False)
]
by_path = {(row["sender"], row["receiver"]): row["effect"] for row in path_rows}
keys = [by_path["0.h2", f"h{head}.k"] for head in range(n_heads)]
print("0.h2 -> keys, one by one:", ", ".join(f"1.h{i} {x:+.2f}" for i, x in enumerate(keys)))
print(f"0.h2 -> all four keys at once: {effects[-1]:+.2f} of {gap:+.2f} nats")
others = [abs(x) for (sender, _), x in by_path.items() if sender != "0.h2"]
wrong_port = [abs(x) for (s, r), x in by_path.items() if s == "0.h2" and not r.endswith("k")]
print(f"0.h2 -> a query or a value: {max(wrong_port):.2f} at most")
print(f"another head of layer 0 -> anything: {max(others):.2f} at most")
print(paths)
spec = plots.grid(
    path_rows,
    x="receiver",
    y="sender",
    value="effect",
    title="Change (nats)",
    x_title="Receiver in layer 1",
    y_title="Sender",
)
show(spec, "Only one kind of edge acts: from 0.h2 into the keys of layer 1", width=900)

# %% [markdown]
# So 0.h2 writes *who stood before me* into each place, and the induction heads use it as a key.
# All four keys at once make -16.03 of the -16.54 nats, and one by one the four add up to -14.96. A
# query or a value makes 0.33 at most, another sender 0.01.
#
# ## Knock out the edges that a pattern shows
#
# A pattern is a picture; cutting what it shows is a test. `Knockout` sets chosen attention weights
# to 0 and lets the rest of the row take their share. We cut
# - the look of the four induction heads from the last `A` at `B`,
# - the look of 0.h2 from `B` back at `A`,
#
# and as controls the same heads' look at another place: at `D`, and one place before `A`.

# %%
from interp.attention_edits import Knockout
from interp.sites import Each


def each(positions: Sequence[int]) -> Each:
    """Name one position for each prompt."""
    return Each(tuple((pos,) for pos in positions))


def after(positions: Sequence[int], by: int) -> list[int]:
    """Shift positions."""
    return [pos + by for pos in positions]


def cut_induction(heads: Sequence[int], keys: Sequence[int]) -> Knockout:
    """Cut what heads of layer 1 see at the last token."""
    return Knockout("1.attn.pattern", heads=heads, positions="last", keys=each(keys))


def cut_previous(keys: Sequence[int]) -> Knockout:
    """Cut what 0.h2 sees from B."""
    return Knockout("0.attn.pattern", heads=2, positions=each(after(here, 1)), keys=each(keys))


every_head = range(n_heads)
cuts = {
    "induction heads: last A -> B": cut_induction(every_head, after(here, 1)),
    "  control:       last A -> D": cut_induction(every_head, after(there, 1)),
    "0.h2:            B -> A": cut_previous(here),
    "  control:       B -> one before A": cut_previous(after(here, -1)),
}
cut = sweep(trained, clean, list(cuts.values()), metric, say=None)
ranks = sweep(trained, clean, list(cuts.values()), Rank(right), say=None)
print(f"nothing cut: {cut.base.mean():+.2f} nats, right {(ranks.base == 0).float().mean():.0%}")
for name, value, rank in zip(cuts, cut.values.mean(1), ranks.values, strict=True):
    print(f"{name:36} {value:+6.2f} nats, right {(rank == 0).float().mean():.0%}")

# %% [markdown]
# The look is the cause: without it the answer is wrong on every pair or nearly so, and the controls
# leave it right on all of them. Cutting the look at `D` even helps a little: `D` is the rival.
#
# ## How much of it is redundant?
#
# Four heads look at the same place. Cut that look for one of them, for two, and so on, in every
# combination.

# %%
groups = [group for n in range(1, n_heads + 1) for group in combinations(every_head, n)]
cells = [cut_induction(group, after(here, 1)) for group in groups]
fewer = sweep(trained, clean, cells, metric, say=None)
ranks = sweep(trained, clean, cells, Rank(right), say=None)
for n in range(1, n_heads + 1):
    of_size = [i for i, group in enumerate(groups) if len(group) == n]
    values = fewer.values.mean(1)[of_size]
    correct = (ranks.values[of_size] == 0).float().mean(1)
    worst = groups[of_size[int(values.argmin())]]
    print(f"{n} of 4 cut: {values.min():+.2f} to {values.max():+.2f} nats", end=", ")
    print(f"right {correct.min():.0%} to {correct.max():.0%}; worst without {worst}")
alone = fewer.effect.mean(1)
print(f"the four alone add up to {alone[:n_heads].sum():+.2f}; together {alone[-1]:+.2f} nats")

# %% [markdown]
# The answer stays right on all pairs without any one of the four, and on none without all of them.
# Cut together they cost more than twice what they cost one by one. So the heads back each other up,
# and a search that ablates one head at a time would call each of them dispensable. They are not
# alike, though: 1.h3 does most, and 1.h1 least.
# %% [markdown]
# ## All edges at once, and a check of each
#
# Path patching asked about the edges that we thought of. *Edge attribution* scores all of them:
# with gradients it predicts what patching each edge would do, and needs a handful of passes for all
# of them (EAP-IG, Hanna et al. 2024, arXiv:2403.17806). A prediction is not a measurement, so the
# strongest are then patched for real. Edges are scored on half of the pairs.

# %%
from interp.patching.circuits import verify_edges
from interp.patching.edges import eap

half = len(pairs) // 2
metric_a, metric_b = LogitDiff(right[:half], wrong[:half]), LogitDiff(right[half:], wrong[half:])
found = eap(trained, clean[:half], corrupted[:half], metric_a)
N_EDGES = 14
checked = verify_edges(trained, clean[:half], corrupted[:half], metric_a, found, k=N_EDGES + 1)
print(len(found.graph.edges), "edges in the graph")
print(checked)
edge_rows = [{"edge": name, "score": score} for name, score in found.top(N_EDGES)]
show(plots.circuit_graph(edge_rows), f"The {N_EDGES} edges with the largest scores", width=760)

# %% [markdown]
# All have one colour: noising any of them lowers the logit difference. The graph shows again what
# we found by hand, and one thing more: the heads reach the logits directly and through the MLP
# `m1`. The last line of the table is a warning. The gradient promises +0.57 nats for an edge that
# in truth does nothing (0.0006), so an edge that nobody patched is a hypothesis.
#
# Is that the circuit? *Faithfulness* runs the chosen edges alone: every other edge carries the
# corrupted run. It is 1 where the circuit does as the whole model and 0 where it does as the
# corrupted run. The control is as many random edges, and the pairs are those that chose nothing.

# %%
from interp.jobs.circuits import curve_rows
from interp.patching.circuits import curve

fractions = (0.05, 0.1, 0.13, 0.2, 0.3, 0.5, 1.0)
held_out = clean[half:], corrupted[half:]
faithful = curve(trained, *held_out, metric_b, found, fractions=fractions, n_random=5)
rows = curve_rows(faithful)
print(render(rows, "table", ("n_edges", "faithfulness", "random", "random_low", "random_high")))
title = f"{rows[2]['n_edges']} edges do nearly all that the model does"
show(plots.faithfulness_curve(rows), title, width=760, margin={"t": 96})

# %% [markdown]
# The 14 edges that are left of 13% keep 0.98 of the effect on pairs that they were not chosen on;
# as many random edges keep nothing, and half of *all* edges, drawn at random, 0.07. That is
# nearly the whole circuit for these prompts: letter, previous-token head, keys of four induction
# heads, answer. An edge that carries the same in both prompts, such as the last letter into the
# queries, no patch between these two can show.

# %% [markdown]
# # Part 2: who names the name, in SmolLM2
#
# `When Sarah and Mark went to the station, Mark gave a drink to` calls for ` Sarah`. The corrupted
# prompt exchanges who gives, so it calls for ` Mark`. The task is that of Wang et al. 2022
# (arXiv:2211.00593), who took GPT-2 apart on it. `choose` makes pairs and keeps those that fit the
# model: prompts of one length, answers of one token. The first half of the pairs chooses, the
# second half tests, and a few more serve as reference for ablations.

# %%
from interp.data.pairs import PromptPair
from interp.jobs.pairs import choose
from interp.patching.activation import every, pairs_tokens, patch
from interp.stats import cluster_bootstrap

N_REFERENCE = 8
print(f"{MODEL} loads here? {availability(MODEL)}")
if availability(MODEL).startswith("no"):
    MODEL = "tiny-llama"
    print(f"So this is {MODEL}, a random model: its numbers mean nothing.")
model = interp.load(MODEL)

if MODEL.startswith("tiny"):  # it spells names letter by letter, and an answer must be one token
    couples = [rng.sample("bcdfgjklmpqrsuvwxyz", 2) for _ in range(PAIRS + N_REFERENCE)]
    made = [PromptPair(f"{a} then {b}, {b} to", f"{a} then {b}, {a} to", a, b) for a, b in couples]
else:
    made = list(choose(model, None, n=PAIRS + N_REFERENCE, seed=0, same_length=True).pairs)

half = PAIRS // 2
choosing, testing, reference = made[:half], made[half:PAIRS], made[PAIRS:]


def mean_and_interval(values: Sequence[float]) -> str:
    """Write the mean over pairs and its 95% interval."""
    found = cluster_bootstrap(values, range(len(values)))
    return f"{found.estimate:+.2f} ({found.low:+.2f} to {found.high:+.2f})"


for title, group in (("choosing", choosing), ("testing", testing)):
    clean, corrupted, right, wrong = pairs_tokens(model, group)
    measure, which = LogitDiff(right, wrong), torch.arange(len(group))
    ends = [measure(model.run(ids, logits="last").logits, which) for ids in (clean, corrupted)]
    told = [mean_and_interval(values.tolist()) for values in ends]
    print(f"{title}: {len(group)} pairs, clean {told[0]}, corrupted {told[1]} nats")

# %% [markdown]
# ## Where is the answer on its way?
#
# Denoising: the clean run's residual stream enters the corrupted run, at one layer and token. The
# share recovered is 0 where the answer stays corrupted and 1 where it becomes clean.

# %%
from interp.jobs.patching import patch_rows

last_layer = model.sizes.n_layers - 1
some = [*range(0, last_layer, 3), last_layer]
n_tokens = len(pairs_tokens(model, choosing)[0][0])
places = every("resid_pre", layers=some, positions=range(n_tokens))
stream = patch(model, choosing[:4], places, direction="denoise", say=None)
rows = patch_rows(model, choosing[:4], places, stream)
print(stream.plan)
print(f"null: patched with itself, the logit difference moves by {stream.null:.1g} nats at most")
show(plots.place_map(rows), "Denoising the residual stream (tokens of the first pair)", width=860)

# %%
clean, corrupted, _, _ = pairs_tokens(model, choosing)
(giver,) = (i for i in range(n_tokens) if clean[0][i] != corrupted[0][i])
share = {(row["layer"], row["pos"]): row["recovered"] for row in rows}
for layer in some:
    print(f"layer {layer:2}: giver {share[layer, giver]:5.2f}", end=", ")
    print(f"last token {share[layer, n_tokens - 1]:5.2f}")

# %% [markdown]
# With SmolLM2 the whole answer lies at the name of the giver up to layer 18 (1.00), and from layer
# 24 on none of it (-0.02); by then 0.77 of it lies at the last token. Something between moves it.
# %% [markdown]
# ## Which heads write the answer?
#
# Noising one path a head: from its output at the last token straight to the logits, with everything
# else as in the clean run. This finds what writes the answer, and not what a later part makes of
# it. A negative effect means that the head writes for the right name, a positive one against it.
# Directly, a head can reach the logits only through the final norm, so there is no path between.

# %%
from interp.jobs.paths import Settings, path_rows

clean, corrupted, right, wrong = pairs_tokens(model, choosing)
n_heads = model.sizes.n_heads
heads = [(layer, head) for layer in range(model.sizes.n_layers) for head in range(n_heads)]
direct = path_patch(
    model,
    clean,
    corrupted,
    [(f"{layer}.h{head}@last", "logits") for layer, head in heads],
    LogitDiff(right, wrong),
    say=None,
)
print(direct)
head_rows = [
    {**row, "layer": row["sender_layer"], "head": row["sender_head"]}
    for row in path_rows(direct, Settings(pairs=len(choosing)))
]
title = "Direct effect of each head on the logit difference (noising)"
show(plots.place_map(head_rows, "effect", "Change (nats)"), title, width=760)

# %%
N_HEADS = 6
ranked = sorted(head_rows, key=lambda row: -abs(row["effect"]))
strongest = [(row["layer"], row["head"]) for row in ranked[:N_HEADS]]
same_layers = [place for place in heads if place[0] in {layer for layer, _ in strongest}]
rest = [place for place in same_layers if place not in strongest]
control = random.Random(0).sample(rest, min(N_HEADS, len(rest)))
columns = ("path", "effect", "effect_low", "effect_high", "pairs")
print(render(ranked[:N_HEADS], "table", columns))
typical = sorted(abs(row["effect"]) for row in head_rows)[len(head_rows) // 2]
print(f"half of the {len(heads)} heads move the answer by less than {typical:.3f} nats")

# %% [markdown]
# These heads were *chosen* for their effect on these pairs, so these numbers flatter them. What
# follows uses the other half of the pairs. The controls are random heads of the same layers.
#
# ## Do they look at the right name?
#
# A *name mover* looks at the name that it writes. But in the clean prompts the right name always
# comes first, so a head that looks at the first name would look just the same. In the corrupted
# prompts the right name comes second, which tells the two apart.


# %%
def looks(
    prompts: Sequence[Sequence[int]], name: Sequence[int], pattern: Float[Tensor, "row head q k"]
) -> Float[Tensor, " head"]:
    """Return each head's mean weight, 0 to 1, from the last token on every mention of a name."""
    mentioned = torch.tensor(prompts) == torch.tensor(name)[:, None]
    return (pattern[:, :, -1] * mentioned[:, None]).sum(-1).mean(0)


clean, corrupted, right, wrong = pairs_tokens(model, testing)
sites = [f"{layer}.attn.pattern" for layer in sorted({layer for layer, _ in strongest})]
seen = {"clean": model.run(clean, capture=sites), "corrupted": model.run(corrupted, capture=sites)}
look_rows = []
for kind, (layer, head) in [("strongest", h) for h in strongest] + [("random", h) for h in control]:
    patterns = {name: run.acts[f"{layer}.attn.pattern"] for name, run in seen.items()}
    look_rows.append(
        {
            "heads": kind,
            "head": f"{layer}.h{head}",
            "clean_right": looks(clean, right, patterns["clean"])[head].item(),
            "clean_wrong": looks(clean, wrong, patterns["clean"])[head].item(),
            "corrupted_right": looks(corrupted, wrong, patterns["corrupted"])[head].item(),
            "corrupted_wrong": looks(corrupted, right, patterns["corrupted"])[head].item(),
        }
    )
print("attention of the last token to each name, mean over the testing pairs:")
print(render(look_rows, "table"))

# %%
layer, head = strongest[0]
tokens = [model.tokenizer.decode([token]) for token in clean[0]]
weights = seen["clean"].acts[f"{layer}.attn.pattern"][0, head].tolist()
title = f"Head {layer}.h{head} on the first testing pair"
show(plots.attention_map(weights, tokens), title, width=700)

# %% [markdown]
# The strongest head, 23.h3, is no name mover. It looks at the *wrong* name (0.75, and 0.05 at the
# right one), in both orders, and yet writes for the right one. 23.h0 is one: it looks at the right
# name wherever that stands (0.73 and 0.62). 24.h4 looks at the right name as well (0.63 and 0.87),
# and writes against it: where a head looks does not say what it does there. 29.h1 and 29.h0 look at
# neither name (0.04 at most), so what they know of it must come by other tokens.
#
# ## Does a late head pass on what an early one wrote?
#
# SmolLM2 shares each key and value among three query heads. So "the value of a head" can mean two
# things: the shared one (`v`), which moves all three heads, or the copy that this head alone reads
# (`v_each`). Path patching has both.

# %%
clean, corrupted, right, wrong = pairs_tokens(model, testing)
measure = LogitDiff(right, wrong)
early = strongest[0]
late = [place for place in strongest if place[0] > early[0]]
ports = [f"{layer}.h{head}.{port}@last" for layer, head in late for port in ("v", "v_each")]
if late:
    handed = path_patch(
        model,
        clean,
        corrupted,
        [(f"{early[0]}.h{early[1]}@last", port) for port in ports],
        measure,
        say=None,
    )
    for edge, effect in zip(handed.edges, handed.effect, strict=True):
        print(f"{edge!s:34} {mean_and_interval(effect.tolist())} nats")

# %% [markdown]
# The shared value moves the answer by next to nothing (+0.05), each of the two copies by more than
# a nat (-1.19 and +1.26): 29.h1 passes on what 23.h3 wrote, 29.h0 turns it into its opposite, and
# the two cancel. A path through the shared value alone would have called this a null result. 24.h4
# takes nothing from 23.h3.
#
# ## Take them away
#
# Ablation asks another question: what does the answer lose if the head says at the last token what
# it says *on average*? The average is over both prompts of other pairs, so it favours no name.
# Unlike the direct path, this counts what later parts make of the change.

# %%
from interp.patching.ablation import Reference, ablate

average = Reference(
    f"both prompts of {len(reference)} other pairs",
    [text for pair in reference for text in (pair.clean, pair.corrupted)],
)
places = [
    At(f"{layer}.attn.z", heads=head, positions=n_tokens - 1)
    for layer, head in [*strongest, *control]
]
ablated = ablate(
    model,
    clean,
    places,
    LogitDiff(right, wrong),
    kind="mean",
    reference=average,
    per_position=True,
    say=None,
)
kinds = ["strongest"] * len(strongest) + ["random"] * len(control)
ablation_rows = [
    {"heads": kind, "head": row["head"], "effect": effect.mean().item(), "told": told}
    for kind, row, effect in zip(kinds, look_rows, ablated.effect, strict=True)
    for told in [mean_and_interval(effect.tolist())]
]
print(f"intact: {ablated.base.mean():+.2f} nats; mean over {ablated.reference}")
for row in ablation_rows:
    print(f"{row['heads']:9} {row['head']:>6}: {row['told']} nats")
print(f"null, a run patched with itself: {ablated.null:.1g} nats at most")

# %%
from interp.metrics import LogProb

both = {"right": LogProb(right), "wrong": LogProb(wrong)}
about = {"kind": "mean", "reference": average, "per_position": True, "say": None}
change = {
    name: ablate(model, clean, places[: len(strongest)], metric, **about).effect
    for name, metric in both.items()
}
print("change of the log-probability of each name when the head is ablated:")
for i, (layer, head) in enumerate(strongest):
    told = [f"{name} name {mean_and_interval(change[name][i].tolist())}" for name in both]
    print(f"{layer:3}.h{head}: {', '.join(told)} nats")

# %% [markdown]
# How to read it, with SmolLM2:
# - 23.h3 stands apart: without it the answer loses 1.97 nats of 4.27. It holds the wrong name down.
#   Ablated, the wrong name gains 1.82 nats and the right one hardly moves (-0.14). It looks at the
#   name that gave, and writes *not this one*.
# - 29.h1 (-0.88) and 24.h4 (+0.76) come next. Without 24.h4 the model does *better*.
# - Two of six random heads have effects of +0.42 and +0.31, so an effect of that size marks no head
#   as special, however far it lies above the null of 7e-06. 29.h0 (+0.53) is hardly beyond it.
# - 23.h0 looks like a name mover and has a direct effect, yet without it nothing is lost (+0.07,
#   the interval includes 0): both names fall alike. A direct effect is not an effect.

# %% [markdown]
# ## Keep the records
#
# A figure should be drawn from records, so that nobody needs the model to draw it again. A run
# folder holds a manifest (model and weights, data, settings, code) and one folder for each finished
# cell, with checksums.

# %%
from dataclasses import asdict

from interp.jobs import runs
from interp.results import Store, cell_key

settings = {"pairs": PAIRS, "direction": "noise", "through": "direct"}
data = {"pairs": [asdict(pair) for pair in made]}
store = runs.begin(
    model, experiment="find_a_circuit", out=RUN_FOLDER, settings=settings, data=data, seeds=[0]
)
identity = {"what": "heads to logits", "settings": store.manifest.settings_hash}
store.write(cell_key(identity), identity, {"heads": head_rows, "looks": look_rows}, {})
runs.finish(store, [cell_key(identity)])

stored = Store.open(RUN_FOLDER).rows("heads")  # from here on, no model
print(f"{len(stored)} rows read back, equal to those written: {stored == head_rows}")
print(f"weights {store.manifest.model['weights_hash']}, code {store.manifest.code}")
largest = sorted(stored, key=lambda row: -abs(row["effect"]))[:N_HEADS]
bars = go.Bar(
    x=[row["sender"].removesuffix("@last") for row in largest],
    y=[row["effect"] for row in largest],
    error_y={
        "type": "data",
        "symmetric": False,
        "array": [row["effect_high"] - row["effect"] for row in largest],
        "arrayminus": [row["effect"] - row["effect_low"] for row in largest],
    },
)
figure = go.Figure(bars).update_layout(
    title="The strongest direct effects, drawn from the records (95% interval over pairs)",
    yaxis_title="Change of the logit difference (nats)",
    width=760,
    height=420,
    template="plotly_white",
)
figure.show()

# %% [markdown]
# ## What this shows, and what it does not
#
# - In the small model we have the whole path from letter to answer, and cutting it shows that it is
#   used. In SmolLM2 we have some of the heads that write the answer, on one sentence with eight
#   names. What tells 23.h3 which name to look at is the next question: path patching into its
#   queries and keys (`("17.h2", "23.h3.q@last")`) asks it.
# - Noising, denoising and ablation answer different questions, so their numbers need not agree.
# - An interval over six pairs is narrow because the pairs are alike. It says nothing about other
#   sentences.
#
# The same on the command line, with records, intervals and a report:
#
# ```
# interp patch --model smollm2-135m --out runs/patch     # the map of the residual stream
# interp path --model smollm2-135m --out runs/path       # every head to the logits
# interp circuit --model tiny-gpt2 --out runs/circuit    # edges, circuit, faithfulness
# ```
