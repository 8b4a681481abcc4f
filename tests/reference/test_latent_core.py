"""The latent core: cached equals uncached, ragged equals single, and nothing is mutated."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from interp.latent.hf import HFSubject
from interp.latent.interventions import Do, Lane, base_run, lane, readings
from interp.latent.operators import Identity, Resample, named, rotate, zero
from interp.latent.state import Node, State
from interp.latent.subject import roll_out
from tests.latent_cases import (
    ARCHITECTURES,
    LAYOUT,
    PROBLEMS,
    calibration,
    ragged,
    random_subject,
    tokenizer,
)

CUTS = (0, 3, 1, 5)


def relative(a: Tensor, b: Tensor) -> float:
    """Largest difference, as a share of the largest value of `b`."""
    return float((a - b).abs().max() / b.abs().max())


def bits(state: State) -> list[Tensor]:
    """Copies of all that a state holds."""
    memory = state.memory
    held = [state.node.vectors, state.node.seen, memory.seen, memory.next]
    return [each.clone() for each in [*held, *(t for layer in memory.layers for t in layer)]]


def uncached(subject: HFSubject, question: str, steps: int) -> tuple[list[Tensor], Tensor]:
    """h_1..h_{steps + 1} and the log-probabilities behind the end marker, by full runs."""
    embed = subject.hf.get_input_embeddings()
    text = LAYOUT.prompt.replace("{question}", question)
    inputs = embed(torch.tensor([tokenizer()(text, add_special_tokens=False).input_ids]))
    nodes = []
    for _ in range(steps + 1):
        base = subject.hf.base_model(inputs_embeds=inputs, use_cache=False)
        nodes.append(base.last_hidden_state[:, -1])
        inputs = torch.cat([inputs, nodes[-1][:, None]], 1)
    end = torch.tensor([tokenizer()("<end>", add_special_tokens=False).input_ids])
    closed = torch.cat([inputs[:, :-1], embed(end)], 1)
    return nodes, subject.hf(inputs_embeds=closed, use_cache=False).logits[:, -1].log_softmax(-1)


@torch.no_grad()
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_check_3_the_cached_rollout_is_the_uncached_one_at_every_step(architecture):
    subject = random_subject(architecture=architecture)
    for problem in ragged((0, 4)):
        rollout = roll_out(subject, subject.prefill([problem]))
        for t, state in enumerate(rollout.states):
            nodes, logprobs = uncached(subject, problem.question, t)
            assert relative(state.node.vectors[:, 0], nodes[-1]) < 1e-5
            assert relative(subject.head(subject.close(state).hidden), logprobs) < 1e-5
            assert state.consumed == t == len(state.memory.slots)


@torch.no_grad()
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_check_4_a_ragged_batch_equals_single_problems_in_any_order(architecture):
    subject, problems = random_subject(architecture=architecture), ragged(CUTS)
    singles = [roll_out(subject, subject.prefill([problem])) for problem in problems]
    targets = [subject.target(problem.answer) for problem in problems]
    for order in ((0, 1, 2, 3), (3, 1, 0, 2), (2, 3), (1, 0, 0)):
        batch = roll_out(subject, subject.prefill([problems[i] for i in order]))
        for t, state in enumerate(batch.states):
            closed = subject.close(state)
            forced = subject.force(closed, [targets[i] for i in order])
            for row, i in enumerate(order):
                alone = singles[i].states[t]
                assert relative(state.node.vectors[row], alone.node.vectors[0]) < 1e-5
                ended = subject.close(alone)
                assert relative(closed.hidden[row], ended.hidden[0]) < 1e-5
                single = subject.force(ended, [targets[i]]).logprobs[0]
                assert relative(forced.logprobs[row], single) < 1e-5
                assert int(state.memory.next[row]) == int(alone.memory.next[0])


@torch.no_grad()
def test_padding_is_seen_by_nobody():
    subject = random_subject()
    long, short = ragged((0, 5))
    state = subject.prefill([long, short])
    assert state.memory.seen.sum(1).tolist() == state.memory.next.tolist() == [10, 5]
    pads = ~state.memory.seen[1]
    layers = tuple(
        (k.where(~pads[None, None, :, None] | (torch.arange(2) == 0)[:, None, None, None], 9.0), v)
        for k, v in state.memory.layers
    )
    spoilt = State(0, state.node, type(state.memory)(layers, state.memory.seen, state.memory.next))
    assert torch.equal(subject.step(spoilt).node.vectors, subject.step(state).node.vectors)


@torch.no_grad()
def test_decoding_is_the_same_alone_and_in_a_batch():
    subject, problems = random_subject(), ragged(CUTS)
    batch = subject.decode(subject.close(roll_out(subject, subject.prefill(problems)).states[-1]))
    for problem, text in zip(problems, batch, strict=True):
        rollout = roll_out(subject, subject.prefill([problem]))
        assert subject.decode(subject.close(rollout.states[-1])) == [text]


@torch.no_grad()
def test_a_row_near_the_end_of_the_context_does_not_cut_short_the_others():
    subject = random_subject()
    problems = ragged((0, 0))
    long = type(problems[0])("long", " ".join(["a"] * 505), (), "b")
    alone = roll_out(subject, subject.prefill(problems[:1])).states[-1]
    both = roll_out(subject, subject.prefill([problems[0], long])).states[-1]
    (single,) = subject.decode(subject.close(alone), 6)
    first, cut = subject.decode(subject.close(both), 6)
    assert first == single and len(single.split()) > len(cut.split()) >= 1


@torch.no_grad()
@pytest.mark.parametrize("architecture", ["tiny-gpt2", "tiny-llama"])
def test_check_5_a_parent_is_bit_identical_after_ten_branches(architecture):
    subject, bank = random_subject(architecture=architecture), calibration("coconut", architecture)
    base = base_run(subject, PROBLEMS[:3])
    before = [bits(state) for state in base.rollout.states]
    banked = [t.clone() for slot in bank.slots for layer in slot.layers for t in layer]
    lanes = [lane(2, named(name)) for name in ("zero", "mean", "gaussian", "rotate", "resample")]
    lanes += [lane(2, zero(), edge) for edge in ("recurrence", "cache")]
    lanes += [lane(2, named("kv_mask"), "kv"), lane(2, named("kv_swap"), "kv")]
    lanes += [lane(2, named("kv_swap"), "both")]
    targets = [subject.target(problem.answer) for problem in PROBLEMS[:3]]
    for reading in readings(subject, base, lanes, bank):
        subject.force(reading.closed, targets * len(reading.lanes))
        subject.decode(reading.closed)
    after = [bits(state) for state in base.rollout.states]
    for old, new in zip(before, after, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(old, new, strict=True))
    now = [t for slot in bank.slots for layer in slot.layers for t in layer]
    assert all(torch.equal(a, b) for a, b in zip(banked, now, strict=True))


@torch.no_grad()
def test_the_two_path_splits_recombine_to_the_whole_edit():
    subject, bank, problems = random_subject(), calibration(), PROBLEMS[:2]
    base = base_run(subject, problems)
    ends = {}
    for edge in ("input", "recurrence", "cache"):
        found = readings(subject, base, [lane(2, zero(), edge)], bank)
        ends[edge] = next(found)  # read right after step 2: only its slot is edited
    clean, whole = ends["input"].clean, ends["input"].closed
    halves = ends["recurrence"].closed, ends["cache"].closed
    assert torch.equal(halves[0].hidden, clean.hidden)  # slot 2 keeps its keys and values
    assert torch.equal(halves[1].hidden, whole.hidden)  # and h_3 is not consumed yet

    parent = base.rollout.states[1]
    fed = Node(torch.zeros_like(parent.node.vectors), parent.node.seen)
    edited, plain = subject.step(parent, fed), subject.step(parent)
    joined = State(2, edited.node, edited.memory)
    split_onward = State(2, edited.node, plain.memory)  # recurrence only
    split_cache = State(2, plain.node, edited.memory)  # cache only
    reads = [
        subject.close(roll_out(subject, s, steps=2).states[-1]).hidden
        for s in (joined, split_onward, split_cache, plain)
    ]
    for edge, mine in zip(("input", "recurrence", "cache"), reads, strict=False):
        *_, last = readings(subject, base, [lane(2, zero(), edge)], bank)
        assert relative(last.closed.hidden[:2], mine) < 1e-5
    apart = [float((a - b).abs().max()) for i, a in enumerate(reads) for b in reads[:i]]
    assert min(apart) > 1e-3  # four different runs


@torch.no_grad()
def test_check_5_an_identity_at_another_step_leaves_an_edit_as_it_is():
    subject, bank = random_subject(), calibration()
    base = base_run(subject, PROBLEMS[:3])
    (alone,) = readings(subject, base, [lane(2, rotate())], bank, at="end")
    later, sooner = (
        Lane((Do(2, rotate()), Do(3, Identity()))),
        Lane((Do(1, Identity()), Do(2, rotate()))),
    )
    (found,) = readings(subject, base, [later], bank, at="end")
    assert torch.equal(found.closed.hidden, alone.closed.hidden)
    (found,) = readings(subject, base, [sooner], bank, at="end")  # step 1 in another batch shape
    assert relative(found.closed.hidden, alone.closed.hidden) < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("kind", ["coconut", "codi", "pause", "no_recurrence"])
def test_check_3_a_branch_and_its_rollout_are_a_full_rerun(kind):
    subject = random_subject(kind)
    rollout = roll_out(subject, subject.prefill(PROBLEMS[:3]))
    for t in range(5):
        again = subject.prefill(PROBLEMS[:3])
        for _ in range(t):
            again = subject.step(again, again.node)  # h_t fed by hand
        assert all(map(torch.equal, bits(again), bits(rollout.states[t])))
    branch = roll_out(subject, rollout.states[2])
    assert all(map(torch.equal, bits(branch.states[-1]), bits(rollout.states[-1])))


@torch.no_grad()
def test_in_float64_the_cache_costs_nothing_but_rounding():
    subject = random_subject(dtype=torch.float64)
    (problem,) = ragged((2,))
    rollout = roll_out(subject, subject.prefill([problem]))
    nodes, _ = uncached(subject, problem.question, 4)
    assert relative(rollout.states[-1].node.vectors[:, 0], nodes[-1]) < 1e-13  # 1e-6 in float32


@torch.no_grad()
def test_keys_and_values_of_a_donor_are_those_that_its_own_run_left():
    subject, bank, problems = random_subject(), calibration(), PROBLEMS[:2]
    base = base_run(subject, problems)
    (found,) = readings(subject, base, [lane(3, Resample("same_position"), "kv")], bank, at="end")
    (receipt,) = found.acted[0]
    assert receipt.donors is not None
    ids = [problem.id for problem in bank.problems]
    state = base.rollout.states[3]
    given = bank.slots[2].take([ids.index(str(name)) for name in receipt.donors])
    swapped = State(3, state.node, state.memory.with_slot(3, given))
    end = subject.close(roll_out(subject, swapped).states[-1])
    assert relative(found.closed.hidden[:2], end.hidden) < 1e-5
    assert relative(found.closed.hidden[:2], found.clean.hidden[:2]) > 1e-3
