"""Runs of training: the same as by hand, whatever the batches, the family, the layers and the data."""

import json
import math

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file

from langchain_saffron import MultifurcationRewardModel
from langchain_saffron.errors import CorpusError, ModelLoadError, TrainingError, WeakRewardModelError
from langchain_saffron.models.mrm_quality import RewardModelWarning
from langchain_saffron.models.prm import ProcessRewardModel
from langchain_saffron.templates.guard_prompt import GuardPrompt
from langchain_saffron.templates.reward_template import RewardTemplate
from langchain_saffron.training.annotate import annotate
from langchain_saffron.training.corpus import Corpus
from langchain_saffron.training.dataset import RewardData, plan_batches
from langchain_saffron.training.sample import Sample
from langchain_saffron.training.train import train
from langchain_saffron.training.trainer import Trainer
from unit_tests.builders import byte_level_tokenizer
from unit_tests.disks import content
from unit_tests.tiny_models import VOCABULARY, plain_logits, random_model
from unit_tests.training.runs import (
    NAN,
    PEFT_WARNINGS,
    SETTINGS,
    STEPS,
    TOKENIZER,
    check_figures,
    cut_short,
    data,
    one_by_one,
    samples,
    save_base,
)

pytestmark = PEFT_WARNINGS


@pytest.mark.slow
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


def test_all_linear_layers_of_the_last_ones_alone_have_an_adapter(tmp_path, base):
    settings = SETTINGS.model_copy(update={"epochs": 1, "target_modules": ("all-linear",), "layers": 1})
    train(data(12), tmp_path / "out", base=base, settings=settings)
    names = {name.partition(".lora_")[0] for name in load_file(tmp_path / "out/adapter_model.safetensors")}
    linear = {f"self_attn.{one}_proj" for one in "qkvo"} | {f"mlp.{one}_proj" for one in ("gate", "up", "down")}
    assert names == {f"base_model.model.model.layers.1.{one}" for one in linear}


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


def test_progress_and_logs_tell_the_losses(tmp_path, beside, monkeypatch):
    seen, collected, fit = [], [], Trainer.fit
    targets = Sample.targets

    def counted(*args):
        monkeypatch.setattr(Sample, "targets", lambda sample: (collected.append(sample.record), targets(sample))[1])
        losses = fit(*args)
        monkeypatch.setattr(Sample, "targets", targets)
        return losses

    monkeypatch.setattr(Trainer, "fit", counted)
    train(data(), tmp_path / "out", base=beside, settings=SETTINGS, progress=lambda *told: seen.append(told))
    kept, _ = data().split(SETTINGS.held_out_share, SETTINGS.seed)
    plan = plan_batches(kept, SETTINGS.batch_size, SETTINGS.epochs, SETTINGS.seed)
    # once for each that a step learns from
    assert collected == [kept.samples[i].record for batch in plan for i in batch]
    losses = [json.loads(line)["loss"] for line in (tmp_path / "out" / "losses.jsonl").read_text().splitlines()]
    assert seen == [(step, STEPS, losses[step - 1]) for step in (3, 6, 9, 10)]
    assert [path.stat().st_size > 100 for path in (tmp_path / "out" / "logs").rglob("events*")] == [True]


@pytest.mark.slow
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


@pytest.mark.parametrize("family", ["gpt2", pytest.param("gemma2", marks=pytest.mark.slow)])
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


def test_only_the_last_layers_get_the_adapter_if_so_asked(tmp_path, beside):
    settings = SETTINGS.model_copy(update={"layers": 1})
    figures = train(data(), tmp_path / "out", base=beside, settings=settings)
    names = load_file(tmp_path / "out" / "adapter_model.safetensors")
    # the second of two
    assert {int(name.split("layers.")[1].split(".")[0]) for name in names} == {1}
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


# --- what cannot work ---


def noisy(count: int) -> RewardData:
    """Rewards that nothing can predict."""
    rng = np.random.default_rng(5)
    noise = [np.where(s.known, rng.normal(0, 1, len(s.rewards)), NAN).astype(np.float32) for s in samples(count)]
    return RewardData([Sample(s.record, s.token_ids, r) for s, r in zip(samples(count), noise, strict=True)], {})


def test_a_reward_model_that_cannot_work_is_written_with_a_warning(tmp_path, beside):
    with pytest.warns(RewardModelWarning, match=r"it hardly predicts the rewards \(held-out r .*few tokens") as told:
        figures = train(noisy(12), tmp_path / "out", base=beside, settings=SETTINGS)
    assert len(told) == 1
    kept, held_out = noisy(12).split(0.2, 0)
    known = set(kept.seen(VOCABULARY).nonzero().flatten().tolist())
    targets = [int(token) for sample in held_out.samples for token in sample.token_ids[sample.known]]
    assert figures["seen_share"] == pytest.approx(sum(token in known for token in targets) / len(targets))
    rewards = np.concatenate([sample.rewards[sample.known] for sample in held_out.samples])
    assert (figures["lowest_rewards"], figures["highest_rewards"]) == (rewards.min(), rewards.max())


def test_strict_turns_it_down_after_writing_it_and_again_when_it_is_there(tmp_path, beside):
    strict = SETTINGS.model_copy(update={"strict": True})
    for _ in range(2):
        with pytest.raises(WeakRewardModelError, match="is written, but not likely to work: it hardly predicts"):
            train(noisy(12), tmp_path / "out", base=beside, settings=strict)
    assert (tmp_path / "out" / "mrm_config.json").exists()
    assert not (tmp_path / "out" / "checkpoints").exists()
    # the same run without it goes on where that was
    news: list[str] = []
    with pytest.warns(RewardModelWarning, match="not likely to work"):
        train(noisy(12), tmp_path / "out", base=beside, settings=SETTINGS, report=news.append)
    assert news == [f"{tmp_path / 'out'} is already trained; more --epochs go on with it"]
