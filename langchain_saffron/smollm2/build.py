"""Makes the shipped weights of `smollm2`: `python -m langchain_saffron.smollm2.build --data DIR`.

Stages: `sample` (the untrained model answers), `policy` (alignment), `answers` (the aligned policy answers), `guard`,
`mrm` (by `saffron annotate` and `saffron train`), each from what the earlier ones wrote, and each going on where a
killed run stopped. All of it is seeded; the last digits of the weights depend on the machine.
`--data` is a directory with the files that `recipe/sources.py` names: harmful and benign questions, labelled replies,
transcripts. Texts that are harmful lie there and in `--work`, and nowhere in this package. Needs the `train` extra.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
import transformers

from langchain_saffron.engine import SaffronEngine
from langchain_saffron.models.prm import ProcessRewardModel
from langchain_saffron.runtime.devices import computes_bfloat16
from langchain_saffron.smollm2 import HUB_ID, find_base
from langchain_saffron.smollm2.recipe import corpus, guard, measure, mrm, policy
from langchain_saffron.smollm2.recipe.card import card

STAGES = ("sample", "policy", "answers", "guard", "mrm")
WEIGHTS = Path(__file__).parent / "weights"


def load_engine(model: str | Path) -> SaffronEngine:
    """A policy in the precision that is fastest here."""
    return SaffronEngine.from_pretrained(model=str(model), dtype=_dtype())


def run_stage(stage: str, options: argparse.Namespace) -> dict[str, Any]:
    """Runs one stage and returns what it measured."""
    data, work, out = options.data, options.work, options.out
    # the adapters name the hub's id, by which the same weights are found again wherever they are
    base = str(find_base())
    if stage == "sample":
        return corpus.sample_corpus(data, work, load_engine(base))
    if stage == "policy":
        trained = policy.train_policy(base, data, work, out / "policy", options.seed, HUB_ID)
        return trained | measure.measure_policy(load_engine(out / "policy"), data, work / "measured", options.most)
    if stage == "answers":
        return corpus.sample_aligned(data, work, load_engine(out / "policy"))
    if stage == "guard":
        trained = guard.train_guard(base, data, work, out / "guard", options.seed, HUB_ID)
        loaded = ProcessRewardModel.from_pretrained(str(out / "guard"), dtype=_dtype())
        return trained | measure.measure_guard(loaded, data, 4 * options.most)
    return mrm.make_mrm(out / "guard", data, work, out / "mrm", options.seed)


def write_manifest(out: Path, stage: str, seed: int, figures: dict[str, Any]) -> None:
    """Adds a stage's record to `manifest.json`, and writes the model card anew."""
    path = out / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    manifest |= {"seed": seed, "base": HUB_ID}
    manifest["versions"] = {"torch": torch.__version__, "transformers": transformers.__version__}
    manifest.setdefault("measured", {})[stage] = _rounded(figures)
    manifest["bytes"] = {str(file.relative_to(out)): file.stat().st_size for file in sorted(out.rglob("*.safetensors"))}
    out.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    (out / "README.md").write_text(card(manifest), encoding="utf-8")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Makes the shipped weights of smollm2.")
    parser.add_argument("--data", type=Path, required=True, help="the directory of the data files")
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="where to write them (default: into the package)")
    parser.add_argument("--stage", choices=(*STAGES, "all"), default="all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=Path("smollm2-build"), help="where samples and checkpoints go")
    parser.add_argument("--most", type=int, default=100, help="questions of each kind that a policy is measured by")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (default: torch's choice)")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    for stage in STAGES if options.stage == "all" else (options.stage,):
        began = time.perf_counter()
        figures = run_stage(stage, options)
        write_manifest(options.out, stage, options.seed, figures)
        print(f"{stage}: {figures}, {time.perf_counter() - began:.0f} s", flush=True)


def _dtype() -> str:
    return "bfloat16" if computes_bfloat16("cpu") else "float32"


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, dict):
        return {name: _rounded(one) for name, one in value.items()}
    return [_rounded(one) for one in value] if isinstance(value, list) else value


if __name__ == "__main__":
    main()
