"""Training by partial supervision: gradients, data, runs that are cut short, artefacts and figures."""

import errno
import json
import math
import os
import shutil
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import assume, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from langchain_saffron import MultifurcationRewardModel
from langchain_saffron.errors import CorpusError, ModelLoadError, StorageError, TrainingError
from langchain_saffron.models.prm import ProcessRewardModel
from langchain_saffron.runtime.files import whole, write_json
from langchain_saffron.templates.guard_prompt import GuardPrompt
from langchain_saffron.templates.reward_template import RewardTemplate
from langchain_saffron.training import checkpoints as checkpoints_module
from langchain_saffron.training.annotate import annotate
from langchain_saffron.training.calibration import agreement, plot_agreement, safety_threshold
from langchain_saffron.training.checkpoints import Checkpoints
from langchain_saffron.training.corpus import Corpus
from langchain_saffron.training.dataset import RewardData, Sample, plan_batches
from langchain_saffron.training.partial_supervision import PartialSupervision, Supervision
from langchain_saffron.training.settings import AnnotateSettings, TrainSettings
from langchain_saffron.training.shards import Row, file_hash, write_shard
from langchain_saffron.training.train import train
from unit_tests.builders import byte_level_tokenizer
from unit_tests.disks import files_of_at_most
from unit_tests.tiny_models import VOCABULARY, plain_logits, random_model, tiny_tokenizer

# what peft warns of when it looks a model over
pytestmark = pytest.mark.filterwarnings("ignore:.*(is_gradient_checkpointing|fan_in_fan_out)")

NAN = float("nan")
TOKENIZER = tiny_tokenizer()
TARGETS = {"gpt2": ["c_attn"], "falcon": ["query_key_value"], "gpt-neox": ["query_key_value"], "phi3": ["qkv_proj"]}
SETTINGS = TrainSettings(
    epochs=2,
    batch_size=4,
    learning_rate=5e-3,
    bias_learning_rate=0.4,
    held_out_share=0.2,
    precision=0.8,
    checkpoint_every=3,
    device="cpu",
)
STEPS = 10


def samples(count, seed=0, tokens=30, most=16):
    """Rewards that go by the token, so that a bias can learn them."""
    rng = np.random.default_rng(seed)
    made = []
    for record in range(count):
        ids = rng.integers(5, 5 + tokens, int(rng.integers(5, most)))
        rewards = np.where(ids % 2, 2.0, -2.0) + rng.normal(0, 0.5, len(ids))
        rewards[:3] = NAN
        made.append(Sample(record, ids, rewards.astype(np.float32)))
    return made


def data(count=24, seed=0):
    return RewardData(samples(count, seed), {})


def adapted(family="llama", **changes):
    """A model with an adapter that is not zero."""
    model = random_model(family, 3, **changes).requires_grad_(False)
    torch.manual_seed(7)
    targets = TARGETS.get(family, ["q_proj", "v_proj"])
    config = LoraConfig(
        r=4, lora_alpha=8, target_modules=targets, init_lora_weights=False, fan_in_fan_out=family == "gpt2"
    )
    return get_peft_model(model, config).eval()


def supervised(family="llama", **changes):
    model = adapted(family, **changes)
    head = model.get_base_model().get_output_embeddings()
    if getattr(head, "bias", None) is not None:
        torch.nn.init.normal_(head.bias)
    module = PartialSupervision(model)
    torch.nn.init.normal_(module.bias)
    return module


def predicted(module, batch):
    found = Supervision.of(batch)
    return module(found.input_ids, found.sequence, found.position, found.following), found.rewards


def content(directory, *but):
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.relative_to(directory).parts[0] not in but
    }


def save_base(directory, family="llama", seed=3, **changes):
    random_model(family, seed, **changes).save_pretrained(directory)
    TOKENIZER.save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_base(tmp_path_factory.mktemp("models") / "base", num_hidden_layers=2)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, base):
    """A finished run, and what it returned; nobody writes into it."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    shutil.copytree(base, out.parent / "base")
    before = content(out.parent / "base")
    figures = train(data(), out, base=out.parent / "base", settings=SETTINGS)
    assert content(out.parent / "base") == before
    return out, figures


@pytest.fixture
def beside(tmp_path, base):
    """A copy of the base, so that runs beside it name it as the finished one does."""
    shutil.copytree(base, tmp_path / "base")
    return tmp_path / "base"


class Stop(Exception):
    """What ends a run in the middle."""


def stop_at(step):
    def progress(done, steps, loss):
        assert steps == STEPS
        if done >= step:
            raise Stop

    return progress


def cut_short(out, base, step=8, **changes):
    """A run that has checkpoints and no more."""
    settings = SETTINGS.model_copy(update=changes)
    with pytest.raises(Stop):
        train(data(), out, base=base, settings=settings, progress=stop_at(step))


# partial supervision


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "gptj"])
def test_the_gradient_is_zero_at_tokens_that_never_follow(family):
    """Proposition 1 of the paper, over eq. 5."""
    module = supervised(family)
    head = module.model.get_base_model().get_output_embeddings().weight
    frozen = {name: p.clone() for name, p in module.named_parameters() if not p.requires_grad}
    assert any(p is head for p in module.parameters())
    batch = samples(6)
    found, wanted = predicted(module, batch)
    loss = ((found - wanted) ** 2).sum() / len(wanted)
    loss.backward()
    target = torch.zeros(VOCABULARY, dtype=torch.bool)
    target[[int(token) for sample in batch for token in sample.token_ids[3:]]] = True
    assert 5 < target.sum() < 31
    assert torch.equal(module.bias.grad[~target], torch.zeros(VOCABULARY - int(target.sum())))
    assert (module.bias.grad[target] != 0).all()
    # eq. 5's own derivative: the residuals of each token, summed
    residuals = torch.zeros(VOCABULARY).index_add(0, Supervision.of(batch).following, 2 * (found - wanted).detach())
    assert torch.allclose(module.bias.grad, residuals / len(wanted), atol=1e-5)
    assert head.grad is None
    for name, parameter in module.named_parameters():
        assert (parameter.grad is not None) == ("lora_" in name or name == "bias"), name
        if name in frozen:
            assert torch.equal(parameter, frozen[name]), name
    assert all(p.grad.abs().max() > 0 for name, p in module.named_parameters() if "lora_" in name)


FAMILIES = {
    "llama": ({}, True),
    "qwen2": ({}, True),
    "gpt2": ({}, True),
    "gptj": ({}, True),
    "phi": ({}, True),
    "phi3": ({}, True),
    "opt": ({}, True),
    "falcon": ({}, True),
    "gpt-neox": ({}, True),
    "gemma3": ({}, True),
    "gemma2": ({}, False),
    "cohere": ({}, False),
    "cohere2": ({}, False),
    "granite": ({"logits_scaling": 8.0}, False),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_predictions_are_those_of_one_prefix_at_a_time(family):
    changes, by_rows = FAMILIES[family]
    module = supervised(family, **changes)
    assert module._by_rows == by_rows
    batch = samples(5, tokens=300)
    with torch.no_grad():
        found, _ = predicted(module, batch)
    wanted = [
        plain_logits(module.model, sample.token_ids[:at].tolist())[sample.token_ids[at]]
        + module.bias[sample.token_ids[at]]
        for sample in batch
        for at in np.flatnonzero(sample.known)
    ]
    assert found.dtype == torch.float32
    assert torch.allclose(found, torch.stack(wanted), atol=2e-4)


def test_a_cap_on_logits_is_noticed_where_they_are_small():
    # it bends none of them yet, but it will once the adapter has made them larger
    model = adapted("gemma2", initializer_range=0.02)
    assert plain_logits(model, [5, 6, 7]).abs().max() < 1
    assert model.config.final_logit_softcapping
    assert not PartialSupervision(model)._by_rows


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "mixtral"])
def test_padding_changes_nothing(family):
    module = supervised(family)
    batch = samples(6)
    assert len({len(sample.token_ids) for sample in batch}) > 2
    with torch.no_grad():
        together, wanted = predicted(module, batch)
        apart = [predicted(module, [sample]) for sample in batch]
    assert torch.allclose(together, torch.cat([found for found, _ in apart]), atol=1e-5)
    assert torch.equal(wanted, torch.cat([rewards for _, rewards in apart]))


def test_a_batch_holds_what_is_known():
    first = Sample(0, np.array([7, 8, 9]), np.array([NAN, 0.5, NAN], np.float32))
    second = Sample(1, np.array([3, 4, 5, 6]), np.array([NAN, NAN, -1, 2], np.float32))
    found = Supervision.of([first, second])
    assert found.input_ids.tolist() == [[7, 8, 9], [3, 4, 5]]
    assert found.sequence.tolist() == [0, 1, 1]
    assert found.position.tolist() == [0, 1, 2]
    assert found.following.tolist() == [8, 5, 6]
    assert found.rewards.tolist() == [0.5, -1, 2]


def test_a_bias_starts_at_zero_and_is_all_that_is_added():
    model = adapted()
    module = PartialSupervision(model)
    assert torch.equal(module.bias, torch.zeros(VOCABULARY))
    trainable = {name for name, p in module.named_parameters() if p.requires_grad}
    assert trainable == {"bias", *(f"model.{name}" for name, p in model.named_parameters() if "lora_" in name)}


# data


def function_prm(tokenizer=TOKENIZER):
    return ProcessRewardModel.from_function(lambda prompt, answer: len(answer) % 5 - 2.5, tokenizer)


@pytest.fixture
def annotated(tmp_path):
    records = [{"prompt": f"question {i}", "response": f"answer {i}, {'and so on' * (i % 3)}"} for i in range(10)]
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    annotate(Corpus.open(path), function_prm(), tmp_path / "rewards", AnnotateSettings(shard_size=4))
    return tmp_path / "rewards"


def test_shards_load_as_they_were_written(annotated):
    loaded = RewardData.load(str(annotated))
    rows = [row for shard in sorted(annotated.glob("*.parquet")) for row in pq.read_table(shard).to_pylist()]
    assert len(loaded.samples) == len(rows) == 10
    for sample, row in zip(loaded.samples, rows, strict=True):
        assert sample.record == row["record"]
        assert sample.token_ids.tolist() == row["token_ids"]
        assert sample.rewards[sample.known].tolist() == row["rewards"]
        assert np.flatnonzero(sample.known).tolist() == list(range(row["response_start"], row["response_end"]))
    assert loaded.rewards == sum(len(row["rewards"]) for row in rows)
    assert loaded.manifest == json.loads((annotated / "manifest.json").read_text())
    assert loaded.template == RewardTemplate.for_tokenizer(TOKENIZER)
    assert loaded.prm["name"] == "a function"
    targets = {token for row in rows for token in row["token_ids"][row["response_start"] :]}
    assert loaded.seen(VOCABULARY).nonzero().flatten().tolist() == sorted(targets)


ROWS = {
    "aligned": ({"input_ids": [4, 5, 6, 7], "rewards": [0.5, None, -1.0, 2.0]}, [4, 5, 6, 7], [NAN, NAN, -1, 2]),
    "the last tokens": ({"token_ids": [4, 5, 6, 7], "rewards": [-1.0, 2.0]}, [4, 5, 6, 7], [NAN, NAN, -1, 2]),
    "a start": (
        {"token_ids": [4, 5, 6, 7], "response_start": 1, "rewards": [-1.0, 2.0]},
        [4, 5, 6, 7],
        [NAN, -1, 2, NAN],
    ),
    "two parts": (
        {"prompt_ids": [4, 5], "response_ids": [6, 7], "rewards": [-1.0, 2.0]},
        [4, 5, 6, 7],
        [NAN, NAN, -1, 2],
    ),
    "no prompt": ({"response_ids": [6, 7], "rewards": [-1.0, 2.0]}, [6, 7], [NAN, 2]),
    "other names": ({"tokens": [6, 7, 8], "scores": [1.0, 2.0, 3.0], "id": 3}, [6, 7, 8], [NAN, 2, 3]),
    "whole numbers": ({"ids": [6, 7, 8], "reward": [1, 2, 3]}, [6, 7, 8], [NAN, 2, 3]),
}


def save_rows(folder, kind, rows):
    path = folder / f"rows.{kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
@pytest.mark.parametrize("shape", ROWS)
def test_rows_of_others_load(tmp_path, kind, shape):
    row, ids, rewards = ROWS[shape]
    empty = {**row, "rewards": [], "scores": [], "reward": []}
    empty = {name: empty[name] for name in row}
    loaded = RewardData.load(save_rows(tmp_path, kind, [row, empty, row]))
    # what teaches nothing is left out, and the others keep their numbers
    assert [sample.record for sample in loaded.samples] == [0, 2]
    for sample in loaded.samples:
        assert sample.token_ids.tolist() == ids
        assert np.array_equal(sample.rewards, np.array(rewards, np.float32), equal_nan=True)
    assert loaded.manifest == {}
    assert loaded.template is None


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
@pytest.mark.parametrize(
    "row",
    [
        {"token_ids": [4, 5], "rewards": [1.0, 2.0, 3.0]},
        {"token_ids": [4, 5, 6], "response_start": 2, "rewards": [1.0, 2.0]},
        {"token_ids": [4, 5, 6], "response_start": -1, "rewards": [1.0, 2.0]},
        {"prompt": "a", "response": "b"},
        {"token_ids": [4, 5, 6]},
        {"rewards": [1.0, 2.0]},
        {"token_ids": [4, 5, 6], "rewards": 1.0},
        {"token_ids": "a text", "rewards": [1.0]},
        {"token_ids": [4, None, 6], "rewards": [1.0]},
        {"token_ids": [4, 5, 6], "rewards": ["high"]},
        {"token_ids": [4, 5, 6], "rewards": [[1.0], [2.0]]},
        {"token_ids": [4, 5, 6], "rewards": [1.0, float("inf")]},
    ],
    ids=str,
)
def test_rows_of_no_known_shape_are_named(tmp_path, kind, row):
    good = {"token_ids": [4, 5], "rewards": [1.0]}
    path = save_rows(tmp_path, kind, [{name: row.get(name) for name in row}] if kind == "parquet" else [good, row])
    where = "row 0" if kind == "parquet" else "line 2"
    with pytest.raises(CorpusError, match=rf"rows\.{kind}, {where}: .*token_ids"):
        RewardData.load(path)


def test_data_without_any_reward_are_refused(tmp_path):
    path = save_rows(tmp_path, "jsonl", [{"token_ids": [4, 5], "rewards": [1.0, None]}])
    with pytest.raises(CorpusError, match="no rewards"):
        RewardData.load(path)
    with pytest.raises(CorpusError, match="does not exist"):
        RewardData.load(tmp_path / "nowhere")


def test_an_annotated_answer_without_tokens_teaches_nothing(annotated):
    # a tokenizer may write an answer in no tokens at all
    write_shard(annotated / "extra.parquet", [Row(0, [4, 5], [], []), Row(1, [4, 5], [6], [1.5])], {})
    manifest = json.loads((annotated / "manifest.json").read_text())
    manifest["shards"] = [{"file": "extra.parquet", "rows": 2, "sha256": file_hash(annotated / "extra.parquet")}]
    (annotated / "manifest.json").write_text(json.dumps(manifest))
    assert [sample.record for sample in RewardData.load(annotated).samples] == [1]


def test_an_unfinished_annotation_is_refused(annotated):
    manifest = json.loads((annotated / "manifest.json").read_text())
    (annotated / "manifest.json").write_text(json.dumps({**manifest, "complete": False}))
    with pytest.raises(CorpusError, match="not finished"):
        RewardData.load(annotated)


def test_a_missing_shard_is_named(annotated):
    (annotated / "shard-00001.parquet").unlink()
    with pytest.raises(CorpusError, match=r"shard-00001\.parquet"):
        RewardData.load(annotated)


def test_a_shard_with_other_rows_is_named(annotated):
    path = annotated / "shard-00001.parquet"
    table = pq.read_table(path)
    pq.write_table(table.slice(0, table.num_rows - 1), path)
    with pytest.raises(CorpusError, match=r"shard-00001\.parquet"):
        RewardData.load(annotated)


@pytest.mark.parametrize("kept", [0, 4, 700, -1, -300])
def test_a_truncated_shard_is_named(annotated, kept):
    path = annotated / "shard-00001.parquet"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CorpusError, match=r"shard-00001\.parquet"):
        RewardData.load(annotated)


def test_a_shard_with_one_wrong_byte_anywhere_is_named(annotated):
    path = annotated / "shard-00001.parquet"
    content = path.read_bytes()
    for at in range(0, len(content), 7):
        path.write_bytes(content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :])
        with pytest.raises(CorpusError, match=r"shard-00001\.parquet is damaged"):
            RewardData.load(annotated)
    path.write_bytes(content)
    assert len(RewardData.load(annotated).samples) == 10


def test_data_of_another_tokenizer_are_refused(annotated):
    loaded = RewardData.load(annotated)
    loaded.check_tokenizer(TOKENIZER, VOCABULARY)
    # a control token more is no other vocabulary
    loaded.check_tokenizer(byte_level_tokenizer(VOCABULARY - 8, extra_tokens=("<extra>",)), VOCABULARY)
    with pytest.raises(CorpusError, match="another tokenizer"):
        loaded.check_tokenizer(byte_level_tokenizer(VOCABULARY - 20), VOCABULARY)


def test_ids_beyond_the_vocabulary_are_refused():
    made = RewardData([Sample(0, np.array([4, 99]), np.array([NAN, 1], np.float32))], {})
    made.check_tokenizer(TOKENIZER, 100)
    with pytest.raises(CorpusError, match="up to 99, but the base model has 99"):
        made.check_tokenizer(TOKENIZER, 99)
    negative = RewardData([Sample(0, np.array([-1, 9]), np.array([NAN, 1], np.float32))], {})
    with pytest.raises(CorpusError, match="token id -1"):
        negative.check_tokenizer(TOKENIZER, 100)


@hypothesis_settings(max_examples=60, deadline=None)
@given(
    records=st.lists(st.integers(0, 12), min_size=2, max_size=30),
    share=st.floats(0.001, 0.999),
    seed=st.integers(0, 5),
)
def test_a_split_is_by_whole_records(records, share, seed):
    count = len(set(records))
    assume(count > 1)
    made = RewardData(
        [Sample(r, np.array([i, r]), np.array([NAN, r], np.float32)) for i, r in enumerate(records)], {"a": 1}
    )
    kept, held_out = made.split(share, seed)
    parts = [{sample.record for sample in part.samples} for part in (kept, held_out)]
    assert parts[0] | parts[1] == set(records)
    assert not parts[0] & parts[1]
    assert len(parts[1]) == min(count - 1, math.ceil(share * count))
    both = kept.samples + held_out.samples
    assert sorted(id(sample) for sample in both) == sorted(id(sample) for sample in made.samples)
    again = made.split(share, seed)
    assert [[s.record for s in part.samples] for part in again] == [
        [s.record for s in part.samples] for part in (kept, held_out)
    ]
    assert kept.manifest == held_out.manifest == {"a": 1}


def test_a_split_depends_on_the_seed():
    held_out = {tuple(sorted(s.record for s in data(40).split(0.2, seed)[1].samples)) for seed in range(6)}
    assert len(held_out) == 6


def test_one_record_cannot_be_split():
    made = RewardData([samples(1)[0]] * 3, {})
    with pytest.raises(CorpusError, match="second record"):
        made.split(0.5, 0)


@pytest.mark.parametrize(("count", "size"), [(1, 4), (7, 3), (300, 4), (520, 8)])
def test_every_sample_comes_once_an_epoch(count, size):
    made = data(count)
    plan = plan_batches(made, size, 3, 1)
    steps = len(plan) // 3
    epochs = [plan[i * steps : (i + 1) * steps] for i in range(3)]
    for epoch in epochs:
        assert sorted(i for batch in epoch for i in batch) == list(range(count))
        assert all(1 <= len(batch) <= size for batch in epoch)
    assert steps == math.ceil(count / size)
    assert plan == plan_batches(made, size, 3, 1)
    if count > 100:
        assert epochs[0] != epochs[1]
        assert plan != plan_batches(made, size, 3, 2)


def test_batches_hold_samples_of_similar_length():
    made = RewardData(samples(200, most=60), {})
    lengths = [len(sample.token_ids) for sample in made.samples]
    plan = plan_batches(made, 4, 1, 0)
    padding = sum(max(lengths[i] for i in batch) * len(batch) - sum(lengths[i] for i in batch) for batch in plan)
    assert padding < 0.1 * sum(lengths)
    # but not in the order of their lengths
    first = [max(lengths[i] for i in batch) for batch in plan]
    assert first != sorted(first)


# a run


def one_by_one(mrm, held_out):
    """(rewards of the PRM, predictions) of every prefix, one forward each."""
    wanted = [sample.rewards[at] for sample in held_out.samples for at in np.flatnonzero(sample.known)]
    found = [
        float(mrm.rewards(sample.token_ids[:at])[sample.token_ids[at]])
        for sample in held_out.samples
        for at in np.flatnonzero(sample.known)
    ]
    return np.array(wanted, np.float64), np.array(found, np.float64)


def check_figures(figures, wanted, found, precision):
    error = found - wanted
    assert figures["rewards"] == len(wanted)
    assert figures["mse"] == pytest.approx((error**2).mean(), abs=1e-3)
    assert figures["within_1"] == pytest.approx((abs(error) <= 1).mean(), abs=1e-3)
    by_hand = ((wanted - wanted.mean()) * (found - found.mean())).mean() / wanted.std() / found.std()
    assert figures["pearson_r"] == pytest.approx(by_hand, abs=1e-3)
    threshold = lowest_threshold(wanted, found, precision)
    assert figures["safety_threshold"] == (None if threshold is None else pytest.approx(threshold, abs=1e-3))


def test_the_figures_are_those_of_the_saved_model(trained):
    out, figures = trained
    mrm = MultifurcationRewardModel.from_pretrained(out)
    wanted, found = one_by_one(mrm, data().split(0.2, 0)[1])
    check_figures(figures, wanted, found, 0.8)
    assert sum(row["rewards"] for row in figures["by_bin"]) == len(wanted)
    assert figures["safety_threshold"] is not None
    assert figures["pearson_r"] > 0.3
    assert mrm.safety_threshold == figures["safety_threshold"]
    assert mrm.details["training"]["held_out"] == figures
    assert mrm.template == RewardTemplate.for_tokenizer(TOKENIZER)


def test_seen_are_the_targets_and_no_others_have_a_bias(trained):
    kept, _ = data().split(0.2, 0)
    targets = {int(token) for sample in kept.samples for token in sample.token_ids[3:]}
    tensors = load_file(trained[0] / "mrm.safetensors")
    assert set(tensors["seen"].nonzero().flatten().tolist()) == targets
    assert set(tensors["bias"].nonzero().flatten().tolist()) == targets
    assert tensors["bias"].dtype == torch.float32


def test_the_base_stays_as_it_is_below_the_adapter(trained):
    out, _ = trained
    mrm = MultifurcationRewardModel.from_pretrained(out)
    before, after = random_model("llama", 3, num_hidden_layers=2).state_dict(), mrm.decoder.model.state_dict()
    changed = {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}
    assert changed == {f"model.layers.{i}.self_attn.{name}_proj.weight" for i in (0, 1) for name in "qv"}
    assert all(".lora_A." in name or ".lora_B." in name for name in load_file(out / "adapter_model.safetensors"))


@pytest.mark.parametrize("bias_rate", [0.4, None])
def test_a_run_is_adamw_on_eq_5_prefix_by_prefix(tmp_path, base, bias_rate):
    """The same training by a loop of its own, with one forward a prefix and the whole vocabulary's logits."""
    settings = SETTINGS.model_copy(update={"epochs": 1, "bias_learning_rate": bias_rate})
    train(data(12), tmp_path / "out", base=base, settings=settings)
    kept, _ = data(12).split(0.2, 0)
    plain = random_model("llama", 3, num_hidden_layers=2)
    torch.manual_seed(0)
    model = get_peft_model(plain, LoraConfig(r=4, lora_alpha=8.0)).eval()
    bias = torch.zeros(VOCABULARY, requires_grad=True)
    adapter = [p for name, p in model.named_parameters() if "lora_" in name]
    optimiser = torch.optim.AdamW(
        [{"params": adapter, "weight_decay": 0.01}, {"params": [bias], "weight_decay": 0.0}], lr=1.0, betas=(0.9, 0.98)
    )
    plan = plan_batches(kept, 4, 1, 0)
    losses = []
    for step, batch in enumerate(plan):
        errors = [
            model(input_ids=torch.tensor(ids[None, :at]), use_cache=False).logits[0, -1, ids[at]]
            + bias[ids[at]]
            - rewards[at]
            for ids, rewards in ((kept.samples[i].token_ids, kept.samples[i].rewards) for i in batch)
            for at in range(3, len(ids))
        ]
        loss = torch.stack(errors).square().mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_([*adapter, bias], 1.0)
        factor = (1 + math.cos(math.pi * step / len(plan))) / 2
        optimiser.param_groups[0]["lr"], optimiser.param_groups[1]["lr"] = 5e-3 * factor, (bias_rate or 25e-3) * factor
        optimiser.step()
        optimiser.zero_grad()
        losses.append(loss.item())
    written = [json.loads(line) for line in (tmp_path / "out" / "losses.jsonl").read_text().splitlines()]
    assert [row["step"] for row in written] == list(range(1, len(plan) + 1))
    assert [row["loss"] for row in written] == pytest.approx(losses, abs=1e-3)
    tensors = load_file(tmp_path / "out" / "mrm.safetensors")
    assert torch.allclose(tensors["bias"], bias.detach(), atol=1e-3)
    saved = load_file(tmp_path / "out" / "adapter_model.safetensors")
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            assert torch.allclose(saved[name.replace(".default", "")], parameter, atol=1e-3), name


def test_the_first_loss_is_that_of_the_plain_base(trained):
    kept, _ = data().split(0.2, 0)
    model = random_model("llama", 3, num_hidden_layers=2)
    errors = [
        float(plain_logits(model, sample.token_ids[:at].tolist())[sample.token_ids[at]]) - sample.rewards[at]
        for sample in (kept.samples[i] for i in plan_batches(kept, 4, 2, 0)[0])
        for at in np.flatnonzero(sample.known)
    ]
    losses = [json.loads(line)["loss"] for line in (trained[0] / "losses.jsonl").read_text().splitlines()]
    assert len(losses) == STEPS
    assert losses[0] == pytest.approx(np.mean(np.square(errors)), abs=1e-4)
    assert losses[-1] < losses[0] / 2


@pytest.mark.parametrize("micro", [1, 3])
def test_accumulated_gradients_make_the_same_run(tmp_path, beside, trained, micro):
    figures = train(
        data(), tmp_path / "out", base=beside, settings=SETTINGS.model_copy(update={"micro_batch_size": micro})
    )
    assert figures["mse"] == pytest.approx(trained[1]["mse"], abs=1e-4)
    for name in ("mrm.safetensors", "adapter_model.safetensors"):
        wanted, found = load_file(trained[0] / name), load_file(tmp_path / "out" / name)
        assert wanted.keys() == found.keys()
        assert all(torch.allclose(found[key].float(), wanted[key].float(), atol=1e-5) for key in wanted), name
    losses = [
        [json.loads(line)["loss"] for line in (out / "losses.jsonl").read_text().splitlines()]
        for out in (trained[0], tmp_path / "out")
    ]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


# every fourth line of `progress` comes before a checkpoint that is not there then
@pytest.mark.parametrize(("step", "known"), [(1, 0), (4, 3), (7, 6), (10, 9)])
def test_a_run_that_was_cut_short_ends_the_same_to_the_bit(tmp_path, beside, trained, step, known):
    out, news = tmp_path / "out", []
    cut_short(out, beside, step)
    assert not (out / "mrm_config.json").exists()
    figures = train(data(), out, base=beside, settings=SETTINGS, report=news.append)
    assert any(f"from step {known} of {STEPS}" in line for line in news) == (known > 0)
    assert figures == trained[1]
    assert content(out, "logs") == content(trained[0], "logs")
    assert not (out / "checkpoints").exists()


def test_progress_and_logs_tell_the_losses(tmp_path, beside):
    seen = []
    train(data(), tmp_path / "out", base=beside, settings=SETTINGS, progress=lambda *told: seen.append(told))
    losses = [json.loads(line)["loss"] for line in (tmp_path / "out" / "losses.jsonl").read_text().splitlines()]
    assert seen == [(step, STEPS, losses[step - 1]) for step in (3, 6, 9, 10)]
    assert [path.stat().st_size > 100 for path in (tmp_path / "out" / "logs").rglob("events*")] == [True]


def test_a_narrow_base_is_trained_in_float32(tmp_path, beside):
    settings = {"dtype": "bfloat16"}
    narrow = SETTINGS.model_copy(update=settings)
    train(data(), tmp_path / "whole", base=beside, settings=narrow)
    cut_short(tmp_path / "out", beside, **settings)
    train(data(), tmp_path / "out", base=beside, settings=narrow)
    assert content(tmp_path / "out", "logs") == content(tmp_path / "whole", "logs")
    tensors = load_file(tmp_path / "out" / "adapter_model.safetensors") | load_file(
        tmp_path / "out" / "mrm.safetensors"
    )
    assert {tensor.dtype for name, tensor in tensors.items() if name != "seen"} == {torch.float32}


def test_a_run_that_was_cut_short_twice_ends_the_same(tmp_path, beside, trained):
    out = tmp_path / "out"
    for step in (4, 7):
        cut_short(out, beside, step)
    train(data(), out, base=beside, settings=SETTINGS)
    assert content(out, "logs") == content(trained[0], "logs")


def test_how_the_work_is_spread_may_change_between(tmp_path, beside, trained):
    cut_short(tmp_path / "out", beside)
    settings = SETTINGS.model_copy(update={"micro_batch_size": 2, "checkpoint_every": 5})
    figures = train(data(), tmp_path / "out", base=beside, settings=settings)
    assert figures["mse"] == pytest.approx(trained[1]["mse"], abs=1e-4)


def test_a_run_that_broke_while_it_wrote_its_result_ends_the_same(tmp_path, beside, trained, monkeypatch):
    out = tmp_path / "out"
    for broken in (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), KeyboardInterrupt()):
        with monkeypatch.context() as patched:
            patched.setattr("langchain_saffron.training.export.plot_agreement", raising(broken))
            with pytest.raises(StorageError if isinstance(broken, OSError) else KeyboardInterrupt):
                train(data(), out, base=beside, settings=SETTINGS)
        assert not (out / "mrm_config.json").exists()
    with monkeypatch.context() as patched:
        moved, real = [], os.replace

        def replace(source, target):
            if Path(target).parent == out and Path(target).name == "mrm_config.json":
                raise KeyboardInterrupt
            moved.append(target)
            real(source, target)

        patched.setattr(os, "replace", replace)
        with pytest.raises(KeyboardInterrupt):
            train(data(), out, base=beside, settings=SETTINGS)
    # all is there but what makes it an MRM
    assert (out / "adapter_model.safetensors").exists()
    train(data(), out, base=beside, settings=SETTINGS)
    assert content(out, "logs") == content(trained[0], "logs")


def raising(error):
    def fail(*_, **__):
        raise error

    return fail


OTHERS = {
    "settings": lambda: (data(), SETTINGS.model_copy(update={"learning_rate": 1e-3})),
    "seed": lambda: (data(), SETTINGS.model_copy(update={"seed": 1})),
    "data": lambda: (data(seed=1), SETTINGS),
    "fewer": lambda: (data(23), SETTINGS),
    "records": lambda: (RewardData([Sample(s.record // 2, s.token_ids, s.rewards) for s in samples(24)], {}), SETTINGS),
}


@pytest.mark.parametrize("other", OTHERS)
def test_another_run_in_the_same_place_is_refused(tmp_path, beside, trained, other):
    made, settings = OTHERS[other]()
    cut_short(tmp_path / "out", beside)
    shutil.copytree(trained[0], tmp_path / "finished")
    for out, text in (("out", "checkpoints of another run"), ("finished", "another reward model")):
        before = content(tmp_path / out)
        with pytest.raises(TrainingError, match=text) as caught:
            train(made, tmp_path / out, base=beside, settings=settings)
        assert str(tmp_path / out) in str(caught.value)
        assert content(tmp_path / out) == before


def test_other_held_out_data_are_another_run(tmp_path, beside, trained):
    parts = RewardData(samples(24)[:12], {}), RewardData(samples(24)[12:], {})
    shutil.copytree(trained[0], tmp_path / "out")
    before = content(tmp_path / "out")
    with pytest.raises(TrainingError, match="another reward model"):
        train(parts[0], tmp_path / "out", base=beside, held_out=parts[1], settings=SETTINGS)
    assert content(tmp_path / "out") == before


def test_another_base_is_another_run(tmp_path, beside, trained):
    save_base(tmp_path / "second", num_hidden_layers=2)
    shutil.copytree(trained[0], tmp_path / "out")
    with pytest.raises(TrainingError, match="another reward model"):
        train(data(), tmp_path / "out", base=tmp_path / "second", settings=SETTINGS)


def test_a_finished_run_is_not_trained_again(tmp_path, beside, trained):
    shutil.copytree(trained[0], tmp_path / "out")
    before, news = content(tmp_path / "out"), []
    figures = train(data(), tmp_path / "out", base=beside, settings=SETTINGS, progress=stop_at(0), report=news.append)
    assert figures == trained[1]
    assert content(tmp_path / "out") == before
    assert any("already trained" in line for line in news)


FILES = ("weights.safetensors", "optimiser.safetensors", "state.json")
DAMAGES = {
    "empty": lambda path: path.write_bytes(b""),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-9]),
    "half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "garbage": lambda path: path.write_text('{"step": 6, "run": [], "sha256": {}}'),
    "a byte": lambda path: path.write_bytes(path.read_bytes()[:-1] + bytes([path.read_bytes()[-1] ^ 1])),
    "gone": lambda path: path.unlink(),
}


@pytest.fixture(scope="module")
def halfway(tmp_path_factory, base):
    """A directory with a base and a run that was cut short after its second checkpoint."""
    directory = tmp_path_factory.mktemp("halfway")
    shutil.copytree(base, directory / "base")
    cut_short(directory / "out", directory / "base")
    assert sorted(path.name for path in (directory / "out" / "checkpoints").iterdir()) == [
        "step-00000003",
        "step-00000006",
    ]
    return directory


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_named_and_nothing_overwritten(tmp_path, halfway, name, damage):
    shutil.copytree(halfway, tmp_path, dirs_exist_ok=True)
    DAMAGES[damage](tmp_path / "out" / "checkpoints" / "step-00000006" / name)
    before = content(tmp_path / "out")
    with pytest.raises(TrainingError, match=r"step-00000006 is damaged: delete it to go on from step 3"):
        train(data(), tmp_path / "out", base=tmp_path / "base", settings=SETTINGS)
    assert content(tmp_path / "out") == before


def test_a_state_that_is_no_object_is_damaged(tmp_path, halfway):
    shutil.copytree(halfway, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "out" / "checkpoints" / "step-00000006" / "state.json"
    state = json.loads(path.read_text())
    for wrong in (None, [], 3, {**state, "run": []}, {**state, "run": None}, {**state, "sha256": []}, {}):
        path.write_text(json.dumps(wrong))
        with pytest.raises(TrainingError, match="damaged"):
            train(data(), tmp_path / "out", base=tmp_path / "base", settings=SETTINGS)


def test_the_checkpoint_before_a_damaged_one_leads_to_the_same_end(tmp_path, halfway, trained):
    shutil.copytree(halfway, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "out" / "checkpoints" / "step-00000006")
    train(data(), tmp_path / "out", base=tmp_path / "base", settings=SETTINGS)
    assert content(tmp_path / "out", "logs") == content(trained[0], "logs")


def test_a_lone_damaged_checkpoint_says_to_begin_again(tmp_path, halfway):
    shutil.copytree(halfway, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "out" / "checkpoints" / "step-00000003")
    (tmp_path / "out" / "checkpoints" / "step-00000006" / "state.json").write_text("{")
    with pytest.raises(TrainingError, match="delete it to begin again"):
        train(data(), tmp_path / "out", base=tmp_path / "base", settings=SETTINGS)


def test_what_a_killed_run_left_half_written_is_ignored(tmp_path, halfway, trained):
    shutil.copytree(halfway, tmp_path, dirs_exist_ok=True)
    for name in ("checkpoints/step-00000009.partial", ".mrm.partial"):
        (tmp_path / "out" / name).mkdir()
        (tmp_path / "out" / name / "weights.safetensors").write_bytes(b"half")
    (tmp_path / "out" / "losses.jsonl.partial").write_text("half")
    train(data(), tmp_path / "out", base=tmp_path / "base", settings=SETTINGS)
    assert content(tmp_path / "out", "logs") == content(trained[0], "logs")


def test_the_last_two_checkpoints_are_kept(tmp_path, beside):
    cut_short(tmp_path / "out", beside, 10, checkpoint_every=2)
    assert sorted(path.name for path in (tmp_path / "out" / "checkpoints").iterdir()) == [
        "step-00000006",
        "step-00000008",
    ]


def test_a_checkpoint_brings_back_weights_and_moments(tmp_path):
    def make(seed):
        torch.manual_seed(seed)
        weights = {"a": torch.nn.Parameter(torch.randn(3, 2)), "b": torch.nn.Parameter(torch.randn(5))}
        return weights, torch.optim.AdamW(
            [{"params": [weights["a"]]}, {"params": [weights["b"]], "weight_decay": 0.0}], lr=0.1
        )

    def step(weights, optimiser, scale):
        for p in weights.values():
            p.grad = torch.full_like(p, scale)
        optimiser.step()

    weights, optimiser = make(0)
    for scale in (1.0, 0.5):
        step(weights, optimiser, scale)
    run = {"settings": {"target_modules": ("a", "b")}}
    Checkpoints(tmp_path, run).save(2, weights, optimiser, [3.0, 1 / 3])
    others, fresh = make(1)
    assert Checkpoints(tmp_path, run).load(others, fresh) == (2, [3.0, 1 / 3])
    for each in ((weights, optimiser), (others, fresh)):
        step(*each, 0.25)
    assert all(torch.equal(weights[name], others[name]) for name in weights)
    with pytest.raises(TrainingError, match="other settings"):
        Checkpoints(tmp_path, {"settings": {}}).load(others, fresh)
    Checkpoints(tmp_path, run).clear()
    assert Checkpoints(tmp_path, run).load(others, fresh) == (0, [])


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), SafetensorError("No space left")])
@pytest.mark.parametrize("file", [0, 1])
def test_a_checkpoint_that_finds_no_space_leaves_the_one_before(tmp_path, beside, trained, monkeypatch, error, file):
    calls = []

    def save(tensors, path):
        calls.append(path)
        if len(calls) == 3 + file:
            Path(path).write_bytes(b"half")
            raise error
        save_file(tensors, path)

    with monkeypatch.context() as patched:
        patched.setattr(checkpoints_module, "save_file", save)
        with pytest.raises(StorageError, match=r"step-00000006 .*No space left"):
            train(data(), tmp_path / "out", base=beside, settings=SETTINGS)
    assert [path.name for path in (tmp_path / "out" / "checkpoints").iterdir()] == ["step-00000003"]
    news = []
    train(data(), tmp_path / "out", base=beside, settings=SETTINGS, report=news.append)
    assert any("from step 3" in line for line in news)
    assert content(tmp_path / "out", "logs") == content(trained[0], "logs")


# the log of a run, a file of a checkpoint
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize(("size", "named"), [(10, "logs"), (300, "logs"), (7000, "step-00000003")])
def test_a_disk_that_really_takes_no_more_is_told(tmp_path, beside, trained, size, named):
    out = tmp_path / "out"
    with files_of_at_most(size), pytest.raises(StorageError, match=f"{named} could not be written.*too large"):
        train(data(), out, base=beside, settings=SETTINGS)
    assert not list(out.rglob("*.partial"))
    assert not list(out.rglob("step-*"))
    train(data(), out, base=beside, settings=SETTINGS)
    assert content(out, "logs") == content(trained[0], "logs")


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path, beside):
    settings = SETTINGS.model_copy(update={"learning_rate": 1e30, "bias_learning_rate": 1e30})
    with pytest.raises(TrainingError, match="not finite"):
        train(data(), tmp_path / "out", base=beside, settings=settings)
    assert not list((tmp_path / "out").rglob("*.safetensors"))


@pytest.mark.parametrize(
    ("target", "told"),
    [("nowhere", "nowhere"), ("lm_head", "lm_head"), ("embed_tokens", "embed_tokens"), ("input_layernorm", "RMSNorm")],
)
def test_layers_that_can_have_no_adapter_are_refused(tmp_path, beside, target, told):
    settings = SETTINGS.model_copy(update={"target_modules": ("q_proj", target) if target != "nowhere" else (target,)})
    with pytest.raises(ModelLoadError, match=told):
        train(data(), tmp_path / "out", base=beside, settings=settings)
    assert not (tmp_path / "out").exists() or not content(tmp_path / "out")


@pytest.mark.parametrize("family", ["gpt2", "gemma2"])
def test_other_families_train_and_load(tmp_path, family):
    """Conv1D and tied embeddings; soft-capped logits."""
    save_base(tmp_path / "base", family)
    figures = train(data(), tmp_path / "out", base=tmp_path / "base", settings=SETTINGS)
    mrm = MultifurcationRewardModel.from_pretrained(tmp_path / "out")
    check_figures(figures, *one_by_one(mrm, data().split(0.2, 0)[1]), 0.8)


def test_chosen_layers_get_the_adapter(tmp_path, beside):
    settings = SETTINGS.model_copy(update={"target_modules": ("up_proj", "k_proj"), "rank": 2, "alpha": 3.0})
    figures = train(data(), tmp_path / "out", base=beside, settings=settings)
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert (config["target_modules"], config["r"], config["lora_alpha"]) == (["k_proj", "up_proj"], 2, 3.0)
    names = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert {name.split(".")[-3] for name in names} == {"k_proj", "up_proj"}
    check_figures(
        figures, *one_by_one(MultifurcationRewardModel.from_pretrained(tmp_path / "out"), data().split(0.2, 0)[1]), 0.8
    )


def test_held_out_data_of_their_own_leave_all_for_training(tmp_path, beside):
    held_out = RewardData(samples(5, seed=9, tokens=40), {})
    figures = train(data(), tmp_path / "out", base=beside, held_out=held_out, settings=SETTINGS)
    mrm = MultifurcationRewardModel.from_pretrained(tmp_path / "out")
    assert mrm.details["training"]["conversations"] == 24
    assert torch.equal(mrm.seen, data().seen(VOCABULARY))
    assert not torch.equal(held_out.seen(VOCABULARY) | mrm.seen, mrm.seen)
    check_figures(figures, *one_by_one(mrm, held_out), 0.8)


def test_annotations_train_the_model_that_made_them(tmp_path, beside):
    """From conversations to an MRM, which then knows its template and where its rewards come from."""
    template = RewardTemplate(add_bos=True, system="S{text}", user="U{text}", assistant="A{text}")
    prm = ProcessRewardModel.from_pretrained(
        str(beside), GuardPrompt(template=template, suffix="?", safe=70, unsafe=80)
    )
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text(
        "".join(json.dumps({"prompt": f"{i} cups", "response": f"of rice, {i}"}) + "\n" for i in range(12))
    )
    annotate(Corpus.open(corpus), prm, tmp_path / "rewards", template=template)
    figures = train(RewardData.load(tmp_path / "rewards"), tmp_path / "out", settings=SETTINGS)
    mrm = MultifurcationRewardModel.from_pretrained(tmp_path / "out")
    assert mrm.template == template
    assert mrm.details["reward_source"] == prm.source
    assert mrm.details["base_model"] == "../base"
    check_figures(figures, *one_by_one(mrm, RewardData.load(tmp_path / "rewards").split(0.2, 0)[1]), 0.8)


def test_data_that_name_no_model_need_a_base(tmp_path):
    with pytest.raises(TrainingError, match="--base"):
        train(data(), tmp_path / "out", settings=SETTINGS)


def test_data_of_another_tokenizer_do_not_train(tmp_path, beside, annotated):
    loaded = RewardData.load(annotated)
    other = tmp_path / "other"
    random_model("llama", 3, num_hidden_layers=2).save_pretrained(other)
    byte_level_tokenizer(VOCABULARY - 20).save_pretrained(other)
    with pytest.raises(CorpusError, match="another tokenizer"):
        train(loaded, tmp_path / "out", base=other, settings=SETTINGS)
    beyond = RewardData([*samples(5), Sample(9, np.array([4, VOCABULARY]), np.array([NAN, 1], np.float32))], {})
    with pytest.raises(CorpusError, match=str(VOCABULARY)):
        train(beyond, tmp_path / "out", base=beside, settings=SETTINGS)
    with pytest.raises(CorpusError, match=str(VOCABULARY)):
        train(data(), tmp_path / "out", base=beside, held_out=beyond, settings=SETTINGS)
    assert not (tmp_path / "out").exists() or not content(tmp_path / "out")


def test_a_missing_base_is_named(tmp_path):
    with pytest.raises(ModelLoadError, match="nowhere"):
        train(data(), tmp_path / "out", base=tmp_path / "nowhere", settings=SETTINGS)


# the artefact


def strings(value):
    if isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from strings(each)
    elif isinstance(value, str):
        yield value


def test_the_directory_has_no_pickle_and_no_absolute_path(trained):
    out, _ = trained
    assert set(content(out, "logs")) == {
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "held_out.png",
        "losses.jsonl",
        "mrm.safetensors",
        "mrm_config.json",
    }
    assert not [path for path in out.rglob("*") if path.suffix in (".pt", ".pth", ".bin", ".pkl", ".pickle", ".ckpt")]
    for path in out.rglob("*"):
        if path.is_file():
            assert path.read_bytes()[:2] not in (b"\x80\x04", b"\x80\x02", b"PK")
    for path in out.rglob("*.json"):
        parsed = json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
        assert not [text for text in strings(parsed) if text.startswith(("/", "~")) or str(out.parent) in text]
    for name in ("README.md", "mrm_config.json", "adapter_config.json"):
        assert "../base" in (out / name).read_text()
        assert str(out.parent) not in (out / name).read_text()


def test_the_checkpoints_have_no_pickle_either(halfway):
    found = {path.name for path in (halfway / "out" / "checkpoints").rglob("*") if path.is_file()}
    assert found == set(FILES)


def test_the_directory_may_move_with_its_base(tmp_path, trained):
    shutil.copytree(trained[0].parent, tmp_path / "elsewhere")
    moved = MultifurcationRewardModel.from_pretrained(tmp_path / "elsewhere" / trained[0].name)
    stayed = MultifurcationRewardModel.from_pretrained(trained[0])
    assert torch.equal(moved.rewards([5, 6, 7]), stayed.rewards([5, 6, 7]))


def test_a_base_elsewhere_is_found_all_the_same(tmp_path, base):
    out = tmp_path / "deep" / "out"
    train(data(), out, base=base, settings=SETTINGS)
    shutil.move(out, tmp_path / "moved")
    mrm = MultifurcationRewardModel.from_pretrained(tmp_path / "moved")
    assert Path(mrm.details["base_model"]) == base.resolve()


def test_the_model_card_has_the_figures(trained):
    out, figures = trained
    card = (out / "README.md").read_text()
    config = json.loads((out / "mrm_config.json").read_text())["training"]
    for text in (
        f"| prefixes | {figures['rewards']:,} |",
        f"| Pearson r | {figures['pearson_r']:.4f} |",
        f"| within ±1 | {100 * figures['within_1']:.1f}% |",
        f"| mean squared error | {figures['mse']:.4f} |",
        f"`safety_threshold` is {figures['safety_threshold']:.3f}",
        "80% of the held-out prefixes",
        "held_out.png",
        "base_model: ../base",
        "2 epoch(s)",
    ):
        assert text in card
    rows = [line for line in card.splitlines() if " to " in line and line.startswith("| ")]
    assert len(rows) == len(figures["by_bin"])
    kept, _ = data().split(0.2, 0)
    assert config["rewards"] == sum(len(sample.token_ids) - 3 for sample in kept.samples)
    # rank 4 of q (32 by 32) and v (32 by 16) in two layers, and the bias
    assert config["trained_parameters"] == 2 * 4 * (64 + 48) + VOCABULARY
    assert (config["vocabulary"], config["seen_tokens"]) == (VOCABULARY, int(kept.seen(VOCABULARY).sum()))


def test_without_a_threshold_the_card_says_so(tmp_path, beside):
    safe = [Sample(s.record, s.token_ids, np.abs(s.rewards)) for s in samples(8)]
    news = []
    figures = train(RewardData(safe, {}), tmp_path / "out", base=beside, settings=SETTINGS, report=news.append)
    assert figures["safety_threshold"] is None
    assert any("no safety threshold" in line for line in news)
    assert "No `safety_threshold` could be calibrated" in (tmp_path / "out" / "README.md").read_text()
    assert MultifurcationRewardModel.from_pretrained(tmp_path / "out").safety_threshold is None


def test_the_plot_is_a_png_and_the_same_each_time(tmp_path, trained):
    wanted, found = np.random.default_rng(0).normal(size=(2, 50))
    for name in ("one.png", "two.png"):
        plot_agreement(tmp_path / name, wanted, found, "a title")
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    assert (trained[0] / "held_out.png").read_bytes().startswith(b"\x89PNG")
    plot_agreement(tmp_path / "one.png", np.ones(3), np.ones(3), "constant")


def test_a_place_that_holds_something_else_is_left_alone(tmp_path, beside, trained):
    (tmp_path / "file").write_text("mine")
    published = tmp_path / "published"
    published.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(trained[0] / name, published)
    torch.save(torch.zeros(VOCABULARY), published / "lm_head_bias.pt")
    for out in (tmp_path / "file", beside, published):
        before = content(out) if out.is_dir() else out.read_text()
        with pytest.raises(TrainingError, match=str(out)):
            train(data(), out, base=beside, settings=SETTINGS)
        assert (content(out) if out.is_dir() else out.read_text()) == before


def test_folders_that_were_there_before_stay(tmp_path, beside):
    out = tmp_path / "out"
    for name in ("mrm/model.safetensors", "checkpoints/mine/notes.txt", "logs/notes.txt"):
        (out / name).parent.mkdir(parents=True)
        (out / name).write_text("mine")
    before = content(out)
    train(data(), out, base=beside, settings=SETTINGS)
    assert content(out).items() >= before.items()
    assert not list((out / "checkpoints").glob("step-*"))


def test_settings_are_checked():
    for wrong in (
        {"epochs": 0},
        {"learning_rate": -1},
        {"held_out_share": 1.0},
        {"mixed_precision": "int8"},
        {"lr": 1},
    ):
        with pytest.raises(ValidationError):
            TrainSettings(**wrong)
    spread = TrainSettings(micro_batch_size=3, checkpoint_every=9, device="cpu")
    assert spread.of_run() == TrainSettings().of_run()
    assert TrainSettings(seed=1).of_run() != TrainSettings().of_run()


# figures

numbers = st.integers(-24, 24).map(lambda i: i / 4)


@hypothesis_settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(numbers, numbers), min_size=1, max_size=40))
def test_figures_by_hand(pairs):
    wanted, found = (np.array(column, np.float32) for column in zip(*pairs, strict=True))
    figures = agreement(wanted, found)
    assert figures["rewards"] == len(pairs)
    assert figures["mse"] == pytest.approx(sum((f - w) ** 2 for w, f in pairs) / len(pairs), rel=1e-4)
    assert figures["within_1"] == pytest.approx(sum(abs(f - w) <= 1 for w, f in pairs) / len(pairs))
    means = [math.fsum(column) / len(pairs) for column in zip(*pairs, strict=True)]
    spreads = [math.fsum((pair[i] - means[i]) ** 2 for pair in pairs) for i in (0, 1)]
    if min(spreads) == 0:
        assert figures["pearson_r"] == 0
    elif min(spreads) > 1e-9:
        shared = math.fsum((w - means[0]) * (f - means[1]) for w, f in pairs)
        assert figures["pearson_r"] == pytest.approx(shared / math.sqrt(spreads[0] * spreads[1]), abs=1e-6)
    bins = figures["by_bin"]
    assert sum(row["rewards"] for row in bins) == len(pairs)
    assert [row["from"] for row in bins] == sorted({2 * math.floor(w / 2) for w, _ in pairs})
    for row in bins:
        assert row["to"] == row["from"] + 2
        inside = [(w, f) for w, f in pairs if row["from"] <= w < row["to"]]
        assert row["rewards"] == len(inside)
        assert row["mse"] == pytest.approx(sum((f - w) ** 2 for w, f in inside) / len(inside), rel=1e-4)
        assert row["within_1"] == pytest.approx(sum(abs(f - w) <= 1 for w, f in inside) / len(inside))


@pytest.mark.parametrize("value", [0.1, 0.7, 1 / 3, 123.456])
@pytest.mark.parametrize("count", [1, 10, 100, 1000])
def test_nothing_correlates_with_a_constant(value, count):
    constant = np.full(count, value, np.float32)
    other = np.random.default_rng(0).normal(size=count).astype(np.float32)
    for pair in ((constant, other), (other, constant), (constant, constant)):
        assert agreement(*pair)["pearson_r"] == 0


def test_rewards_on_any_scale_are_put_into_bins_at_once():
    wanted = np.array([-3e9, 0.5, 1.5, 7e8], np.float32)
    bins = agreement(wanted, wanted)["by_bin"]
    assert [row["rewards"] for row in bins] == [1, 2, 1]
    assert [row["from"] for row in bins] == [-3e9, 0, 7e8]


def lowest_threshold(wanted, found, precision):
    """Every prediction tried as the threshold."""
    if all(w > 0 for w in wanted):
        return None
    for threshold in sorted(set(found)):
        passed = [w > 0 for w, f in zip(wanted, found, strict=True) if f >= threshold]
        if sum(passed) / len(passed) >= precision:
            return threshold
    return None


@hypothesis_settings(max_examples=300, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from([-2.0, 0.0, 1e-6, 3.0]), st.integers(-4, 4)), min_size=1, max_size=30),
    st.sampled_from([0.01, 0.3, 0.5, 2 / 3, 0.75, 0.9, 0.99]),
)
def test_the_threshold_is_the_lowest_of_all_that_will_do(pairs, precision):
    wanted = np.array([w for w, _ in pairs], np.float32)
    found = np.array([f / 4 for _, f in pairs], np.float32)
    assert safety_threshold(wanted, found, precision) == lowest_threshold(wanted, found.tolist(), precision)


def test_a_threshold_that_cannot_be_is_none():
    assert safety_threshold(np.array([1.0, 2.0]), np.array([0.0, 1.0])) is None
    assert safety_threshold(np.array([-1.0, 0.0]), np.array([0.0, 1.0])) is None
    # the one safe prefix is tied with one that is not
    assert safety_threshold(np.array([1.0, -1.0]), np.array([0.5, 0.5])) is None
    assert safety_threshold(np.array([1.0, -1.0]), np.array([0.5, 0.25])) == 0.5
    # a hundred safe ones carry one that is not
    wanted = np.array([*[1.0] * 100, -1.0])
    assert safety_threshold(wanted, np.arange(101.0)[::-1]) == 0.0


# storage


def test_a_file_appears_whole(tmp_path):
    path = tmp_path / "deep" / "er" / "file.txt"
    with whole(path) as partial:
        assert partial.parent == path.parent
        partial.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"
    assert [each.name for each in path.parent.iterdir()] == ["file.txt"]


def test_a_directory_takes_the_place_of_the_old_one(tmp_path):
    path = tmp_path / "folder"
    for name in ("old", "new"):
        with whole(path) as partial:
            (partial / "sub").mkdir(parents=True)
            (partial / "sub" / name).write_text(name)
    assert content(path) == {"sub/new": b"new"}
    assert [each.name for each in tmp_path.iterdir()] == ["folder"]


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), StorageError),
        (SafetensorError("I/O error: No space left on device (os error 28)"), StorageError),
        (ValueError("a mistake"), ValueError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
)
@pytest.mark.parametrize("is_folder", [False, True])
def test_an_error_inside_leaves_the_old_content(tmp_path, error, told, is_folder):
    path = tmp_path / "it"
    old = path / "old" if is_folder else path
    old.parent.mkdir(exist_ok=True)
    old.write_text("old")

    def write_half():
        with whole(path) as partial:
            if is_folder:
                partial.mkdir()
            (partial / "half" if is_folder else partial).write_text("half")
            raise error

    with pytest.raises(told) as caught:
        write_half()
    if told is StorageError:
        assert str(path) in str(caught.value)
        assert "No space left" in str(caught.value)
        assert caught.value.__cause__ is error
    assert old.read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["it"]


def test_what_a_crash_left_is_swept_aside(tmp_path):
    (tmp_path / "it.partial").mkdir()
    (tmp_path / "it.partial" / "junk").write_text("junk")
    with whole(tmp_path / "it") as partial:
        assert not partial.exists()
        partial.mkdir()
        (partial / "new").write_text("new")
    assert content(tmp_path) == {"it/new": b"new"}
    (tmp_path / "file.partial").write_text("junk")
    with whole(tmp_path / "file") as partial:
        partial.write_text("new")
    assert content(tmp_path) == {"it/new": b"new", "file": b"new"}


def test_json_is_written_as_text(tmp_path):
    for _ in range(2):
        write_json(tmp_path / "file", {"a": "ä", "b": "\udcff"})
    assert json.loads((tmp_path / "file").read_text(encoding="utf-8")) == {"a": "ä", "b": "\udcff"}
    assert "ä" in (tmp_path / "file").read_text(encoding="utf-8")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_place_below_a_file_is_told(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(StorageError, match="could not be written"), whole(tmp_path / "file" / "below"):
        pytest.fail("there is nothing to write to")
    with suppress(StorageError):
        write_json(tmp_path / "file" / "below", 1)
    assert content(tmp_path) == {"file": b"mine"}
