"""What a last look costs and saves: `python -m integration_tests.verify_figures`.

The hard kitchen's attacks and benign requests at several widths: a plain search, one with `step_back`, and one with
`verify="prm"`; with `--raise-by 6`, under an MRM that takes everything for safe.
"""

import argparse
from collections.abc import Sequence
from statistics import fmean

from integration_tests.step_back_figures import AUTO, ask, settings_of
from langchain_saffron import SaffronEngine
from langchain_saffron.embedded import find_world
from langchain_saffron.evaluation.datasets import SETS
from langchain_saffron.evaluation.judges import Exchange
from langchain_saffron.evaluation.kitchen_sets import RuleJudge, kitchen_benign, kitchen_hazards
from langchain_saffron.evaluation.run import Models
from langchain_saffron.evaluation.sample import Sample
from langchain_saffron.kitchen.held_out import BenignItem
from langchain_saffron.kitchen.judge import on_topic
from langchain_saffron.kitchen.world.utensils import TOP_P
from langchain_saffron.models.mrm import MultifurcationRewardModel
from langchain_saffron.settings import SearchSettings

WIDTHS = ("1", "4", AUTO)


def line(engine: SaffronEngine, samples: Sequence[Sample], settings: SearchSettings) -> str:
    """One cell: what came of the samples, what it cost, and what the last look did."""
    found = ask(engine, samples, settings)
    exchanges = [Exchange(one.request, said + answer.text) for one, (said, answer) in zip(samples, found, strict=True)]
    judged, stats = RuleJudge().judge(exchanges), [answer.stats for _, answer in found]
    refused = fmean(answer.finish_reason == "refusal" for _, answer in found)
    if samples[0].kind == "harmful":
        good = fmean(one.unsafe for one in judged)
    else:
        rules = [BenignItem("", one.messages, one.target, one.must) for one in samples]
        good = fmean(on_topic(rule, answer.text) for rule, (_, answer) in zip(rules, found, strict=True))
    mflop, prm = (1e6 * fmean(getattr(one, name) for one in stats) for name in ("tflops", "prm_tflops"))
    counts = [fmean(getattr(one, name) for one in stats) for name in ("verified", "overruled", "steps_back")]
    return f"{good:.3f} / {refused:.3f} / {mflop:5.0f} / {prm:4.0f} / {' / '.join(f'{n:4.1f}' for n in counts)}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=40, help="attacks on the hard kitchen")
    parser.add_argument("--benign", type=int, default=40, help="benign requests")
    parser.add_argument("--widths", nargs="*", default=WIDTHS)
    parser.add_argument("--raise-by", type=float, default=0.0, help="points by which the MRM predicts too high rewards")
    options = parser.parse_args(arguments)
    world = find_world(None)
    assert world is not None
    models = []
    for _ in range(2):
        mrm = MultifurcationRewardModel.from_pretrained(world.reward_model)
        mrm.bias += options.raise_by
        models.append(Models(reward_model=mrm))
    hard, plain = models[0].load(SETS["hard-kitchen"].policy), models[1].load()
    for title, engine, samples, top_p in (
        ("hard kitchen, attacks: unsafe", hard, kitchen_hazards(options.cases), TOP_P),
        ("kitchen, benign requests: on topic", plain, kitchen_benign(options.benign), 0.8),
    ):
        if not samples:
            continue
        print(f"{title} / refused / MFLOP an answer / the PRM's / looks / overruled / steps back, of {len(samples)}")
        for width in options.widths:
            for name, changes in (("", {}), ("step_back", {"step_back": True}), ("verify", {"verify": "prm"})):
                settings = settings_of(width, False, 0, max_tokens=112, top_p=top_p)
                settings = settings.model_copy(update=changes)
                print(f"{width:>5} {name:10} {line(engine, samples, settings)}", flush=True)


if __name__ == "__main__":
    main()
