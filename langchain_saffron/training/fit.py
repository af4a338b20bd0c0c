"""From a policy and a guard to a reward model: a corpus, its rewards, and the training, in one resumable run."""

import gc
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

from langchain_saffron.embedded import named_part
from langchain_saffron.errors import SettingsError, VocabularyMismatchError
from langchain_saffron.models.adapted import has_head
from langchain_saffron.models.guard_retries import Retries
from langchain_saffron.models.loading import load_causal_lm, load_tokenizer
from langchain_saffron.models.prm import ProcessRewardModel
from langchain_saffron.models.text_prm import TextRewardModel
from langchain_saffron.models.vocabulary import check_vocabularies
from langchain_saffron.runtime.devices import default_device
from langchain_saffron.templates.guard_prompt import GuardPrompt
from langchain_saffron.templates.reward_template import RewardTemplate
from langchain_saffron.training.annotate import annotate
from langchain_saffron.training.candidates import Candidates
from langchain_saffron.training.corpus import Corpus
from langchain_saffron.training.dataset import RewardData
from langchain_saffron.training.guards import Guard, load_guard
from langchain_saffron.training.own_answers import read_prompts, write_answers
from langchain_saffron.training.settings import (
    AnnotateSettings,
    AnswerSettings,
    CandidateSettings,
    HeadSettings,
    TrainSettings,
)
from langchain_saffron.training.train import train
from langchain_saffron.training.train_head import train_head

Place = Literal["guard", "policy", "head"]
# the phase, how much of it is done, of how much, and a value to show
Progress = Callable[[str, int, int, float], None]
Report = Callable[[str], None]

CORPUS, REWARDS = "corpus", "rewards"
# a body that was trained to predict tokens has further to go than a guard's
ON_POLICY: dict[str, Any] = {
    "bias_start": "mean",
    "rank": 16,
    "alpha": 32.0,
    "target_modules": ("all-linear",),
    "learning_rate": 2e-3,
    "bias_learning_rate": 2e-2,
    # on 200 conversations of the hard kitchen r 0.77 after six, 0.63 after three
    "epochs": 6,
}
WRITING, ANNOTATING, TRAINING = "writing answers", "annotating", "training"


def fit(
    policy: str | Path,
    guard: Guard | ProcessRewardModel,
    out: str | Path,
    *,
    corpus: str | Path | None = None,
    prompts: str | Path | None = None,
    on: Place | None = None,
    base: str | Path | None = None,
    guard_prompt: str | GuardPrompt | None = None,
    safe: str | int | None = None,
    unsafe: str | int | None = None,
    guard_model: str | None = None,
    retries: Retries | None = None,
    answers: AnswerSettings | None = None,
    annotation: AnnotateSettings | None = None,
    candidates: CandidateSettings | None = None,
    training: TrainSettings | HeadSettings | None = None,
    device: str | None = None,
    dtype: str = "float32",
    progress: Progress | None = None,
    report: Report | None = None,
    **load: Any,
) -> dict[str, Any]:
    """Make a reward model for a policy of any tokenizer, from a guard of any kind.

    Three steps, each of which goes on where it was killed when the same is run again, with the same files in the end:
    the policy answers prompts (unless there is a corpus), the guard scores every prefix of the answers, and an adapter
    is fitted to these rewards and calibrated.

    Args:
        policy: A hub id, a directory or a GGUF file.
        guard: What scores; see `training.guards.load_guard`.
        out: The MRM's directory. The corpus and the rewards lie in it, as `corpus/` and `rewards/`.
        corpus: Conversations. Without them the policy answers `prompts`.
        prompts: A file of prompts: `.txt` with one a line, or records.
        on: What the adapter is put on: `"guard"`, which has to be a causal LM with the policy's vocabulary, or
            `"policy"`, where prefixes are scored as text. `"head"` fits a small map on the policy's states instead,
            which needs no second model in use. `None` for the guard where that can be, else the policy.
        base: With `on="policy"`, another model with the policy's vocabulary to train in its place, such as a smaller
            one of its family.
        guard_prompt: How a causal LM is asked: a preset's name or a `GuardPrompt`.
        safe: The token, label or word that means safe, in place of the usual one.
        unsafe: The one that means unsafe.
        guard_model: The model that an endpoint is asked for.
        retries: How often an endpoint or a function is asked again, and whether what fails is skipped. It counts what
            happened.
        answers: Which answers the policy writes.
        annotation: How much of each conversation is annotated.
        candidates: Has the guard score tokens as well that the policy could have said; `None` for those that it said.
        training: How the adapter is fitted; `HeadSettings` with `on="head"`. What it leaves at its default is, on the
            policy, that of `ON_POLICY`.
        device: Where policy and guard run; `None` takes an accelerator if there is one.
        dtype: Of their weights meanwhile.
        progress: Called with the phase, how much of it is done and how much there is, and a value.
        report: Called with lines of news.
        **load: Further options of the loading (`revision`, `hf_token`, `trust_remote_code`).

    Returns:
        The held-out figures of the training, with `on`, and under `annotation` the counts of the manifest.

    Raises:
        SettingsError: There is neither corpus nor prompts, or `on` cannot be.
        GuardFailedError: The guard gave no reward however often it was asked.
        CorpusError: The corpus cannot be used, or `out` holds another run.
        TrainingError: `out` holds something else.
        ModelLoadError: A model cannot be loaded.
    """
    out, policy = Path(out), named_part(policy, "policy")
    device = device or default_device()
    _check_place(on, base, training)
    if (corpus is None) == (prompts is None):
        raise SettingsError("corpus: give a corpus, or prompts= for the policy to answer; one of the two")
    # mistakes in files should not cost the models' loading
    source = Corpus.open(corpus) if corpus is not None else None
    asked = read_prompts(prompts) if prompts is not None else []
    loading = {"device": device, "dtype": dtype, **load}
    tokenizer = load_tokenizer(policy, "policy", load.get("revision"), load.get("hf_token"))
    if base is not None:
        _check_base(base, tokenizer)
    if source is None:
        model = load_causal_lm(policy, "policy", **loading)
        source = Corpus.open(
            write_answers(
                model, tokenizer, asked, out / CORPUS, answers or AnswerSettings(),
                _phase(progress, WRITING, len(asked)),
            )
        )  # fmt: skip
        del model
        gc.collect()
    prm = load_guard(
        guard, tokenizer, prompt=guard_prompt, safe=safe, unsafe=unsafe, guard_model=guard_model, retries=retries,
        **loading,
    )  # fmt: skip
    place = _place(prm, tokenizer, on, base)
    if place != "guard" and not _reads_ids_of(tokenizer, prm):
        prm = TextRewardModel(prm, tokenizer)
    named = None
    if candidates is not None:
        named = Candidates(load_causal_lm(policy, "policy", **loading), tokenizer, prm, candidates)
    annotation = (annotation or AnnotateSettings()).in_shards_for(candidates)
    limit = annotation.limit or len(source)
    manifest = annotate(
        source,
        prm,
        out / REWARDS,
        annotation,
        template=None if place == "guard" else RewardTemplate.for_tokenizer(tokenizer),
        candidates=named,
        progress=_phase(progress, ANNOTATING, min(limit, len(source))),
        report=report,
    )
    trained = prm.name if place == "guard" else base or policy
    del prm, named
    gc.collect()
    common: dict[str, Any] = {"progress": partial(progress, TRAINING) if progress else None, "report": report, **load}
    data = RewardData.load(out / REWARDS)
    if place == "head":
        head = training if isinstance(training, HeadSettings) else None
        figures = train_head(data, out, policy=policy, settings=head, **common)
    else:
        assert not isinstance(training, HeadSettings)
        figures = train(data, out, base=str(trained), settings=_training(training, place), **common)
    return {**figures, "on": place, "annotation": manifest["counts"]}


def _check_place(on: Place | None, base: str | Path | None, training: TrainSettings | HeadSettings | None) -> None:
    """Refuse what cannot be, before anything is loaded.

    Raises:
        SettingsError: An unknown place, or settings that are for another.
    """
    if on not in (None, "guard", "policy", "head"):
        raise SettingsError(f"on: {on!r} is none of 'guard', 'policy' and 'head'")
    if on == "head" and base is not None:
        raise SettingsError("base= is for on='policy': a head reads the policy itself")
    if training is not None and isinstance(training, HeadSettings) != (on == "head"):
        raise SettingsError("training: HeadSettings go with on='head', TrainSettings with adapters")


def _place(prm: ProcessRewardModel, tokenizer: Any, on: Place | None, base: str | Path | None) -> Place:
    """Where the adapter goes.

    Raises:
        SettingsError: It cannot go there.
    """
    if on == "head":
        return "head"
    if on == "policy" or (on is None and base is not None):
        return "policy"
    problem = ""
    if base is not None:
        problem = "base= is for on='policy'"
    elif prm.decoder is None:
        problem = "this guard is no causal LM"
    elif prm.prompt is None and not has_head(prm.name):
        problem = "this guard is a classifier, whose body predicts no tokens"
    else:
        try:
            check_vocabularies(tokenizer, prm.tokenizer)
        except VocabularyMismatchError as error:
            problem = str(error).partition(": their")[0].replace("reward model", "guard")
    if not problem and not prm.name:
        problem = "this guard was passed as a loaded model that does not say where it lies"
    if problem and on == "guard":
        raise SettingsError(f"on: no adapter can be put on the guard: {problem}. Use on='policy'")
    return "policy" if problem else "guard"


def _reads_ids_of(tokenizer: Any, prm: ProcessRewardModel) -> bool:
    """Whether a guard reads a tokenizer's ids as they are: over one tree of them, which costs a fraction of texts."""
    return prm.decoder is not None and bool(tokenizer.get_vocab() == prm.tokenizer.get_vocab())


def _training(settings: TrainSettings | None, place: Place) -> TrainSettings:
    settings = settings or TrainSettings()
    if place == "guard":
        return settings
    return TrainSettings(**{**ON_POLICY, **settings.model_dump(include=settings.model_fields_set)})


def _check_base(base: str | Path, tokenizer: Any) -> None:
    check_vocabularies(tokenizer, load_tokenizer(base, "base"))


def _phase(progress: Progress | None, name: str, total: int) -> Callable[[int, int], None] | None:
    if progress is None:
        return None
    tell = progress
    return lambda done, value: tell(name, done, total, float(value))
