"""Rewards of all prefixes over a trie equal one plain forward a prefix, for guards, classifiers and functions."""

import json
import random
import threading
from contextlib import contextmanager
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertForSequenceClassification,
    LlamaForSequenceClassification,
    MistralForSequenceClassification,
    Qwen2ForSequenceClassification,
)

from langchain_saffron import ProcessRewardModel
from langchain_saffron.embedded import KITCHEN
from langchain_saffron.errors import (
    CacheFullError,
    ContextOverflowError,
    ModelLoadError,
    NumericalError,
    PromptError,
    SettingsError,
    UnsupportedModelError,
)
from langchain_saffron.models import packing, prefix_scoring
from langchain_saffron.models.decoder import TrieDecoder
from langchain_saffron.models.prefix_scoring import PrefixScorer
from langchain_saffron.templates.guard_prompt import PRESETS, GuardPrompt
from langchain_saffron.templates.reward_template import RewardTemplate
from unit_tests.builders import LLAMA3, byte_level_tokenizer
from unit_tests.families import FALLBACKS, FAMILIES, VOCABULARY
from unit_tests.tiny_models import plain_logits, random_model, tiny_tokenizer

SAFE, UNSAFE = 5, 9
GUARD = GuardPrompt.of_strings("Q: ", "\nA:", "\nSafe?", safe=SAFE, unsafe=UNSAFE)
SUFFIX = GUARD.suffix_ids(tiny_tokenizer())
# rows that attend together, rows in a forward, tokens that share forwards
USUAL, SMALL, UNEVEN, ONE = (128, 1024, 4096), (10, 20, 60), (7, 33, 4096), (1, 1, 1)
Pairs = list[tuple[list[int], list[int]]]


def guard_prm(model=None, **options):
    return ProcessRewardModel.from_pretrained(model or random_model(), GUARD, tokenizer=tiny_tokenizer(), **options)


def tokens(count, seed=0, low=20):
    """Random ids, none of which is in the question or a verdict."""
    known = [i for i in range(low, 300) if i not in SUFFIX]
    return random.Random(seed).choices(known, k=count)


def plain_rewards(model, prompt, answer, suffix=SUFFIX, safe=SAFE, unsafe=UNSAFE):
    """By one full forward a prefix."""
    logits = [plain_logits(model, [*prompt, *answer[: i + 1], *suffix]) for i in range(len(answer))]
    return torch.stack([row[safe] - row[unsafe] for row in logits]).float()


def sizes(monkeypatch, group, forward, lot):
    monkeypatch.setattr(prefix_scoring, "GROUP_ROWS", group)
    monkeypatch.setattr(prefix_scoring, "MOST_ROWS", forward)
    monkeypatch.setattr(prefix_scoring, "LOT_TOKENS", lot)


def check(prm, pairs, expected, tolerance=1e-4):
    found = prm.score(pairs)
    assert prm.decoder.forest.used == 0
    for i, (rewards, wanted) in enumerate(zip(found, expected, strict=True)):
        assert rewards.dtype == torch.float32
        assert rewards.device.type == "cpu"
        assert torch.allclose(rewards, wanted, atol=tolerance, rtol=0), i


@contextmanager
def forwards(prm):
    """The rows of every forward that the model runs meanwhile."""
    rows = []

    def count(module, args, options):
        rows.append(options["input_ids"].numel())

    handle = prm.decoder.model.register_forward_pre_hook(count, with_kwargs=True)
    try:
        yield rows
    finally:
        handle.remove()


def awkward_pairs() -> Pairs:
    """Answers that share, repeat and quote: the trie holds each piece once, every prefix has its own reward."""
    prompt, answer = tokens(9, 1), tokens(14, 2)
    return [
        (prompt, answer),
        (prompt, answer),
        (prompt, answer[:6]),
        (prompt, [*answer[:3], *SUFFIX, *SUFFIX, *SUFFIX[:2], *answer[:2], *SUFFIX]),
        (prompt, SUFFIX * 2),
        ([*prompt, *answer[:4]], answer[4:8]),
        (tokens(3, 3), tokens(1, 4)),
    ]


@pytest.mark.parametrize("family", [*FAMILIES, *FALLBACKS])
def test_rewards_are_those_of_one_forward_a_prefix(family, monkeypatch):
    model = random_model(family, 3)
    pairs = awkward_pairs()
    expected = [plain_rewards(model, *pair) for pair in pairs]
    # a family that hardly moves its logits would pass with anything
    assert expected[0].std() > 100 * 1e-4
    prm = guard_prm(model)
    for constants in (USUAL, SMALL):
        sizes(monkeypatch, *constants)
        check(prm, pairs, expected)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_the_attention_that_a_user_names_scores_the_same(family, attention, monkeypatch):
    model = random_model(family, 4)
    pairs = awkward_pairs()
    expected = [plain_rewards(model, *pair) for pair in pairs]
    prm = guard_prm(model, attn_implementation=attention)
    for constants in (USUAL, UNEVEN):
        sizes(monkeypatch, *constants)
        check(prm, pairs, expected)


def test_packed_layers_score_the_same(monkeypatch):
    monkeypatch.setattr(packing, "SMALLEST_WEIGHT", 1)
    model = random_model("qwen3", 5)
    expected = [plain_rewards(model, *pair) for pair in awkward_pairs()]
    prm = guard_prm(model)
    assert any(isinstance(module, packing.PackedLinear) for module in prm.decoder.model.modules())
    check(prm, awkward_pairs(), expected)


@cache
def shared(family):
    model = random_model(family, 11)
    return model, TrieDecoder(model, "process reward model", 2000)


@cache
def shared_logits(family, ids):
    return plain_logits(shared(family)[0], list(ids))


FEW = st.lists(st.integers(7, 9), min_size=1, max_size=9)


@settings(max_examples=60, deadline=None)
@given(
    family=st.sampled_from(["llama", "mistral", "gpt-oss"]),
    pairs=st.lists(st.tuples(FEW, FEW), min_size=1, max_size=5),
    suffix=st.lists(st.integers(7, 9), max_size=5),
    constants=st.tuples(st.integers(1, 12), st.integers(1, 30), st.integers(1, 60)),
)
def test_any_answers_in_any_split_equal_plain_forwards(family, pairs, suffix, constants):
    """Of three tokens, so that prompts, answers and questions run into each other all the time."""
    decoder = shared(family)[1]
    with pytest.MonkeyPatch.context() as patch:
        sizes(patch, *constants)
        found = PrefixScorer(decoder, suffix).outputs(pairs)
    assert decoder.forest.used == 0
    for (prompt, answer), outputs in zip(pairs, found, strict=True):
        assert outputs.shape == (len(answer), VOCABULARY)
        for i, row in enumerate(outputs):
            expected = shared_logits(family, (*prompt, *answer[: i + 1], *suffix))
            assert torch.allclose(row, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("constants", [(3, 1024, 4096), (3, 4, 4096), ONE])
def test_a_question_longer_than_a_group_or_a_forward(constants, monkeypatch):
    sizes(monkeypatch, *constants)
    assert len(SUFFIX) > constants[0]
    model = random_model("mistral", 6)
    pairs = awkward_pairs()[:4]
    check(guard_prm(model), pairs, [plain_rewards(model, *pair) for pair in pairs])


def test_a_long_answer_takes_several_forwards_and_computes_nothing_twice(monkeypatch):
    sizes(monkeypatch, 12, 40, 4096)
    model = random_model("gemma3", 7)
    prm = guard_prm(model)
    prompt, answer = tokens(50, 1), tokens(60, 2)
    with forwards(prm) as rows:
        rewards = prm.prefix_rewards(prompt, answer)
    assert sum(rows) == len(prompt) + len(answer) * (1 + len(SUFFIX))
    assert max(rows) <= 40
    assert len(rows) >= 3 + 8
    assert torch.allclose(rewards, plain_rewards(model, prompt, answer), atol=1e-4, rtol=0)


def test_a_usual_answer_takes_two_forwards():
    prm = guard_prm(random_model())
    with forwards(prm) as rows:
        prm.prefix_rewards(tokens(20), tokens(50))
    assert rows == [70, 50 * len(SUFFIX)]


def test_an_answer_that_quotes_the_question_computes_it_once():
    prm = guard_prm(random_model())
    prompt, answer = tokens(6), [*SUFFIX, *SUFFIX, 30, *SUFFIX[:3]]
    trunk = [*prompt, *answer]
    prefixes = [trunk[:end] for end in range(len(prompt) + 1, len(trunk) + 1)]
    nodes = {tuple(trunk[:end]) for end in range(1, len(trunk) + 1)}
    asked = {(*prefix, *SUFFIX[:end]) for prefix in prefixes for end in range(1, len(SUFFIX) + 1)}
    # the end of a question that is part of the answer is computed once more, to be read
    read = nodes & {(*prefix, *SUFFIX) for prefix in prefixes}
    with forwards(prm) as rows:
        prm.prefix_rewards(prompt, answer)
    assert len(read) >= 1
    assert rows == [len(nodes), len(asked - nodes) + len(read)]


def test_a_shared_prompt_is_computed_once():
    prm = guard_prm(random_model())
    prompt = tokens(60)
    answers = [tokens(8, seed) for seed in range(1, 6)]
    assert len({answer[0] for answer in answers}) == 5
    with forwards(prm) as rows:
        prm.score([(prompt, answer) for answer in answers])
    assert sum(rows) == 60 + 5 * 8 * (1 + len(SUFFIX))


def test_many_together_are_each_alone(monkeypatch):
    sizes(monkeypatch, 16, 64, 150)
    prm = guard_prm(random_model("qwen3", 8))
    pairs = [(tokens(5 + k % 7, k % 4), tokens(1 + 3 * k, k + 50)) for k in range(14)]
    pairs.insert(3, (tokens(4), []))
    together = prm.score(pairs)
    assert [len(rewards) for rewards in together] == [len(answer) for _, answer in pairs]
    for pair, rewards in zip(pairs, together, strict=True):
        assert torch.allclose(prm.prefix_rewards(*pair), rewards, atol=1e-4, rtol=0)
    assert prm.score([]) == []


def test_no_answer_no_reward():
    prm = guard_prm()
    with forwards(prm) as rows:
        rewards = prm.prefix_rewards([1, 2], [])
        assert prm.score([([1], []), ([1, 2], [])])[1].shape == (0,)
    assert rows == []
    assert rewards.shape == (0,)
    assert rewards.dtype == torch.float32


def test_a_prompt_has_to_be_there():
    prm = guard_prm()
    function = ProcessRewardModel.from_function(lambda prompt, answer: 0.0, tiny_tokenizer())
    for model in (prm, function):
        for pairs in ([([], [1, 2])], [([], [])], [([1], [2]), ([], [1])]):
            with pytest.raises(SettingsError, match="prompt_ids"):
                model.score(pairs)
    assert prm.decoder.forest.used == 0


def test_what_is_too_long_is_refused_before_any_forward():
    prm = guard_prm()
    assert prm.decoder.context == 256
    fitting = 256 - 10 - len(SUFFIX)
    prm.check_length(tokens(10), tokens(fitting))
    with forwards(prm) as rows:
        for call in (
            lambda: prm.prefix_rewards(tokens(10), tokens(fitting + 1)),
            lambda: prm.score([(tokens(3), tokens(3)), (tokens(fitting + 10), tokens(1))]),
            lambda: prm.check_length(tokens(10), tokens(fitting + 1)),
        ):
            with pytest.raises(ContextOverflowError, match=r"257 tokens.*question.*context of 256"):
                call()
    assert rows == []
    assert prm.decoder.forest.used == 0


def test_the_longest_that_fits_is_scored_to_its_end():
    model = random_model(max_position_embeddings=64)
    prm = guard_prm(model)
    answer = tokens(64 - 10 - len(SUFFIX), 1)
    found = prm.prefix_rewards(tokens(10), answer)
    assert torch.allclose(found, plain_rewards(model, tokens(10), answer), atol=1e-4, rtol=0)


def test_a_small_cache_takes_the_answers_one_after_another():
    model = random_model("llama", 9)
    prm = guard_prm(model, max_cache_tokens=60)
    pairs = [(tokens(10, seed), tokens(25, seed + 10)) for seed in range(5)]
    check(prm, pairs, [plain_rewards(model, *pair) for pair in pairs])
    with pytest.raises(CacheFullError, match=r"60 slots.*max_cache_tokens"):
        prm.prefix_rewards(tokens(10), tokens(51))
    assert prm.decoder.forest.used == 0
    check(prm, pairs[:1], [plain_rewards(model, *pairs[0])])


def test_nan_is_an_error_and_leaves_nothing_behind(monkeypatch):
    model = random_model("llama", 10)
    prm = guard_prm(model)
    pairs = awkward_pairs()
    expected = [plain_rewards(model, *pair) for pair in pairs]
    embeddings = model.get_input_embeddings().weight
    with torch.no_grad():
        kept = embeddings[310].clone()
        embeddings[310] = float("nan")
    for constants in (USUAL, SMALL):
        sizes(monkeypatch, *constants)
        for prompt, answer in ((tokens(30), [*tokens(9), 310, *tokens(40)]), ([310, *tokens(30)], tokens(60))):
            with pytest.raises(NumericalError, match="process reward model returned NaN"):
                prm.prefix_rewards(prompt, answer)
            assert prm.decoder.forest.used == 0
            check(prm, pairs, expected)
    with torch.no_grad():
        embeddings[310] = kept
    check(prm, pairs, expected)


@pytest.mark.parametrize("verdicts", [[SAFE], [SAFE, UNSAFE]])
def test_an_infinite_reward_is_an_error(verdicts):
    """What is too large for the dtype: infinite, or NaN where both words are."""
    model = random_model("llama", 16)
    prm = guard_prm(model)
    with torch.no_grad():
        for word in verdicts:
            model.lm_head.weight[word] = 0
            model.lm_head.weight[word, 3] = 3e38
        model.lm_head.weight[:, 3] *= 10
    with pytest.raises(NumericalError, match="infinite"):
        prm.prefix_rewards(tokens(9), tokens(30))
    assert prm.decoder.forest.used == 0


def test_damaged_weights_are_refused_at_load():
    model = random_model()
    with torch.no_grad():
        model.model.norm.weight[0] = float("nan")
    with pytest.raises(NumericalError, match="process reward model"):
        guard_prm(model)


def test_a_forward_that_fails_gives_its_slots_back(monkeypatch):
    sizes(monkeypatch, *SMALL)
    model = random_model("llama", 12)
    prm = guard_prm(model)
    pairs = awkward_pairs()
    for failing in range(1, 7):
        calls = 0

        def fail(module, args, failing=failing):
            nonlocal calls
            calls += 1
            if calls == failing:
                raise RuntimeError("the device fell off")

        handle = prm.decoder.model.register_forward_pre_hook(fail)
        with pytest.raises(RuntimeError, match="fell off"):
            prm.score(pairs)
        handle.remove()
        assert prm.decoder.forest.used == 0
    check(prm, pairs, [plain_rewards(model, *pair) for pair in pairs])


def test_threads_take_turns():
    model = random_model("llama", 13)
    prm = guard_prm(model)
    pairs = [(tokens(10, seed), tokens(12, seed + 20)) for seed in range(6)]
    expected = [plain_rewards(model, *pair) for pair in pairs]
    wrong = []

    def work(first):
        try:
            for k in range(2 * len(pairs)):
                i = (first + k) % len(pairs)
                difference = (prm.prefix_rewards(*pairs[i]) - expected[i]).abs().max()
                if not difference < 1e-4:
                    wrong.append(float(difference))
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert prm.decoder.forest.used == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_rewards_are_float32_whatever_the_weights_are(dtype):
    model = random_model("llama", 14, dtype=dtype)
    prompt, answer = tokens(9), tokens(20, 1)
    rewards = guard_prm(model).prefix_rewards(prompt, answer)
    assert rewards.dtype == torch.float32
    assert rewards.device.type == "cpu"
    assert not rewards.is_inference()
    expected = plain_rewards(model, prompt, answer)
    assert torch.allclose(rewards, expected, atol=0.5 if dtype == torch.bfloat16 else 1e-6, rtol=0)
    assert expected.std() > 1


def test_a_loaded_model_stays_as_it_was():
    model, untouched = random_model("llama", 15), random_model("llama", 15)
    guard_prm(model).prefix_rewards(tokens(9), tokens(9))
    assert torch.equal(plain_logits(model, tokens(20)), plain_logits(untouched, tokens(20)))


# ---- loading


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
TURNS = [("user", "How do I cook rice?")]


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


# ---- classifiers

CLASSIFIERS = {
    "llama": LlamaForSequenceClassification,
    "qwen2": Qwen2ForSequenceClassification,
    "mistral": MistralForSequenceClassification,
}
PAD = 2
NAMED = {0: "unsafe", 1: "safe"}


def random_classifier(family="llama", labels=1, names=None, dtype=torch.float32):
    torch.manual_seed(21)
    config = FAMILIES[family]()
    config.num_labels = labels
    config.pad_token_id = PAD
    if names is not None:
        config.id2label, config.label2id = names, {name: i for i, name in names.items()}
    return CLASSIFIERS[family](config).to(dtype).eval()


def classifier_prm(model, **options):
    return ProcessRewardModel.from_pretrained(model, tokenizer=tiny_tokenizer(), **options)


def own_classification(model, prompt, answer):
    """What the model itself says of each prefix, at its last token."""
    with torch.inference_mode():
        rows = [model(input_ids=torch.tensor([[*prompt, *answer[: i + 1]]])).logits[0] for i in range(len(answer))]
    return torch.stack(rows).float()


@pytest.mark.parametrize("constants", [USUAL, UNEVEN, ONE])
@pytest.mark.parametrize("family", CLASSIFIERS)
def test_a_classifier_says_the_same_of_every_prefix(family, constants, monkeypatch):
    sizes(monkeypatch, *constants)
    pairs = awkward_pairs()
    model = random_classifier(family, 1)
    outputs = [own_classification(model, *pair) for pair in pairs]
    assert outputs[0].std() > 0.1
    prm = classifier_prm(model)
    assert prm.prompt is None
    assert "LABEL_0" in prm.source
    check(prm, pairs, [rows[:, 0] for rows in outputs])
    model = random_classifier(family, 2, NAMED)
    outputs = [own_classification(model, *pair) for pair in pairs]
    check(classifier_prm(model), pairs, [rows[:, 1] - rows[:, 0] for rows in outputs])


def test_a_classifier_computes_every_token_once():
    prm = classifier_prm(random_classifier())
    with forwards(prm) as rows:
        prm.prefix_rewards(tokens(40), tokens(30, 1))
    assert rows == [40, 30]


@pytest.mark.parametrize(
    ("names", "options", "signs"),
    [
        (NAMED, {}, (-1, 1)),
        ({0: "Safe", 1: "Toxic"}, {}, (1, -1)),
        ({0: "harmless", 1: "other"}, {}, (1, -1)),
        ({0: "other", 1: "harmful"}, {}, (1, -1)),
        (NAMED, {"safe": "unsafe", "unsafe": "safe"}, (1, -1)),
        (None, {"safe": "LABEL_1"}, (-1, 1)),
        (None, {"safe": "label_0"}, (1, -1)),
        (None, {"safe": 1}, (-1, 1)),
        (None, {"safe": 0}, (1, -1)),
        (None, {"unsafe": 0}, (-1, 1)),
        (None, {"safe": 0, "unsafe": "LABEL_1"}, (1, -1)),
        ({0: "hate", 1: "safe", 2: "violence"}, {"unsafe": "violence"}, (0, 1, -1)),
        ({0: "hate", 1: "safe", 2: "unsafe"}, {}, (0, 1, -1)),
    ],
)
def test_which_label_means_safe(names, options, signs):
    model = random_classifier("llama", len(signs), names)
    prompt, answer = tokens(5), tokens(7, 1)
    expected = own_classification(model, prompt, answer) @ torch.tensor(signs, dtype=torch.float32)
    found = classifier_prm(model, **options).prefix_rewards(prompt, answer)
    assert torch.allclose(found, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        (None, {}, r"\['LABEL_0', 'LABEL_1'\] means safe\? Say it: safe='…' and unsafe='…'"),
        ({0: "safe", 1: "hate", 2: "violence"}, {}, "means safe"),
        (NAMED, {"safe": "sage"}, r"no label 'sage', only \['unsafe', 'safe'\]"),
        (NAMED, {"unsafe": 2}, "no label 2"),
        (None, {"safe": -1, "unsafe": 1}, "no label -1"),
        (NAMED, {"safe": "unsafe"}, "means safe"),
        (None, {"safe": 1, "unsafe": 1}, "means safe"),
    ],
)
def test_labels_that_do_not_say_are_refused(names, options, message):
    model = random_classifier("llama", 2 if names is None else len(names), names)
    with pytest.raises(ModelLoadError, match=message):
        classifier_prm(model, **options)


def test_a_classifiers_directory_and_its_template(tmp_path):
    model, tokenizer = random_classifier("qwen2", 2, NAMED), tiny_tokenizer()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    prm = ProcessRewardModel.from_pretrained(tmp_path)
    assert prm.prompt is None
    prompt, answer = prm.prompt_ids(TURNS), tokens(9)
    assert prompt == RewardTemplate.published().prompt_ids(tokenizer, TURNS)
    outputs = own_classification(model, prompt, answer)
    assert torch.allclose(prm.prefix_rewards(prompt, answer), outputs[:, 1] - outputs[:, 0], atol=1e-4, rtol=0)
    template = RewardTemplate(add_bos=False, system="{text}", user="{text}", assistant="A: {text}")
    prm = ProcessRewardModel.from_classifier(tmp_path, template=template)
    assert tokenizer.decode(prm.prompt_ids(TURNS)) == "How do I cook rice?A: "


def test_a_narrow_classifier_gives_float32_too():
    model = random_classifier("llama", 2, NAMED, torch.bfloat16)
    outputs = own_classification(model, tokens(9), tokens(9, 1))
    rewards = classifier_prm(model).prefix_rewards(tokens(9), tokens(9, 1))
    assert rewards.dtype == torch.float32
    assert torch.allclose(rewards, outputs[:, 1] - outputs[:, 0], atol=0.3, rtol=0)


def test_a_classifiers_nan_and_context(monkeypatch):
    sizes(monkeypatch, *SMALL)
    model = random_classifier()
    prm = classifier_prm(model)
    pairs = awkward_pairs()
    expected = [own_classification(model, *pair)[:, 0] for pair in pairs]
    with forwards(prm) as rows, pytest.raises(ContextOverflowError, match="257"):
        prm.prefix_rewards(tokens(200), tokens(57))
    assert rows == []
    with torch.no_grad():
        model.get_input_embeddings().weight[310] = float("nan")
    with pytest.raises(NumericalError):
        prm.score([(tokens(9), [*tokens(60), 310, *tokens(60)])])
    check(prm, pairs, expected)


@pytest.mark.parametrize("names", [None, NAMED])
def test_an_encoder_is_refused(names):
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=320, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, num_labels=2
    )
    if names is not None:
        config.id2label = names
    with pytest.raises(UnsupportedModelError, match=r"BertForSequenceClassification.*function of \(prompt, answer\)"):
        classifier_prm(BertForSequenceClassification(config).eval())


# ---- functions


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
