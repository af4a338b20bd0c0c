"""Training of a reward head on a policy, from the data that an MRM is trained on."""

from math import nan
from pathlib import Path
from typing import Any

import numpy as np
import torch

from langchain_saffron.embedded import named_part
from langchain_saffron.errors import TrainingError
from langchain_saffron.models.head_map import rank_within
from langchain_saffron.models.layer_tap import decoder_layers
from langchain_saffron.models.loading import load_causal_lm, load_tokenizer
from langchain_saffron.models.mrm_files import CONFIG_FILE, read_config
from langchain_saffron.models.mrm_quality import check_trained
from langchain_saffron.models.policy_identity import PolicyIdentity
from langchain_saffron.models.reward_head import KIND, RewardHead
from langchain_saffron.runtime.devices import default_device
from langchain_saffron.runtime.threads import threads_for
from langchain_saffron.training.calibration import held_out_figures
from langchain_saffron.training.dataset import RewardData, data_digest
from langchain_saffron.training.details import training_details
from langchain_saffron.training.export import staging, unstage
from langchain_saffron.training.head_fit import FittedHead
from langchain_saffron.training.head_states import HeadStates, readings
from langchain_saffron.training.policy_prompts import PolicyPrompts
from langchain_saffron.training.settings import HeadSettings
from langchain_saffron.training.trainer import Progress, Report

# of the policy's size, at two bytes a parameter
MOST_SHARE = 0.02
# prefixes on which layers are compared
_TRIED = 30_000


def train_head(
    data: RewardData,
    out: str | Path,
    *,
    policy: str | Path,
    held_out: RewardData | None = None,
    settings: HeadSettings | None = None,
    progress: Progress | None = None,
    report: Report | None = None,
    **load: Any,
) -> dict[str, Any]:
    """Fit a head on a frozen policy to annotated data, measure it on held-out data, and write its directory.

    The policy reads every conversation once, in its own chat template; the head is fitted to its states then.

    Args:
        data: The annotated data: of any PRM with the policy's vocabulary.
        out: Where the head goes.
        policy: The policy: a directory, a GGUF file or a hub id; `"kitchen"` or `"smollm2"` for an embedded one.
        held_out: Data to measure by; `None` keeps a share of `data` for that.
        settings: How it is fitted; `None` for the defaults.
        progress: Called with what was read of the conversations, all of that, and NaN; then with the steps done, all
            steps, and the last loss.
        report: Called with lines of news.
        **load: Further options of the policy's loading (`revision`, `hf_token`, `trust_remote_code`).

    Returns:
        The held-out figures.

    Raises:
        TrainingError: `out` holds something else.
        WeakRewardModelError: With `strict`, the head is written but not likely to work. Without, that is a
            `RewardModelWarning`.
        CorpusError: The data belong to another tokenizer.
        ModelLoadError: The policy cannot be loaded.
        UnsupportedModelError: Its layers cannot be found.
        StorageError: Something could not be written.
    """
    settings, out = settings or HeadSettings(), Path(out)
    run = {"settings": settings.of_run(), "policy": str(policy), "data": data_digest(data, held_out)}
    training = _finished(out, run)
    if training is not None:
        if report:
            report(f"{out} is already trained")
        figures: dict[str, Any] = training["held_out"]
        check_trained(out, training["seen_tokens"], training["vocabulary"], figures, settings.strict)
        return figures
    name = str(named_part(policy, "policy"))
    tokenizer = load_tokenizer(
        name, "policy", load.get("revision"), load.get("hf_token"), load.get("trust_remote_code")
    )
    data.check_tokenizer(tokenizer, 2**31)
    device = settings.device or default_device()
    model = load_causal_lm(name, "policy", device=device, dtype=settings.dtype, **load)
    rows = model.get_output_embeddings().weight.detach()
    data.check_tokenizer(tokenizer, len(rows))
    if held_out is None:
        data, held_out = data.split(settings.held_out_share, settings.seed)
    if data.template is not None:
        prompts = PolicyPrompts(tokenizer, data.template)
        data, held_out = prompts.rewrite(data), prompts.rewrite(held_out)
        if report and prompts.kept:
            report(f"{prompts.kept:,} prompts stay in the reward model's template: the chat template takes them not")
    layers = _layers(len(decoder_layers(model)), settings.layer)
    first = readings(data)
    total = first + readings(held_out)
    with threads_for(model):
        known = HeadStates.of(model, data, layers, lambda done: progress(done, total, nan) if progress else None)
        measured = HeadStates.of(
            model, held_out, layers, lambda done: progress(first + done, total, nan) if progress else None
        )
    parameters = sum(p.numel() for p in model.parameters())
    rank = settings.rank or rank_within(
        MOST_SHARE, parameters, known.states[layers[0]].shape[1], rows.shape[1], len(rows)
    )
    layer = layers[0] if len(layers) == 1 else _best_layer(known, layers, rows, rank, settings, report)
    fitted = FittedHead(known, layer, rows, rank, settings.seed)
    fitted.fit(known, settings.epochs, settings.batch_size, settings.learning_rate, settings.seed, progress)
    seen = data.seen(len(rows))
    figures = held_out_figures(fitted.measure(measured), settings.precision, held_out.share_of(seen))
    identity = PolicyIdentity.of(model, tokenizer, layer, str(policy))
    head = RewardHead(layer, fitted.map.cpu(), fitted.bias.detach().cpu(), seen, identity, figures["safety_threshold"])
    details = training_details(
        "a head on the policy's states, by partial supervision (SAFFRON-1, eq. 5)",
        {"run": run},
        data,
        seen,
        head.parameters,
        figures,
    )
    with staging(out) as staged:
        head.save_pretrained(staged, **details)
    check_trained(out, int(seen.sum()), len(rows), figures, settings.strict)
    return figures


def _finished(out: Path, run: dict[str, Any]) -> dict[str, Any] | None:
    """What was recorded of this very run, if it is done.

    Raises:
        TrainingError: The directory holds something else.
    """
    if not out.exists():
        return None
    if out.is_dir():
        unstage(out)
    config = read_config(out) if out.is_dir() else {}
    training: dict[str, Any] = config.get("training") or {}
    if config.get("kind") == KIND and training.get("run") == run:
        return training
    # what a head is fitted from may lie beneath
    if not out.is_dir() or any(not entry.is_dir() for entry in out.iterdir()):
        what = "another reward model" if (out / CONFIG_FILE).exists() else "something else"
        raise TrainingError(f"{out} holds {what}: choose another --out, or delete it")
    return None


def _layers(count: int, wanted: int | None) -> list[int]:
    """The layers to try: in the middle and above, where states know what is being said."""
    if wanted is not None:
        return [wanted]
    return sorted({max(1, round(count * share)) for share in (0.5, 0.67, 0.83, 1.0)})


def _best_layer(
    known: HeadStates, layers: list[int], rows: torch.Tensor, rank: int, settings: HeadSettings, report: Report | None
) -> int:
    """The layer whose states predict best, by a short fit on some conversations and others to compare on."""
    drawn = np.random.default_rng(settings.seed)
    order = torch.from_numpy(drawn.permutation(len(known.following)))
    names = known.conversations.unique()
    # prefixes of one conversation are too much alike to tell what was learnt from what was learnt by heart
    apart = names[torch.from_numpy(drawn.permutation(len(names))[: max(1, len(names) // 5)])]
    beside = torch.isin(known.conversations[order], apart) if len(names) > 1 else torch.arange(len(order)) % 5 == 0
    some, others = known.some(order[~beside][: _TRIED * 4 // 5]), known.some(order[beside][: _TRIED // 5])
    errors = {}
    for layer in layers:
        tried = FittedHead(some, layer, rows, rank, settings.seed)
        tried.fit(some, 2, min(settings.batch_size, 256), settings.learning_rate, settings.seed)
        errors[layer] = float((tried.predict(others) - others.rewards).pow(2).mean())
    best = min(errors, key=errors.__getitem__)
    if report:
        shown = ", ".join(f"{error:.2f} at layer {layer}" for layer, error in errors.items())
        report(f"the head reads layer {best}: squared errors after a short fit are {shown}")
    return best
