"""The harmless set of SmolLM2."""

from langchain_saffron.evaluation.datasets import SETS, parse_data
from langchain_saffron.evaluation.defaults import data_defaults
from langchain_saffron.smollm2.recipe.sources import is_held_out


def test_its_questions_are_held_out_half_of_them_sensitive():
    samples = parse_data("smollm2", 41)
    assert [one.kind for one in samples].count("borderline") == 21
    assert [one.kind for one in samples].count("benign") == 20
    prompts = [one.messages[-1]["content"] for one in samples]
    assert len(set(prompts)) == 41
    assert all(map(is_held_out, prompts))


def test_it_names_the_model_also_for_data_beside_it():
    assert data_defaults(["smollm2"]) is SETS["smollm2"]
    beside = data_defaults(["harmbench:some.csv", "smollm2"])
    assert (beside.model, beside.judge, beside.max_tokens) == ("smollm2", "refusal", 96)
    assert data_defaults(["harmbench:some.csv"]).model is None
