"""Sequence classifiers as reward models: what they say of every prefix, and which label means safe."""

import pytest
import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    LlamaForSequenceClassification,
    MistralForSequenceClassification,
    Qwen2ForSequenceClassification,
)

from langchain_saffron import ProcessRewardModel
from langchain_saffron.errors import ContextOverflowError, ModelLoadError, NumericalError, UnsupportedModelError
from langchain_saffron.templates.reward_template import RewardTemplate
from unit_tests.families import FAMILIES
from unit_tests.models.scoring import ONE, SMALL, TURNS, UNEVEN, USUAL, awkward_pairs, check, forwards, sizes, tokens
from unit_tests.tiny_models import tiny_tokenizer

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


@pytest.mark.parametrize("constants", [USUAL, UNEVEN, pytest.param(ONE, marks=pytest.mark.slow)])
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
