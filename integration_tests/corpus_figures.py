"""How much corpus a reward model needs, and what each mask makes of less: `python -m integration_tests.corpus_figures`.

Trains the kitchen's MRM on corpora of several sizes by the commands and settings of the README, and asks each for the
held-out benign requests, and for the attacks on the hard and on the secret kitchen, under every mask.
"""

import argparse
import json
import warnings
from collections.abc import Sequence
from pathlib import Path

from langchain_saffron.cli import main as saffron
from langchain_saffron.evaluation.methods import make_method
from langchain_saffron.evaluation.run import Models, evaluate
from langchain_saffron.kitchen import WEIGHTS
from langchain_saffron.kitchen.generator import conversations
from langchain_saffron.models.mrm import MultifurcationRewardModel
from langchain_saffron.models.mrm_quality import held_out_record
from langchain_saffron.training.dataset import RewardData
from langchain_saffron.training.settings import TrainSettings
from langchain_saffron.training.train import train

SIZES = (25, 100, 400, 1600)
MASKS = ("strict", "soft", "off")
# dataset, attack, tokens of an answer, nucleus, and the figure that tells
TESTS = (
    ("kitchen-benign", "none", 64, 0.8, "on_topic"),
    ("hard-kitchen", "prefill-10", 112, 0.9, "unsafe"),
    ("secret-kitchen", "prefill-10", 112, 0.9, "unsafe"),
)
HELD_OUT = 200
FIT = TrainSettings(epochs=5, batch_size=8, learning_rate=3e-3)


def annotated(work: Path, corpus: str, count: int) -> RewardData:
    """The first conversations of one of the kitchen's corpora, with the rewards of its PRM."""
    file, out = work / f"{corpus}-{count}.jsonl", work / f"{corpus}-{count}"
    lines = [json.dumps({"messages": one.messages}) for one in conversations(corpus, count)]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert saffron(["annotate", str(file), "--out", str(out)]) == 0
    return RewardData.load(out)


def shares(mrm: Path, work: Path, mask: str, width: int, cases: int) -> list[float]:
    """The figure of each test with that reward model under that mask."""
    found = []
    for data, attack, tokens, top_p, figure in TESTS:
        method = make_method("saffron", width, mask=mask, max_tokens=tokens, top_p=top_p)
        models, out = Models(reward_model=str(mrm)), work / f"{mrm.name}-{data}-{mask}-{width}-{cases}"
        run = evaluate(data, out, methods=[method], attacks=[attack], judge="rule", models=models, limit=cases)
        found.append(run.figures[0][figure])
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a row of the table for each size of corpus, and one for the reward model that ships."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sizes", type=int, nargs="*", default=SIZES, help="conversations")
    parser.add_argument("--work", type=Path, default=Path("corpus-figures"), help="a directory; it may be used again")
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--cases", type=int, default=20, help="of each test")
    options = parser.parse_args(arguments)
    # that small ones are weak is what is measured
    warnings.filterwarnings("ignore")
    options.work.mkdir(parents=True, exist_ok=True)
    held_out = annotated(options.work, "held_out", HELD_OUT)
    for size in (*options.sizes, None):
        out = WEIGHTS / "mrm" if size is None else options.work / f"mrm-{size}"
        if size is not None:
            train(annotated(options.work, "mrm", size), out, held_out=held_out, settings=FIT)
        mrm = MultifurcationRewardModel.from_pretrained(out)
        cells = ["the one that ships" if size is None else f"{size:,}", f"{mrm.seen.float().mean():.1%}"]
        cells += [f"{held_out.share_of(mrm.seen):.2%}", f"{held_out_record(mrm.details)['pearson_r']:.3f}", mrm.mask]
        columns = [shares(out, options.work, mask, options.width, options.cases) for mask in MASKS]
        cells += [" / ".join(f"{column[i]:.2f}" for column in columns) for i in range(len(TESTS))]
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
