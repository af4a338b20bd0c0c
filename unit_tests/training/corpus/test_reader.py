"""Corpora of every kind, broken ones too, and the shapes of their records."""

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
from langchain_saffron.training.corpus import (
    Corpus,
    ShapeError,
    conversations_of,
    formats,
    json_files,
    register_record_form,
)

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


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(), children, max_size=4),
    max_leaves=12,
)


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


# ---- shapes ----


def said(*texts, system=None):
    """Messages of user and assistant in turn."""
    turns = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]
    return [{"role": "system", "content": system}, *turns] if system else turns


HI = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]
HH = "\n\nHuman: hi\n\nAssistant: yo"


@pytest.mark.parametrize("name", ["messages", "conversation", "conversations", "chat"])
@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        (HI, said("hi", "yo")),
        ([{"role": "developer", "content": "s"}, *HI], said("hi", "yo", system="s")),
        ([{"from": "human", "value": "hi"}, {"from": "gpt", "value": "yo"}], said("hi", "yo")),
        ([{"from": "system", "value": "s"}, {"from": "user", "value": "hi"}, {"from": "bot", "value": "yo"}],
         said("hi", "yo", system="s")),
        ([{"from": "model", "value": " a\n"}], [{"role": "assistant", "content": " a\n"}]),
        ([{"role": "user", "from": None, "content": "hi", "value": None},
          {"role": None, "from": "chatbot", "value": "yo"}],
         said("hi", "yo")),
        ([{"role": "user", "content": [{"type": "text", "text": "h", "image": None}, {"type": "text", "text": "i"}]},
          {"role": "assistant", "content": "yo", "tool_calls": []}], said("hi", "yo")),
        ([*HI, {"role": "user", "content": ""}], said("hi", "yo", "")),
    ],
)  # fmt: skip
def test_messages(name, messages, expected):
    assert conversations_of({"id": 3, name: messages, "prompt": "p", "response": "r"}) == [expected]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"chosen": HH, "rejected": "\n\nHuman: hi\n\nAssistant: no"}, [said("hi", "yo"), said("hi", "no")]),
        ({"chosen": HH, "rejected": HH}, [said("hi", "yo")]),
        ({"rejected": HH}, [said("hi", "yo")]),
        ({"chosen": HH, "rejected": None}, [said("hi", "yo")]),
        ({"chosen": "Human: hi\n\nAssistant:yo "}, [said("hi", "yo")]),
        ({"chosen": "\n\nAssistant: a\n\nHuman: b: \n\nc\n\n"},
         [[{"role": "assistant", "content": "a"}, {"role": "user", "content": "b: \n\nc"}]]),
        ({"chosen": "\n\nHuman: hi\n\nAssistant:\n\nAssistant: yo\n\nHuman: \n\nAssistant:"},
         [[*said("hi", "yo"), {"role": "assistant", "content": ""}]]),
        ({"chosen": HI, "rejected": [*HI[:1], {"role": "assistant", "content": "no"}]},
         [said("hi", "yo"), said("hi", "no")]),
        ({"prompt": "hi", "chosen": HI, "rejected": HH}, [said("hi", "yo")]),
        ({"prompt": "hi", "chosen": "yo", "rejected": " no"}, [said("hi", "yo"), said("hi", " no")]),
        ({"prompt": "\n\nHuman: hi\n\nAssistant:", "chosen": " yo"}, [said("hi", "yo")]),
        ({"prompt": HI[:1], "chosen": HI[1:], "rejected": "no"}, [said("hi", "yo"), said("hi", "no")]),
        ({"prompt": "hi", "chosen": HI[1:]}, [said("hi", "yo")]),
        ({"prompt": 3, "chosen": HH}, [said("hi", "yo")]),
        ({"system": "s", "question": "hi", "chosen": "yo"}, [said("hi", "yo", system="s")]),
        ({"chosen": True, "prompt": "hi", "response": "yo"}, [said("hi", "yo")]),
    ],
)  # fmt: skip
def test_chosen_and_rejected(data, expected):
    assert conversations_of(data) == expected


@pytest.mark.parametrize("prompt", ["prompt", "question", "instruction", "query", "user"])
@pytest.mark.parametrize("response", ["response", "answer", "output", "completion", "assistant"])
def test_prompt_and_response_by_any_name(prompt, response):
    assert conversations_of({response: "yo", prompt: "hi", "score": 1, "chat": "17"}) == [said("hi", "yo")]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"prompt": "hi", "response": "yo", "system": "s"}, said("hi", "yo", system="s")),
        ({"prompt": "hi", "response": "yo", "system_prompt": "s"}, said("hi", "yo", system="s")),
        ({"prompt": "hi", "response": "yo", "system": " "}, said("hi", "yo")),
        ({"prompt": "hi", "response": "yo", "system": None, "messages": None, "chosen": None}, said("hi", "yo")),
        ({"instruction": "sum", "input": "1 2", "output": "3"}, said("sum\n\n1 2", "3")),
        ({"instruction": "", "input": "1 2", "output": "3"}, said("1 2", "3")),
        ({"instruction": "sum", "input": "", "output": "3"}, said("sum", "3")),
        ({"instruction": "sum", "input": None, "output": "3"}, said("sum", "3")),
        ({"prompt": "sum", "input": "1 2", "output": "3"}, said("sum", "3")),
        ({"prompt": "\n\nHuman: a\n\nAssistant: b\n\nHuman: hi\n\nAssistant:", "response": " yo"},
         said("a", "b", "hi", "yo")),
        ({"prompt": "\n\nHuman: hi", "response": "yo"}, said("hi", "yo")),
        ({"prompt": "\n\nHuman: hi", "system": "s", "response": "yo"}, said("hi", "yo", system="s")),
        ({"prompt": [{"role": "system", "content": "s"}, *HI[:1]], "system": "t", "response": "yo"},
         said("hi", "yo", system="s")),
        ({"prompt": "Human: hi", "response": HH}, said("Human: hi", HH)),
        ({"transcript": HH, "text": 3}, said("hi", "yo")),
        ({"text": f" {HH}\n", "prompt": "hi"}, said("hi", "yo")),
    ],
)  # fmt: skip
def test_prompt_and_response_and_transcripts(data, expected):
    assert conversations_of(data) == [expected]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([1], "not an object but a list"),
        ({}, "has no fields; known are messages, prompt and response, chosen and rejected"),
        ({"a": 1, "b": 2}, "has the fields a, b; known are messages"),
        ({"\ud800": 1}, "\\ud800"),
        ({str(i): i for i in range(99)}, "10, 11, …; known"),
        ({"Prompt": "a", "Response": "b"}, "has the fields Prompt, Response;"),
        ({"prompt": "a", "response": None}, "response is null"),
        ({"messages": None}, "messages is null"),
        ({"messages": {"role": []}}, "messages is an object"),
        ({"messages": [], "prompt": "a", "response": "b"}, "messages is empty"),
        ({"messages": ["x"]}, "messages[0] is a text, not a message"),
        ({"messages": [{"content": "x"}]}, "messages[0] has no role"),
        ({"messages": [{"role": "user"}]}, "messages[0] has no content"),
        ({"messages": [{"role": None, "content": "x"}]}, "messages[0].role is null"),
        ({"messages": [{"role": ["user"], "content": "x"}]}, "messages[0].role is a list"),
        ({"chat": [*HI, {"role": "critic", "content": "x"}]}, "chat[2] has the role critic; known are system, "),
        ({"chat": [{"from": "narrator", "value": "x"}]}, "chat[0] has the role narrator"),
        ({"messages": [HI[0], {"role": "assistant", "content": None}]}, "messages[1].content is null"),
        ({"messages": [{"from": "gpt", "value": 1.5}]}, "messages[0].value is a number"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
         "messages[0].content[0] is a part of the type image_url"),
        ({"messages": [{"role": "user", "content": ["a"]}]}, "content[0] is a part of the type a text"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "content[0].text is null"),
        ({"messages": HI[:1]}, "no assistant turn with any text in messages"),
        ({"messages": [HI[0], {"role": "assistant", "content": " \n"}]}, "no assistant turn with any text"),
        ({"chosen": HH, "rejected": "\n\nHuman: hi\n\nAssistant: "}, "no assistant turn with any text in rejected"),
        ({"chosen": HH, "rejected": 5}, "rejected is a number, not a text"),
        ({"chosen": "yo"}, "chosen is neither a transcript nor messages, and there is no prompt to it"),
        ({"chosen": "Preface\n\nHuman: hi"}, "chosen has text before its first turn"),
        ({"chosen": "yo", "prompt": 3}, "prompt is a number, not a text"),
        ({"prompt": {}, "response": "yo"}, "prompt is an object, not a text"),
        ({"prompt": "hi", "response": ["yo"]}, "response is a list, not a text"),
        ({"prompt": "hi", "response": b"yo"}, "response is bytes, not a text"),
        ({"prompt": "hi", "response": " "}, "no assistant turn with any text in response"),
        ({"prompt": "hi", "response": "yo", "system": 1}, "system is a number, not a text"),
        ({"instruction": "hi", "output": "yo", "input": False}, "input is a boolean, not a text"),
        ({"text": "plain"}, 'text has no turn that starts with "\\n\\nHuman:"'),
        ({"text": 5}, "has the fields text, text is a number; known"),
    ],
)  # fmt: skip
def test_what_has_no_known_shape_says_what_it_has(data, message):
    with pytest.raises(ShapeError) as error:
        conversations_of(data)
    assert message in str(error.value)
    assert str(error.value).isprintable()


NAMES = st.sampled_from(
    [
        *("messages", "conversation", "chat", "chosen", "rejected", "prompt", "instruction", "input", "user"),
        *("response", "output", "system", "transcript", "text", "role", "from", "content", "value", "type"),
    ]
)
WORDS = st.sampled_from(
    ["user", "gpt", "system", "tool", "text", HH, "\n\nHuman:", "\n\nAssistant:", "", " ", "\ud800"]
)
SHAPED = st.recursive(
    st.none() | st.booleans() | st.floats() | WORDS,
    lambda children: st.lists(children, max_size=3) | st.dictionaries(NAMES, children, max_size=5),
    max_leaves=20,
)
MESSAGES = st.lists(st.fixed_dictionaries({"role": WORDS, "content": WORDS | SHAPED}), max_size=4)


@settings(deadline=None, max_examples=600)
@given(JSON | SHAPED | st.dictionaries(NAMES, WORDS | SHAPED | MESSAGES, max_size=6))
def test_any_value_is_conversations_or_a_shape_error(value):
    try:
        conversations = conversations_of(value)
    except ShapeError as error:
        conversations, message = [], str(error)
    else:
        message = "none"
        assert 1 <= len(conversations) <= 2
    assert 0 < len(message) < 2000
    for turns in conversations:
        assert all(set(turn) == {"role", "content"} for turn in turns)
        assert all(turn["role"] in ("system", "user", "assistant") for turn in turns)
        assert all(isinstance(turn["content"], str) for turn in turns)
        assert any(turn["role"] == "assistant" and turn["content"].strip() for turn in turns)


# ---- tools ----

CALL = {"name": "set_timer", "arguments": {"minutes": 5, "dish": "Süppchen"}}
LINE = '{"name": "set_timer", "arguments": {"minutes": 5, "dish": "Süppchen"}}'


@pytest.mark.parametrize(
    "calls",
    [
        [{"type": "function", "id": "x", "function": CALL}],
        [{"type": "function", "function": {**CALL, "arguments": json.dumps(CALL["arguments"])}}],
        [CALL],
        [{"name": "set_timer", "args": CALL["arguments"], "id": "x", "type": "tool_call"}],
    ],
    ids=["template", "openai", "bare", "langchain"],
)
def test_tool_calls_are_read_in_every_form(calls):
    record = {"messages": [HI[0], {"role": "assistant", "content": None, "tool_calls": calls}]}
    assert conversations_of(record) == [[HI[0], {"role": "assistant", "content": "", "tool_calls": LINE}]]


def test_what_a_tool_returns_is_input_like_a_users_words():
    turns = [
        HI[0],
        {"role": "assistant", "tool_calls": [CALL, {"name": "stop"}]},
        {"role": "tool", "content": "done", "tool_call_id": "x"},
        HI[1],
    ]
    (messages,) = conversations_of({"messages": turns})
    assert [turn["role"] for turn in messages] == ["user", "assistant", "user", "assistant"]
    assert messages[1]["tool_calls"].splitlines() == [LINE, '{"name": "stop", "arguments": {}}']
    assert messages[2] == {"role": "user", "content": "done"}


@pytest.mark.parametrize(
    ("calls", "problem"),
    [
        ({"name": "f"}, "messages[1].tool_calls is an object, not a list"),
        (["f"], "messages[1].tool_calls[0] names no function"),
        ([CALL, {"function": {}}], "messages[1].tool_calls[1] names no function"),
        ([{"name": "f", "arguments": "{"}], "messages[1].tool_calls[0].arguments are not JSON"),
        ([{"name": "f", "arguments": "[1]"}], "messages[1].tool_calls[0].arguments are a list, not an object"),
    ],
)
def test_broken_tool_calls_are_named(calls, problem):
    with pytest.raises(ShapeError) as caught:
        conversations_of({"messages": [HI[0], {"role": "assistant", "content": "", "tool_calls": calls}]})
    assert problem in str(caught.value)


def test_an_assistant_that_neither_speaks_nor_calls_answers_nothing():
    with pytest.raises(ShapeError, match="no assistant turn with any text"):
        conversations_of({"messages": [HI[0], {"role": "assistant", "content": "", "tool_calls": []}]})


# ---- forms of the user's own ----


def test_a_form_of_the_user_s_own_is_asked_first(monkeypatch):
    monkeypatch.setattr(formats, "_FORMS", dict(formats._FORMS))

    def read(fields):
        if "q" not in fields:
            return None
        if "a" not in fields:
            raise ShapeError("a question without an answer")
        return {"a": [{"role": "user", "content": fields["q"]}, {"role": "assistant", "content": fields["a"]}]}

    register_record_form("q and a", read)
    known = {"prompt": "p", "response": "r"}
    assert [turn["content"] for turn in conversations_of({**known, "q": "Leek?", "a": "Yes."})[0]] == ["Leek?", "Yes."]
    assert [turn["content"] for turn in conversations_of(known)[0]] == ["p", "r"]
    with pytest.raises(ShapeError, match="without an answer"):
        conversations_of({"q": "Leek?"})
    with pytest.raises(ShapeError, match="known are q and a, messages"):
        conversations_of({"x": "y"})
