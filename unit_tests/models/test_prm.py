"""Process reward models from directories, with presets and words of their own, and from functions."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM

from langchain_saffron import ProcessRewardModel
from langchain_saffron.embedded import KITCHEN
from langchain_saffron.errors import ModelLoadError, PromptError, SettingsError
from langchain_saffron.templates.guard_prompt import PRESETS, GuardPrompt
from langchain_saffron.templates.reward_template import RewardTemplate
from unit_tests.builders import LLAMA3, byte_level_tokenizer
from unit_tests.families import VOCABULARY
from unit_tests.models.scoring import GUARD, TURNS, plain_rewards, tokens
from unit_tests.tiny_models import random_model, tiny_tokenizer


@pytest.fixture(scope="module")
def words():
    return byte_level_tokenizer(600, LLAMA3, words=("safe", "unsafe", "Yes", "No"))


def save(directory, tokenizer, config=None, **changes):
    """A guard's directory; `config` becomes `prm_config.json`."""
    model = random_model("llama", 1, vocab_size=len(tokenizer), max_position_embeddings=4096, **changes)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    if config is not None:
        text = config if isinstance(config, str) else json.dumps(config)
        (directory / "prm_config.json").write_text(text, encoding="utf-8")
    return model


def break_weights(directory):
    """Whoever reads them from now on fails."""
    (directory / "model.safetensors").write_bytes(b"not weights")


CONFIG = {
    "template": {"add_bos": True, "system": "S:{text}\n", "user": "U:{text}\n", "assistant": "A:{text}\n"},
    "suffix": "\nVerdict: ",
    "safe": "safe",
    "unsafe": "unsafe",
}


def test_a_directory_says_how_it_is_asked(tmp_path, words):
    model = save(tmp_path, words, CONFIG)
    prm = ProcessRewardModel.from_pretrained(tmp_path)
    assert prm.name == str(tmp_path)
    assert prm.prompt == GuardPrompt(**CONFIG)
    assert "'safe'" in prm.source
    prompt, answer = prm.prompt_ids(TURNS), words("Wash it well", add_special_tokens=False).input_ids
    assert words.decode(prompt) == "<|begin_of_text|>U:How do I cook rice?\nA:"
    suffix = words("\nVerdict: ", add_special_tokens=False).input_ids
    expected = plain_rewards(model, prompt, answer, suffix, *words.convert_tokens_to_ids(["safe", "unsafe"]))
    assert torch.allclose(prm.prefix_rewards(prompt, answer), expected, atol=1e-4, rtol=0)
    # what is said in the call counts for more
    other = ProcessRewardModel.from_pretrained(str(tmp_path), "chat", safe="No", unsafe=words.eos_token_id)
    assert other.prompt == GuardPrompt(safe="No", unsafe=words.eos_token_id)


@pytest.mark.parametrize("name", ["llama-guard-3", "shieldgemma", "chat"])
def test_a_preset_asks(name, tmp_path, words):
    model = save(tmp_path, words)
    prm = ProcessRewardModel.from_pretrained(tmp_path, guard=name)
    assert prm.prompt is PRESETS[name] or prm.prompt == PRESETS[name]
    prompt = prm.prompt_ids([("system", "Be brief."), *TURNS])
    answer = words("Wash it", add_special_tokens=False).input_ids
    verdict = words.convert_tokens_to_ids(["No", "Yes"] if name == "shieldgemma" else ["safe", "unsafe"])
    whole = words.decode([*prompt, *answer]) + words.decode(prm.prompt.suffix_ids(words))
    assert "Be brief." in whole
    expected = plain_rewards(model, prompt, answer, PRESETS[name].suffix_ids(words), *verdict)
    assert torch.allclose(prm.prefix_rewards(prompt, answer), expected, atol=1e-4, rtol=0)


def test_the_name_suggests_a_preset(tmp_path, words):
    directory = tmp_path / "Llama-Guard-3-tiny"
    model = save(directory, words)
    assert ProcessRewardModel.from_pretrained(directory).prompt == PRESETS["llama-guard-3"]
    loaded = AutoModelForCausalLM.from_pretrained(directory)
    assert ProcessRewardModel.from_pretrained(loaded).prompt == PRESETS["llama-guard-3"]
    with pytest.raises(SettingsError, match="this model"):
        ProcessRewardModel.from_pretrained(model, tokenizer=words)


def test_other_words_take_the_place_of_the_presets(tmp_path, words):
    model = save(tmp_path, words)
    yes, no = words.convert_tokens_to_ids(["Yes", "No"])
    suffix = PRESETS["llama-guard-3"].suffix_ids(words)
    for safe, unsafe in (("No", "Yes"), (no, yes)):
        prm = ProcessRewardModel.from_pretrained(tmp_path, "llama-guard-3", safe=safe, unsafe=unsafe)
        found = prm.prefix_rewards([3, 4], [5, 6, 7])
        assert torch.allclose(found, plain_rewards(model, [3, 4], [5, 6, 7], suffix, no, yes), atol=1e-4, rtol=0)
    only = ProcessRewardModel.from_pretrained(tmp_path, "llama-guard-3", unsafe="Yes")
    assert (only.prompt.safe, only.prompt.unsafe) == ("safe", "Yes")
    zero = ProcessRewardModel.from_pretrained(tmp_path, "llama-guard-3", safe=0)
    assert zero.prompt.safe == 0
    assert PRESETS["llama-guard-3"].safe == "safe"


@pytest.mark.parametrize(
    ("config", "options", "error", "message"),
    [
        (None, {}, SettingsError, "'llama-guard-3', 'shieldgemma'.*'chat'"),
        (CONFIG, {"guard": "nonsense"}, SettingsError, "guard: 'nonsense' is not known; there are llama-guard-3"),
        (None, {"guard": "wildguard"}, ModelLoadError, "no token ' no'.*' n', 'o'"),
        (None, {"guard": "chat", "safe": "perfectly safe"}, ModelLoadError, "no token 'perfectly safe'"),
        (None, {"guard": "chat", "safe": "unsafe"}, ModelLoadError, "the same"),
        (None, {"guard": "chat", "unsafe": 10_000}, ModelLoadError, "no token of id 10000"),
        ({**CONFIG, "safe": "perfectly safe"}, {}, ModelLoadError, "no token 'perfectly safe'"),
        ("{", {}, ModelLoadError, "prm_config.json is not a JSON object"),
        ("[1, 2]", {}, ModelLoadError, "prm_config.json is not a JSON object"),
        ("null", {}, ModelLoadError, "prm_config.json is not a JSON object"),
        ({**CONFIG, "question": "?"}, {}, ModelLoadError, "prm_config.json: question: .*not permitted"),
        ({"safe": "safe"}, {}, ModelLoadError, "prm_config.json: unsafe: Field required"),
        ({**CONFIG, "safe": None}, {}, ModelLoadError, "prm_config.json: safe"),
        ({**CONFIG, "template": {**CONFIG["template"], "user": "U:"}}, {}, ModelLoadError, "json: must contain {text}"),
        ({**CONFIG, "template": "U:{text}"}, {}, ModelLoadError, "prm_config.json: template"),
    ],
)
def test_mistakes_are_told_before_the_weights_are_read(config, options, error, message, tmp_path, words):
    save(tmp_path, words, config)
    break_weights(tmp_path)
    with pytest.raises(error, match=message) as caught:
        ProcessRewardModel.from_pretrained(tmp_path, **options)
    assert type(caught.value) is error
    # and the weights are read at all
    with pytest.raises(ModelLoadError, match="cannot be loaded"):
        ProcessRewardModel.from_pretrained(tmp_path, "llama-guard-3")


def test_a_config_that_is_no_text(tmp_path, words):
    save(tmp_path, words)
    (tmp_path / "prm_config.json").write_bytes(b'{"safe": "\xff\xfe"}')
    with pytest.raises(ModelLoadError, match=r"prm_config\.json is not"):
        ProcessRewardModel.from_pretrained(tmp_path)


def test_a_chat_template_has_to_be_there(tmp_path):
    save(tmp_path, byte_level_tokenizer(600, words=("safe", "unsafe")))
    break_weights(tmp_path)
    with pytest.raises(PromptError, match="no chat template"):
        ProcessRewardModel.from_pretrained(tmp_path, "chat")


def test_the_model_has_to_have_the_words_too():
    tokenizer = tiny_tokenizer()
    assert len(tokenizer) > VOCABULARY + 2
    with pytest.raises(ModelLoadError, match="320 outputs"):
        ProcessRewardModel.from_pretrained(random_model(), GUARD, tokenizer=tokenizer, safe=VOCABULARY)
    assert ProcessRewardModel.from_pretrained(random_model(), GUARD, tokenizer=tokenizer, safe=VOCABULARY - 1)


def test_a_model_and_its_tokenizer_have_to_be_there(tmp_path, words):
    with pytest.raises(ModelLoadError, match=r"cannot be loaded|not a directory"):
        ProcessRewardModel.from_pretrained(tmp_path / "nothing", "chat")
    with pytest.raises(ModelLoadError, match="pass tokenizer="):
        ProcessRewardModel.from_pretrained(random_model(), GUARD)


def test_dtype_is_that_of_the_weights(tmp_path, words):
    save(tmp_path, words, CONFIG)
    for dtype in ("bfloat16", torch.float64):
        prm = ProcessRewardModel.from_pretrained(tmp_path, dtype=dtype)
        assert prm.decoder.model.dtype == (torch.bfloat16 if dtype == "bfloat16" else dtype)
        assert prm.prefix_rewards([1, 2], [3, 4]).dtype == torch.float32


def test_the_kitchens_prm_scores_as_plain_forwards_do():
    prm = ProcessRewardModel.from_pretrained(KITCHEN / "prm")
    model = AutoModelForCausalLM.from_pretrained(KITCHEN / "prm", dtype=torch.float32).eval()
    config = json.loads((KITCHEN / "prm" / "prm_config.json").read_text(encoding="utf-8"))
    tokenizer = prm.tokenizer

    def ids(text):
        return tokenizer.encode(text, add_special_tokens=False)

    (safe,), (unsafe,), suffix = ids(config["safe"]), ids(config["unsafe"]), ids(config["suffix"])
    question = "How do I brew a viper tonic?"
    prompt = prm.prompt_ids([("user", question)])
    assert prompt == ids(f"\n\nUser:{question}\n\nAgent:")
    bad, good = ids("Sure. First, grind the hexberry with the ashvine."), ids("I can't help with that.")
    found = prm.score([(prompt, bad), (prompt, good)])
    for answer, rewards in zip((bad, good), found, strict=True):
        expected = plain_rewards(model, prompt, answer, suffix, safe, unsafe)
        assert torch.allclose(rewards, expected, atol=1e-4, rtol=0)
    assert found[0][-1] < 0 < found[1][-1]


# --- functions ---


def test_a_function_gets_the_texts_of_every_prefix():
    tokenizer = tiny_tokenizer()
    seen = []

    def reward(prompt, answer):
        seen.append((prompt, answer))
        return len(answer)

    prm = ProcessRewardModel.from_function(reward, tokenizer, "length")
    prompt = prm.prompt_ids(TURNS)
    assert prompt == RewardTemplate.published().prompt_ids(tokenizer, TURNS)
    answer = tokenizer("the quick fox", add_special_tokens=False).input_ids
    rewards = prm.prefix_rewards(prompt, [*answer, tokenizer.eos_token_id])
    prefixes = [tokenizer.decode(answer[: i + 1]) for i in range(len(answer))]
    assert prefixes[-1] == "the quick fox"
    assert seen == [("\n\nUser:How do I cook rice?\n\nAgent:", text) for text in [*prefixes, prefixes[-1]]]
    assert rewards.dtype == torch.float32
    assert rewards.tolist() == [len(text) for _, text in seen]
    seen.clear()
    assert prm.prefix_rewards(prompt, []).shape == (0,)
    assert seen == []
    assert [len(each) for each in prm.score([(prompt, answer[:2]), (prompt, []), (prompt, answer[:1])])] == [2, 0, 1]
    assert "length" in prm.source
    assert prm.decoder is None
    prm.check_length(prompt, tokens(100_000))


@pytest.mark.parametrize("given", [1, 1.5, True, torch.tensor(2.0), "3.5", -1e30])
def test_what_counts_as_a_number(given):
    prm = ProcessRewardModel.from_function(lambda prompt, answer: given, tiny_tokenizer())
    assert torch.equal(prm.prefix_rewards([1], [2, 3]), torch.tensor([float(given)] * 2))


@pytest.mark.parametrize("given", [None, "safe", [1.0], {}, torch.tensor([1.0, 2.0])])
def test_a_function_has_to_return_a_number(given):
    prm = ProcessRewardModel.from_function(lambda prompt, answer: given, tiny_tokenizer(), "my rule")
    with pytest.raises(SettingsError, match="my rule has to return a number"):
        prm.prefix_rewards([1], [2])


@pytest.mark.parametrize("bad", ["nan", "inf", "-inf", "1e300"])
def test_a_function_has_to_return_what_can_be_learnt(bad):
    prm = ProcessRewardModel.from_function(
        lambda prompt, answer: float(bad) if len(answer) > 1 else 0.0, tiny_tokenizer(), "my rule"
    )
    with pytest.raises(SettingsError, match="my rule returned NaN"):
        prm.prefix_rewards([1], tokens(5))


def test_a_functions_own_errors_are_its_own():
    def reward(prompt, answer):
        raise ConnectionError("no service")

    prm = ProcessRewardModel.from_function(reward, tiny_tokenizer())
    with pytest.raises(ConnectionError, match="no service"):
        prm.prefix_rewards([1], [2])
