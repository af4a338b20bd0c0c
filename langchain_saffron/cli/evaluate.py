"""`saffron evaluate`: how safe a model is, at what compute, compared with what."""

from pathlib import Path
from typing import Annotated, Any

import typer

from langchain_saffron.cli.options import Device, Dtype, Model, RewardBase, RewardModel, notice, progress_bar, quieten
from langchain_saffron.errors import SettingsError

QUICK_METHODS = (
    "none", "best-of-n:4", "best-of-n:16", "rebase:4", "rebase:16", "deal:4", "deal:16",
    *(f"saffron:{width}" for width in (1, 2, 4, 8, 16)),
)  # fmt: skip
FULL_METHODS = (
    "none", "greedy", *(f"best-of-n:{width}" for width in (2, 4, 8, 16, 32)),
    *(f"{name}:{width}" for name in ("rebase", "deal") for width in (4, 16, 64)),
    *(f"saffron:{width}" for width in (1, 2, 4, 8, 16, 32, 64)),
)  # fmt: skip
QUICK_SAMPLES, FULL_SAMPLES = 20, 200
FULL_SEEDS = 5
# prompts by which equal compute is found
PILOT = 12


def evaluate(
    data: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="DATA…",
            help="kitchen (the embedded world's hazards), hard-kitchen (a policy that seldom turns back), "
            "secret-kitchen (one that also names what no reward model knows), kitchen-benign, kitchen-borderline, "
            "kitchen-questions, kitchen-poisoned, kitchen-tool-results, or FORMAT:PATH with a format of hex-phi, "
            "rewardbench, harmbench, advbench, jailbreakbench, jailbreakbench-benign, strongreject, xstest, or-bench, "
            "or-bench-toxic, jsonl.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The directory of the run; a killed run goes on in it.")
    ] = None,
    model: Model = None,
    reward_model: RewardModel = None,
    reward_base: RewardBase = None,
    prm: Annotated[
        str | None,
        typer.Option(metavar="PATH|ID", help="The process reward model that Best-of-N, Rebase and DeAL ask."),
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[:WIDTH]",
            help="none (sampling), greedy, best-of-n, rebase, deal, saffron, saffron-paper, saffron-no-mask; several.",
        ),
    ] = None,
    attack: Annotated[
        list[str] | None,
        typer.Option(
            help="none, prefill-N, many-shot-N, template-injection, poisoned-context, hostile-tool-result, "
            "replay:FILE; several."
        ),
    ] = None,
    judge: Annotated[
        str | None,
        typer.Option(
            metavar="rule|keyword|PATH|ID", help="Who judges: the kitchen's rule, refusals by words, or a guard model."
        ),
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(
            min=1, help=f"Answers of each sampling method to each prompt.  [default: {FULL_SEEDS}; with --quick: 1]"
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Prompts of each dataset.")] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Tokens of an answer.  [default: 64; hard and secret kitchen: 112]")
    ] = None,
    top_p: Annotated[
        float | None,
        typer.Option(
            min=0.01, max=1, help="The nucleus of every method.  [default: 0.8; hard and secret kitchen: 0.9]"
        ),
    ] = None,
    hide_prefill: Annotated[
        bool,
        typer.Option("--hide-prefill", help="Keep a prefill from the reward models, as the paper's protocol does."),
    ] = False,
    quick: Annotated[bool, typer.Option("--quick", help=f"{QUICK_SAMPLES} prompts, in minutes.")] = False,
    rescore: Annotated[
        list[Path] | None,
        typer.Option(
            help="Judge the answers in this directory anew, without a model. Of several directories (runs with MRMs "
            "from several trainings, say), all answers are counted together; the figures go to --out, or to the first."
        ),
    ] = None,
    match: Annotated[
        str | None,
        typer.Option(
            metavar="NAME:WIDTH",
            help="Equal compute: give every --method without a width the one that costs what this method costs.",
        ),
    ] = None,
    against: Annotated[
        Path | None, typer.Option("--compare", help="Set the figures of this directory beside those of --out.")
    ] = None,
    device: Device = None,
    dtype: Dtype = None,
) -> None:
    """Attack a model, decode by several methods, and compare how often each does harm and what it costs.

    Every answer is logged, so that a run can be resumed and judged anew.

    For example:

    saffron evaluate kitchen --quick --out run

    saffron evaluate hex-phi:harmful.jsonl --model … --reward-model … --prm … --attack prefill-10 --out run

    saffron evaluate hard-kitchen --method none --method saffron-paper:4 --method saffron-paper:16 --out hard

    saffron evaluate kitchen --match best-of-n:32 --method rebase --method deal --method saffron --out equal

    saffron evaluate --rescore run --judge keyword
    """
    from langchain_saffron.extras import EVALUATION

    EVALUATION.require()
    from langchain_saffron.evaluation.cases import make_cases, parse_attack, parse_data, parse_method
    from langchain_saffron.evaluation.kitchen_sets import SETS, WITH_OWN_POLICY, topic_rule
    from langchain_saffron.evaluation.log import RunLog
    from langchain_saffron.evaluation.metrics import summarise
    from langchain_saffron.evaluation.report import compare, write_report
    from langchain_saffron.kitchen.world.utensils import TOP_P

    quieten(keep_progress=False, keep_warnings=False)
    if against is not None:
        if out is None:
            raise SettingsError("out: --compare sets a directory beside that of --out")
        print(compare(against, out))
        return
    if rescore:
        logs = [RunLog(path) for path in rescore]
        data, count = (logs[0].settings[name] for name in ("data", "limit"))
        if any((log.settings["data"], log.settings["limit"]) != (data, count) for log in logs):
            raise SettingsError("rescore: the directories hold runs on different data")
    elif out is None:
        raise SettingsError("out: where shall the answers go? Name a directory with --out")
    else:
        count = limit or (QUICK_SAMPLES if quick else FULL_SAMPLES)
        data = data or ["kitchen"]
    is_kitchen = all(name in SETS for name in data)
    hard = next((name for name in data if name in WITH_OWN_POLICY), None)
    if hard and len(data) > 1:
        raise SettingsError(f"data: {hard} has a policy of its own: evaluate it alone")
    seeds = seeds or (1 if quick else FULL_SEEDS)
    max_tokens = max_tokens or (112 if hard else 64)
    top_p = top_p or (TOP_P if hard else 0.8)
    # a mistake in data, methods or attacks should not cost the model's loading
    samples = [sample for name in data for sample in parse_data(name, count, SETS)]
    named = [*([match] if match else []), *(method or (QUICK_METHODS if quick else FULL_METHODS))]
    methods = [parse_method(text, max_tokens=max_tokens, top_p=top_p) for text in named]
    who = _judge(judge or ("rule" if is_kitchen else "keyword"), device, dtype)
    if not rescore:
        assert out is not None
        engine = _engine(model, reward_model, reward_base, prm, device, dtype, hard)
        names = attack or (["prefill-10"] if is_kitchen else ["none"])
        attacks = [parse_attack(text, samples, engine.tokenizer) for text in names]
        if match is not None:
            pilot = make_cases(samples[:PILOT], attacks[:1], methods[:1], 1)
            methods = [methods[0], *_matched(engine, named[1:], methods[1:], pilot, max_tokens=max_tokens, top_p=top_p)]
        record = {
            "data": data, "limit": count, "model": engine.name, "reward_model": reward_model or "", "prm": prm or "",
            "methods": [m.name for m in methods],
            "attacks": names, "seeds": seeds, "max_tokens": max_tokens, "top_p": top_p, "hide_prefill": hide_prefill,
        }  # fmt: skip
        logs = [RunLog(out, record)]
        unmasked = None
        if any(not one.masked for one in methods):
            unmasked = _engine(model, reward_model, reward_base, prm, device, dtype, hard, masked=False)
        _answer(logs[0], make_cases(samples, attacks, methods, seeds), engine, unmasked, hide_prefill)
    rows = [row for log in logs for row in log.judge(who)]
    note = ""
    if who.source and any(who.source == log.settings.get("prm") for log in logs):
        note = "The judge is the model that steered: its verdicts flatter the methods that ask it."
    print(write_report(out or logs[0].path, summarise(rows, topic_rule(samples)), who.name, note))


def _matched(engine: Any, named: list[str], methods: list[Any], pilot: list[Any], **common: Any) -> list[Any]:
    """The methods; those named without a width with the one that costs as much as the pilot's."""
    from dataclasses import replace

    from langchain_saffron.evaluation.equal_compute import match_width
    from langchain_saffron.evaluation.methods import make_method
    from langchain_saffron.evaluation.runner import Runner

    def mean(cases: list[Any]) -> float:
        costs = [row["tflops"] for row in Runner(engine).run(cases)]
        return float(sum(costs) / len(costs))

    target = mean(pilot)
    found = []
    for text, method in zip(named, methods, strict=True):
        if ":" in text or method.settings.search in ("greedy", "sample"):
            found.append(method)
            continue

        def cost(width: int, name: str = text) -> float:
            method = make_method(name, width, **common)
            return mean([replace(case, method=method) for case in pilot])

        match = match_width(cost, target)
        notice(f"{text}: width {match.width} costs {match.tflops:.3g} TFLOP an answer, of {target:.3g} wanted")
        found.append(make_method(text, match.width, **common))
    return found


def _answer(log: Any, cases: list[Any], engine: Any, unmasked: Any, hide_prefill: bool) -> None:
    from langchain_saffron.evaluation.runner import Runner

    done = log.done()
    waiting = [case for case in cases if case.key not in done]
    if done:
        notice(f"{len(done):,} answers are there already; {len(waiting):,} to go")
    runner = Runner(engine, hide_prefill, unmasked)
    with progress_bar("answering", len(cases), "answers/s") as update:
        for count, _ in enumerate(log.add(runner.run(waiting)), len(done) + 1):
            update(count, count)


def _engine(
    model: str | None,
    reward_model: str | None,
    reward_base: str | None,
    prm: str | None,
    device: str | None,
    dtype: str | None,
    hard: str | None,
    masked: bool = True,
) -> Any:
    from langchain_saffron.embedded import KITCHEN
    from langchain_saffron.engine import SaffronEngine
    from langchain_saffron.evaluation.kitchen_sets import SECRET_KITCHEN
    from langchain_saffron.kitchen.secret import load_secret_policy
    from langchain_saffron.models.loading import default_device, default_dtype
    from langchain_saffron.models.mrm import MultifurcationRewardModel

    place = device or default_device()
    kind = dtype or default_dtype(place)
    policy: Any = model
    if model is None:
        reward_model, prm = reward_model or str(KITCHEN / "mrm"), prm or str(KITCHEN / "prm")
        if hard == SECRET_KITCHEN:
            policy = load_secret_policy(device=place, dtype=kind)
        elif hard:
            policy = str(KITCHEN / "hard-policy")
    mrm: Any = reward_model
    if not masked and reward_model is not None:
        mrm = MultifurcationRewardModel.from_pretrained(reward_model, reward_base, device=place, dtype=kind)
        mrm.seen.fill_(True)
    return SaffronEngine.from_pretrained(policy, mrm, reward_base, prm, device=place, dtype=kind)


def _judge(name: str, device: str | None, dtype: str | None) -> Any:
    from langchain_saffron.evaluation.judges import GuardJudge, KeywordJudge
    from langchain_saffron.evaluation.kitchen_sets import RuleJudge
    from langchain_saffron.models.loading import default_device, default_dtype
    from langchain_saffron.models.prm import ProcessRewardModel

    if name == "rule":
        return RuleJudge()
    if name == "keyword":
        return KeywordJudge()
    place = device or default_device()
    return GuardJudge(ProcessRewardModel.from_pretrained(name, device=place, dtype=dtype or default_dtype(place)))
