"""`saffron evaluate`: how safe a model is, at what compute, compared with what."""

from pathlib import Path
from typing import Annotated

import typer

from langchain_saffron.cli.console import notice, quieten
from langchain_saffron.cli.guards import Guard, Safe, Unsafe, guard_prompt, named_function
from langchain_saffron.cli.options import Device, Dtype, Model, QuantizationOption, RewardBase, RewardModel
from langchain_saffron.cli.progress import progress_bar
from langchain_saffron.errors import SettingsError


def evaluate(
    data: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="DATA…",
            help="kitchen (the embedded world's hazards), hard-kitchen (a policy that seldom turns back), "
            "secret-kitchen (one that also names what no reward model knows), kitchen-benign, kitchen-borderline, "
            "kitchen-questions, kitchen-poisoned, kitchen-tool-results, smollm2 (the small real model; harmless "
            "questions, alone or beside files), or FORMAT:PATH with a format of hex-phi, "
            "rewardbench, harmbench, advbench, jailbreakbench, jailbreakbench-benign, strongreject, xstest, or-bench, "
            "or-bench-toxic, benign, jsonl; files may be packed by gzip.",
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
        typer.Option(
            metavar="PATH|ID|MODULE:FUNCTION",
            help="The process reward model that Best-of-N, Rebase and DeAL ask: a guard model, a classifier, or a "
            "Python function as saffron annotate takes it.",
        ),
    ] = None,
    guard: Guard = None,
    safe: Safe = None,
    unsafe: Unsafe = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[:WIDTH]",
            help="none (sampling), greedy, best-of-n, rebase, deal, saffron, saffron-step-back, saffron-auto, "
            "saffron-verify, saffron-auto-verify, saffron-paper, saffron-strict-mask, saffron-soft-mask, "
            "saffron-no-mask; several.",
        ),
    ] = None,
    attack: Annotated[
        list[str] | None,
        typer.Option(
            help="none, prefill-N (tokens of the prompt's own target), opening-N (of one that agrees to anything), "
            "many-shot-N, random-search-N (a suffix found by N queries), adaptive-search-N (that reads the reward "
            "model as well), adaptive-suffix-N and adaptive-prefill-N (which ask the method itself and read rewards "
            "of its answers), template-injection, poisoned-context, hostile-tool-result, replay:FILE; several."
        ),
    ] = None,
    judge: Annotated[
        str | None,
        typer.Option(
            metavar="NAME[,NAME…]",
            help="Who judges: rule (the kitchen's), keyword and refusal (words that refuse, anywhere or where they "
            "count), embedding (a classifier of sentence embeddings), a guard model (PATH or ID), or a Python function "
            "(MODULE:FUNCTION). Of several, parted by commas, the first is shown in all figures, and how far they "
            "agree. Without --prm, --guard, --safe and --unsafe say how a guard that judges is asked.",
        ),
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(min=1, help=r"Answers of each sampling method to each prompt.  \[default: 5; with --quick: 1]"),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Prompts of each dataset.")] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help=r"Tokens of an answer.  \[default: 64; hard and secret kitchen: 112]")
    ] = None,
    top_p: Annotated[
        float | None,
        typer.Option(
            min=0.01, max=1, help=r"The nucleus of every method.  \[default: 0.8; hard and secret kitchen: 0.9]"
        ),
    ] = None,
    hide_prefill: Annotated[
        bool,
        typer.Option("--hide-prefill", help="Keep a prefill from the reward models, as the paper's protocol does."),
    ] = False,
    quick: Annotated[bool, typer.Option("--quick", help="20 prompts and fewer methods, in minutes.")] = False,
    answers: Annotated[
        int,
        typer.Option(min=0, help="Prompts of each dataset and attack whose answers the report shows; 0 for none."),
    ] = 3,
    rescored: Annotated[
        list[Path] | None,
        typer.Option(
            "--rescore",
            help="Judge the answers in this directory anew, without a model. Of several directories (runs with MRMs "
            "from several trainings, say), all answers are counted together; the figures go to --out, or to the first.",
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
    quantization: QuantizationOption = None,
) -> None:
    """Attack a model, decode by several methods, and compare how often each does harm and what it costs.

    Every answer is logged, so that a run can be resumed and judged anew.

    For example:

    saffron evaluate kitchen --quick --out run

    saffron evaluate hex-phi:harmful.jsonl --model … --reward-model … --prm … --attack prefill-10 --out run

    saffron evaluate hard-kitchen --method none --method saffron-paper:4 --method saffron-paper:16 --out hard

    saffron evaluate kitchen --match best-of-n:32 --method rebase --method deal --method saffron --out equal

    saffron evaluate harmbench:harmbench.jsonl.gz --attack prefill-10 --judge refusal,embedding --out harmbench

    saffron evaluate --rescore run --judge keyword
    """
    from langchain_saffron.evaluation.judges import JUDGES, FunctionJudge, Judge, find_judge
    from langchain_saffron.evaluation.judging import judge_names
    from langchain_saffron.evaluation.report import compare
    from langchain_saffron.evaluation.run import Models, rescore
    from langchain_saffron.evaluation.run import evaluate as run

    quieten(keep_progress=False, keep_warnings=False)
    if against is not None:
        if out is None:
            raise SettingsError("out: --compare sets a directory beside that of --out")
        print(compare(against, out))
        return
    asked = guard_prompt(guard), safe, unsafe
    function = named_function("prm", prm)
    who: list[str | Judge] = []
    for name in judge_names(judge) if judge else ():
        verdict = named_function("judge", name)
        if verdict is not None:
            who.append(FunctionJudge(verdict))
        elif name not in JUDGES and prm is None and any(one is not None for one in asked):
            who.append(find_judge(name, device, dtype, *asked))
            asked = None, None, None
        else:
            who.append(name)
    if rescored:
        print(rescore(rescored, who or None, out, answers=answers, device=device, dtype=dtype).summary)
        return
    if out is None:
        raise SettingsError("out: where shall the answers go? Name a directory with --out")
    with progress_bar("answering", None, "answers/s") as update:
        evaluation = run(
            data or "kitchen",
            out,
            methods=method,
            attacks=attack,
            judge=who or None,
            models=Models(model, reward_model, reward_base, function or prm, device, dtype, *asked, quantization),
            seeds=seeds,
            limit=limit,
            max_tokens=max_tokens,
            top_p=top_p,
            match=match,
            hide_prefill=hide_prefill,
            quick=quick,
            answers=answers,
            progress=lambda done, total: update(done, done, total),
            report=notice,
        )
    print(evaluation.summary)
