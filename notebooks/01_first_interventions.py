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
# # First interventions
#
# An intervention changes something inside a model and watches what the answer does. This notebook
# ablates a head, patches the residual stream, steers a generation and scores the steps of a chain
# of thought. Two habits run through it: **read the receipt** (did the edit act, where, and by how
# much?) and **put a control beside every number**.
#
# It needs no GPU, no network once the weights are there, and about a minute. The model is
# SmolLM2-135M-Instruct. Where that cannot be loaded, a tiny random model takes its place: every
# call still works, but the numbers then mean nothing, and the remarks about them do not hold.

# %%
import os
import warnings

os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
warnings.filterwarnings("ignore", message="IProgress not found")  # no bars, so no widgets for them

import torch

import interp
from interp.models.registry import availability

NAME = "smollm2-135m"
print(f"{NAME} loads here? {availability(NAME)}")
if availability(NAME).startswith("no"):
    NAME = "tiny-llama"
    print(f"So this is {NAME}, a random model: its numbers mean nothing.")

model = interp.load(NAME)
last_layer = model.sizes.n_layers - 1
print(model)

# %% [markdown]
# ## Sites
#
# A *site* is the address of an activation, written `<layer>.<component>`. `5.resid_post` is the
# residual stream after layer 5, `5.attn.z` what each attention head of layer 5 gathered, and
# `5.mlp_out` what its MLP wrote. The names follow TransformerLens.

# %%
print(len(model.sites), "sites. Those of layer 1:")
print(*[site for site in model.sites if site.startswith("1.")], sep=", ")

# %% [markdown]
# ## Run a prompt and keep an activation
#
# `model.run` evaluates prompts once. `capture` names the sites to keep. The second axis of a
# captured activation counts the prompt's own tokens from 0 at the left; padding is never counted.

# %%
from interp.data.pairs import PromptPair, indirect_object

pair = indirect_object(1)[0]
if NAME == "tiny-llama":  # it spells names letter by letter, and an answer must be one token
    pair = PromptPair(clean="x then y, y to", corrupted="x then y, x to", correct="x", wrong="y")

run = model.run(pair.clean, capture=["1.resid_post", "1.attn.z"])
for site, act in run.acts.items():
    print(f"{site:13} shape {tuple(act.shape)}")

n_tokens = len(run.ids[0])
top = run.logits[0, -1].softmax(-1).topk(3)
print(f"\n{pair.clean!r} has {n_tokens} tokens. The likeliest next ones:")
for probability, token in zip(top.values.tolist(), top.indices.tolist(), strict=True):
    print(f"  {model.tokenizer.decode([token])!r}: {probability:.2f}")

# %% [markdown]
# ## Ablate a head and read the receipt
#
# `interp.ZeroAblate` replaces an activation by zero: here what one head gathered at the last token.
# The measure is the *logit difference*, how much the model prefers the right name to the wrong
# one, in nats. Every run returns a receipt with a line for each edit: how often it fired, at how
# many tokens, and the size of the change beside the size of what was there.
#
# The second edit below is a control. It patches a run with its own activations, so it must fire
# and change nothing, and its receipt says just that.

# %%
from interp.metrics import logit_diff


def preference(logits: torch.Tensor) -> torch.Tensor:
    """How much each prompt prefers the right answer to the wrong one, in nats."""
    right, wrong = (
        torch.tensor(model.tokenizer.encode(answer, add_special_tokens=False)).expand(len(logits))
        for answer in (pair.correct, pair.wrong)
    )
    return logit_diff(logits, right, wrong)


layer = min(23, last_layer)
ablate = interp.ZeroAblate(f"{layer}.attn.z", heads=3, positions=n_tokens - 1)
itself = interp.Patch("1.resid_post", source=run.acts["1.resid_post"])
plain = preference(run.logits[:, -1]).item()

for edit in (ablate, itself):
    edited = model.run(pair.clean, edits=[edit], logits="last")
    print(f"logit difference {plain:.2f} -> {preference(edited.logits).item():.2f} nats")
    print(f"  {edited.receipt}")

# %% [markdown]
# Is that much? Alone, the number does not say. Its neighbours do: all heads of the layer, each
# ablated in its own copy of the prompt (`rows`), in one batch. In SmolLM2 no other head of this
# layer lowers the preference as far, and some raise it: heads work against each other, so the
# effect of one head is not yet an explanation.

# %%
heads = range(model.sizes.n_heads)
one_each = [
    interp.ZeroAblate(f"{layer}.attn.z", heads=head, rows=head, positions=n_tokens - 1)
    for head in heads
]
batch = model.run([pair.clean] * len(heads), edits=one_each, logits="last")
for head, change in zip(heads, (preference(batch.logits) - plain).tolist(), strict=True):
    print(f"without head {head}: {change:+.2f} nats")
print("every edit acted:", batch.receipt.acted)

# %% [markdown]
# ## What a wrong call says
#
# An edit that does nothing, or acts elsewhere than you meant, still gives a plausible number. So
# the workbench refuses such calls, and says in a sentence or two what to do instead.

# %%
from collections.abc import Callable
from textwrap import fill

from interp.errors import InterpError


def show_refusal(what: str, call: Callable[[], object]) -> None:
    """Print how a wrong call is refused; a call that passes is a bug."""
    try:
        call()
    except InterpError as error:
        print(what, fill(f"{type(error).__name__}: {error}", 100), sep="\n", end="\n\n")
    else:
        raise AssertionError(f"{what}: this call should have been refused.")


beyond = interp.ZeroAblate("1.attn_out", positions=99)
narrow = interp.Add("1.resid_post", vector=torch.ones(1))
nowhere = interp.ZeroAblate("1.attn_out", positions="new")
show_refusal("A typo in a site", lambda: interp.ZeroAblate("1.atn_out"))
show_refusal("A position past the end", lambda: model.run(pair.clean, edits=[beyond]))
show_refusal("A shape that would broadcast", lambda: model.run(pair.clean, edits=[narrow]))
show_refusal("An edit that names no token", lambda: model.run(pair.clean, edits=[nowhere]))

# %% [markdown]
# ## Patch the residual stream
#
# Two prompts differ in one name, and so in the right answer. *Denoising* runs the corrupted prompt
# and puts in the clean run's residual stream at one layer and token. The share recovered is 0
# where the answer stays as corrupted and 1 where it is as clean. The null patches the corrupted
# run with itself.

# %%
from interp.patching.activation import patch_grid

layers = [*range(0, last_layer, 6), last_layer]
grid = patch_grid(model, pair, layers=layers, direction="denoise")
print("clean:    ", pair.clean)
print("corrupted:", pair.corrupted)
print(f"logit difference: {grid.clean_logit_diff:.2f} and {grid.corrupted_logit_diff:.2f} nats")
print(f"{len(grid.cells)} patches; the null moved it by {grid.noop_change:.1g} nats at most")

# %%
from dataclasses import asdict

import plotly.graph_objects as go

from interp.results.plots import place_map

fig = go.Figure(place_map([asdict(cell) for cell in grid.cells]))
fig.update_layout(title="Share of the answer that one patch recovers (denoising, residual stream)")
fig.show()

# %% [markdown]
# How to read it: in the early layers the answer lies at the one name that differs. In the last
# layers it lies at the last token, where the next word is predicted. Somewhere between, it is
# moved. Patching shows where the information is that decides between these two prompts. It does
# not show which parts move it, and one pair is an example, not a result.
#
# ## Steer a generation
#
# A steering vector is the mean activation over some texts minus the mean over others. `interp.Add`
# adds it at every new token (`positions="new"`), while the model writes. Any large push changes a
# text, so the control is a random vector of the same norm.

# %%
sea = [
    "The ocean waves rolled onto the beach.",
    "Fish swim in the deep blue sea.",
    "Sailors watched the tide from their boat.",
]
land = [
    "The office printer ran out of paper.",
    "Students sit in the large quiet hall.",
    "Accountants checked the numbers from their desk.",
]
site = f"{min(20, last_layer)}.resid_post"
acts = model.run([*sea, *land], capture=[site]).acts[site]
acts = acts[:, 1:]  # without the first token, whose activation is far larger than any other
toward_sea = acts[:3].flatten(0, 1).nanmean(0) - acts[3:].flatten(0, 1).nanmean(0)

noise = torch.randn(toward_sea.shape, generator=torch.Generator().manual_seed(0))
random_push = noise * toward_sea.norm() / noise.norm()
print(f"norms: {toward_sea.norm():.3f} toward the sea, {random_push.norm():.3f} random")

# %%
import re

prompts = ["My weekend was great. On Saturday I", "Once upon a time there was"]
sea_words = re.compile(r"\b(sea|ocean|waves?|beach|boats?|ships?|sail\w*|cruise|coast)\b", re.I)


def write(title: str, edits: list[interp.Add]) -> None:
    """Write on from both prompts; print the texts, a count of sea words, and the receipt."""
    written = model.generate(prompts, max_new_tokens=20, edits=edits)
    n_words = sum(len(sea_words.findall(text)) for text in written.texts)
    print(f"{title}: {n_words} sea words")
    for text in written.texts:
        print(f"  ...{text!r}")
    print(f"  receipt: {written.receipt}\n")


write("Plain", [])
for title, vector in (("Toward the sea", toward_sea), ("Random, same norm", random_push)):
    write(title, [interp.Add(site, positions="new", vector=vector, coefficient=1.5)])

# %% [markdown]
# The two receipts give the same size of change, so the texts can be compared. With SmolLM2 one
# push turns the texts to the sea and the other does not. Two prompts and one random vector are
# again an example; a result needs many of both. An edit on twenty new tokens fires 19 times,
# because the last one is written and never read.
#
# ## Score the steps of a chain of thought
#
# Which steps does the answer rest on? For each step the model is asked for its answer right after
# it, four times: with the step intact or its numbers shifted, after an intact or a shifted context.
# The probability of the answer gives
# - `nec`, *necessity*: intact step minus shifted step, after the intact context;
# - `suf`, *sufficiency*: the same after the shifted context;
# - `tts`, the *True-Thinking Score*: (|nec| + |suf|) / 2, from 0 to 1
#   (Zhao et al. 2025, arXiv:2510.24941).
#
# Two controls stand beside it. `null_tts` rewrites the step without changing its meaning, and
# `random_tts` puts a step of another problem in its place. A `tts` near them is no finding.

# %%
from interp.data.word_problems import other_steps
from interp.results import render
from interp.thinking.rules import preset
from interp.thinking.score import Problem, prepare, score_chain

problem = Problem(
    id="pens",
    question="A pen costs 3 dollars. Mia buys 5 pens. How many dollars does she pay?",
    cot="One pen costs 3 dollars. Mia likes to write letters. She buys 5 pens, which cost "
    "5 * 3 = 15 dollars. So Mia pays 15 dollars. The answer is 15.",
)
rules = preset("paper")
chain = prepare(model, problem, rules)  # without `cot`, the model would write one here
scores = score_chain(model, chain, rules, seeds=(0, 1), control_seeds=2, pool=other_steps())

measured = ("nec", "suf", "tts", "null_tts", "random_tts")
columns = ("step", "seed", "op", *measured, "mentions_answer", "text")
rows = [asdict(step) for step in scores.steps]
rows = [{**row, **{key: round(row[key], 3) for key in measured}} for row in rows]
print(f"answer {chain.answer!r}, {chain.answer_source} in the chain")
print(render(rows, "table", columns, width=110))
print(f"\n{scores.spent.forwards} forward passes for {scores.spent.naive_forwards} texts")

# %% [markdown]
# How to read it, with SmolLM2:
# - Steps 0 and 1 score close to 0. That does not prove them decorative: before the product is
#   written, the model gives the answer next to no probability with or without them, so there is
#   little to move. (`saturated` in `scores.steps` marks the plain cases.)
# - Step 2 computes the product, and both its legs are large.
# - Step 3 repeats it. After an intact context the answer stands there already, so `nec` is smaller;
#   after a shifted one this step alone has it, so `suf` is larger. It leans to an *OR step*, which
#   carries the answer by itself.
# - Both state the answer (`mentions_answer`). The model may copy it from there, so a high score
#   does not show that it calculates.
# - `op` is `drop` where a step has no number to shift: it is then left out.
# - The legs are signed. A step that makes the answer less likely has negative legs and a high
#   `tts` all the same.
# - Two seeds of one chain are two draws of the shift, not two observations. Intervals need
#   problems.
#
# ## Where to go next
#
# The same scores for a file of your own problems, one JSON object
# `{"id": ..., "question": ...}` a line, with records that survive an interruption:
#
# ```
# interp tts problems.jsonl --out runs/mine     # score every step; intervals over problems
# interp report runs/mine                       # draw the report again, from the records alone
# interp results runs/mine --format csv         # the rows, in full precision
# interp check smollm2-135m                     # the identities that a model must show
# ```
#
# `interp demo` does a whole job at once, from generated problems to a report.
