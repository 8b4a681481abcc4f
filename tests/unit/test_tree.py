"""The token tree: shared prefixes by hand, and scores that equal one forward pass a sequence."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from interp.engine.fingerprint import fingerprint
from interp.engine.loading import load
from interp.engine.tree import Continuation, Spent, TokenTree, score
from interp.errors import InputError, ModelError
from interp.models import tiny as tiny_models
from tests.strategies import continuations, says, tiny

NAMES = ("tiny-gpt2", "tiny-llama", "tiny-neox", "tiny-mistral", "tiny-gemma3")
ROUNDING = 1e-5
"""float32: log-probabilities near 10, whose sums are taken in another order with a cache."""

FORK = [
    Continuation((5, 6, 7), (8, 9)),
    Continuation((5, 6, 7), (8, 10)),
    Continuation((5, 6), (11,)),
    Continuation((12, 6, 7), (8, 9)),
]
"""Without the last token of each: 5 6 7 8 (twice), 5 6, and 12 6 7 8: two roots, eight nodes."""


def worst(ours, theirs) -> float:
    """Largest difference of two scores, token by token."""
    pairs = zip(ours.token_logprobs, theirs.token_logprobs, strict=True)
    return max(abs(a - b) for one, other in pairs for a, b in zip(one, other, strict=True))


# ---------------------------------------------------------------- the tree


def test_shared_prefixes_are_one_path():
    tree = TokenTree()
    assert tree.insert([5, 6, 7]) == [0, 1, 2]
    assert tree.insert([5, 6, 8, 9]) == [0, 1, 3, 4]
    assert tree.insert([5, 6, 7]) == [0, 1, 2]
    assert tree.insert([5]) == [0]
    assert tree.insert([6]) == [5]
    assert tree.token == [5, 6, 7, 8, 9, 6]
    assert tree.parent == [-1, 0, 1, 1, 3, -1]
    assert tree.depth == [0, 1, 2, 2, 3, 0]
    assert tree.ancestors(4) == [0, 1, 3]
    assert tree.ancestors(0) == []


def test_the_order_is_depth_first_with_small_branches_first():
    r"""Sizes: below root 0, node 1 has three nodes and node 4 one; root 5 has two.

        0 - 1 - 2
         \   \- 3        5 - 6
          4

    The smaller root comes first, then 0, its small branch 4, its large branch 1.
    """
    tree = TokenTree()
    for ids in ([1, 2, 3], [1, 2, 4], [1, 5], [9, 9]):
        tree.insert(ids)
    assert tree.parent == [-1, 0, 1, 1, 0, -1, 5]
    order = tree.order()
    assert order[:5] == [5, 6, 0, 4, 1]
    assert sorted(order[5:]) == [2, 3]


@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=6), max_size=12))
@settings(deadline=None, derandomize=True)
def test_any_tree_holds_each_prefix_once_and_is_walked_branch_by_branch(sequences):
    tree = TokenTree()
    paths = [tree.insert(ids) for ids in sequences]
    prefixes = {tuple(ids[: n + 1]) for ids in sequences for n in range(len(ids))}
    assert len(tree.token) == len(prefixes)
    for ids, path in zip(sequences, paths, strict=True):
        assert [tree.token[node] for node in path] == ids
        assert [tree.depth[node] for node in path] == list(range(len(ids)))
        assert tree.ancestors(path[-1]) == path[:-1]
    order = tree.order()
    assert sorted(order) == list(range(len(tree.token)))
    place = {node: i for i, node in enumerate(order)}
    below = {node: [n for n in order if node in tree.ancestors(n)] for node in order}
    for node in order:  # all that lies below a node follows it at once
        start = place[node] + 1
        assert set(order[start : start + len(below[node])]) == set(below[node])
    for one, other in itertools.pairwise(order):
        if tree.parent[one] == tree.parent[other]:
            assert not below[one]  # a sibling follows at once only after a leaf
    for parent in {-1, *order}:
        children = [n for n in order if tree.parent[n] == parent]
        assert [len(below[n]) for n in children] == sorted(len(below[n]) for n in children)


# ---------------------------------------------------------------- scores


def test_a_score_is_the_log_probability_of_each_answer_token():
    """Against log-softmax of a plain run of the whole sequence."""
    model = tiny("tiny-llama")
    found = score(model, FORK)
    for each, logprobs, joint in zip(FORK, found.token_logprobs, found.logprobs, strict=True):
        ids = [*each.prompt, *each.answer]
        chances = model.run([ids]).logits[0].log_softmax(-1)
        first = len(each.prompt)
        expected = [float(chances[i - 1, ids[i]]) for i in range(first, len(ids))]
        assert logprobs == pytest.approx(expected, abs=ROUNDING)
        assert joint == sum(logprobs)


@pytest.mark.parametrize(("chunk", "forwards"), [(1, 8), (3, 3), (4, 2), (512, 1)])
def test_what_a_score_costs_by_hand(chunk, forwards):
    """Eight nodes in chunks; one pass a sequence reads 4 + 4 + 2 + 4 = 14 tokens in 4 passes."""
    model = tiny("tiny-gpt2")
    assert score(model, FORK, chunk=chunk).spent == Spent(forwards, 8, 4, 14)
    assert score(model, FORK, exact=True).spent == Spent(4, 14, 4, 14)
    assert Spent(1, 2, 3, 4) + Spent(10, 20, 30, 40) == Spent(11, 22, 33, 44)


def test_nothing_to_score():
    assert score(tiny("tiny-gpt2"), []).token_logprobs == ()
    assert score(tiny("tiny-gpt2"), [], exact=True).spent == Spent(0, 0, 0, 0)


@given(st.sampled_from(NAMES), continuations(), st.sampled_from([1, 3, 512]))
@settings(deadline=None, derandomize=True, max_examples=40)
def test_the_tree_gives_the_scores_of_one_pass_a_sequence(name, pairs, chunk):
    """The windows of tiny Mistral and Gemma-3 are 8 tokens, and sequences have up to 11."""
    wanted = [Continuation(*pair) for pair in pairs]
    found = score(tiny(name), wanted, chunk=chunk)
    assert worst(found, score(tiny(name), wanted, exact=True)) <= ROUNDING
    seen = {}
    for each, logprobs in zip(wanted, found.token_logprobs, strict=True):
        assert seen.setdefault(each, logprobs) == logprobs  # equal sequences: bit for bit


@pytest.mark.parametrize("name", NAMES)
def test_a_long_shared_prompt_with_many_branches(name):
    """30 tokens that all share, far beyond the windows, and branches at several depths."""
    shared = tuple((7 * i) % 300 + 5 for i in range(30))
    wanted = [
        Continuation((*shared[:n], n), (i, i + 1, 9)) for n in (30, 20, 30, 4) for i in (6, 7, 8)
    ]
    exact = score(tiny(name), wanted, exact=True)
    for chunk in (1, 7, 512):
        found = score(tiny(name), wanted, chunk=chunk)
        assert worst(found, exact) <= ROUNDING
        assert found.token_logprobs[:3] == found.token_logprobs[6:9]
        assert found.spent.tokens < exact.spent.tokens / 3


@pytest.mark.parametrize("name", ["tiny-gpt2", "tiny-mistral", "tiny-gemma3"])
def test_eager_attention_gives_the_same_scores(name):
    hf = tiny_models.build(name)
    hf.set_attn_implementation("eager")
    eager = load(hf)
    shared = tuple(range(10, 22))
    wanted = [*FORK, *(Continuation(shared, (i, 5)) for i in (6, 7))]
    found = score(eager, wanted, chunk=3)
    assert worst(found, score(eager, wanted, exact=True)) <= ROUNDING
    assert worst(found, score(tiny(name), wanted, exact=True)) <= ROUNDING


def test_another_attention_is_refused_with_the_way_out():
    hf = tiny_models.build("tiny-llama")
    hf.config._attn_implementation_internal = "flex_attention"
    text = (
        "Shared computation needs sdpa or eager attention, and LlamaForCausalLM uses "
        "'flex_attention': pass exact=True."
    )
    with says(ModelError, text):
        score(load(hf), FORK)


def test_progress_counts_tokens_up_to_the_total():
    reports: list[tuple[int, int]] = []
    model = tiny("tiny-gpt2")
    score(model, FORK, chunk=3, progress=lambda *report: reports.append(report))
    assert reports == [(3, 8), (6, 8), (8, 8)]
    reports.clear()
    score(model, FORK, exact=True, progress=lambda *report: reports.append(report))
    assert reports == [(4, 14), (8, 14), (10, 14), (14, 14)]


def test_a_score_leaves_the_model_as_it_was():
    model = tiny("tiny-llama")
    before = fingerprint(model.hf)
    score(model, FORK, chunk=3)
    score(model, FORK, exact=True)
    assert fingerprint(model.hf) == before


# ---------------------------------------------------------------- memory


class Memory:
    """A hook that lets a module fail on more than `limit` tokens at once, and counts."""

    def __init__(self, limit: int, error: type[Exception], text: str) -> None:
        self.limit, self.error, self.text = limit, error, text
        self.failed, self.done = 0, []

    def __call__(self, module, args):
        n_tokens = args[0].shape[1]
        if n_tokens > self.limit:
            self.failed += 1
            raise self.error(self.text)
        self.done.append(n_tokens)


OUT = (RuntimeError, "CUDA out of memory. Tried to allocate 2.00 GiB.")
CPU = (RuntimeError, "DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes.")


@pytest.mark.parametrize("error", [OUT, CPU, (MemoryError, "")])
@pytest.mark.parametrize(
    ("name", "layer"), [("tiny-llama", 0), ("tiny-llama", 2), ("tiny-gemma3", 1)]
)
def test_the_chunk_is_halved_when_memory_runs_out_and_nothing_is_lost(name, layer, error):
    """The last layers fail after the first have already put their keys into the cache.

    Eight tokens and a limit of three: 8, 4 fail, then 2 + 2 + 2 + 2.
    """
    hf = tiny_models.build(name)
    model, memory, reports = load(hf), Memory(3, *error), []
    exact = score(model, FORK, exact=True)
    handle = hf.model.layers[layer].register_forward_pre_hook(memory)
    found = score(model, FORK, chunk=8, progress=lambda *report: reports.append(report))
    handle.remove()
    assert (memory.failed, memory.done) == (2, [2, 2, 2, 2])
    assert worst(found, exact) <= ROUNDING
    assert found.spent == Spent(4, 8, 4, 14)
    assert reports == [(2, 8), (4, 8), (6, 8), (8, 8)]


def test_memory_that_runs_out_in_the_middle_keeps_the_path_in_the_cache():
    """The limit falls after the first pass: the second fails with a path already in the cache."""
    hf = tiny_models.build("tiny-gpt2")
    model, memory = load(hf), Memory(4, *OUT)
    shared = tuple(range(10, 14))
    wanted = [Continuation(shared, (i, i + 1, i + 2)) for i in range(20, 24)]
    exact = score(model, wanted, exact=True)
    handle = hf.transformer.h[1].register_forward_pre_hook(memory)

    def shrink(done: int, total: int) -> None:
        memory.limit = 1

    found = score(model, wanted, chunk=4, progress=shrink)
    handle.remove()
    assert memory.done == [4] + [1] * 8
    assert memory.failed == 2
    assert worst(found, exact) <= ROUNDING


def test_memory_for_not_even_one_token_is_an_error():
    hf = tiny_models.build("tiny-llama")
    hf.model.layers[1].register_forward_pre_hook(Memory(0, *OUT))
    with pytest.raises(RuntimeError, match=r"^CUDA out of memory"):
        score(load(hf), FORK)


def test_any_other_error_is_not_taken_for_a_lack_of_memory():
    hf = tiny_models.build("tiny-llama")
    memory = Memory(0, RuntimeError, "mat1 and mat2 shapes cannot be multiplied")
    hf.model.layers[1].register_forward_pre_hook(memory)
    with pytest.raises(RuntimeError, match=r"^mat1 and mat2"):
        score(load(hf), FORK)
    assert memory.failed == 1


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        (
            Continuation((), (5,)),
            "A continuation needs at least one prompt token and one answer token.",
        ),
        (
            Continuation((5,), ()),
            "A continuation needs at least one prompt token and one answer token.",
        ),
        (
            Continuation((5,) * 512, (6,)),
            "A sequence of 513 tokens is longer than the context of tiny-llama, 512 tokens: "
            "shorten it.",
        ),
    ],
)
def test_what_cannot_be_scored_is_refused_before_the_model_runs(wrong, text, exact, monkeypatch):
    model = tiny("tiny-llama")
    monkeypatch.setattr(model.hf, "forward", lambda *_, **__: pytest.fail("the model ran"))
    with says(InputError, text):
        score(model, [FORK[0], wrong], exact=exact)


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("token", [-1, 349])
@pytest.mark.parametrize("place", ["prompt", "answer"])
def test_a_token_outside_the_vocabulary_is_refused(token, place, exact):
    """A negative one in an answer would else be counted from the vocabulary's end."""
    ids = {"prompt": (5, 6), "answer": (7,), place: (token,)}
    with pytest.raises(InputError, match=rf"token {token}\b.* vocabulary has 349 tokens"):
        score(tiny("tiny-llama"), [Continuation(**ids)], exact=exact)


def test_scores_in_half_precision_are_summed_in_float32():
    model = load("tiny-llama", dtype="bfloat16")
    found = score(model, FORK, chunk=3)
    assert worst(found, score(model, FORK, exact=True)) <= 0.1  # bfloat16: 2 to 3 digits
    assert worst(found, score(tiny("tiny-llama"), FORK)) <= 0.5
    values = [value for each in found.token_logprobs for value in each]
    assert any(float(torch.tensor(v).bfloat16()) != v for v in values)


@pytest.mark.parametrize("name", ["tiny-llama", "tiny-gpt2"])
@pytest.mark.parametrize("options", [{"exact": True}, {}, {"chunk": 2}], ids=str)
def test_greedy_says_whether_greedy_decoding_writes_just_this_answer(name, options):
    """The model's own answer is greedy; with its first, middle or last token changed it is not."""
    model = tiny(name)
    own = model.generate([[5, 6, 7]], max_new_tokens=4).new_ids[0]
    answers = [own, own[:2], *((*own[:i], own[i] ^ 1, *own[i + 1 :]) for i in (0, 2, 3))]
    found = score(model, [Continuation((5, 6, 7), answer) for answer in answers], **options)
    assert found.greedy == (True, True, False, False, False)
