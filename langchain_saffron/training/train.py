"""Training of an MRM from annotated data by partial supervision (SAFFRON paper, section 4.2)."""

import json
import math
import os
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs

from langchain_saffron.errors import TrainingError
from langchain_saffron.models.loading import load_tokenizer
from langchain_saffron.models.mrm_files import read_config
from langchain_saffron.models.mrm_quality import check_trained
from langchain_saffron.runtime.devices import default_device
from langchain_saffron.runtime.files import storing, whole
from langchain_saffron.runtime.threads import threads_for
from langchain_saffron.templates.reward_template import RewardTemplate
from langchain_saffron.training.adapter import adapted_base
from langchain_saffron.training.calibration import held_out_figures
from langchain_saffron.training.checkpoints import Checkpoints
from langchain_saffron.training.dataset import RewardData, data_digest, plan_batches
from langchain_saffron.training.details import training_details
from langchain_saffron.training.earlier import LOSSES, Earlier, finished_run
from langchain_saffron.training.export import base_name, trained_epochs, write_mrm
from langchain_saffron.training.settings import TrainSettings
from langchain_saffron.training.trainer import Progress, Report, Trainer

# conversations that tell where the bias starts
_CENTRED_BY = 64


def train(
    data: RewardData,
    out: str | Path,
    *,
    base: str | Path | None = None,
    held_out: RewardData | None = None,
    settings: TrainSettings | None = None,
    progress: Progress | None = None,
    report: Report | None = None,
    **load: Any,
) -> dict[str, Any]:
    """Fit an MRM to annotated data, measure it on held-out data, and write its directory.

    Started again after it was killed, it goes on from the last checkpoint, with the same weights in the end. A finished
    one goes on where `settings` ask for more epochs, with a new learning-rate schedule over those that are left. Under
    `accelerate launch` several processes share every batch; the loss is the same as with one.

    Args:
        data: The annotated data.
        out: Where the MRM goes; `checkpoints/` and `logs/` (TensorBoard) lie in it meanwhile.
        base: The base model, a directory, a GGUF file or a hub id; `None` for the PRM that annotated the data.
        held_out: Data to measure by; `None` keeps a share of `data` for that.
        settings: How it is fitted; `None` for the defaults.
        progress: Called with the steps done, all steps, and the last loss, on the main process.
        report: Called with lines of news, on the main process.
        **load: Further options of the base's loading (`revision`, `hf_token`, `trust_remote_code`).

    Returns:
        The held-out figures.

    Raises:
        TrainingError: `out` holds something else, or a checkpoint is damaged.
        WeakRewardModelError: With `strict`, the reward model is written but not likely to work. Without, that is a
            `RewardModelWarning`.
        CorpusError: The data belong to another tokenizer.
        ModelLoadError: The base cannot be loaded.
        StorageError: Something could not be written.
    """
    settings, out = settings or TrainSettings(), Path(out)
    name = str(base or data.prm.get("name") or "")
    if not name:
        raise TrainingError("base: the data name no model that they were annotated by; say which one to train (--base)")
    tokenizer = load_tokenizer(name, "base", load.get("revision"), load.get("hf_token"), load.get("trust_remote_code"))
    data.check_tokenizer(tokenizer, 2**31)
    named = base_name(name, out)
    run = {"settings": settings.of_run(), "base": named, "data": data_digest(data, held_out)}
    done = trained_epochs(out, run)
    if done == settings.epochs:
        # they are still there if it was killed when all was written
        Checkpoints(out / "checkpoints", finished_run(out)).clear_if_own()
        if report:
            report(f"{out} is already trained; more --epochs go on with it")
        training = read_config(out)["training"]
        figures: dict[str, Any] = training["held_out"]
        check_trained(out, training["seen_tokens"], training["vocabulary"], figures, settings.strict)
        return figures
    if held_out is None:
        data, held_out = data.split(settings.held_out_share, settings.seed)
    accelerator = _accelerator(settings, out)
    module = adapted_base(name, settings, accelerator.device, load)
    data.check_tokenizer(tokenizer, module.bias.shape[0])
    held_out.check_tokenizer(tokenizer, module.bias.shape[0])
    earlier = Earlier()
    if done:
        earlier = Earlier.load(out, module, len(plan_batches(data, settings.batch_size, done, settings.seed)))
        if accelerator.is_main_process:
            Checkpoints(out / "checkpoints", finished_run(out)).clear_if_own()
            if report:
                report(f"going on after {done} of {settings.epochs} epochs, with a new learning-rate schedule")
        accelerator.wait_for_everyone()
    elif settings.bias_start == "mean":
        module.centre(data.samples[:: math.ceil(len(data.samples) / _CENTRED_BY)])
    checkpoints = Checkpoints(out / "checkpoints", {**run, **earlier.record})
    trainer = Trainer(accelerator, module, data, settings, checkpoints, len(earlier.losses))
    with threads_for(module):
        losses = trainer.fit(progress, report)
        predicted = trainer.predict(held_out)
    rows = module.bias.shape[0]
    seen = data.seen(rows)
    figures = held_out_figures(predicted, settings.precision, held_out.share_of(seen))
    with storing(out / "logs"):
        accelerator.log({f"held_out/{key}": value for key, value in figures.items() if isinstance(value, float)})
    if accelerator.is_main_process:
        details = training_details(
            "partial supervision (SAFFRON-1, eq. 5)",
            {"run": run, **earlier.record},
            data,
            seen,
            sum(p.numel() for p in module.parameters() if p.requires_grad),
            figures,
            safety_threshold=f"the lowest prediction from which {settings.precision:.0%} of the held-out prefixes are "
            "safe by the process reward model (a reward above 0)",
        )
        template = data.template or RewardTemplate.for_tokenizer(tokenizer)
        _write_losses(out / LOSSES, [*earlier.losses, *losses])
        bias = module.bias.detach().float().cpu()
        pair = predicted.rewards, predicted.predictions
        write_mrm(out, module.model, bias, seen, tokenizer, template, named, details, *pair)
        trainer.checkpoints.clear()
    trainer.release()
    with storing(out / "logs"):
        accelerator.end_training()
    check_trained(out, int(seen.sum()), rows, figures, settings.strict, accelerator.is_main_process)
    return figures


def _accelerator(settings: TrainSettings, out: Path) -> Accelerator:
    """What the processes of a training share.

    Raises:
        TrainingError: It does not see all that were launched.
    """
    accelerator = Accelerator(
        # without this, processes on a machine that has no accelerator would each train alone
        cpu=settings.device == "cpu" or default_device() == "cpu",
        mixed_precision="no" if settings.mixed_precision == "auto" else settings.mixed_precision,
        log_with="tensorboard",
        project_dir=out,
        # processes do not run equally many forwards, so that none may wait for the others in one
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
    )
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if launched != accelerator.num_processes:
        raise TrainingError(f"{launched} processes were launched, but accelerate sees {accelerator.num_processes}")
    return accelerator


def _write_losses(path: Path, losses: list[float]) -> None:
    with whole(path) as partial:
        lines = (json.dumps({"step": step, "loss": loss}) for step, loss in enumerate(losses, 1))
        partial.write_text("\n".join(lines) + "\n", encoding="utf-8")
