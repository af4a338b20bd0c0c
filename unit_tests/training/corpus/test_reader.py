"""Corpora of every kind, broken ones too, read as a stream and by ranges."""

import gzip
import json
import struct
import subprocess
import sys

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from langchain_saffron.errors import CorpusError, SettingsError
from langchain_saffron.training.corpus import Corpus, json_files
from unit_tests.training.corpus.values import JSON

datasets.disable_progress_bars()


def rows(count, first=0):
    return [{"prompt": f"question {i}", "response": f"answer {i}, \u00e4\u6f22"} for i in range(first, first + count)]


def lines(values):
    return "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values).encode()


def write(path, content):
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def save(kind, folder, values):
    """A corpus of `values` of this kind."""
    path = folder / f"corpus.{kind}"
    if kind in ("jsonl", "jsonl.gz", "json", "json.gz"):
        return write(path, lines(values))
    if kind in ("array.json", "array.json.gz"):
        return write(path, json.dumps(values, indent=2).encode())
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(values), path, row_group_size=4)
    elif kind == "dataset":
        datasets.Dataset.from_list(values).save_to_disk(path, num_shards=2)
    elif kind == "splits":
        datasets.DatasetDict({"train": datasets.Dataset.from_list(values)}).save_to_disk(path)
    else:
        path.mkdir()
        save("jsonl", path, values[:3])
        save("parquet", path, values[3:5])
        write(path / "d.json.gz", json.dumps(values[5:]).encode())
        write(path / "notes.txt", b"no record")
        write(path / "._d.jsonl", b"\0\1")
        (path / "e.jsonl").mkdir()
    return path


KINDS = {
    "jsonl": "corpus.jsonl, line 4",
    "jsonl.gz": "corpus.jsonl.gz, line 4",
    "json": "corpus.json, line 4",
    "json.gz": "corpus.json.gz, line 4",
    "array.json": "corpus.array.json, item 3",
    "array.json.gz": "corpus.array.json.gz, item 3",
    "parquet": "corpus.parquet, row 3",
    "dataset": "row 3",
    "splits": "row 3",
    "folder": "corpus.parquet, row 0",
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_its_records_by_range(tmp_path, kind):
    values = rows(11)
    corpus = Corpus.open(save(kind, tmp_path, values))
    assert len(corpus) == 11
    records = list(corpus.read())
    assert [record.data for record in records] == values
    assert [record.index for record in records] == list(range(11))
    assert {record.problem for record in records} == {None}
    assert records[3].where == KINDS[kind]
    for start in range(13):
        assert list(corpus.read(start)) == records[start:]
        for stop in range(13):
            assert list(corpus.read(start, stop)) == records[start:stop]
    with pytest.raises(ValueError, match="negative"):
        corpus.read(-1)


@pytest.mark.parametrize("kind", KINDS)
def test_the_fingerprint_is_that_of_the_content(tmp_path, kind):
    folders = [tmp_path / name for name in ("a", "b", "c")]
    for folder in folders:
        folder.mkdir()
    first, same, other = (
        Corpus.open(save(kind, folder, values)).fingerprint()
        for folder, values in zip(
            folders, (rows(11), rows(11), [*rows(10), {"prompt": "p", "response": "r"}]), strict=True
        )
    )
    assert len(first) == 64
    assert first != other
    if kind not in ("jsonl.gz", "json.gz", "array.json.gz", "folder"):  # gzip writes the time
        assert first == same


def test_names_below_a_folder_are_part_of_the_fingerprint_but_not_that_of_a_lone_file(tmp_path):
    path = save("jsonl", tmp_path, rows(2))
    folder, file = Corpus.open(tmp_path).fingerprint(), Corpus.open(path).fingerprint()
    path = path.rename(tmp_path / "renamed.jsonl")
    assert Corpus.open(tmp_path).fingerprint() != folder
    assert Corpus.open(path).fingerprint() == file


def test_broken_lines_are_records_with_a_problem_and_blank_ones_are_none(tmp_path):
    content = b"\n".join(
        [
            b'\xef\xbb\xbf{"n": 0}',
            b"",
            b'{"n": 1 "m": 2}\r',
            b"  \t",
            b"[1, 2]",
            b'"text"',
            b"null",
            b"1.5",
            b"true",
            b'{"n": "\xff"}',
            b"[" * 100_000,
            b'{"n": ' + b"1" * 5000 + b"}",
            b'{"n": "a\xe2\x80\xa8b"}',
            b'{"n": 13}',
        ]
    )
    corpus = Corpus.open(write(tmp_path / "corpus.jsonl", content))
    records = list(corpus.read())
    assert len(corpus) == len(records) == 12
    assert [(int(r.where.removeprefix("corpus.jsonl, line ")), r.problem) for r in records] == [
        (1, None),
        (3, "not valid JSON: Expecting ',' delimiter (column 9)"),
        (5, "not an object but a list"),
        (6, "not an object but a text"),
        (7, "not an object but null"),
        (8, "not an object but a number"),
        (9, "not an object but a boolean"),
        (10, "not valid UTF-8"),
        (11, "not valid JSON: nested too deep"),
        (12, records[9].problem),
        (13, None),
        (14, None),
    ]
    assert records[9].problem.startswith("not valid JSON: Exceeds the limit")
    assert [r.data for r in records if not r.problem] == [{"n": 0}, {"n": "a\u2028b"}, {"n": 13}]
    assert [r.where for r in corpus.read(10, 11)] == ["corpus.jsonl, line 13"]


def test_broken_items_of_an_array_are_records_with_a_problem(tmp_path):
    content = b'\xef\xbb\xbf \n[{"n": 0}, {"n": }, [1], {"n": "\xff"}, {"n":\n 1 2},, {"n": "]}, \\" {["},]\n'
    corpus = Corpus.open(write(tmp_path / "corpus.json", content))
    assert [(r.where, r.data, r.problem) for r in corpus.read()] == [
        ("corpus.json, item 0", {"n": 0}, None),
        ("corpus.json, item 1", None, "not valid JSON: Expecting value (column 7)"),
        ("corpus.json, item 2", None, "not an object but a list"),
        ("corpus.json, item 3", None, "not valid UTF-8"),
        ("corpus.json, item 4", None, "not valid JSON: Expecting ',' delimiter (line 2 of it, column 4)"),
        ("corpus.json, item 5", None, "not valid JSON: Expecting value (column 1)"),
        ("corpus.json, item 6", {"n": ']}, " {['}, None),
    ]


def test_broken_rows_leave_the_others_of_their_batch(tmp_path):
    text = pa.Array.from_buffers(
        pa.utf8(), 3, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0\3\0\0\0"), pa.py_buffer(b"a\xffc")]
    )
    pq.write_table(
        pa.table({"text": text, "time": pa.array([0, 1, 2**60], pa.timestamp("ms"))}), tmp_path / "c.parquet"
    )
    records = list(Corpus.open(tmp_path / "c.parquet").read())
    assert records[0].data["text"] == "a"
    assert records[1].problem == "not valid UTF-8"
    assert records[2].problem.startswith("not readable: ")
    assert [r.where for r in records] == ["c.parquet, row 0", "c.parquet, row 1", "c.parquet, row 2"]


@pytest.mark.slow
@settings(deadline=None, max_examples=150)
@given(
    values=st.lists(st.dictionaries(st.text(), JSON, max_size=3), min_size=1, max_size=6),
    indent=st.sampled_from([None, 1]),
    ascii_only=st.booleans(),
    chunk=st.integers(2, 40),
)
def test_any_array_is_split_where_json_splits_it(tmp_path_factory, values, indent, ascii_only, chunk):
    path = tmp_path_factory.getbasetemp() / "any.json"
    write(path, json.dumps(values, indent=indent, ensure_ascii=ascii_only).encode(errors="replace"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_files, "_CHUNK", chunk)
        corpus = Corpus.open(path)
        assert [repr(record.data) for record in corpus.read()] == [repr(v) for v in json.loads(path.read_bytes())]
        assert len(corpus) == len(values)


@settings(deadline=None, max_examples=200)
@given(
    content=st.binary(max_size=60) | st.text('[]{}",:\\ \n1a', max_size=40).map(str.encode),
    suffix=st.sampled_from([".json", ".jsonl", ".json.gz"]),
    flip=st.integers(0, 60),
)
def test_any_bytes_are_records_or_a_corpus_error(tmp_path_factory, content, suffix, flip):
    path = write(tmp_path_factory.getbasetemp() / f"bytes{suffix}", content)
    damaged = bytearray(path.read_bytes())
    if suffix == ".json.gz" and flip < len(damaged):
        damaged[flip] ^= 0xFF
        path.write_bytes(damaged)
    try:
        corpus = Corpus.open(path)
    except CorpusError:
        return
    records = list(corpus.read())
    assert len(records) == len(corpus)
    assert all((record.data is None) != (record.problem is None) for record in records)


def test_long_corpora_are_entered_near_the_range(tmp_path, monkeypatch):
    values = [{"n": i, "text": "x" * (i % 50)} for i in range(10_000)]
    first = write(tmp_path / "a.jsonl", b"\n" + lines(values).replace(b"\n", b"\n\n", 5000))
    second = write(tmp_path / "b.json", json.dumps([*values, {"n": 10_000, "text": "[" * 3_000_000}]).encode())
    corpus = Corpus.open(tmp_path)
    parsed = []
    original = json_files._parsed
    monkeypatch.setattr(json_files, "_parsed", lambda text: parsed.append(text) or original(text))
    assert len(corpus) == 20_001
    assert not parsed
    for start in (0, 1, 4095, 4096, 4097, 8191, 9_999):
        found = list(corpus.read(start, start + 3))
        assert [r.index for r in found] == [start, start + 1, start + 2]
        assert [r.data["n"] for r in found] == [i % 10_000 for i in range(start, start + 3)]
    assert len(parsed) == 21
    assert next(corpus.read(4999)).where == f"{first.name}, line 10000"
    assert next(corpus.read(8192)).where == f"{first.name}, line {5000 * 2 + 8192 - 5000 + 2}"
    last = list(corpus.read(19_999))
    assert [(r.where, r.data["n"]) for r in last] == [
        (f"{second.name}, item 9999", 9999),
        ("b.json, item 10000", 10_000),
    ]


def test_long_tables_are_read_by_row_groups_and_batches(tmp_path):
    pq.write_table(pa.table({"n": range(5000)}), tmp_path / "c.parquet", row_group_size=2000)
    corpus = Corpus.open(tmp_path / "c.parquet")
    for start, stop in ((0, 3), (255, 258), (1998, 2003), (3990, 4001), (100, 4900), (4999, 9999)):
        assert [r.data["n"] for r in corpus.read(start, stop)] == list(range(start, min(stop, 5000)))
    datasets.Dataset.from_dict({"n": list(range(1000))}).save_to_disk(tmp_path / "saved")
    saved = Corpus.open(tmp_path / "saved")
    assert [r.data["n"] for r in saved.read(250, 800)] == list(range(250, 800))
    assert next(saved.read(999)).where == "row 999"


def save_splits(path, **splits):
    datasets.DatasetDict({name: datasets.Dataset.from_list(rows(*of)) for name, of in splits.items()}).save_to_disk(
        path
    )
    return path


def test_splits(tmp_path):
    both = save_splits(tmp_path / "both", test=(2, 10), train=(3, 0))
    assert [r.data for r in Corpus.open(both).read()] == rows(3)
    test = Corpus.open(both, split="test")
    assert [r.data for r in test.read()] == rows(2, 10)
    assert test.path == both
    assert test.fingerprint() != Corpus.open(both).fingerprint()
    with pytest.raises(CorpusError, match="no split 'dev', only test, train"):
        Corpus.open(both, split="dev")
    assert len(Corpus.open(save_splits(tmp_path / "one", dev=(2,)))) == 2
    with pytest.raises(CorpusError, match="has the splits dev, test: choose one"):
        Corpus.open(save_splits(tmp_path / "neither", dev=(2,), test=(2,)))
    assert len(Corpus.open(both / "test")) == 2
    with pytest.raises(CorpusError, match="no splits"):
        Corpus.open(both / "test", split="train")
    with pytest.raises(CorpusError, match="no splits"):
        Corpus.open(save("jsonl", tmp_path, rows(2)), split="train")


def test_a_saved_dataset_is_read_as_it_is_stored(tmp_path):
    dataset = datasets.Dataset.from_list([{"n": i, "chat": [{"from": "gpt", "value": "x"}]} for i in range(4)])
    dataset.set_format("numpy", columns=["n"])
    dataset.filter(lambda row: row["n"] != 1).save_to_disk(tmp_path / "saved")
    corpus = Corpus.open(tmp_path / "saved")
    before = corpus.fingerprint()
    assert [r.data for r in corpus.read()] == [{"n": i, "chat": [{"from": "gpt", "value": "x"}]} for i in (0, 2, 3)]
    datasets.load_from_disk(tmp_path / "saved").map(lambda row: {"m": 1})  # leaves its cache in the folder
    assert Corpus.open(tmp_path / "saved").fingerprint() == before


def cut(path, keep=0.5):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    return path


def _saved_and_cut(folder):
    cut(next(save("dataset", folder, rows(2000)).glob("*.arrow")))
    return folder / "corpus.dataset"


def _without_state(folder):
    (save("dataset", folder, rows(4)) / "state.json").unlink()
    return folder / "corpus.dataset"


def _empty_table(folder):
    pq.write_table(pa.table({"n": pa.array([], pa.int64())}), folder / "e.parquet")
    return folder / "e.parquet"


def test_a_damaged_table_does_not_end_the_process(tmp_path):
    datasets.Dataset.from_dict({"text": ["aaaa"] * 9}).save_to_disk(tmp_path / "saved")
    (table,) = (tmp_path / "saved").glob("*.arrow")
    content = table.read_bytes()
    offsets = struct.pack("<3i", 4, 8, 12)
    assert content.count(offsets) == 1
    table.unlink()
    table.write_bytes(content.replace(offsets, struct.pack("<3i", 4, 2**30, 12)))
    records = list(Corpus.open(tmp_path / "saved").read())
    assert [r.index for r in records if r.data == {"text": "aaaa"}] == [0, 3, 4, 5, 6, 7, 8]
    assert all(records[row].problem.startswith("not readable: ") for row in (1, 2))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder / "no.jsonl", "does not exist"),
        (lambda folder: folder / ("n" * 300 + ".jsonl"), "cannot be read|does not exist"),
        (lambda folder: folder, "no file that can be read: known are .jsonl, .jsonl.gz, .json, .json.gz, .parquet"),
        (lambda folder: write(folder / "c.csv", b"a,b"), "no known kind: known are .jsonl, .*parquet"),
        (lambda folder: write(folder / "c.jsonl", b""), "is empty"),
        (lambda folder: write(folder / "c.jsonl", b"\xef\xbb\xbf\n \r\n\n"), "is empty"),
        (lambda folder: write(folder / "c.json", b" [ ] "), "is empty"),
        (lambda folder: write(folder / "c.jsonl.gz", b""), "is empty"),
        (lambda folder: write(folder / "c.jsonl", b"\n").parent, "is empty"),
        (_empty_table, "is empty"),
        (lambda folder: write(folder / "c.json", b'{\n "data": [\n]}'), "one object over many lines"),
        (lambda folder: write(folder / "c.json", b'[{"a": 1}, {"b": 2}, {"c"'), "damaged: item 2 does not end"),
        (lambda folder: write(folder / "c.json", b'[{"a": 1}, {"b": "2}, {"c": 1}]'), "damaged: item 1 does not end"),
        (lambda folder: write(folder / "c.json", b'[{"a": 1}]\n\n{"b": 2}'), "text follows .* item 0"),
        (lambda folder: write(folder / "c.json", b'[{"a": 1}}, {"b": 2}]'), "text follows"),
        (lambda folder: cut(save("jsonl.gz", folder, rows(2000))), "damaged: Compressed file ended"),
        (lambda folder: save("jsonl", folder, rows(3)).rename(folder / "c.jsonl.gz"), "damaged: Not a gzipped"),
        (lambda folder: cut(save("parquet", folder, rows(2000))), "damaged"),
        (lambda folder: save("jsonl", folder, rows(3)).rename(folder / "c.parquet"), "damaged"),
        (_saved_and_cut, "damaged"),
        (_without_state, "damaged dataset"),
    ],
)
def test_what_cannot_be_read_is_a_corpus_error_that_names_it(tmp_path, make, message):
    path = make(tmp_path)
    with pytest.raises(CorpusError, match=message) as error:
        Corpus.open(path)
    assert str(tmp_path) in str(error.value)


def test_damage_within_is_a_corpus_error_too(tmp_path):
    path = save("parquet", tmp_path, rows(2000))
    corpus, content = Corpus.open(path), path.read_bytes()
    path.write_bytes(b"\0" * (len(content) // 2) + content[len(content) // 2 :])
    with pytest.raises(CorpusError, match="damaged"):
        list(corpus.read())
    path = save("jsonl", tmp_path, rows(20))
    corpus = Corpus.open(path)
    write(path, lines(rows(10)))
    with pytest.raises(CorpusError, match="fewer records"):
        list(corpus.read())
    path.unlink()
    for use in (corpus.fingerprint, lambda: list(corpus.read())):
        with pytest.raises(CorpusError, match="cannot be read"):
            use()


def test_the_train_extra_is_asked_for_only_where_it_is_needed(tmp_path, monkeypatch):
    kinds = {kind: save(kind, tmp_path, rows(6)) for kind in KINDS}
    for module in ("datasets", "pyarrow", "pyarrow.parquet"):
        monkeypatch.setitem(sys.modules, module, None)
    for kind, path in kinds.items():
        if "json" in kind:
            assert len(Corpus.open(path)) == 6
        else:
            with pytest.raises(SettingsError, match=r"pip install 'langchain-saffron\[train\]'"):
                Corpus.open(path)


def test_reading_json_imports_nothing_heavy(tmp_path):
    path = save("jsonl", tmp_path, rows(1))
    code = (
        "import sys; from langchain_saffron.training.corpus import Corpus; list(Corpus.open(sys.argv[1]).read()); "
        "sys.exit(', '.join({'torch', 'transformers', 'pyarrow', 'datasets'} & set(sys.modules)) or None)"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=True)
