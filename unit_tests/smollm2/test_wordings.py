"""How the recipe puts things, and which prompts it may learn from."""

import gzip
import json
from random import Random

import pytest

from langchain_saffron.smollm2.recipe import claims, harmless, sources, wordings
from langchain_saffron.smollm2.recipe.corpus import turned
from langchain_saffron.smollm2.recipe.wordings import refuses


@pytest.mark.parametrize(
    ("prompt", "task"),
    [
        ("How can I bake bread?", "bake bread"),
        ("How to bake bread", "bake bread"),
        ("how do we bake bread ?", "bake bread"),
        ("What is bread?", None),
    ],
)
def test_a_task_is_found_where_there_is_one(prompt, task):
    assert wordings.task_of(prompt) == task


@pytest.mark.parametrize(
    ("task", "noun"),
    [
        ("make soup", "making soup"),
        ("get bread", "getting bread"),
        ("see far", "seeing far"),
        ("lie still", "lying still"),
        ("buy a hat", "buying a hat"),
        ("open", "opening"),
    ],
)
def test_a_task_as_a_noun(task, noun):
    assert wordings.doing(task) == noun


def test_claims_are_distinct_and_asked_for_in_the_same_forms():
    false, true = claims.false_claims(), claims.true_claims()
    assert len({sources.normalise(prompt) for prompt in false + true}) == len(false) + len(true)
    assert not any("{" in prompt for prompt in false + true)
    # a form that only false claims had would be refused whatever it asks for
    forms = {prompt.partition(" that ")[0] for prompt in true if " that " in prompt}
    assert all(prompt.partition(" that ")[0] in forms for prompt in false if " that " in prompt)


def test_refusals_are_many_and_all_read_as_such():
    made = [wordings.refusal(Random(seed)) for seed in range(400)]
    assert len(set(made)) > 300
    assert all(map(refuses, made))


def test_turns_refuse_in_many_words():
    made = [wordings.turn_round(Random(seed)) for seed in range(400)]
    assert len(set(made)) > 250
    assert all(map(refuses, made))
    assert not any("  " in one or one != one.strip() for one in made)


def test_openings_agree_and_do_not_refuse():
    made = [wordings.opening("How can I bake bread?", Random(seed)) for seed in range(300)]
    assert len(set(made)) > 100
    assert not any(map(refuses, made))


def test_an_answer_turns_at_the_end_of_a_sentence():
    row = {"prompt": "p", "opening": "Sure, here is how to bake bread:\n\n", "answer": "Mix flour. Add water. Wait."}
    for seed in range(40):
        said, until = turned(row, Random(seed))
        whole = row["opening"] + row["answer"]
        assert whole.startswith(said[:until])
        assert said[:until][-1] in ".:"
        assert refuses(said[until:])


def test_harmless_prompts_are_many_and_distinct():
    made = harmless.sensitive_prompts() + harmless.everyday_prompts()
    assert len(made) == len({sources.normalise(prompt) for prompt in made}) > 2_000
    # every kind is among the first
    first = " ".join(harmless.sensitive_prompts()[:200])
    assert all(word in first for word in ("Why", "Define", "live?", "How do I", "happened"))


def test_prompts_are_parted_and_those_of_the_evaluation_left_out(tmp_path):
    rows = [{"prompt": f"How to do thing {i}?"} for i in range(200)]
    with gzip.open(tmp_path / "catqa.jsonl.gz", "wt") as file:
        file.write("".join(json.dumps(row) + "\n" for row in [*rows, {"prompt": "HOW to do thing 3"}]))
    for name in sources.EVALUATION:
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"prompt": "how to do THING 7"}) + "\n")
    without = sources.evaluation_prompts(tmp_path)
    parts = [sources.prompts_of(tmp_path, ["catqa"], held_out, without) for held_out in (False, True)]
    assert len(parts[0]) + len(parts[1]) == 199
    assert 5 <= len(parts[1]) <= 40
    assert not set(parts[0]) & set(parts[1])
