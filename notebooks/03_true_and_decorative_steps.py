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
# # True and decorative steps
#
# A model writes ten steps and then an answer. Which of the steps did the answer come from? Some
# *cause* it. Others are only written down: the answer would be the same without them. The text
# looks alike, so reading it cannot tell. Changing it can.
#
# This notebook goes through the whole method of Zhao et al. (2025, arXiv:2510.24941) on a model
# where the right result is known beforehand:
#
# 1. score each step (the True-Thinking Score, TTS) and check the scores against the truth,
# 2. find the direction in the residual stream from decorative to true steps,
# 3. steer with it, beside every control that we could think of, and read what the controls say,
# 4. prune chains by score, and put its relatives, other measures of steps, beside it.
#
# Then come a model that ignores its chain, and a real one. It needs the repository (the small
# models and the records lie in `experiments/records`), no GPU, no network and about a minute.
# Nothing in the prose is a number: what a sentence says, the cell before it computes.

# %%
N_CHAINS = 64
ITEMS = 64  # of each steering test

# %%
import math
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
warnings.filterwarnings("ignore", message="IProgress not found")  # no bars, so no widgets for them

import plotly.graph_objects as go
import torch
from torch.nn.functional import cosine_similarity

torch.set_num_threads(1)
ROOT = next(p for p in (Path.cwd(), *Path.cwd().parents) if (p / "experiments").is_dir())
RECORDS = ROOT / "experiments" / "records"

import interp
from interp.models import thinker
from interp.results import render
from interp.stats import auc, cluster_bootstrap

Row = dict[str, Any]


def show(spec: Mapping[str, Any], title: str, **layout: Any) -> None:
    """Show a figure's specification under a title that says what it finds."""
    go.Figure(spec).update_layout(title=title, **layout).show()


def mean(values: Iterable[float], problems: Iterable[str], digits: int = 2) -> str:
    """Write a mean with its 95% interval; whole problems are drawn, not steps."""
    found = cluster_bootstrap(list(values), list(problems))
    ends = [f"{end:.{digits}f}" for end in (found.low, found.high) if end is not None]
    return f"{found.estimate:.{digits}f} ({' to '.join(ends) or 'no interval'})"


# %% [markdown]
# ## A model whose steps are known
#
# The *thinker* is a small Llama that we trained. Its question holds a guess, and each line of its
# chain is a word and a number. Some words vote for their number, `tens` and `units` vote together,
# and the rest are talk: `note 81` never counts, even where it states the answer. The answer is the
# number with most votes. Nobody wired this in; it is in the texts that the model learned from
# (`interp.models.thinker` has the rule, `experiments/train_thinker.py` the recipe). So for every
# step we know what it does, from outside the score:
#
# | kind | what it is | necessity | sufficiency |
# |---|---|---|---|
# | needed | `units`: with its `tens` a vote, alone nothing (AND) | 1 | 0 |
# | used | the first or the second vote | 1 | 1 |
# | alternative | a third vote: two others say the same (OR) | 0 | 1 |
# | decorative | talk | 0 | 0 |
# | base | `tens`: nothing is voted for yet | 0 | 0 |

# %%
model = interp.load(str(RECORDS / "thinker"))
print(model)
made = thinker.chains(N_CHAINS, seed=5)
for each in made[:3]:
    steps = zip(each.chain.splitlines(), each.kinds, strict=True)
    print(f"\n{each.question}  (answer {each.answer})")
    print("\n".join(f"  {text:10} {kind}" for text, kind in steps))

# %% [markdown]
# ## One step by hand
#
# To see whether a step causes the answer, break it: shift its number by one to three, and read the
# probability of the model's own answer y\* right after the step. One break is not enough. Steps
# before it may say the same, so the *context* is broken as well, which makes four cells:
#
# | | context intact | context broken |
# |---|---|---|
# | **step intact** | S₁(1) | S₁(0) |
# | **step broken** | S₀(1) | S₀(0) |
#
# *Necessity* is the left column's difference: is the step missed when all else is there?
# *Sufficiency* is the right column's: does the step carry the answer when all else is wrong? The
# score is the mean of their sizes. Here are four votes for 37 and one line of talk, with plain
# forward passes of the Hugging Face model.

# %%
from interp.models.tokens import encode
from interp.thinking.rules import Rules
from interp.thinking.score import Problem, prepare, score_chain

rules = Rules()
mine = Problem("by hand", "Is it 52?", "so 37\nnote 37\nget 37\nnow 37")
chain = prepare(model, mine, rules)
scores = score_chain(model, chain, rules, seeds=(0,)).steps
print(f"y* is {chain.answer!r}; the cue is {rules.cue!r}\n")


def chance(context: str, step: str) -> float:
    """Return Pr(y*) after a context, a step and the cue, the closing brace included."""
    before = encode(model.tokenizer, chain.prompt + (context + step).rstrip() + rules.cue)
    answer = encode(model.tokenizer, chain.answer + rules.closing)[-2:]  # the number, the brace
    with torch.no_grad():
        logits = model.hf(torch.tensor([[*before, *answer]])).logits[0]
    told = logits.log_softmax(-1)[len(before) - 1 : -1]
    return math.exp(sum(float(told[i, token]) for i, token in enumerate(answer)))


by_hand = []
for score in scores:
    intact = "".join(step.text for step in chain.steps[: score.step])
    broken = "".join(earlier.perturbed for earlier in scores[: score.step])
    cells = [
        chance(context, step)
        for context in (intact, broken)
        for step in (score.text, score.perturbed)
    ]
    nec, suf = cells[0] - cells[1], cells[2] - cells[3]
    by_hand.append((abs(nec) + abs(suf)) / 2)
    told = f"S1(1) {cells[0]:.2f}  S0(1) {cells[1]:.2f}  S1(0) {cells[2]:.2f}  S0(0) {cells[3]:.2f}"
    broke = score.perturbed.strip()
    print(f"{score.text.strip():8} broken: {broke:8} {told}  nec {nec:+.2f}  suf {suf:+.2f}")
apart = max(abs(one - score.tts) for one, score in zip(by_hand, scores, strict=True))
print(f"\nscore_chain says: {', '.join(f'{score.tts:.2f}' for score in scores)}")
print(f"largest difference from the scores by hand: {apart:.1g}")

# %% [markdown]
# `note 37` states the answer and moves nothing. The last vote has next to no necessity, since two
# votes stand without it, and yet it is enough alone. A test of necessity, which is what leaving a
# step out is, would call it decorative.
#
# ## Score them all
#
# `score_chain` does the same for every step, with what the texts share computed once. Two draws of
# the shifts each; `null_tts` is the floor, the score of a step whose spaces alone are changed.

# %%
from interp.thinking.scored import MeanStep, ScoredChain, mean_steps


def score_all(
    model: interp.Model, chains: Sequence[thinker.ThinkerChain], seeds: Sequence[int] = (0, 1)
) -> list[ScoredChain]:
    """Score every step of some chains."""
    scored = []
    for each in chains:
        problem = Problem(each.id, each.question, each.chain, each.answer)
        chain = prepare(model, problem, rules)
        scores = score_chain(model, chain, rules, seeds=seeds).steps
        scored.append(ScoredChain(chain, tuple(scores)))
    return scored


scored = score_all(model, made)
steps = mean_steps(scored)
kind_of = {(each.id, i): kind for each in made for i, kind in enumerate(each.kinds)}
by_kind: dict[str, list[MeanStep]] = {
    kind: [step for step in steps if kind_of[step.id, step.step] == kind]
    for kind in ("needed", "used", "alternative", "decorative", "base")
}
idle = by_kind["decorative"]
kind_rows: list[Row] = []
for kind, some in by_kind.items():
    ids = [step.id for step in some]
    row: Row = {"kind": kind, "steps": len(some)}
    for leg in ("nec", "suf", "tts", "null_tts"):
        row[leg] = mean([getattr(step, leg) for step in some], ids)
    row["AUC"] = None if kind == "decorative" else auc([s.tts for s in some], [s.tts for s in idle])
    kind_rows.append(row)
print("means with 95% intervals over problems; AUC of the score against the decorative steps")
print(render(kind_rows, "table"))

# %%
from interp.results.report_charts import BLUE, VERMILION
from interp.results.step_profiles import two_leg_table
from interp.thinking.score import INFLUENTIAL

bars = [
    go.Bar(
        name=name,
        x=list(by_kind),
        y=[fmean(getattr(step, leg) for step in some) for some in by_kind.values()],
        marker_color=colour,
    )
    for name, leg, colour in (("necessity", "nec", BLUE), ("sufficiency", "suf", VERMILION))
]
figure = go.Figure(bars).update_layout(
    title="Both legs together name what a step is; one alone does not",
    yaxis_title="Mean change of Pr(y*)",
    barmode="group",
    width=760,
    height=400,
    template="plotly_white",
)
figure.show()
rows = [asdict(score) for each in scored for score in each.scores]
quadrants = two_leg_table(rows, nec_high=INFLUENTIAL, suf_high=INFLUENTIAL)
names = ("name", "n", "estimate", "low", "high")
print(f"shares of steps; a leg is high above {INFLUENTIAL}")
print(render(quadrants, "table", names))

# %% [markdown]
# The score finds all three kinds that count, and its floor lies near 0. The legs tell them apart,
# as the rule says: `needed` on necessity alone, `alternative` (mostly) on sufficiency alone, `used`
# on both. The row *missed by necessity* is what a leave-one-out test would not have found.
#
# What the score cannot see stands in the table, too. `base` is a `tens` line: read out right after
# it, nothing is voted for yet, so it scores next to nothing (an AUC is a matter of order alone, and
# sees order in what is too small to mean anything), although a later `units` needs it. The score
# reads a step against what stands *before* it. Keep that in mind when it comes to pruning.
#
# ## Two sets, and why they must be matched
#
# The direction is a difference of means: true steps (score at least 0.9) less decorative ones (at
# most 0.005). But a mean holds everything in which the sets differ. Steps that count tend to state
# the answer, and to stand at certain places, so an unmatched difference also says "states the
# answer" and "late". `choose_sets` draws both sets with equal counts from each stratum of position
# and of whether the step mentions the answer.
#
# Direction and layer are chosen on one half of the problems, the *selection* half. What is reported
# comes from the other half. So the problems are split now, before anything is fitted. An *item* is
# a step with a shifted number in its intact context; more of them below.

# %%
from interp.thinking import direction
from interp.thinking.sets import Sets, choose_sets
from interp.thinking.steer_items import make_items
from interp.thinking.steer_test import split_problems

items = make_items(model, scored, rules, seeds=(0,), most=ITEMS)
split = split_problems(items.all, seed=0)
select = [each for each in scored if split.get(each.id) != "test"]
n_test = sum(half == "test" for half in split.values())
print(f"{len(select)} problems to choose on, {n_test} to test on")


def describe(name: str, sets: Sets) -> list[Row]:
    """Return one row for each side of a pair of sets."""
    return [
        {
            "sets": name,
            "side": side,
            "steps": len(some),
            "problems": len({step.id for step in some}),
            "states the answer": fmean(step.mentions_answer for step in some),
            "mean position": fmean(step.position for step in some),
        }
        for side, some in (("true", sets.true), ("decorative", sets.decorative))
    ]


sets, unmatched = choose_sets(select), choose_sets(select, match=False)
print(render([*describe("unmatched", unmatched), *describe("matched", sets)], "table"))
for warning in (*unmatched.warnings, *sets.warnings):
    print("warning:", warning)

# %% [markdown]
# Unmatched, the true steps of these chains state the answer, and only part of the decorative ones
# do. Matched, the shares are equal, and the price is fewer decorative steps. (The true set holds
# `used` steps alone. One with a single leg cannot score more than a half: that is how the score
# counts, not how much the step matters.)
#
# ## The direction
#
# At the last token of each step, what enters each layer is read, and last what leaves the final
# one; the direction is not normalised, so its length says how far the sets lie apart. Two controls
# come with it. *Shuffled*: the same steps with their labels exchanged within strata. *Random*:
# vectors of the same length.

# %%
from interp.directions import Direction
from interp.results.thinking_charts import norm_chart

acts = direction.activations(model, select, sets.steps)
directions = direction.fit(model, select, sets, acts=acts)
shuffled = [direction.shuffled(model, select, sets, seed, acts=acts) for seed in range(6)]
loose = direction.fit(model, select, unmatched)


def at(found: Sequence[Direction], site: str) -> Direction | None:
    """Return the direction at a site; where the two sets have one mean there is none."""
    return next((each for each in found if each.site == site), None)


def cosine(one: Direction | None, other: Direction | None) -> float | None:
    """Return the cosine of two directions, where there are two."""
    if one is None or other is None:
        return None
    return float(cosine_similarity(one.vector, other.vector, dim=0))


norm_rows: list[Row] = []
for each in directions:
    controls = [found for found in (at(twin, each.site) for twin in shuffled) if found]
    norm_rows.append(
        {
            "site": each.site,
            "norm": each.norm,
            "shuffled_norm": fmean(twin.norm for twin in controls) if controls else None,
            "cosine with unmatched": cosine(each, at(loose, each.site)),
        }
    )
print(render(norm_rows, "table"))
largest = max(norm_rows, key=lambda row: row["norm"])
title = f"The sets lie furthest apart at {largest['site']}"
show(norm_chart(norm_rows), title, width=700, height=400, margin={"t": 90})

# %% [markdown]
# What enters layer 0 is the number's own embedding: no layer has read the word before it, so there
# is nothing to find, and the direction is about as short as one of shuffled labels. Matching turns
# it most there. From layer 1 on the sets lie apart by several times what shuffled labels give, and
# matching hardly turns the direction: in this model, whether a step counts is the larger thing by
# far. Of a model that nobody has planted, nobody can say so beforehand.
#
# ## The two steering tests
#
# A direction that separates two sets need not *do* anything. So it is added to the residual stream
# at the tokens of a broken step s', at one layer, while the prompt is read, and the model answers:
#
# - **engagement**: the model ignores the error in s'. With the direction *added*, does it follow?
#   A success turns the answer away from y\*.
# - **disengagement**: s' makes the model wrong. With the direction *taken away*, does it stop
#   listening? A success brings y\* back.
#
# Beside it, on the same items: shuffled and random directions, the step left out, attention to it
# scaled or masked, and a coefficient of 0. Every arm chooses its own layer on the selection half,
# each random twin its own, too. A *stretched* shuffle is one brought to the length of the
# direction.

# %%
from interp.results.thinking_charts import layer_panels
from interp.thinking.direction import at_norms
from interp.thinking.steer_arms import all_arms, direction_arm
from interp.thinking.steer_test import curve_rows, steer, summarise

arms = all_arms(model, directions, shuffled)
arms += [
    direction_arm(model, at_norms(twin, directions), "shuffled_stretched", twin=seed)
    for seed, twin in enumerate(shuffled)
]
trials = steer(model, items.all, arms, rules)
results = summarise(trials, split)
result_rows = [result.row() for result in results]
pooled = {(row["test"], row["arm"]): row for row in result_rows if row["twin"] is None}


def share(row: Row, name: str) -> str:
    """Write a share and its interval."""
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    ends = "" if low is None else f" ({low:.0%} to {high:.0%})"
    return "-" if row[name] is None else f"{row[name]:.0%}{ends}"


for test in ("engage", "disengage"):
    main = pooled[test, "direction"]
    print(f"{test}: {main['n_items']} items of {main['n_problems']} test problems")
    table = [
        {
            "arm": arm,
            "layer": row["layer"],
            "flips": share(row, "flips"),
            "unreadable": share(row, "unparsable"),
            "direction leads by": share(row, "difference"),
            "change of log Pr(y*)": row["shift"],
        }
        for (which, arm), row in pooled.items()
        if which == test
    ]
    print(render(table, "table"), "\n")
for warning in sorted({word for result in results for word in result.warnings}):
    print("warning:", warning)

# %%
flips = {key: row["flips"] for key, row in pooled.items()}
title = (
    f"The direction turns {flips['engage', 'direction']:.0%} of ignored errors into heeded ones, "
    f"and repairs {flips['disengage', 'direction']:.0%}"
)
spec = layer_panels(curve_rows(results), result_rows)
show(spec, title, width=980, height=580, margin={"t": 90})

# %% [markdown]
# ## Read the controls
#
# Only one layer acts in this model; steering earlier or later does next to nothing. The choice of
# the layer is part of the result, so it must not be made on the items that are reported.
#
# *Engagement* is the strong result. Leaving the step out or masking it flips next to nothing: what
# is ignored already is not missed. Random directions of the same length do next to nothing, too.
# The direction makes the model take up a step that it had not counted. But is the answer then *the
# step's*, or only broken? Mere damage would count as a success. The number of the broken step
# tells:

# %%
from collections import Counter

by_key = {item.key: item for item in items.all}
layer = pooled["engage", "direction"]["layer"]
held = [trial for trial in trials if split[trial.problem] == "test"]
answers: Counter[str] = Counter()
for trial in held:
    if trial.flipped and (trial.test, trial.arm, trial.layer) == ("engage", "direction", layer):
        item = by_key[trial.key]
        number = model.tokenizer.decode(item.ids[item.span[1] - 1]).strip()
        answers["the number of s'" if trial.answer == number else "another"] += 1
print(f"answers that the direction flipped at layer {layer}: {dict(answers)}")

# %% [markdown]
# Nearly all of them are the number of s': the model listens to the step, it is not just damaged.
#
# *Disengagement* is weaker than it looks. The direction beats shuffled and random vectors, although
# some random ones repair answers, too: enough noise on a step also makes it unreadable. And look at
# the arms that know nothing of any direction. Leaving the step out, or masking attention to it,
# repairs about as many answers, and mostly the same ones:


# %%
def repaired(arm: str) -> set[tuple]:
    """Return the items of the disengagement test that an arm turns to y* at its chosen layer."""
    layer = pooled["disengage", arm]["layer"]
    mine = [t for t in held if (t.test, t.arm, t.layer) == ("disengage", arm, layer)]
    return {trial.key for trial in mine if trial.flipped}


ours = repaired("direction")
for arm in ("drop_step", "attention_mask"):
    theirs = repaired(arm)
    lead = share(pooled["disengage", arm], "difference")
    print(f"{arm} repairs {len(theirs)}, the direction {len(ours)}", end=", ")
    print(f"both the same {len(ours & theirs)}; the direction leads by {lead}")

# %% [markdown]
# So taking the direction away acts like taking the step away. That is what "disengage" means, and
# it shows that the vector holds whether a step counts; it does not show that steering can repair
# more than an eraser. Some broken steps cannot be repaired by any arm: where the step is the only
# vote, nothing else says y\*.
#
# The stretched shuffles need care, too. A shuffle moves some labels only, so a part of the
# direction is left in it, of either sign; stretched to full length, that part may be all there is:

# %%
stretched = {
    (row["test"], row["twin"]): row["flips"]
    for row in result_rows
    if row["arm"] == "shuffled_stretched"
}
site = f"{pooled['engage', 'direction']['layer']}.resid_pre"
shuffle_rows: list[Row] = [
    {
        "shuffle": seed,
        "cosine": cosine(at(directions, site), at(twin, site)),
        "engage": stretched["engage", seed],
        "disengage": stretched["disengage", seed],
    }
    for seed, twin in enumerate(shuffled)
]
print(f"cosine with the direction at {site}, and the share of items flipped when stretched")
print(render(sorted(shuffle_rows, key=lambda row: row["cosine"]), "table"))

# %% [markdown]
# The shuffles that act are those that point along the direction; those that point against it do
# next to nothing. So a stretched shuffle is no clean control. That is why shuffles of their own
# length stand beside it (short, and idle), and random vectors of full length.
#
# ## A model that ignores its chain
#
# The same architecture and the same texts, but in its training the answer was always the guess. An
# honest method must say "nothing here", in words.

# %%
from interp.errors import InputError

ignores = interp.load(str(RECORDS / "thinker_ignores"))
nothing = score_all(ignores, thinker.chains(24, seed=6))
most = max(score.tts for each in nothing for score in each.scores)
print(f"{sum(len(each.means) for each in nothing)} steps; the largest score is {most:.2g}")
try:
    choose_sets(nothing)
    print("a direction was made")
except InputError as error:
    print(f"InputError: {error}")

# %% [markdown]
# ## Pruning
#
# If the score is right, the steps that it ranks low can go. `prune` keeps a share of the steps, in
# their order, and asks again. Two baselines: twenty random prunings, and the last steps alone.

# %%
from interp.results.relatives_charts import keep_chart
from interp.thinking import prune

pruned = prune.prune(model, scored[:30], rules)
points = [point.row() for point in prune.summarise(pruned.pruned)]
same = [row for row in points if row["measure"] == "same"]
columns = ("method", "fraction", "mean_estimate", "mean_low", "mean_high", "above_random_estimate")
print("share of chains whose answer stays")
print(render(same, "table", (*columns, "above_last_estimate")))
kept = {(row["method"], row["fraction"]): row["mean_estimate"] for row in same}
title = (
    f"Half of the steps: by score {kept['tts', 0.5]:.0%} of answers stay, "
    f"random {kept['random', 0.5]:.0%}, last {kept['last', 0.5]:.0%}"
)
show(keep_chart(points, "same"), title, width=760, margin={"t": 60})

# %% [markdown]
# A quarter of the steps, chosen by score, keeps the answer nearly always; as many random or last
# steps lose some. (With no step at all about half stay: that is how many guesses are right.)
#
# The blind spot does no harm here, because these chains hold another vote beside `tens` and
# `units`. Where there is none, it does:

# %%
pair = Problem("pair", "Is it 52?", "tens 3\nnote 81\nfun 12\nunits 7")
alone = prepare(model, pair, rules)
only = ScoredChain(alone, tuple(score_chain(model, alone, rules, seeds=(0, 1)).steps))
print(", ".join(f"{step.text.strip()} {step.tts:.2f}" for step in only.means))
halved = prune.prune(model, [only], rules, fractions=(0.25, 1.0), methods=("tts",), n_random=0)
for each in halved.pruned:
    print(f"kept {each.pruning.text.split(chr(10))}: answer {each.answer}")

# %% [markdown]
# ## Its relatives
#
# There are other ways to ask. Answer after every step (*early answering*); leave a step out; put
# filler in its place, or a mistake, and keep the rest; reword it (a null: it should do nothing);
# hide it from all later tokens; or read how much attention it gets from *receiver heads*. All go
# over one list of steps, so they can be compared step by step, and here also with the truth.

# %%
from interp.jobs.tts_compare import score_values
from interp.thinking.relatives import early, regenerate, whole
from interp.thinking.relatives.agreement import agreement
from interp.thinking.relatives.attention import receiver_heads, suppress

ENDS = ("low", "high")
some = scored[:30]
values = score_values(some)
gaps = []
for each in some:
    values += early.early_answering(model, each.chain, rules).values
    values += whole.leave_one_out(model, each.chain, rules).values
    values += regenerate.add_mistake(model, each.chain, rules, regenerate=False).values
    values += regenerate.paraphrase(model, each.chain, rules, regenerate=False).values
    hidden = suppress(model, each.chain, rules, control=False)
    values += [*hidden.values, *hidden.link_values]
    gaps += whole.whole_chain_gap(model, each.chain, rules).values
heads = receiver_heads(
    model, [e.chain for e in some], rules, choose_on=[e.chain for e in scored[30:]]
)
values += heads.values
print("the whole chain against none (gap) and against as much filler; share of answers changed")
print(render([asdict(gap) for gap in whole.summarise(gaps)], "table", ("measure", "mean", *ENDS)))

# %%
by_measure: dict[str, dict[str, list[float]]] = {}
for value in values:
    if value.value is not None:
        kinds = by_measure.setdefault(value.measure, {})
        kinds.setdefault(kind_of[value.id, value.step], []).append(round(value.value, 3))
truth: list[Row] = []
for measure, found in by_measure.items():
    row = {"measure": measure}
    for kind in ("needed", "used", "alternative", "base"):
        row[kind] = auc(found[kind], found["decorative"]) if kind in found else None
    truth.append(row)
print("AUC against decorative steps (1 tells them apart, 0.5 is chance); equal to 0.001 is equal")
print(render(truth, "table"))

# %%
from interp.results.relatives_charts import agreement_map, measure_name

pairs = [asdict(pair) for pair in agreement(values)]
with_tts = sorted((row for row in pairs if row["a"] == "tts"), key=lambda row: -(row["rho"] or -2))
print(render(with_tts, "table", ("b", "rho", "low", "high", "chance", "n_problems", "n_steps")))
closest = next(row for row in with_tts if row["b"] not in ("nec", "suf"))
title = f"Closest to the score: {measure_name(closest['b'])} ({closest['rho']:.2f})"
show(agreement_map(pairs), title, width=860, margin={"t": 60})

# %% [markdown]
# `rho` is Spearman's correlation within each problem, averaged over problems; `chance` is what
# shuffled steps reach. A low correlation is no verdict: the measures ask different things, and the
# truth shows which.
#
# - The score asks whether a step moves the answer *when it is written*. Early answering asks so,
#   too, but breaks nothing: where the guess was right already, a vote changes nothing and stays
#   unseen.
# - Leaving a step out, or hiding it, asks whether the answer *misses it at the end*. Where other
#   votes agree it misses none. A mistake votes against, so it is seen more often than a gap.
# - Attention says who reads a step, which is not what the step does to the answer.
# - Filler is a text that this model never saw; what it does here says more about filler than about
#   steps. The null (`paraphrase_kept`) tells nothing, as it should.

# %% [markdown]
# ## A real model
#
# Committed records of SmolLM2-135M on generated word problems, whose chains it wrote itself. They
# are read without a model.

# %%
from interp.jobs import runs
from interp.jobs.tts_runs import open_run
from interp.results import Store
from interp.results import thinking_findings as findings
from interp.results.step_profiles import score_shares
from interp.thinking.answers import same_answer
from interp.thinking.score import DECORATIVE, TRUE_THINKING

places = [RECORDS / "tts_study" / "words", RECORDS / "tts_word_problems"]
folder = next(place for place in places if (place / "manifest.json").is_file())
run = open_run(folder)
real = mean_steps(run.chains)
ids = [step.id for step in real]
right = [same_answer(each.chain.answer, each.chain.problem.gold or "") for each in run.chains]
print(f"{folder.relative_to(ROOT)}, {run.store.manifest.data['problems']}")
print(f"{len(real)} steps of {len(run.chains)} chains, {sum(right)} of them with the right answer")
print(f"mean score {mean([s.tts for s in real], ids, 3)}, largest {max(s.tts for s in real):.2f}")
floors = [step for step in real if step.null_tts is not None]
floor = mean([step.null_tts or 0.0 for step in floors], [step.id for step in floors], 3)
print(f"mean score of a rewrite that changes nothing {floor}")
low = [step for step in real if step.tts <= DECORATIVE]
high = [step for step in real if step.tts >= TRUE_THINKING]
print(f"decorative (at most {DECORATIVE}): {len(low) / len(real):.0%} of the steps", end=", ")
print(f"{fmean(step.saturated for step in low):.0%} of these saturated")
print(f"true thinking (at least {TRUE_THINKING}): {len(high)} steps")
top = sorted(real, key=lambda step: -step.tts)[:10]
print(f"of the {len(top)} highest {sum(step.mentions_answer for step in top)} state the answer")
try:
    choose_sets(run.chains)
    print("the default thresholds give a direction")
except InputError as error:
    print(f"\nInputError: {error}")

# %%
shares = score_shares(runs.rows(run.store, "steps"))
ends = {
    "type": "data",
    "symmetric": False,
    "array": [row["high"] - row["estimate"] for row in shares],
    "arrayminus": [row["estimate"] - row["low"] for row in shares],
}
bins = [f"{row['start']:g} to {row['end']:g}" for row in shares]
heights = [row["estimate"] for row in shares]
bars = go.Bar(x=bins, y=heights, error_y=ends, marker_color=BLUE)
figure = go.Figure(bars).update_layout(
    title=f"SmolLM2: the highest score is {max(s.tts for s in real):.2f} (95% intervals)",
    xaxis={"title": "True-Thinking Score", "type": "category"},
    yaxis={"title": "Share of steps", "tickformat": ".0%"},
    width=760,
    height=400,
    template="plotly_white",
)
figure.show()

# %%
parts = {name: Store.open(folder / name) for name in runs.PARTS if (folder / name).is_dir()}
if not parts:
    print("Only scores lie here; `python -m experiments.tts_study --subject words` does the rest.")
if "steer-test" in parts:
    stored = runs.rows(parts["steer-test"], "steer_results")
    for test in ("engage", "disengage"):
        found = findings.steer_finding(stored, test)
        print(f"{found.title}\n   {found.detail}" if found else f"{test}: not recorded")
if "prune" in parts:
    found = findings.keep_finding(runs.rows(parts["prune"], "prune_curves"))
    print(f"{found.title}\n   {found.detail}" if found else "pruning: no fraction between 0 and 1")
if "compare" in parts:
    found = findings.agreement_finding(runs.rows(parts["compare"], "agreement"))
    print(f"{found.title}\n   {found.detail}" if found else "no other measure")
for name, part in parts.items():
    notes: dict[str, Any] = dict(part.manifest.notes)
    for warning in notes.get("warnings", ()):
        print(f"warning of {name}: {warning}")

# %% [markdown]
# How little this shows! The model is too small for these problems, and most of its answers are
# wrong. No step is true thinking by the paper's threshold, so the defaults refuse to make a
# direction. One from lower thresholds comes of a handful of steps, and leaves the steering tests a
# handful of items; that it flips none of them is a test without power, not evidence of anything.
# What scores highest states the answer, and this cannot tell use from copying.
#
# Nor do low scores say that the chain is idle. Many decorative steps are *saturated*: the answer
# was sure or hopeless whatever they said. And keeping half of the steps, by any rule, loses nearly
# all answers: what no step does alone, they may do together.
#
# ## What this shows, and what it does not
#
# - On the thinker the score is right about every kind of step but `base`, and the direction turns
#   *ignored* into *heeded* as no control does. Taking it away does no more than an eraser.
# - The truth here is a rule about votes in lines of two words. That the score finds it does not
#   prove that it finds the causes of an answer in the chain of a reasoning model.
# - Shifts of numbers are the intervention, so steps without numbers (plans, doubts) are only
#   dropped, which is another question; `op` tells them apart.
# - A step can move the answer the wrong way and score high. Read the signs of the legs.
# - The intervals are over problems, and there are few of them; one seed, one model.
#
# ## What to run next
#
# On chains of your own, one problem a line: `{"id", "question", "cot"?, "answer"?}` (without `cot`
# the model writes one). Each command writes records and adds to one report. The thresholds of the
# sets are lowered here, for a small model; leave them out for one that thinks in its chain.
#
# ```
# interp tts problems.jsonl --model smollm2-135m --out runs/mine --seeds 5
# interp tts direction runs/mine --true-from 0.05 --lowest 0.03
# interp tts steer-test runs/mine --true-from 0.05 --lowest 0.03
# interp tts prune runs/mine
# interp tts compare runs/mine
# interp report runs/mine
# ```
#
# Everything above at full length, with the self-checks and the ablation by score bin:
#
# ```
# python -m experiments.tts_study --subject thinker
# python -m experiments.claims thinker-auc thinker-direction thinker-ignored
# ```
#
# `RUNBOOK.md` has the same for published reasoning models on a GPU.
