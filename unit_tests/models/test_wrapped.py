"""Models as people have them at hand: in pipelines, under adapters, compiled, quantised, in pieces."""

import json

import pytest
import torch
from transformers import AutoModelForSequenceClassification, pipeline

from langchain_saffron import ChatSaffron, MultifurcationRewardModel, ProcessRewardModel, SaffronEngine
from langchain_saffron.errors import ModelLoadError, ModelNotFoundError, UnsupportedModelError
from langchain_saffron.models.end_tokens import end_token_ids
from langchain_saffron.models.loading import load_tokenizer
from langchain_saffron.templates.reward_template import RewardTemplate
from unit_tests.builders import CHATML, byte_level_tokenizer
from unit_tests.families import VOCABULARY
from unit_tests.tiny_models import PROMPTS, plain_logits, random_model, tiny_tokenizer

peft = pytest.importorskip("peft")


def chat_tokenizer():
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = CHATML
    return tokenizer


def say(model, **options):
    return ChatSaffron(model=model, effort="off", max_tokens=4, **options).invoke("Hi").text


def adapted(kind: str = "CAUSAL_LM", **options):
    """A random model under a LoRA adapter that changes it."""
    torch.manual_seed(3)
    config = peft.LoraConfig(task_type=kind, target_modules=["q_proj", "v_proj"], **options)
    return peft.get_peft_model(random_model(), config)


def stir(model):
    """Give the adapter's second halves, which begin at zero, an effect."""
    torch.manual_seed(4)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.3)
    return model.eval()


def directory_of(path, model, base):
    model.save_pretrained(path)
    config = json.loads((path / "adapter_config.json").read_text())
    (path / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": str(base)}))
    return path


@pytest.fixture
def base(tmp_path):
    random_model().save_pretrained(tmp_path / "base")
    chat_tokenizer().save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def test_a_pipeline_brings_its_model_and_tokenizer():
    model, tokenizer = random_model(), chat_tokenizer()
    given = pipeline("text-generation", model=model, tokenizer=tokenizer)
    chat = ChatSaffron(model=given, effort="off", max_tokens=4)
    assert chat.model is model
    assert chat.tokenizer is tokenizer
    assert chat.invoke("Hi").text == say(model, tokenizer=tokenizer)
    assert SaffronEngine.from_pretrained(given).tokenizer is tokenizer


def test_a_tokenizer_may_be_named(base):
    assert say(random_model(), tokenizer=str(base)) == say(str(base)) == say(random_model(), tokenizer=base)
    with pytest.raises(ModelNotFoundError, match="'/no/such/tokenizer' is not a directory"):
        say(random_model(), tokenizer="/no/such/tokenizer")


def test_an_adapter_works_inside_its_model(tmp_path, base):
    model = stir(adapted())
    prompt = PROMPTS[0]
    expected = plain_logits(model, prompt)
    assert not torch.allclose(expected, plain_logits(random_model(), prompt), atol=1e-2)
    for given in (model, torch.compile(random_model())):
        engine = SaffronEngine(given, tiny_tokenizer())
        nodes = engine.policy.forest.insert(prompt)
        found = engine.call(lambda engine=engine, nodes=nodes: engine.policy.forward(nodes, [len(nodes) - 1]))[0]
        wanted = expected if given is model else plain_logits(random_model(), prompt)
        assert torch.allclose(found, wanted, atol=1e-4)
    merged = say(str(directory_of(tmp_path / "adapter", model, base)))
    assert merged == say(model, tokenizer=chat_tokenizer())


def test_the_tokenizer_of_an_adapter_comes_before_its_base_s(tmp_path, base):
    directory = directory_of(tmp_path / "adapter", adapted(), base)
    assert load_tokenizer(str(directory), "policy").chat_template == CHATML
    other = tiny_tokenizer()
    other.chat_template = "{{ 1 }}"
    other.save_pretrained(directory)
    assert load_tokenizer(str(directory), "policy").chat_template == "{{ 1 }}"


def test_a_learned_prompt_is_refused():
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    with pytest.raises(UnsupportedModelError, match="puts a learned prompt before every text"):
        SaffronEngine(peft.get_peft_model(random_model(), config), tiny_tokenizer())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_model_that_torch_quantised_is_refused_by_name():
    quantised = torch.ao.quantization.quantize_dynamic(random_model(), {torch.nn.Linear}, dtype=torch.qint8)
    with pytest.raises(UnsupportedModelError, match=r"quantised by torch \(quantize_dynamic\).*Linear"):
        say(quantised, tokenizer=chat_tokenizer())


def test_a_missing_shard_is_named(tmp_path):
    random_model().save_pretrained(tmp_path, max_shard_size="100KB")
    chat_tokenizer().save_pretrained(tmp_path)
    lost = sorted(tmp_path.glob("model-*.safetensors"))[-1]
    lost.unlink()
    with pytest.raises(ModelLoadError, match=f"is incomplete: its index names '{lost.name}'"):
        say(str(tmp_path))


def test_a_lora_directory_for_sequence_classification_is_a_reward_model(tmp_path, base):
    plain = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
    config = peft.LoraConfig(task_type="SEQ_CLS", target_modules=["q_proj"], modules_to_save=["score"])
    model = stir(peft.get_peft_model(plain, config))
    model.config.pad_token_id = 2
    prompt, answer = PROMPTS[1], [5, 6, 7]
    prefixes = [[*prompt, *answer[: n + 1]] for n in range(3)]
    with torch.inference_mode():
        expected = torch.stack([model(input_ids=torch.tensor([ids])).logits[0, 0] for ids in prefixes])
    directory = directory_of(tmp_path / "reward", model, base)
    for given in (ProcessRewardModel.from_pretrained(directory), _of(model)):
        assert torch.allclose(given.prefix_rewards(prompt, answer), expected, atol=1e-4)


def _of(model):
    return ProcessRewardModel.from_pretrained(model, tokenizer=tiny_tokenizer())


def test_labels_that_nobody_named_have_to_be_said(tmp_path, base):
    plain = AutoModelForSequenceClassification.from_pretrained(base, num_labels=2)
    directory = directory_of(
        tmp_path / "reward", peft.get_peft_model(plain, peft.LoraConfig(task_type="SEQ_CLS", r=2)), base
    )
    with pytest.raises(ModelLoadError, match=r"LABEL_0.*LABEL_1.*means safe"):
        ProcessRewardModel.from_pretrained(directory)
    found = ProcessRewardModel.from_pretrained(directory, safe="LABEL_1", unsafe="LABEL_0")
    assert found.weights == {1: 1.0, 0: -1.0}


def test_end_tokens_of_both_places_end_a_turn():
    model, tokenizer = random_model(), tiny_tokenizer()
    model.generation_config.eos_token_id = 7
    assert end_token_ids(model, tokenizer) == (7, tokenizer.eos_token_id)
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, 9]
    assert end_token_ids(model, tokenizer) == (tokenizer.eos_token_id, 9)
    model.generation_config.eos_token_id = None
    assert end_token_ids(model, tokenizer) == (tokenizer.eos_token_id,)


def test_a_reward_model_for_a_tokenizer_without_bos():
    tokenizer = byte_level_tokenizer(vocab_size=VOCABULARY - 8, bos=None, chat_template=CHATML)
    vectors = torch.zeros(VOCABULARY), torch.ones(VOCABULARY, dtype=torch.bool)
    mrm = MultifurcationRewardModel(random_model(seed=1), tokenizer, *vectors)
    assert not mrm.template.add_bos
    engine = SaffronEngine(random_model(), tokenizer, mrm)
    for effort in ("off", "low"):
        assert ChatSaffron(engine=engine, effort=effort, max_tokens=3).invoke("Hi").usage_metadata["output_tokens"]
    with pytest.raises(ModelLoadError, match="BOS token, but its tokenizer has none"):
        MultifurcationRewardModel(random_model(seed=1), tokenizer, *vectors, template=RewardTemplate.published())


@pytest.mark.parametrize("seed", [2**64, -(2**70), 10**30, 2**63])
def test_a_seed_is_any_integer(seed):
    engine = SaffronEngine(random_model(), chat_tokenizer())
    chat = ChatSaffron(engine=engine, effort="off", temperature=3.0, top_p=1.0, max_tokens=12)
    first = chat.invoke("Hi", seed=seed).text
    assert chat.invoke("Hi", seed=seed).text == first
    assert first not in {chat.invoke("Hi", seed=other).text for other in (0, seed + 1)}
