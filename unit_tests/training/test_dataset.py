"""Rewards from annotations and from files of others, their splits and their batches."""

import json
import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import assume, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from langchain_saffron.errors import CorpusError
from langchain_saffron.templates.reward_template import RewardTemplate
from langchain_saffron.training.dataset import RewardData, plan_batches
from langchain_saffron.training.sample import Sample
from langchain_saffron.training.shards import Row, file_hash, write_shard
from unit_tests.builders import byte_level_tokenizer
from unit_tests.tiny_models import VOCABULARY
from unit_tests.training.runs import NAN, PEFT_WARNINGS, TOKENIZER, data, samples

pytestmark = PEFT_WARNINGS


def test_shards_load_as_they_were_written(annotated):
    loaded = RewardData.load(str(annotated))
    rows = [row for shard in sorted(annotated.glob("*.parquet")) for row in pq.read_table(shard).to_pylist()]
    assert len(loaded.samples) == len(rows) == 10
    for sample, row in zip(loaded.samples, rows, strict=True):
        assert sample.record == row["record"]
        assert sample.token_ids.tolist() == row["token_ids"]
        assert sample.rewards[sample.known].tolist() == row["rewards"]
        assert np.flatnonzero(sample.known).tolist() == list(range(row["response_start"], row["response_end"]))
    assert loaded.rewards == sum(len(row["rewards"]) for row in rows)
    assert loaded.manifest == json.loads((annotated / "manifest.json").read_text())
    assert loaded.template == RewardTemplate.for_tokenizer(TOKENIZER)
    assert loaded.prm["name"] == "a function"
    targets = {token for row in rows for token in row["token_ids"][row["response_start"] :]}
    assert loaded.seen(VOCABULARY).nonzero().flatten().tolist() == sorted(targets)


ROWS = {
    "aligned": ({"input_ids": [4, 5, 6, 7], "rewards": [0.5, None, -1.0, 2.0]}, [4, 5, 6, 7], [NAN, NAN, -1, 2]),
    "the last tokens": ({"token_ids": [4, 5, 6, 7], "rewards": [-1.0, 2.0]}, [4, 5, 6, 7], [NAN, NAN, -1, 2]),
    "a start": (
        {"token_ids": [4, 5, 6, 7], "response_start": 1, "rewards": [-1.0, 2.0]},
        [4, 5, 6, 7],
        [NAN, -1, 2, NAN],
    ),
    "two parts": (
        {"prompt_ids": [4, 5], "response_ids": [6, 7], "rewards": [-1.0, 2.0]},
        [4, 5, 6, 7],
        [NAN, NAN, -1, 2],
    ),
    "no prompt": ({"response_ids": [6, 7], "rewards": [-1.0, 2.0]}, [6, 7], [NAN, 2]),
    "other names": ({"tokens": [6, 7, 8], "scores": [1.0, 2.0, 3.0], "id": 3}, [6, 7, 8], [NAN, 2, 3]),
    "whole numbers": ({"ids": [6, 7, 8], "reward": [1, 2, 3]}, [6, 7, 8], [NAN, 2, 3]),
}


def save_rows(folder, kind, rows):
    path = folder / f"rows.{kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
@pytest.mark.parametrize("shape", ROWS)
def test_rows_of_others_load(tmp_path, kind, shape):
    row, ids, rewards = ROWS[shape]
    empty = {**row, "rewards": [], "scores": [], "reward": []}
    empty = {name: empty[name] for name in row}
    loaded = RewardData.load(save_rows(tmp_path, kind, [row, empty, row]))
    # what teaches nothing is left out, and the others keep their numbers
    assert [sample.record for sample in loaded.samples] == [0, 2]
    for sample in loaded.samples:
        assert sample.token_ids.tolist() == ids
        assert np.array_equal(sample.rewards, np.array(rewards, np.float32), equal_nan=True)
    assert loaded.manifest == {}
    assert loaded.template is None


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
@pytest.mark.parametrize(
    "row",
    [
        {"token_ids": [4, 5], "rewards": [1.0, 2.0, 3.0]},
        {"token_ids": [4, 5, 6], "response_start": 2, "rewards": [1.0, 2.0]},
        {"token_ids": [4, 5, 6], "response_start": -1, "rewards": [1.0, 2.0]},
        {"prompt": "a", "response": "b"},
        {"token_ids": [4, 5, 6]},
        {"rewards": [1.0, 2.0]},
        {"token_ids": [4, 5, 6], "rewards": 1.0},
        {"token_ids": "a text", "rewards": [1.0]},
        {"token_ids": [4, None, 6], "rewards": [1.0]},
        {"token_ids": [4, 5, 6], "rewards": ["high"]},
        {"token_ids": [4, 5, 6], "rewards": [[1.0], [2.0]]},
        {"token_ids": [4, 5, 6], "rewards": [1.0, float("inf")]},
    ],
    ids=str,
)
def test_rows_of_no_known_shape_are_named(tmp_path, kind, row):
    good = {"token_ids": [4, 5], "rewards": [1.0]}
    path = save_rows(tmp_path, kind, [{name: row.get(name) for name in row}] if kind == "parquet" else [good, row])
    where = "row 0" if kind == "parquet" else "line 2"
    with pytest.raises(CorpusError, match=rf"rows\.{kind}, {where}: .*token_ids"):
        RewardData.load(path)


def test_data_without_any_reward_are_refused(tmp_path):
    path = save_rows(tmp_path, "jsonl", [{"token_ids": [4, 5], "rewards": [1.0, None]}])
    with pytest.raises(CorpusError, match="no rewards"):
        RewardData.load(path)
    with pytest.raises(CorpusError, match="does not exist"):
        RewardData.load(tmp_path / "nowhere")


def test_an_annotated_answer_without_tokens_teaches_nothing(annotated):
    # a tokenizer may write an answer in no tokens at all
    write_shard(annotated / "extra.parquet", [Row(0, [4, 5], [], []), Row(1, [4, 5], [6], [1.5])], {})
    manifest = json.loads((annotated / "manifest.json").read_text())
    manifest["shards"] = [{"file": "extra.parquet", "rows": 2, "sha256": file_hash(annotated / "extra.parquet")}]
    (annotated / "manifest.json").write_text(json.dumps(manifest))
    assert [sample.record for sample in RewardData.load(annotated).samples] == [1]


def test_an_unfinished_annotation_is_refused(annotated):
    manifest = json.loads((annotated / "manifest.json").read_text())
    (annotated / "manifest.json").write_text(json.dumps({**manifest, "complete": False}))
    with pytest.raises(CorpusError, match="not finished"):
        RewardData.load(annotated)


def test_a_missing_shard_is_named(annotated):
    (annotated / "shard-00001.parquet").unlink()
    with pytest.raises(CorpusError, match=r"shard-00001\.parquet"):
        RewardData.load(annotated)


def test_a_shard_with_other_rows_is_named(annotated):
    path = annotated / "shard-00001.parquet"
    table = pq.read_table(path)
    pq.write_table(table.slice(0, table.num_rows - 1), path)
    with pytest.raises(CorpusError, match=r"shard-00001\.parquet"):
        RewardData.load(annotated)


@pytest.mark.parametrize("kept", [0, 4, 700, -1, -300])
def test_a_truncated_shard_is_named(annotated, kept):
    path = annotated / "shard-00001.parquet"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CorpusError, match=r"shard-00001\.parquet"):
        RewardData.load(annotated)


def test_a_shard_with_one_wrong_byte_anywhere_is_named(annotated):
    path = annotated / "shard-00001.parquet"
    content = path.read_bytes()
    for at in range(0, len(content), 7):
        path.write_bytes(content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :])
        with pytest.raises(CorpusError, match=r"shard-00001\.parquet is damaged"):
            RewardData.load(annotated)
    path.write_bytes(content)
    assert len(RewardData.load(annotated).samples) == 10


def test_data_of_another_tokenizer_are_refused(annotated):
    loaded = RewardData.load(annotated)
    loaded.check_tokenizer(TOKENIZER, VOCABULARY)
    # a control token more is no other vocabulary
    loaded.check_tokenizer(byte_level_tokenizer(VOCABULARY - 8, extra_tokens=("<extra>",)), VOCABULARY)
    with pytest.raises(CorpusError, match="another tokenizer"):
        loaded.check_tokenizer(byte_level_tokenizer(VOCABULARY - 20), VOCABULARY)


def test_ids_beyond_the_vocabulary_are_refused():
    made = RewardData([Sample(0, np.array([4, 99]), np.array([NAN, 1], np.float32))], {})
    made.check_tokenizer(TOKENIZER, 100)
    with pytest.raises(CorpusError, match="up to 99, but the base model has 99"):
        made.check_tokenizer(TOKENIZER, 99)
    negative = RewardData([Sample(0, np.array([-1, 9]), np.array([NAN, 1], np.float32))], {})
    with pytest.raises(CorpusError, match="token id -1"):
        negative.check_tokenizer(TOKENIZER, 100)


@hypothesis_settings(max_examples=60, deadline=None)
@given(
    records=st.lists(st.integers(0, 12), min_size=2, max_size=30),
    share=st.floats(0.001, 0.999),
    seed=st.integers(0, 5),
)
def test_a_split_is_by_whole_records(records, share, seed):
    count = len(set(records))
    assume(count > 1)
    made = RewardData(
        [Sample(r, np.array([i, r]), np.array([NAN, r], np.float32)) for i, r in enumerate(records)], {"a": 1}
    )
    kept, held_out = made.split(share, seed)
    parts = [{sample.record for sample in part.samples} for part in (kept, held_out)]
    assert parts[0] | parts[1] == set(records)
    assert not parts[0] & parts[1]
    assert len(parts[1]) == min(count - 1, math.ceil(share * count))
    both = kept.samples + held_out.samples
    assert sorted(id(sample) for sample in both) == sorted(id(sample) for sample in made.samples)
    again = made.split(share, seed)
    assert [[s.record for s in part.samples] for part in again] == [
        [s.record for s in part.samples] for part in (kept, held_out)
    ]
    assert kept.manifest == held_out.manifest == {"a": 1}


def test_a_split_depends_on_the_seed():
    held_out = {tuple(sorted(s.record for s in data(40).split(0.2, seed)[1].samples)) for seed in range(6)}
    assert len(held_out) == 6


def test_one_record_cannot_be_split():
    made = RewardData([samples(1)[0]] * 3, {})
    with pytest.raises(CorpusError, match="second record"):
        made.split(0.5, 0)


@pytest.mark.parametrize(("count", "size"), [(1, 4), (7, 3), (300, 4), (520, 8)])
def test_every_sample_comes_once_an_epoch(count, size):
    made = data(count)
    plan = plan_batches(made, size, 3, 1)
    steps = len(plan) // 3
    epochs = [plan[i * steps : (i + 1) * steps] for i in range(3)]
    for epoch in epochs:
        assert sorted(i for batch in epoch for i in batch) == list(range(count))
        assert all(1 <= len(batch) <= size for batch in epoch)
    assert steps == math.ceil(count / size)
    assert plan == plan_batches(made, size, 3, 1)
    if count > 100:
        assert epochs[0] != epochs[1]
        assert plan != plan_batches(made, size, 3, 2)


def test_batches_hold_samples_of_similar_length():
    made = RewardData(samples(200, most=60), {})
    lengths = [len(sample.token_ids) for sample in made.samples]
    plan = plan_batches(made, 4, 1, 0)
    padding = sum(max(lengths[i] for i in batch) * len(batch) - sum(lengths[i] for i in batch) for batch in plan)
    assert padding < 0.1 * sum(lengths)
    # but not in the order of their lengths
    first = [max(lengths[i] for i in batch) for batch in plan]
    assert first != sorted(first)
