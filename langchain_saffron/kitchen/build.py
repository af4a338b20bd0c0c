"""Makes the kitchen's weights from nothing: `python -m langchain_saffron.kitchen.build`.

Stages: `tokenizer`, `policy`, `hard`, `secret`, `prm`, `mrm`, each from what the earlier ones wrote; the last by
`saffron annotate` and `saffron train`. All of it is seeded; the data are the same on every machine, the last digits of
the weights are not.
Needs the `train` extra. The policy takes hours on two CPU cores and minutes with `--device cuda`, everything else less
than an hour on a CPU that computes in bfloat16 (torch's Muon does), and longer on others. `manifest.json` records
checksums of the data, sizes, and what was measured on held-out items.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from langchain_saffron.kitchen import WEIGHTS
from langchain_saffron.kitchen.generator import CorpusName, data_hash
from langchain_saffron.kitchen.recipe import mrm, policy, prm
from langchain_saffron.kitchen.recipe.measure import measure_hard_policy, measure_policy
from langchain_saffron.kitchen.recipe.tokenizer import save_tokenizer, train_tokenizer
from langchain_saffron.kitchen.secret import ADAPTER, load_secret_policy
from langchain_saffron.models.loading import load_causal_lm

STAGES = ("tokenizer", "policy", "hard", "secret", "prm", "mrm")
CORPORA: dict[CorpusName, int] = {
    **policy.COURSES,
    **policy.HARD_COURSES,
    **policy.SECRET_COURSES,
    "prm": prm.CHATS,
    "mrm": mrm.CHATS,
    "held_out": mrm.HELD_OUT_CHATS,
}


def load_tokenizer(out: Path) -> PreTrainedTokenizerFast:
    """The tokenizer that the first stage wrote."""
    return AutoTokenizer.from_pretrained(out / "policy")


def run_stage(stage: str, out: Path, seed: int, work: Path, device: str) -> dict[str, Any]:
    """Runs one stage and returns what it measured."""
    if stage == "tokenizer":
        tokenizer = train_tokenizer(seed=seed)
        save_tokenizer(tokenizer, *(out / name for name in ("policy", "hard-policy", "prm")))
        return {"tokens": len(tokenizer)}
    tokenizer = load_tokenizer(out)
    if stage == "policy":
        policy.train_policy(tokenizer, out / "policy", seed, device)
        return measure_policy(out / "policy", device=device)
    if stage == "hard":
        policy.train_hard_policy(out / "policy", tokenizer, out / "hard-policy", seed, device)
        return measure_hard_policy(load_causal_lm(out / "hard-policy", "policy", device=device), tokenizer)
    if stage == "secret":
        policy.train_secret_adapter(out / "hard-policy", tokenizer, out / ADAPTER, seed, device)
        return measure_hard_policy(load_secret_policy(out, device), tokenizer)
    if stage == "prm":
        return dict(prm.train_prm(tokenizer, out / "prm", seed))
    return mrm.make_mrm(out / "prm", out / "mrm", work, seed)


def write_manifest(out: Path, stage: str, seed: int, figures: dict[str, Any]) -> None:
    """Adds a stage's record to `manifest.json`."""
    path = out / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    manifest["seed"] = seed
    manifest["data"] = {
        name: {"conversations": count, "sha256": data_hash(name, count, seed)} for name, count in CORPORA.items()
    }
    manifest.setdefault("measured", {})[stage] = {
        name: round(value, 4) if isinstance(value, float) else value for name, value in figures.items()
    }
    manifest["bytes"] = {str(file.relative_to(out)): file.stat().st_size for file in sorted(out.rglob("*.safetensors"))}
    path.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Makes the kitchen's weights from nothing.")
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="where to write them (default: into the package)")
    parser.add_argument("--stage", choices=(*STAGES, "all"), default="all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--work", type=Path, default=Path("kitchen-build"), help="where the MRM's corpora and annotations go"
    )
    parser.add_argument("--device", default="cpu", help="where the policies are trained (default: cpu)")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (default: torch's choice)")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    for stage in STAGES if options.stage == "all" else (options.stage,):
        began = time.perf_counter()
        figures = run_stage(stage, options.out, options.seed, options.work, options.device)
        write_manifest(options.out, stage, options.seed, figures)
        print(f"{stage}: {figures}, {time.perf_counter() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
