"""A recurrent-depth model as a subject: recurrences are steps, positions are places."""

from __future__ import annotations

import json
from dataclasses import replace

import jaxtyping
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from experiments import train_recurrent_depth as recipe
from interp.data.cycle_hop import CycleHop
from interp.data.latent_problems import LatentProblem
from interp.errors import EditError, InputError, SilentEditError, StoreError
from interp.latent.calibration import calibrate
from interp.latent.interventions import Do, Lane, base_run, lane, readings
from interp.latent.layout import Layout, Target
from interp.latent.operators import Resample, Rule, constant, named, rotate, zero
from interp.latent.recurrent_depth import (
    Depth,
    RecurrentDepth,
    RecurrentDepthConfig,
    RecurrentDepthModel,
    load_model,
)
from interp.latent.state import Memory, Node
from interp.latent.subject import roll_out

TASK = CycleHop(n_nodes=5, hops=3)
LAYOUT = Layout(prompt="{question}", close="", step="{step}", target="{answer}", mark="", eos=False)


@pytest.fixture(scope="module", autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


def random_model(seed: int = 0) -> RecurrentDepthModel:
    tok = TASK.tokenizer()
    config = RecurrentDepthConfig(d_vocab=len(tok), d_model=16, n_heads=2, n_ctx=16, n_steps=3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = RecurrentDepthModel(config)
        for weight in model.parameters():
            if weight.ndim > 1:
                nn.init.normal_(weight, std=0.4)
    return model.eval()


def subject(**settings) -> RecurrentDepth:
    return RecurrentDepth(random_model(), TASK.tokenizer(), layout=LAYOUT, **settings)


def ragged() -> list[LatentProblem]:
    """Questions of 6, 3, 6 and 4 tokens."""
    long = TASK.draw(2, seed=3)
    short = [LatentProblem("s1", "ab ba a", (), "b"), LatentProblem("s2", "ab bc ca b", (), "c")]
    return [long[0], short[0], long[1], short[1]]


class Adder(RecurrentDepthModel):
    """A stand-in whose core adds e + 1 and whose head reads the first of two numbers."""

    def __init__(self) -> None:
        sizes = RecurrentDepthConfig(d_vocab=4, d_model=2, n_heads=1, n_ctx=8, n_steps=3)
        super().__init__(sizes)
        self.coda = nn.Sequential()
        self.head.weight.data = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 0.0], [0.0, 0.0]])

    def read_in(self, ids: torch.Tensor) -> torch.Tensor:
        return ids[..., None].expand(-1, -1, 2).float()

    def first(self, n_pos: int, seed: int) -> torch.Tensor:
        return torch.full((n_pos, 2), float(seed))

    def recur(self, state: torch.Tensor, prompt: torch.Tensor) -> torch.Tensor:
        return state + prompt + 1

    def hardness(self, state: torch.Tensor) -> torch.Tensor:
        return (state[..., 0] > 3).float() * 0.85


class Words:
    """Token ids written as numbers."""

    eos_token_id = 0

    def __call__(self, text: str, **_: object):
        return type("Ids", (), {"input_ids": [int(word) for word in text.split()]})()

    def decode(self, ids: list[int], **_: object) -> str:
        return " ".join(map(str, ids))


def adder(**settings) -> RecurrentDepth:
    return RecurrentDepth(Adder(), Words(), layout=LAYOUT, **settings)


PAIR = [LatentProblem("long", "1 2 3", (), "1"), LatentProblem("short", "2", (), "1")]


def test_a_recurrence_is_worked_out_by_hand():
    """s_0 = 10, e = the token, s_i = s_{i-1} + e + 1: 10, 12, 14, 16 at a token 1."""
    asked = adder(seed=10)
    state = asked.prefill(PAIR)
    assert state.consumed == 0
    assert state.node.vectors[0, :, 0].tolist() == [12.0, 13.0, 14.0]
    assert state.node.seen.tolist() == [[True, True, True], [True, False, False]]
    assert state.memory.next.tolist() == [3, 1]
    last = roll_out(asked, state).states[-1]
    assert last.consumed == 3
    assert isinstance(last.memory, Depth)
    assert last.memory.states[0, :, 0].tolist() == [16.0, 19.0, 22.0]
    assert asked.close(last).hidden[:, 0].tolist() == [22.0, 19.0]  # each row's own last position
    assert asked.close(state).hidden[:, 0].tolist() == [10.0, 10.0]  # no recurrence: s_0


def test_do_puts_states_in_place_of_a_recurrence():
    """do(s_1 := 0) at every position: s_2 = e + 1, s_3 = 2 (e + 1), so 8 and 6 at the ends."""
    asked = adder(seed=10)
    state = asked.prefill(PAIR)
    nothing = Node(torch.zeros_like(state.node.vectors), state.node.seen)
    cut = asked.step(state, nothing)
    assert asked.close(cut).hidden[:, 0].tolist() == [0.0, 0.0]
    assert asked.close(roll_out(asked, cut).states[-1]).hidden[:, 0].tolist() == [8.0, 6.0]
    assert asked.close(asked.step(state)).hidden[:, 0].tolist() == [14.0, 13.0]  # untouched


def test_pass_two_happens_only_where_the_decider_says_so():
    """s_0 = 0, s_1 = 2, 3, 4; hard (.85 >= .8) only above 3, so only the last position goes on.

    s_3 there is 4 + 4 + 4 = 12; the others keep 2 and 3. In the short row s_1 = 3: it stops.
    """
    asked = adder(again="hard")
    states = roll_out(asked, asked.prefill(PAIR)).states
    assert states[1].node.seen.tolist() == [[False, False, True], [False, False, False]]
    assert states[3].memory.states[0, :, 0].tolist() == [2.0, 3.0, 12.0]  # type: ignore[union-attr]
    assert asked.close(states[3]).hidden[:, 0].tolist() == [12.0, 3.0]
    strict = adder(again="hard", threshold=0.9)  # .85 is not hard any more
    ended = roll_out(strict, strict.prefill(PAIR)).states[-1]
    assert strict.close(ended).hidden[:, 0].tolist() == [4.0, 3.0]


@pytest.mark.parametrize(("again", "ends"), [("always", [12.0, 9.0]), ("never", [4.0, 3.0])])
def test_iterations_are_forced_or_skipped(again, ends):
    asked = adder(again=again)
    assert (
        asked.close(roll_out(asked, asked.prefill(PAIR)).states[-1]).hidden[:, 0].tolist() == ends
    )


def test_a_state_of_pass_two_is_patched_at_chosen_positions():
    """do(s_2 := 100) at place 2 alone: s_3 = 100 + 4 there; place 1 runs on as it was."""
    asked = adder()
    problems = [PAIR[0]]
    base = base_run(asked, problems)
    bank = calibrate(
        asked, [LatentProblem("a", "1 1 1", (), "1"), LatentProblem("b", "2 2 2", (), "1")]
    )
    to = constant(torch.tensor([100.0, 100.0]), "hundred")
    lanes = [Lane((Do(2, to, places=(place,)),)) for place in (1, 2)]
    found = next(iter(readings(asked, base, lanes, bank, at="end")))
    assert found.closed.hidden[:, 0].tolist() == [12.0, 104.0, 12.0]  # place 1, place 2, identity
    states = found.closed.memory.states[:, :, 0]  # type: ignore[union-attr]
    assert states.tolist() == [[6.0, 103.0, 12.0], [6.0, 9.0, 104.0], [6.0, 9.0, 12.0]]
    assert [acted[0].change.item() > 0 for acted in found.acted] == [True, True, False]


def test_patching_a_pass_that_did_not_happen_is_a_silent_edit():
    asked = adder(again="hard")
    base = base_run(asked, [PAIR[0]])
    bank = calibrate(asked, [PAIR[0], LatentProblem("b", "2 2 2", (), "1")])
    ghost = Lane((Do(2, zero(), places=(0,)),))
    with pytest.raises(SilentEditError, match="zero at step 2 on the edge 'input' changed nothing"):
        list(readings(asked, base, [ghost], bank))
    real = Lane((Do(2, zero(), places=(2,)),))
    found = next(iter(readings(asked, base, [real], bank, at="end")))
    assert found.closed.hidden[:, 0].tolist() == [4.0, 12.0]  # 0 + 3 + 1; the identity beside it


@pytest.mark.parametrize("again", ["always", "hard", "never"])
def test_the_identity_is_exactly_zero_and_effects_run_forward(again):
    asked = subject(again=again, threshold=0.5)
    problems = ragged()
    bank = calibrate(asked, TASK.draw(6, seed=9))
    base = base_run(asked, problems)
    lanes = [lane(1, rotate(90.0)), *([] if again == "never" else [lane(2, zero())])]
    for found in readings(asked, base, lanes, bank):
        moved = (found.closed.hidden - found.clean.hidden).abs().amax(1)
        parts = found.split(moved)
        assert parts[-1].max() == 0.0
        assert parts[0].max() > 1e-3
        assert found.closed.consumed == found.clean.consumed == found.consumed


@pytest.mark.parametrize("again", ["always", "hard"])
def test_a_ragged_batch_gives_what_its_problems_give_alone(again):
    asked = subject(again=again, threshold=0.5)
    problems = ragged()
    together = base_run(asked, problems).rollout
    for row, problem in enumerate(problems):
        alone = roll_out(asked, asked.prefill([problem]))
        n = int(alone.states[0].memory.next)
        for a, b in zip(alone.states, together.states, strict=True):
            theirs = asked.close(b).hidden[row]
            # float32 rounds otherwise in another shape; one wrong position moves it by 0.1
            torch.testing.assert_close(asked.close(a).hidden[0], theirs, rtol=0, atol=2e-6)
            torch.testing.assert_close(
                a.node.vectors[0, :n], b.node.vectors[row, :n], rtol=0, atol=2e-6
            )
            assert a.node.seen[0, :n].tolist() == b.node.seen[row, :n].tolist()


def test_branching_changes_no_parent():
    asked = subject()
    start = asked.prefill(ragged())
    before = [start.node.vectors.clone(), start.memory.states.clone(), start.memory.prompt.clone()]
    for _ in range(3):
        roll_out(asked, asked.step(start, Node(start.node.vectors * 0, start.node.seen)))
        asked.close(start)
    after = [start.node.vectors, start.memory.states, start.memory.prompt]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    taken = start.repeat(2).take([5])
    assert torch.equal(taken.memory.states[0], start.memory.states[1])
    assert torch.equal(taken.memory.going[0], start.memory.going[1])


def test_the_start_is_fixed_by_its_seed_and_cut_at_three_deviations():
    model = random_model()
    start = model.first(6, seed=4)
    assert torch.equal(start, model.first(16, seed=4)[:6])  # a longer batch draws no other
    assert not torch.equal(start, model.first(6, seed=5))
    assert 0.3 < start.std() < 0.9
    assert start.abs().max() <= 3 * (2 / 5) ** 0.5
    problems = TASK.draw(2)
    one, other = (base_run(subject(seed=seed), problems).rollout.node(3) for seed in (1, 2))
    assert not bool(one.same(other).any())


def test_an_edge_that_does_not_exist_is_refused_before_any_run():
    asked = subject()
    problems = TASK.draw(2, seed=3)
    base, bank = base_run(asked, problems), calibrate(asked, TASK.draw(3, seed=9))
    asked.model = None  # type: ignore[assignment]  # nothing may run
    for edge, operator in (("kv", "kv_mask"), ("cache", "zero"), ("recurrence", "zero")):
        message = f"^A step of recurrent-depth has no edge '{edge}': name one of input.$"
        with pytest.raises(EditError, match=message):
            list(readings(asked, base, [lane(1, named(operator), edge)], bank))  # type: ignore[arg-type]


def test_donors_of_another_length_are_refused_and_of_the_same_taken():
    asked = subject()
    short = LatentProblem("s1", "ab ba a", (), "b")
    base, bank = base_run(asked, [short]), calibrate(asked, TASK.draw(3, seed=9))
    message = (
        r"^Row 0 has 3 positions, and the states given to it are those of 6: take donors with "
        r'prompts of the same length \(Resample\("same_position"\)\)\.$'
    )
    with pytest.raises(EditError, match=message):
        list(readings(asked, base, [lane(1, Resample())], bank))
    other = calibrate(asked, [*TASK.draw(3, seed=9), LatentProblem("s2", "bc cb c", (), "b")])
    found = next(iter(readings(asked, base, [lane(1, Resample("same_position"))], other)))
    assert found.acted[0][0].donors == ("s2",)
    given = base_run(asked, [other.problems[3]]).rollout.node(1).vectors[0]
    states = found.closed.memory.states  # type: ignore[union-attr]
    # the calibration ran it in a batch, where float32 rounds otherwise
    torch.testing.assert_close(states[0], given, rtol=0, atol=2e-6)
    assert (states[0] - base.rollout.node(1).vectors[0]).abs().max() > 0.1


def test_answers_are_one_token():
    asked = subject()
    state = asked.prefill(TASK.draw(2))
    forced = asked.force(asked.close(state), [asked.target("a"), asked.target("b")])
    assert forced.logprobs.shape == (2, 1, len(TASK.tokenizer()))
    torch.testing.assert_close(forced.logprobs.exp().sum(-1), torch.ones(2, 1))
    best = forced.logprobs[:, 0].argmax(-1).tolist()
    assert asked.decode(asked.close(state)) == [asked.tokenizer.decode([i]) for i in best]
    message = (
        "^recurrent-depth answers in one token, and a target has 2: give answers of one token, "
        "with a layout that adds no template and no end of text.$"
    )
    for call in (
        lambda: asked.target("a b"),
        lambda: asked.force(asked.close(state), [Target((1, 2), (0, 1))] * 2),
        lambda: asked.check_problem(LatentProblem("x", "ab a", (), "a b")),
    ):
        with pytest.raises(InputError, match=message):
            call()


def test_a_setting_that_does_not_exist_is_refused(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as outside of tests
    message = r"^again='hrd': positions are iterated always, hard, never\. Did you mean 'hard'\?$"
    with pytest.raises(InputError, match=message):
        subject(again="hrd")


def test_bad_settings_and_prompts_are_refused_in_a_sentence():
    with pytest.raises(InputError, match=r"^n_steps=-1: give 0 recurrences or more.$"):
        subject(n_steps=-1)
    with pytest.raises(InputError, match=r"^There is no problem to run: give at least one.$"):
        subject().prefill([])
    long = LatentProblem("x", "ab " * 17, (), "a")
    message = "^Problem 'x' takes 17 tokens, and recurrent-depth reads 16: leave it out, or shorten"
    for call in (lambda: subject().prefill([long]), lambda: subject().check_problem(long)):
        with pytest.raises(InputError, match=message):
            call()
    state = subject().prefill(TASK.draw(1))
    memory = state.memory
    plain = Memory(memory.layers, memory.seen, memory.next)
    with pytest.raises(InputError, match=r"^This state is not of a recurrent-depth model: begin"):
        subject().step(replace(state, memory=plain))


def test_a_folder_is_read_back_and_a_wrong_one_refused(tmp_path):
    model = random_model()
    with pytest.raises(StoreError, match=r"lacks config\.json: name a folder of a recurrent-depth"):
        load_model(tmp_path)
    model.config.save_pretrained(tmp_path)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    ids = torch.arange(6)[None]
    again = load_model(tmp_path)
    assert torch.equal(again.read_in(ids), model.read_in(ids))
    assert again.config.n_steps == 3
    save_file({"head.weight": model.head.weight}, tmp_path / "model.safetensors")
    with pytest.raises(StoreError, match=r"^The weights in .* are not those of its config: "):
        load_model(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    with pytest.raises(StoreError, match="holds a model of type 'gpt2', not 'recurrent_depth'"):
        load_model(tmp_path)


def test_a_recipe_names_what_each_position_is_to_read():
    """`ca ab bc a`: edges end in a, b, c; the steps from a are b and c."""
    problem = CycleHop(n_nodes=3, hops=2).draw(1, seed=1)[0]
    words = {word: i for i, word in enumerate(sorted({*problem.question.split(), *"abc"}))}
    tokens, wanted = recipe.batch_of([problem], words)
    assert tokens[0].tolist() == [words[word] for word in problem.question.split()]
    ends = [words[edge[1]] for edge in problem.question.split()[:-1]]
    assert wanted[:, 0].tolist() == [[*ends, words[step]] for step in problem.steps]


def test_the_trained_model_needs_its_recurrences():
    """Read after k hops it says f^k(x), so its answer is right after all four alone."""
    asked = recipe.load_trained()
    problems = recipe.Config().task.draw(200, seed=77)
    states = base_run(asked, problems).rollout.states
    for k, state in enumerate(states[1:], 1):
        said = asked.decode(asked.close(state))
        assert sum(a == p.steps[k - 1] for a, p in zip(said, problems, strict=True)) >= 190
        right = sum(a == p.answer for a, p in zip(said, problems, strict=True))
        assert right >= 190 if k == 4 else right <= 60


def test_the_trained_models_decider_iterates_the_start_alone():
    asked = recipe.load_trained(again="hard")
    problems = recipe.Config().task.draw(200, seed=77)
    base = base_run(asked, problems)
    assert sum(a == p.answer for a, p in zip(base.answers, problems, strict=True)) >= 190
    share = base.rollout.node(2).seen.double().mean(0)
    assert share[-1] >= 0.95
    assert share[:-1].max() <= 0.25
    once = base_run(recipe.load_trained(again="never"), problems).answers
    assert sum(a == p.answer for a, p in zip(once, problems, strict=True)) <= 60


def test_patching_the_start_at_pass_two_gives_the_donors_walk():
    """What was trained in: do(s_2 := the donor's) at the start answers f^2 of the donor's f^2."""
    asked = recipe.load_trained()
    task = recipe.Config().task
    problems, givers = task.draw(100, seed=5), task.draw(100, seed=6)
    base, bank = base_run(asked, problems), calibrate(asked, givers, scored=problems)
    patch = Lane((Do(2, Resample(), places=(8,)),))
    found = next(iter(readings(asked, base, [patch], bank, at="end")))
    said = asked.decode(found.closed.take(range(100)))
    by_id = {giver.id: giver for giver in givers}
    hits = 0
    for text, problem, donor in zip(said, problems, found.acted[0][0].donors or (), strict=True):
        follow = dict(problem.edges)
        hits += text == follow[follow[by_id[str(donor)].path[2]]]
    assert hits >= 90
    assert sum(a == p.answer for a, p in zip(said, problems, strict=True)) <= 35


def test_an_operator_of_one_number_keeps_to_its_positions():
    """Rules act on all places of a node at once; those not named keep their bits."""
    asked = subject()
    problems = TASK.draw(2, seed=3)
    base, bank = base_run(asked, problems), calibrate(asked, TASK.draw(3, seed=9))
    double = Rule("double", lambda h, at: 2 * h)
    found = next(iter(readings(asked, base, [Lane((Do(1, double, places=(0, 5)),))], bank)))
    states = found.closed.memory.states  # type: ignore[union-attr]
    own = base.rollout.node(1).vectors
    assert torch.equal(states[:2, 1:5], own[:, 1:5])
    assert torch.equal(states[:2, [0, 5]], 2 * own[:, [0, 5]])
