"""The manifest of an annotation, and directories of other runs, which are refused and left alone."""

import json
import shutil
from collections import Counter
from hashlib import sha256

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from langchain_saffron.errors import CorpusError, StorageError
from langchain_saffron.models.prm import ProcessRewardModel
from langchain_saffron.templates.reward_template import RewardTemplate
from langchain_saffron.training.annotate import annotate
from langchain_saffron.training.corpus import Corpus
from langchain_saffron.training.settings import AnnotateSettings
from unit_tests.disks import content
from unit_tests.training.annotations import QUESTION, chat, ids, refused, rows, rule, save_guard, short, stamps, write


@pytest.mark.parametrize(
    ("key", "changes"),
    [
        ("max_tokens", {"max_tokens": 64}),
        ("turns", {"turns": "last"}),
        ("shard_size", {"shard_size": 7}),
        ("batch_size", {"batch_size": 7}),
        ("corpus", {"limit": 3}),
    ],
)
@pytest.mark.parametrize("finished", [True, False])
def test_a_directory_of_other_settings_is_refused(tmp_path, key, changes, finished):
    corpus = write(tmp_path / "c.jsonl", short(6))
    part = (1, 1) if finished else (1, 2)
    annotate(corpus, rule()[0], tmp_path / "out", AnnotateSettings(shard_size=2, part=part))
    settings = AnnotateSettings(**{"shard_size": 2, **changes})
    text = refused("another run", tmp_path / "out", corpus, rule()[0], settings)
    assert f"(other {key})" in text
    assert str(tmp_path / "out") in text


def test_a_directory_of_another_corpus_is_refused(tmp_path):
    annotate(write(tmp_path / "c.jsonl", short(6)), rule()[0], tmp_path / "out")
    path = tmp_path / "c.jsonl"
    path.write_text(path.read_text().replace("answer 3", "answer 9"))
    refused(r"\(other corpus\)", tmp_path / "out", Corpus.open(path), rule()[0])


def test_a_directory_of_another_template_is_refused(tmp_path):
    corpus = write(tmp_path / "c.jsonl", short(6))
    annotate(corpus, rule()[0], tmp_path / "out")
    template = RewardTemplate(add_bos=False, system="{text}", user="Q{text}", assistant="A{text}")
    refused(r"\(other template\)", tmp_path / "out", corpus, rule()[0], template=template)
    annotate(corpus, rule()[0], tmp_path / "own", template=template)
    assert rows(tmp_path / "own")[2]["token_ids"] == ids("Qquestion 2A") + ids("answer 2 of 6")
    assert json.loads((tmp_path / "own" / "manifest.json").read_text())["settings"]["template"] == template.model_dump()


def test_a_directory_of_other_weights_or_another_question_is_refused(tmp_path):
    corpus = write(tmp_path / "c.jsonl", short(4))
    guard = save_guard(tmp_path / "guard")
    annotate(corpus, ProcessRewardModel.from_pretrained(str(guard), QUESTION), tmp_path / "out")
    other = QUESTION.model_copy(update={"suffix": " Is this safe?"})
    refused(r"\(other prm\)", tmp_path / "out", corpus, ProcessRewardModel.from_pretrained(str(guard), other))
    # a model of the same name and make
    save_guard(guard, seed=5)
    refused(r"\(other prm\)", tmp_path / "out", corpus, ProcessRewardModel.from_pretrained(str(guard), QUESTION))
    save_guard(guard)
    annotate(corpus, ProcessRewardModel.from_pretrained(str(guard), QUESTION), tmp_path / "out")


def test_parquet_files_of_something_else_are_left_alone(tmp_path):
    (tmp_path / "out").mkdir()
    pq.write_table(pa.table({"a": [1]}), tmp_path / "out" / "data.parquet")
    refused("something else", tmp_path / "out", write(tmp_path / "c.jsonl", short(2)), rule()[0])


@pytest.mark.parametrize("manifest", ["{", "[]", "null", '{"format": 99, "settings": {}}', "\xff"])
def test_a_manifest_that_is_none_is_refused(tmp_path, manifest):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "manifest.json").write_text(manifest, encoding="latin-1")
    refused(r"manifest\.json", tmp_path / "out", write(tmp_path / "c.jsonl", short(2)), rule()[0])


def test_a_file_in_the_place_of_the_directory_is_left_alone(tmp_path):
    corpus = write(tmp_path / "c.jsonl", short(2))
    (tmp_path / "out").write_text("mine")
    with pytest.raises(CorpusError, match="is a file"):
        annotate(corpus, rule()[0], tmp_path / "out")
    with pytest.raises(StorageError, match=r"manifest\.json could not be written"):
        annotate(corpus, rule()[0], tmp_path / "out" / "below")
    assert (tmp_path / "out").read_text() == "mine"


def test_a_truncated_shard_is_named_and_left_alone(tmp_path):
    corpus = write(tmp_path / "c.jsonl", short(6))
    annotate(corpus, rule()[0], tmp_path / "out", AnnotateSettings(shard_size=2))
    whole = content(tmp_path / "out")
    shard = tmp_path / "out" / "shard-00001.parquet"
    for size in (0, 3, 500, shard.stat().st_size - 1):
        shard.write_bytes(whole[shard.name][:size])
        refused(r"shard-00001\.parquet is damaged", tmp_path / "out", corpus, rule()[0], AnnotateSettings(shard_size=2))
    pq.write_table(pa.table({"a": [1]}), shard)
    refused(r"shard-00001\.parquet .*no shard", tmp_path / "out", corpus, rule()[0], AnnotateSettings(shard_size=2))
    shard.unlink()
    annotate(corpus, rule()[0], tmp_path / "out", AnnotateSettings(shard_size=2))
    assert content(tmp_path / "out") == whole


def test_a_shard_that_has_changed_since_is_not_taken_for_whole(tmp_path):
    corpus = write(tmp_path / "c.jsonl", short(6))
    annotate(corpus, rule()[0], tmp_path / "out", AnnotateSettings(shard_size=2))
    whole = content(tmp_path / "out")
    shard = tmp_path / "out" / "shard-00001.parquet"
    damaged = bytearray(whole[shard.name])
    damaged[200] ^= 0xFF
    shard.write_bytes(damaged)
    refused(r"shard-00001\.parquet is damaged", tmp_path / "out", corpus, rule()[0], AnnotateSettings(shard_size=2))
    shard.unlink()
    annotate(corpus, rule()[0], tmp_path / "out", AnnotateSettings(shard_size=2))
    assert content(tmp_path / "out") == whole


def test_the_manifest_says_what_the_shards_hold(tmp_path, prm):
    corpus = write(tmp_path / "c.jsonl", [chat(i) for i in range(9)])
    manifest = annotate(corpus, prm, tmp_path / "out", AnnotateSettings(shard_size=4))
    assert manifest == json.loads((tmp_path / "out" / "manifest.json").read_text())
    found = rows(tmp_path / "out")
    rewards = [reward for row in found for reward in row["rewards"]]
    assert manifest["counts"] == {
        "records": 9,
        "rows": len(found),
        "rewards": len(rewards),
        "too_long": 0,
        "broken": 0,
        "safe_share": pytest.approx(sum(reward > 0 for reward in rewards) / len(rewards), abs=1e-6),
    }
    assert [shard["file"] for shard in manifest["shards"]] == sorted(stamps(tmp_path / "out"))
    for shard in manifest["shards"]:
        path = tmp_path / "out" / shard["file"]
        assert shard["sha256"] == sha256(path.read_bytes()).hexdigest()
        assert shard["rows"] == pq.read_metadata(path).num_rows
    assert manifest["settings"]["corpus"] == {"name": "c.jsonl", "sha256": corpus.fingerprint(), "records": 9}
    assert 0 < manifest["counts"]["safe_share"] < 1


def test_a_directory_may_be_moved_between_runs(tmp_path):
    corpus = write(tmp_path / "c.jsonl", short(6))
    annotate(corpus, rule()[0], tmp_path / "out", AnnotateSettings(shard_size=2, part=(1, 2)))
    shutil.move(tmp_path / "out", tmp_path / "moved")
    annotate(corpus, rule()[0], tmp_path / "moved", AnnotateSettings(shard_size=2))
    assert Counter(row["record"] for row in rows(tmp_path / "moved")) == Counter(range(6))
