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
# # Inside a latent thought
#
# Some models reason without words. Between question and answer they take a few *latent steps*: the
# last hidden state is not turned into a token, it is fed back as the next input. There is nothing
# to read. So what does a step hold, does the answer need it, and when is the answer settled?
#
# We can still ask by intervening: put another vector in the place of one step, run on, and see what
# changes. This notebook does that on a small Coconut (Hao et al. 2024, arXiv:2412.06769), trained
# on a task where the right content of each step is known. It follows the questions of Li et al.
# 2026 (arXiv:2602.08783), and for each of them it shows what an edit that does *nothing* gives:
#
# 1. which models solve the task at all, beside controls that cannot reason in steps,
# 2. what a step holds, and whether the answer needs it,
# 3. how a change at one step travels to later ones,
# 4. when the answer is settled.
#
# It needs the repository (the small models lie in `experiments/records/latent`), no GPU, no network
# and about a minute. Nothing in the prose is a measured number: what a sentence says, the cell
# before it computes.

# %%
N = 120  # problems in each experiment
N_SCORED = 400  # problems in the table of accuracies

# %%
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
warnings.filterwarnings("ignore", message="IProgress not found")  # no bars, so no widgets for them

import plotly.graph_objects as go
import torch

torch.set_num_threads(1)
ROOT = next(p for p in (Path.cwd(), *Path.cwd().parents) if (p / "experiments").is_dir())
TRAINED = ROOT / "experiments" / "records" / "latent"

from interp.results import influence_charts, render
from interp.results import latent_charts as charts
from interp.results.report_charts import AMBER, BLUE, GREY, VERMILION

Row = dict[str, Any]


def show(spec: Any, title: str, **layout: Any) -> None:
    """Show a figure under a title that says what it finds."""
    room = {"margin": {"t": 100}, "width": 900, **layout}
    go.Figure(spec).update_layout(title=title, template="plotly_white", **room).show()


def share(row: Mapping[str, Any], name: str) -> str:
    """Write a share and its 95% interval."""
    if row[name] is None:
        return "-"
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    ends = "" if low is None else f" ({low:.0%} to {high:.0%})"
    return f"{row[name]:.0%}{ends}"


def spread(rows: Sequence[Mapping[str, Any]], name: str) -> Row:
    """Return the error bars of some shares."""
    ends = {"array": [row[f"{name}_high"] - row[name] for row in rows]}
    return {"type": "data", "symmetric": False, **ends} | {
        "arrayminus": [row[name] - row[f"{name}_low"] for row in rows]
    }


# %% [markdown]
# ## The task, and the model
#
# *Cycle-hop*: a prompt lists the edges of one random cycle over eight nodes, in random order, and
# then a start. The answer is the node four hops on. With f for "the next node", the steps are
# f(x), f(f(x)), and so on. A model of two layers cannot look up four edges in one pass, so it has
# to reason in between.
#
# The Coconut has four latent steps. One word on counting, because nearly every mistake in this
# field comes from it. The vector h₁ is *produced* at the last token of the prompt and *fed* as the
# input of slot 1; there h₂ is produced, and so on. To **read at k** is to close the thought after
# exactly k steps were consumed. Every comparison below has the same k on both sides.

# %%
from interp.data.cycle_hop import CycleHop
from interp.latent.saved import load_subject
from interp.latent.subject import roll_out

coconut = load_subject(TRAINED / "coconut")
problems = CycleHop().draw(N, seed=11)
first = problems[0]
print(f"question: {first.question}\nsteps:    {' '.join(first.steps)}\nanswer:   {first.answer}\n")
print(f"convention: {coconut.convention}\n")
thought = roll_out(coconut, coconut.prefill(problems))
for t in range(1, coconut.n_steps + 1):
    node = thought.node(t).vectors[0, 0]
    begins = " ".join(f"{value:+.2f}" for value in node[:4].tolist())
    print(f"h_{t} has {len(node)} numbers and length {node.norm():.1f}; it begins {begins}")
print()
words_left: list[float] = []
for k, state in enumerate(thought.states):
    texts = coconut.decode(coconut.close(state))
    words_left.append(sum(len(text.split()) == coconut.n_steps - k + 1 for text in texts) / N)
    print(f"closed after {state.consumed} steps, it goes on: {texts[0]}")
print(f"\none word for each step left, and the answer: {min(words_left):.0%} of problems or more")

# %% [markdown]
# The vectors mean nothing to a reader. But close the thought early, and the model goes on *in
# words* from where the vectors stopped: that is how it was taught. Its training first wrote all
# steps as text and then put one more vector in place of one more word at each stage.
#
# ## Does it need its latents?
#
# An intervention on a model that does not solve its task says nothing about reasoning. And a model
# that solves it might do so without its latents. So there are controls, each trained on the same
# problems: one without slots, one with a pause token in each slot, one that feeds the same vector
# to all slots, one that never saw a step in words. Those that lie in the folder are listed.

# %%
from interp.latent.accuracy import accuracy

KINDS = {
    "coconut": "each output vector is the next input",
    "explicit": "the same steps as words",
    "pause": "a pause token in each slot",
    "no_recurrence": "the first vector in each slot",
    "no_latents": "no slots",
    "no_curriculum": "slots, but never a step in words",
    "codi": "latents taught by a model that writes its steps",
    "codi_no_latents": "the same teaching, no slots",
}
task = CycleHop()
subjects = {
    name: load_subject(TRAINED / name)
    for name in KINDS
    if (TRAINED / name / "manifest.json").is_file()
}


def task_of(name: str) -> CycleHop:
    """Return the task as a model was trained on it: CODI's prompts tell the number of hops."""
    return CycleHop(tells_hops=name.startswith("codi"))


scores: list[Row] = []
for name, subject in subjects.items():
    (row,) = accuracy(subject, task_of(name).draw(N_SCORED, seed=13)).summary()
    scores.append({**row, "subject": name})
lines = [
    {"subject": row["subject"], "right": share(row, "accuracy"), "what": KINDS[row["subject"]]}
    for row in scores
]
print(f"answers right, with 95% intervals, of {N_SCORED} new problems")
print(render(lines, "table"))
guess = [task.ceiling(hops) for hops in (0, 1, 2)]
print(f"\nguessing: {guess[0]:.0%}; knowing one hop each way {guess[1]:.0%}, two {guess[2]:.0%}")
if absent := [name for name in KINDS if name not in subjects]:
    print(f"not trained in this folder: {', '.join(absent)}")

# %%
names = [row["subject"] for row in scores]
colours = [BLUE if name in ("coconut", "codi", "explicit") else GREY for name in names]
bars = go.Bar(
    x=names,
    y=[row["accuracy"] for row in scores],
    error_y=spread(scores, "accuracy"),
    marker_color=colours,
)
title = f"Coconut answers {scores[0]['accuracy']:.0%} right (dotted: knows two hops each way)"
figure = go.Figure(bars)
figure.add_hline(y=guess[2], line_dash="dot")
yaxis = {"title": "Problems answered right", "tickformat": ".0%", "range": [0, 1.08]}
show(figure, title, yaxis=yaxis, height=400)

# %% [markdown]
# The Coconut solves the task, and the controls stay well below it. They are not at zero: a model
# that finds some hops from both ends, all in one pass, can guess among the few nodes that are
# left. What the latent steps are worth is the difference, not the whole. So there is something here
# to look into.
#
# ## What a step holds
#
# A theory that can fail: **h_t holds the t-th node, and nothing else.** If so, we can foretell what
# another problem's step does. Give the model h_t of a *donor*. It should go on from the donor's
# node, but along *its own* cycle, and answer a node that is neither its own answer nor (in general)
# the donor's. `interchange` runs it and compares with a theory; `hop_on` is this one.
#
# Beside it: a second theory (the step is *one hop behind*), the null (how often the theory fits for
# a problem that was not the donor), and what one would say from reading alone: how often the word
# nearest to h_t is the t-th node.

# %%
from interp.latent.calibration import calibrate
from interp.latent.interchange import hop_on, interchange

donors = CycleHop().draw(100, seed=12)
bank = calibrate(coconut, donors, scored=problems)


def one_behind(problem: Any, donor: Any, step: int) -> str:
    """Theory: h_t holds the node before, which is still to be looked up."""
    return hop_on(problem, donor, step - 1)


acts = interchange(coconut, problems, bank, hop_on).summary()
behind = interchange(coconut, problems, bank, one_behind).summary()
holds: list[Row] = []
for acted, late in zip(acts, behind, strict=True):
    t = acted["step"]
    ids = coconut.head(thought.node(t).vectors[:, 0]).argmax(-1).tolist()
    nearest = coconut.tokenizer.convert_ids_to_tokens(ids)
    reads = sum(word == each.path[t] for word, each in zip(nearest, problems, strict=True)) / N
    holds.append({"step": t, "acts as node t": share(acted, "hit"), "null": acted["null_hit"]})
    holds[-1] |= {"acts as node t-1": share(late, "hit"), "reads as node t": f"{reads:.0%}"}
print(render(holds, "table"))

# %%
bars = [
    go.Bar(
        name=name,
        x=[f"h_{row['step']}" for row in rows],
        y=[row[column] for row in rows],
        error_y=spread(rows, column),
        marker_color=colour,
    )
    for name, rows, column, colour in (
        ("as if it held the donor's node t", acts, "hit", BLUE),
        ("as if it held the node before", behind, "hit", AMBER),
        ("null: a problem that gave nothing", acts, "null_hit", GREY),
    )
]
fits = sum(row["hit"] > 0.5 for row in acts)
title = f"A donor's step brings its node along at {fits} of {len(acts)} steps"
yaxis = {"title": "Answers as foretold", "tickformat": ".0%", "range": [0, 1.08]}
show(bars, title, yaxis=yaxis, height=440, barmode="group", legend=charts.LEGEND_BELOW["legend"])

# %% [markdown]
# At most steps the theory fits, far above the null: as far as the model's own use of it goes, the
# vector *is* the node, and what comes out is an answer that, as a rule, neither problem has by
# itself.
#
# Where the first bar is low, look at the second: the donor's step may act as the node *before*, and
# then the look-up is made one slot later than we thought. Where both are low, the step may not be
# used at all; the next section tells. And compare the last column of the table: what the nearest
# word says and what the vector does can differ either way. To read is not to intervene.
#
# ## Does the answer need it?
#
# Now only ask whether the answer changes (a *flip*), and try several edits: zero, the step's mean
# vector, another problem's step, a turn by 45 degrees, and the whole thought of another problem.
# The identity puts back what was there.

# %%
from interp.latent.necessity import necessity

need = necessity(coconut, problems, bank).summary(classes=task.n_nodes)
by_step = {(row["operator"], row["steps"]): row for row in need}
alone = [str(t) for t in range(1, coconut.n_steps + 1)]


def flip_line(rows: Mapping[tuple[str, str], Row], name: str) -> Row:
    """Return one edit's flips, a column a step; `all` edits all steps together."""
    mine = {steps: share(row, "flip") for (edit, steps), row in rows.items() if edit == name}
    steps = {f"step {t}": mine.get(t, "-") for t in alone}
    whole = next((text for key, text in mine.items() if "+" in key), "-")
    return {"edit": name, **steps, "all": whole}


edits = charts.operators_of(need)
print("answers that flip, with 95% intervals")
print(render([flip_line(by_step, name) for name in edits], "table", width=130))
print(f"answers drawn at random would flip {need[0]['ceiling']:.1%}")
apart = {t: by_step["zero", t]["flip"] - by_step["resample", t]["flip"] for t in alone}
worst = max(apart, key=lambda t: abs(apart[t]))
gaps = ", ".join(f"step {t} {gap:+.0%}" for t, gap in apart.items())
print(f"zero less another problem's step: {gaps}")

# %%
title = f"Zero and another problem's step differ most at step {worst}, by {apart[worst]:+.0%}"
show(charts.flip_bars(need), title)

# %% [markdown]
# At the first steps, another problem's step flips about as many answers as answers drawn at random
# would: the answer needs them. A turn of the vector does far less harm; the model puts up with some
# noise.
#
# **Zero errs.** It is the usual edit, and no problem ever has this vector. A model may be thrown
# off by its strangeness, and then flips count damage (some zero bars may reach *above* those of
# random answers). Or it may take zero for "nothing here" and get by on what its cache still holds,
# and then a step that is needed looks idle. A donor's vector is a real one with the wrong content,
# which is the question that we had. The identity flips nothing at all, here and below: not "about
# 0", but 0.
#
# ## Stop early
#
# The other side of need: how many steps are enough? Truncate for real after k steps.

# %%
from interp.latent.early_stop import early_stop

stops = early_stop(coconut, problems).curve()
lines = [
    {"k": row["k"]}
    | {"A(k)": share(row, "accuracy"), "S(k)": share(row, "solved")}
    | {"next step": share(row, "next_step"), "answer, forced": share(row, "forced")}
    for row in stops
]
print(render(lines, "table"))
nexts = [row["next_step"] for row in stops if row["next_step"] is not None]
title = f"Stopped early, it states no answer, and yet {min(nexts):.0%} or more of next steps"
show(charts.stop_curves(stops), title)

# %% [markdown]
# By A(k), right when stopped at k, nothing is known until the end. By the next step, most stops
# know what they should: the thought grows node by node. A(k) is low because the model, when
# stopped, writes the steps that are left before its answer, and that text is no answer. One step
# before the end the next step *is* the answer, and forced to say it, it can. S(k), "right at k or
# before", is the curve that is published; it cannot fall, whatever is lost on the way.
#
# ## How a change travels
#
# W[t, s]: change h_t, go on to step s, read out there, and measure how far the answer's
# distribution moved, KL(clean || changed) in nats a token. Both sides have consumed s steps.

# %%
from interp.latent.influence import influence
from interp.latent.shape import matrices, shape

moved = influence(coconut, problems, bank)
every = matrices(moved.rows)
weights = [row for each in every for row in each.rows()]
print(f"identity null: the largest effect of an edit that changes nothing is {moved.null()} nats")
title = "W[t, s]: a step moves all that is read after it (last: the identity)"
show(influence_charts.influence_maps(weights), title, width=980)

# %% [markdown]
# A matrix is often told in four numbers: *locality*, the share of W that goes to the next step;
# *span*, how far an effect reaches; *early-out*, the share that leaves step 1; *late-in*, the share
# that arrives at the last. They mislead alone, so two things stand beside them: what they would be
# if all edges were equal, and what they are for models in which we planted the structure.

# %%
from interp.latent.planted import Planted, swap_class

null = next(each for each in every if each.operator == "identity")
ours = [row for each in every for row in shape(each, null, n_boot=300).rows()]


def shape_table(rows: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Return a row an edit: the sum of W in nats, and the four numbers with their intervals."""
    found: dict[str, Row] = {}
    for row in rows:
        line = found.setdefault(row["operator"], {"edit": row["operator"], "total": row["total"]})
        ends = "" if row["x_low"] is None else f" ({row['x_low']:.2f} to {row['x_high']:.2f})"
        line[row["metric"]] = "none" if row["x"] is None else f"{row['x']:.2f}{ends}"
    return list(found.values())


equal: Row = {
    "edit": "equal edges",
    **{str(row["metric"]): f"{row['uniform']:.2f}" for row in ours},
}
print(render([*shape_table(ours), equal], "table", width=140))
planted_rows: list[Row] = []
for kind in ("chain", "window", "shortcut"):
    planted = Planted(kind)
    given = planted.draw(20, seed=0)
    known = calibrate(planted, planted.draw(20, seed=1), scored=given)
    found = influence(planted, given, known, operators=[swap_class()])
    mine = next(each for each in matrices(found.rows) if each.operator != "identity")
    planted_rows += [{**row, "operator": kind} for row in shape(mine, n_boot=50).rows()]
print("\nplanted: known by design")
print(render(shape_table(planted_rows), "table"))

# %%
title = "Shape of W beside equal edges: a chain lies near them by design"
show(influence_charts.shape_panels(ours), title, width=980)

# %% [markdown]
# The identity has a total of exactly 0 and so no shape. The planted *window* and *shortcut* have
# the shapes that one expects. But a perfect *chain*, in which each step only passes on the last,
# looks just like equal edges: whatever breaks one step breaks all that follow. So numbers near
# equal edges do not say "no structure", and the Coconut's, near them under a donor's step, fit a
# chain.
# `shuffled_donor` feeds the donor's vector of a wrong step, and its shape is much the same. And the
# rows differ: a shape belongs to the edit as much as to the model.
#
# ## The same numbers by the released code
#
# The code published with that paper compares a clean side that has consumed s - 1 steps with a
# changed side that has consumed s, and for Coconut reads the first token from a stored output that
# no edit can touch. We rebuilt these faults, as a diagnostic, to see what they alone give.

# %%
from interp.latent.released import released_influence

faulty = released_influence(coconut, problems, bank, operators=("zero", "resample"))
theirs = matrices(faulty.rows)
nothing = next(each for each in theirs if each.operator == "identity")
released = [row for each in theirs for row in shape(each, nothing, n_boot=300).rows()]
print("DIAGNOSTIC: faulty on purpose, no result")
print(render([*shape_table(released), equal], "table", width=140))
total = {row["operator"]: row["total"] for row in released}
title = f"By the released code an edit that changes nothing gives {total['identity']:.0f} nats"
compared = [row for row in ours if row["operator"] in total]
show(influence_charts.released_panels(compared, released), title, width=980)

# %% [markdown]
# Here every edit has the same total, and the same "late, non-local" shape: zero, another problem's
# step, and *no edit at all*. The pattern is the difference between s - 1 steps and s. This is why
# the identity runs in every pass of this workbench, and why its number is printed.
#
# ## Two roads
#
# A new h_t reaches the answer by two roads: the next vector is made from it (*recurrence*), and its
# slot leaves keys and values that all later tokens see (*cache*). Each can be changed while the
# other keeps what it had.

# %%
roads: dict[str, list[Row]] = {}
for edge in ("input", "recurrence", "cache"):
    found = necessity(coconut, problems, bank, ("resample",), edge=edge, draws=(0,))
    rows = [row for row in found.summary() if row["operator"] == "resample"]
    roads[edge] = sorted(rows, key=lambda row: row["step"])
lines = [
    {"road": edge, **{f"step {row['step']}": share(row, "flip") for row in rows}}
    for edge, rows in roads.items()
]
print("answers that another problem's step flips")
print(render(lines, "table"))
bars = [
    go.Bar(
        name=name,
        x=[f"h_{row['step']}" for row in roads[edge]],
        y=[row["flip"] for row in roads[edge]],
        error_y=spread(roads[edge], "flip"),
        marker_color=colour,
    )
    for name, edge, colour in (
        ("both roads", "input", GREY),
        ("the next vector alone", "recurrence", BLUE),
        ("keys and values alone", "cache", VERMILION),
    )
]
pairs = zip(roads["recurrence"], roads["cache"], strict=True)
turn = next(relay["step"] for relay, kept in pairs if kept["flip"] >= relay["flip"])
title = f"The first steps act by the next vector; from h_{turn} on, by keys and values"
yaxis = {"title": "Answers flipped", "tickformat": ".0%", "range": [0, 1.08]}
show(bars, title, yaxis=yaxis, height=440, barmode="group", legend=charts.LEGEND_BELOW["legend"])

# %% [markdown]
# A relay: the first steps hand on what they hold to the next vector, and what they leave in the
# cache hardly matters. Then the road changes: the answer looks up the last node that it needs in
# the cache. The vector that the last step makes is never fed, so by recurrence that step flips
# nothing at all. If it flips little by either road, it is not needed: closing the thought is a
# pass, too, with a look-up of its own.
#
# ## The same edits on the others
#
# Never show a pattern without its control. Flips come from models that do not reason, too.

# %%
few = 60
others: list[Row] = []
for row in scores[1:]:
    name, subject = row["subject"], subjects[row["subject"]]
    if not subject.n_steps:
        continue
    own, given = task_of(name).draw(few, seed=11), task_of(name).draw(40, seed=12)
    known = calibrate(subject, given, scored=own)
    found = necessity(subject, own, known, ("zero", "resample"), draws=(0,)).summary()
    flips = {(each["operator"], each["steps"]): each for each in found}
    head: Row = {"subject": name, "right": f"{row['accuracy']:.0%}"}
    others += [head | flip_line(flips, edit) for edit in ("zero", "resample")]
    held = interchange(subject, own, known, hop_on, draws=(0,)).summary()
    acted = {f"step {each['step']}": share(each, "hit") for each in held}
    others.append({**head, "edit": "holds node t"} | {f"step {t}": "-" for t in alone} | acted)
if others:
    print(f"answers that flip, and answers that fit the donor's node t, of {few} problems;")
    print("- where no edit can act")
    columns = ("subject", "right", "edit", *(f"step {t}" for t in alone))
    print(render(others, "table", columns, width=130))
else:
    print("no other subject with steps lies in the folder")

# %% [markdown]
# Read the accuracy first. A control that guesses changes its guess when its slots are disturbed, so
# a flip alone is no sign of reasoning. Where all problems have the same vector, as with a pause
# token, a donor has nothing to bring: that is marked and not counted as "no effect".
#
# A model may also solve the task, need its steps, and still not fit "holds node t": then they hold
# something else, or hold it together. CODI is taught to arrive where a model in words arrives, not
# to pass its nodes one by one. And where zero and a donor disagree by much, see above.
#
# ## When is the answer settled?
#
# A latent rollout has no chance in it: one problem, one answer. So noise is added to each vector as
# it is fed, and each sample keeps the answer that it led to. Where noise leads one problem to two
# answers, we can ask at which step it is settled which of them comes, in two ways: by what the
# model *would say* if it were closed there, and by what a probe can tell from the *vector*, trained
# on other problems. The scale is bits: 1 where nobody knows, 0 where it is settled.
#
# First, a model in which the moment is planted: its fourth vector is the first to hold the answer,
# and it does not say so before the fifth. Then the Coconut, at a noise under which answers compete
# and yet are not mere noise.

# %%
from interp.errors import InputError
from interp.latent import commitment as modes
from interp.latent.noise import Noise
from interp.latent.planted import PlantedCommitment
from interp.latent.probes import ProbeSettings

probes = ProbeSettings(folds=3, shuffles=2)
settled = PlantedCommitment(n_steps=6, settles=4, speaks=5)
found = {
    "planted": modes.commitment(
        settled,
        settled.draw(24, seed=0),
        n_samples=12,
        rules=modes.Rules(drift=0.0),
        probes=probes,
    )
}
asked = CycleHop().draw(80, seed=14)
levels = modes.noise_levels(
    coconut, asked[:60], [Noise(sigma=sigma) for sigma in (0.3, 0.5, 0.7, 1.0, 1.5)]
)
print("sigma is the noise relative to the vector's length; shares of 60 problems")
print(render(levels, "table", ("sigma", "waver", "competing", "correct", "unparsable")))
sound = [row for row in levels if row["correct"] > task.ceiling(2)]
level = max(sound or levels, key=lambda row: row["competing"])
print(f"\nchosen: sigma {level['sigma']}, two answers compete in {share(level, 'competing')}")
try:
    noise = Noise(sigma=level["sigma"])
    found["coconut"] = modes.commitment(coconut, asked, noise, n_samples=12, probes=probes)
except InputError as error:
    print(f"the Coconut's answers do not compete: {error}")

# %%
curves = [{**row, "subject": name} for name, each in found.items() for row in modes.curve(each)]
tells = [{**row, "subject": name} for name, each in found.items() for row in modes.probe_rows(each)]
for name, each in found.items():
    mine = [row for row in curves if row["subject"] == name]
    bits = {(row["source"], row["t"]): row["bits"] for row in mine}
    shuffled = {row["t"]: row["shuffled_bits"] for row in tells if row["subject"] == name}
    print(f"{name}: bits still needed, of {each.n_problems} problems whose answers compete")
    lines = [
        {"t": t, "would say": bits["read_out", t], "vector": bits.get(("probe", t))}
        | {"vector, labels shuffled": shuffled.get(t)}
        for t in sorted({row["t"] for row in mine})
    ]
    print(render(lines, "table"), "\n")
title = "Bits still needed to tell which answer comes, and the share that has committed"
show(charts.commitment_panels(curves, tells), title, width=1100)

# %% [markdown]
# The planted moment is found: the vector knows one step before the model says so, and shuffled
# labels need a whole bit throughout.
#
# In the Coconut the answer is open until the last steps, in what it would say and in what the probe
# finds. That fits a relay: noise at any step can still turn it, and the node that it holds half-way
# is not the answer yet. There is no sign of two answers that are both kept alive and then decided
# between. But a probe tells what *it* can find, linearly and from few problems, so its bits are an
# upper bound. Where it lags behind the read-out at the end, the answer may stand in the vector in
# another form, or in the cache alone.
#
# ## What this shows, and what it does not
#
# - In this model most latent steps *are* the nodes, one after another, handed on from vector to
#   vector. It was trained on that order of steps; models that are not may do otherwise.
# - The task is a toy with one right chain. Nothing here says how a large model reasons in latents.
# - Influence is that of one edit, not a graph of causes. Take several, and read the identity first.
# - One seed, one model of each kind, a hundred problems or so; the intervals are over problems.
#
# ## What to run next
#
# Everything above as commands; each writes records and adds to one report.
#
# ```
# interp latent rollout experiments/records/latent/coconut --out runs/thought
# interp latent necessity runs/thought --classes 8
# interp latent influence runs/thought
# interp latent influence runs/thought --preset released-code
# interp latent commitment runs/thought --sigma 0.7
# interp report runs/thought
# ```
#
# A model of your own, and all subjects with their controls:
#
# ```
# interp latent train cycle-coconut --out runs/my-coconut
# python -m experiments.latent_study --subject coconut
# python -m experiments.claims latent-identity-null coconut-needs-latents codi-needs-latents
# ```
#
# Published Coconut and CODI checkpoints load from a folder; the format is found from the names of
# the weights, and problems are one a line: `{"question", "steps", "answer"}`.
#
# ```
# interp latent rollout FOLDER --data gsm8k_test.jsonl --out runs/published
# python -m experiments.latent_study --subject codi-gpt2 --model FOLDER --data gsm8k_test.jsonl
# ```
