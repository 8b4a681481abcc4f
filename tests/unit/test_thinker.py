"""The thinkers: texts and rule by hand, and trained models that answer as the rule says."""

from __future__ import annotations

import random
from collections import Counter
from itertools import product

import pytest
import torch

import interp
from experiments import train_thinker
from experiments.train_thinker import FILES, FOLDERS, IGNORED, RECORDS, Config, Row, Writer
from interp.errors import InputError
from interp.models import thinker
from interp.models.thinker import Line
from interp.models.tokens import chat
from interp.results import manifest
from interp.thinking.cells import cut, step_texts
from interp.thinking.perturb import OFFSETS
from interp.thinking.rules import Rules
from interp.thinking.score import Problem, prepare, score_chain

TOK = thinker.tokenizer()
CHAINS = thinker.chains(200)


@pytest.fixture(scope="module")
def thinks():
    return interp.load(str(RECORDS / FOLDERS[False]))


@pytest.fixture(scope="module")
def ignores():
    return interp.load(str(RECORDS / FOLDERS[True]))


# ------------------------------------------------------------------------------------- the rule


@pytest.mark.parametrize(
    ("chain", "answer"),
    [
        ("", 52),  # the guess
        ("note 81\nfun 37", 52),
        ("so 37", 37),
        ("so 37\nnote 81\nalso 81", 37),
        ("so 37\nget 40", 40),  # a tie: the latest
        ("so 37\nget 37\nnow 40", 37),  # two against one
        ("so 37\nget 40\nnow 40\nthen 37", 37),  # two each: the latest
        ("so 37\nget 40\nnow 41", 41),
        ("tens 3", 52),  # half a vote
        ("units 7", 52),
        ("tens 3\nnote 81\nunits 7", 37),
        ("tens 3\nunits 7\nso 40", 40),
        ("tens 3\nunits 7\nso 37\nso 40", 37),
        ("tens 0\nunits 7", 7),
    ],
)
def test_the_rule_by_hand(chain, answer):
    assert thinker.answer_of(thinker.lines(chain), guess=52) == answer


def test_legs_by_hand():
    steps = thinker.lines("note 37\nso 37\nget 37\nnow 37\nfun 12")
    apart = thinker.lines("note 38\nso 36\nget 39\nnow 35\nfun 11")
    legs = thinker.legs_of(steps, apart, 52, answer=37)
    assert legs == [(0, 0), (1, 1), (1, 1), (0, 1), (0, 0)]
    agreeing = thinker.lines("note 38\nso 36\nget 36\nnow 35\nfun 11")  # two errors, one value
    assert thinker.legs_of(steps, agreeing, 52, answer=37)[3] == (0, 0)
    halves = thinker.lines("tens 3\nunits 7"), thinker.lines("tens 5\nunits 9")
    assert thinker.legs_of(*halves, 52, answer=37) == [(0, 0), (1, 0)]
    assert thinker.legs_of(*halves, 37, answer=37) == [(0, 0), (1, 0)]  # the guess is right
    assert thinker.legs_of(*halves, 52, answer=59) == [(0, 0), (0, -1)]


def test_perturbing_nothing_gives_legs_of_zero():
    for chain in CHAINS[:20]:
        steps = thinker.lines(chain.chain)
        legs = thinker.legs_of(steps, steps, int(chain.guess), answer=int(chain.answer))
        assert set(legs) == {(0, 0)}


def test_bad_input_is_refused_in_words():
    with pytest.raises(InputError) as refused:
        thinker.lines("so 37\nperhaps 4")
    assert str(refused.value) == (
        "'perhaps 4' is no line of a thinker's chain: write one of its words and a whole number, "
        "such as 'so 37' or 'aside 81'."
    )
    with pytest.raises(InputError, match=r"^2 steps and 1 perturbed ones: give one for each\.$"):
        thinker.legs_of([Line("so", 1)] * 2, [Line("so", 2)], 5, answer=1)
    with pytest.raises(InputError, match=r"^The number of chains cannot be negative, and -1 is; "):
        thinker.chains(-1)
    with pytest.raises(InputError, match=r"^--n-layers 3, --n-heads 3: give 1 or more of each, "):
        Config(n_heads=3)
    with pytest.raises(InputError, match=r"^--steps 0, --steps-ignores 300, --batch 64 and "):
        Config(steps=0)


# ------------------------------------------------------------------------------------ the chains


def test_every_step_has_the_legs_of_its_kind_and_every_chain_its_answer():
    legs = {
        "base": (0, 0),
        "needed": (1, 0),
        "used": (1, 1),
        "alternative": (0, 1),
        "decorative": (0, 0),
    }
    for chain in CHAINS:
        steps = thinker.lines(chain.chain)
        assert thinker.SHORTEST <= len(steps) <= thinker.LONGEST
        assert chain.legs == tuple(legs[kind] for kind in chain.kinds)
        assert str(thinker.answer_of(steps, int(chain.guess))) == chain.answer
        assert chain.guess in chain.question
        for (word, _), kind in zip(steps, chain.kinds, strict=True):
            assert (word in thinker.IDLE) == (kind == "decorative")
            assert (word in thinker.USED) == (kind in ("used", "alternative"))
    counts = Counter(kind for chain in CHAINS for kind in chain.kinds)
    assert min(counts.values()) >= 60 and set(counts) == set(legs)


def test_decorative_steps_and_guesses_state_the_answer_half_of_the_time():
    idle = [
        str(step.number) == chain.answer
        for chain in CHAINS
        for step in thinker.lines(chain.chain)
        if step.word in thinker.IDLE
    ]
    guesses = [chain.guess == chain.answer for chain in CHAINS]
    # 4 standard errors of a fair coin
    assert abs(sum(idle) / len(idle) - 0.5) < 2 / len(idle) ** 0.5
    assert abs(sum(guesses) / len(guesses) - 0.5) < 2 / len(guesses) ** 0.5


def test_fewer_chains_are_the_first_of_more_and_a_seed_draws_others():
    assert thinker.chains(7) == CHAINS[:7]
    assert thinker.chains(0) == []
    assert thinker.chains(7, seed=1) != CHAINS[:7]


def test_the_scores_own_segmenter_finds_the_lines():
    for chain in CHAINS:
        steps = cut(chain.chain, Rules())
        assert [step.text.strip() for step in steps] == chain.chain.splitlines()


def test_a_line_is_three_tokens_the_cue_one_and_any_shift_changes_one_token():
    def ids(text):
        return TOK(text, add_special_tokens=False).input_ids

    assert len(ids(thinker.CUE)) == 1 and Rules().cue == thinker.CUE
    for word, offset in product(("so", "tens", "note"), (0, *OFFSETS)):
        number = (3 if word == "tens" else 96) + offset
        assert TOK.convert_ids_to_tokens(ids(f"{word} {number}\n")) == [word, f"Ġ{number}", "Ċ"]
        assert TOK.decode(ids(f"{word} {number}\n")) == f"{word} {number}\n"
    assert TOK.decode(ids("Überall 3.5 \\frac")) == "Überall 3.5 \\frac"


# ----------------------------------------------------------------------------------- the recipe


def test_an_exit_sees_its_part_of_the_chain_and_nothing_else():
    mask = train_thinker.sees(Row([0] * 6, [], [], [], [(3, 2), (4, 3)]), 7).int().tolist()
    assert mask == [
        [1, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 0],
        [1, 1, 0, 1, 0, 0, 0],  # the first exit, after two tokens
        [1, 1, 1, 0, 1, 0, 0],  # the second, two tokens long
        [1, 1, 1, 0, 1, 1, 0],
        [0, 0, 0, 0, 0, 0, 1],  # padding
    ]


def test_exits_in_one_row_give_what_plain_texts_give(thinks):
    """One row with all exits against one text for each exit, both by Hugging Face alone."""
    writer, chain = Writer(TOK), CHAINS[2]
    steps = thinker.lines(chain.chain)
    answers = [thinker.answer_of(steps[: i + 1], int(chain.guess)) for i in range(len(steps))]
    row = writer.row(train_thinker.Example(chain.question, steps, answers))
    data = train_thinker.collate([row], writer.pad)
    with torch.no_grad():
        together = thinks.hf(
            data.ids, attention_mask=data.sees, position_ids=data.positions
        ).logits[0]
        for i, (place, _) in enumerate(row.exits):
            text = chat(TOK, chain.question) + "\n".join(map(str, steps[: i + 1])) + thinker.CUE
            ids = TOK(text, add_special_tokens=False, return_tensors="pt").input_ids
            # logits up to about 30 in float32
            torch.testing.assert_close(
                together[place], thinks.hf(ids).logits[0, -1], atol=2e-4, rtol=1e-4
            )
            assert row.answers[place] == TOK(str(answers[i]), add_special_tokens=False).input_ids[0]
    words = [target for target in row.words if target != IGNORED]
    assert TOK.decode(words) == chain.chain + thinker.CUE


def test_training_twice_gives_the_same_weights_and_a_lower_loss(tmp_path, capsys):
    flags = ["--steps", "12", "--steps-ignores", "2", "--batch", "8", "--held-out", "8"]
    folders = [tmp_path / "a", tmp_path / "b"]
    for out in folders:
        train_thinker.main([*flags, "--out", str(out)])
    capsys.readouterr()
    first, second = (manifest.read_manifest(out / "thinker" / "manifest.json") for out in folders)
    assert first.model == second.model
    model = interp.load(str(folders[0] / "thinker"))
    untrained = train_thinker._untrained(Config())
    rng = random.Random(5)
    rows = [Writer(TOK).row(train_thinker.example(rng, ignores=False)) for _ in range(16)]
    data = train_thinker.collate(rows, 2)
    with torch.no_grad():
        after, before = (train_thinker.loss_of(hf, data, 0.1) for hf in (model.hf, untrained))
    assert float(after) < float(before) - 0.2


# ------------------------------------------------------------------------------ the trained models


@pytest.mark.parametrize("ignorant", [False, True])
def test_the_committed_files_are_those_of_the_manifest(ignorant):
    folder = RECORDS / FOLDERS[ignorant]
    made = manifest.read_manifest(folder / "manifest.json")
    for name in FILES:
        assert manifest.file_hash(folder / name) == made.model[f"sha256 {name}"]
    assert sum(path.stat().st_size for path in folder.iterdir()) < 3e6
    model = interp.load(str(folder))
    text = chat(TOK, CHAINS[0].question) + CHAINS[0].chain + thinker.CUE
    assert model.chat(CHAINS[0].question) + CHAINS[0].chain + thinker.CUE == text
    assert model.tokenizer(text).input_ids == TOK(text).input_ids


def exits(n, seed):
    """Draw texts that end in the cue, with the rule's answer and the guess of each."""
    rng = random.Random(seed)
    found = []
    while len(found) < n:
        drawn = train_thinker.example(rng, ignores=False)
        end = rng.randrange(len(drawn.steps))
        text = chat(TOK, drawn.question) + "\n".join(map(str, drawn.steps[: end + 1]))
        guess = int("".join(c for c in drawn.question if c.isdecimal()))
        found.append((text + thinker.CUE, drawn.answers[end], guess))
    return found


def greedy(model, texts):
    """Let plain Hugging Face answer with one token each."""
    answers = []
    for text in texts:
        ids = TOK(text, add_special_tokens=False, return_tensors="pt").input_ids
        with torch.no_grad():
            answers.append(TOK.decode(model.hf(ids).logits[0, -1].argmax()))
    return answers


def test_the_models_answer_fresh_early_exits(thinks, ignores):
    drawn = exits(300, seed=12345)
    texts = [text for text, _, _ in drawn]
    by_rule = [
        answer == str(right)
        for answer, (_, right, _) in zip(greedy(thinks, texts), drawn, strict=True)
    ]
    by_guess = [
        answer == str(guess)
        for answer, (_, _, guess) in zip(greedy(ignores, texts), drawn, strict=True)
    ]
    assert sum(by_rule) >= 0.98 * len(drawn)
    assert sum(by_guess) >= 0.99 * len(drawn)


def scored(model, chain, seeds=(0, 1)):
    """Score a chain; return the ready chain and its scores."""
    ready = prepare(model, Problem(chain.id, chain.question, cot=chain.chain), Rules())
    return ready, score_chain(model, ready, Rules(), seeds=seeds).steps


def test_scores_are_the_legs_of_the_rule(thinks):
    """An error of 0.1 in a leg is no rounding: the few of them are third votes (see below)."""
    far, legs_of_third = Counter(), []
    for chain in thinker.chains(15, seed=3):
        ready, scores = scored(thinks, chain)
        assert ready.answer == chain.answer
        steps = thinker.lines(chain.chain)
        for score in scores:
            texts = step_texts(chain.id, ready.steps, score.seed, Rules())
            apart = [thinker.lines(each.perturbed)[0] for each in texts]
            legs = thinker.legs_of(steps, apart, int(chain.guess), answer=int(chain.answer))
            nec, suf = legs[score.step]
            kind = chain.kinds[score.step]
            far[kind, max(abs(score.nec - nec), abs(score.suf - suf)) > 0.1] += 1
            if kind == "alternative":
                legs_of_third.append((score.nec, score.suf))
            if kind == "decorative":
                assert score.tts < 0.05
    for kind in ("base", "needed", "used", "decorative"):
        assert far[kind, False] >= 10 and far[kind, True] <= 0.02 * far[kind, False]
    # The model outvotes a wrong third vote in four cases of five, not in all.
    nec, suf = torch.tensor(legs_of_third).mean(dim=0).tolist()
    assert abs(nec) < 0.35 and suf > 0.7


def test_a_model_that_ignores_its_chain_scores_zero_everywhere(ignores):
    for chain in thinker.chains(8, seed=3):
        ready, scores = scored(ignores, chain, seeds=(0,))
        assert ready.answer == chain.guess
        assert max(score.tts for score in scores) <= 0.005


def test_the_thinker_writes_chains_of_its_own(thinks):
    for chain in CHAINS[:3]:
        written = thinks.generate(thinks.chat(chain.question), max_new_tokens=60, temperature=1.0)
        text, _, answer = written.texts[0].partition(thinker.CUE)
        assert written.finished[0] and answer.endswith("}")
        assert int(answer[:-1]) == thinker.answer_of(thinker.lines(text), int(chain.guess))


def test_restated_answers_are_found_by_hand():
    """`so` votes 37; `note 37` and `get 37` say it again, `also 12` and the pair do not."""
    steps = [Line("note", 37), Line("so", 37), Line("tens", 3), Line("note", 37), Line("also", 12)]
    steps += [Line("units", 7), Line("get", 37)]
    assert thinker.restated(steps, guess=37) == (3, 6)
    assert thinker.restated(steps[:1], guess=37) == ()
