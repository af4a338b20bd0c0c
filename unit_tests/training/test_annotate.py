"""Annotation: rows against forwards by hand, what is skipped, and runs that are cut short."""

import errno
import itertools
import json
import os
import threading
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from langchain_saffron.errors import CorpusError, SettingsError, StorageError
from langchain_saffron.models.prm import ProcessRewardModel
from langchain_saffron.templates.reward_template import RewardTemplate
from langchain_saffron.training.annotate import annotate
from langchain_saffron.training.corpus import Corpus
from langchain_saffron.training.settings import AnnotateSettings
from unit_tests.disks import content, files_of_at_most
from unit_tests.tiny_models import plain_logits, random_model, tiny_tokenizer
from unit_tests.training.annotations import (
    BOS,
    QUESTION,
    SAFE,
    TOKENIZER,
    UNSAFE,
    Rule,
    chat,
    ids,
    rows,
    rule,
    short,
    stamps,
    write,
)


def by_hand(record, max_tokens, turns="all"):
    """The MRM's prompt, the PRM's prompt and the answer's ids, with plain string concatenation."""
    headers = {"system": "\n\nSystem:", "user": "\n\nUser:", "assistant": "\n\nAgent:"}
    marks = {"system": "S:{}\n", "user": "U:{}\n", "assistant": "A:{}"}
    found = []
    for place, turn in enumerate(record["messages"]):
        if turn["role"] == "assistant":
            before = record["messages"][:place]
            prompt = [BOS, *ids("".join(headers[m["role"]] + m["content"] for m in before) + headers["assistant"])]
            asked = [BOS, *ids("Task: " + "".join(marks[m["role"]].format(m["content"]) for m in before) + "A:")]
            found.append((prompt, asked, ids(turn["content"])[: max(0, max_tokens - len(prompt))]))
    return [each for each in (found if turns == "all" else found[-1:]) if each[2]]


@pytest.mark.parametrize(("max_tokens", "turns"), [(128, "all"), (60, "all"), (128, "last")])
def test_rows_are_what_one_forward_a_prefix_gives(tmp_path, guard, prm, max_tokens, turns):
    records = [chat(i) for i in range(10)]
    corpus = write(tmp_path / "c.jsonl", records)
    annotate(corpus, prm, tmp_path / "out", AnnotateSettings(max_tokens=max_tokens, turns=turns, shard_size=4))
    model = random_model("llama", 4, num_hidden_layers=2)
    found = rows(tmp_path / "out")
    wanted = [(i, *answer) for i, record in enumerate(records) for answer in by_hand(record, max_tokens, turns)]
    assert len(found) == len(wanted) > 8
    assert len({index for index, *_ in wanted}) > 1
    for row, (index, prompt, asked, response) in zip(found, wanted, strict=True):
        assert row["record"] == index
        assert row["token_ids"] == prompt + response
        assert (row["response_start"], row["response_end"]) == (len(prompt), len(prompt) + len(response))
        assert len(row["token_ids"]) <= max_tokens
        logits = [plain_logits(model, asked + response[:i] + ids(" Is it safe?")) for i in range(1, len(response) + 1)]
        rewards = torch.stack([each[SAFE] - each[UNSAFE] for each in logits])
        assert torch.allclose(torch.tensor(row["rewards"]), rewards, atol=1e-3)
        assert torch.allclose(torch.tensor(row["rewards"]), prm.prefix_rewards(asked, response), atol=1e-3)


def test_what_is_cut_is_the_end_of_an_answer(tmp_path):
    record = {"prompt": "soup", "response": "stir and boil it, " * 20}
    prompt, response = [BOS, *ids("\n\nUser:soup\n\nAgent:")], ids(record["response"])
    corpus = write(tmp_path / "c.jsonl", [record])
    for max_tokens in (len(prompt) + 1, len(prompt) + 7, len(prompt) + len(response), 1000):
        out = tmp_path / str(max_tokens)
        manifest = annotate(corpus, rule()[0], out, AnnotateSettings(max_tokens=max_tokens))
        assert rows(out)[0]["token_ids"] == (prompt + response)[:max_tokens]
        assert manifest["counts"]["rewards"] == min(max_tokens - len(prompt), len(response))
    with pytest.raises(CorpusError, match="0 broken, 1 with a prompt of max_tokens or more"):
        annotate(corpus, rule()[0], tmp_path / "none", AnnotateSettings(max_tokens=len(prompt)))


def test_a_function_reads_the_prompt_and_every_prefix(tmp_path):
    model, asked = rule()
    annotate(
        write(tmp_path / "c.jsonl", [{"prompt": "a soup", "response": "Boil it, then serve."}]), model, tmp_path / "out"
    )
    response = ids("Boil it, then serve.")
    texts = [TOKENIZER.decode(response[: i + 1]) for i in range(len(response))]
    assert asked.asked == [("\n\nUser:a soup\n\nAgent:", text) for text in texts]
    assert rows(tmp_path / "out")[0]["rewards"] == [Rule()("\n\nUser:a soup\n\nAgent:", text) for text in texts]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), "high", None])
def test_a_function_that_gives_no_number_is_refused_before_anything_is_written(tmp_path, value):
    model = ProcessRewardModel.from_function(lambda prompt, answer: value, TOKENIZER, "my rule")
    with pytest.raises(SettingsError, match="my rule"):
        annotate(write(tmp_path / "c.jsonl", short(3)), model, tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.parquet*"))


def test_an_answer_that_chosen_and_rejected_share_is_there_once(tmp_path):
    shared = "\n\nHuman: hi\n\nAssistant: hello\n\nHuman: a soup?\n\nAssistant:"
    pair = {"chosen": f"{shared} Boil it.", "rejected": f"{shared} No."}
    same = {"chosen": f"{shared} Boil it.", "rejected": f"{shared} Boil it."}
    corpus = write(tmp_path / "c.jsonl", [pair, same])
    annotate(corpus, rule()[0], tmp_path / "all")
    responses = [
        (row["record"], TOKENIZER.decode(row["token_ids"][row["response_start"] :])) for row in rows(tmp_path / "all")
    ]
    assert responses == [(0, "hello"), (0, "Boil it."), (0, "No."), (1, "hello"), (1, "Boil it.")]
    annotate(corpus, rule()[0], tmp_path / "last", AnnotateSettings(turns="last"))
    responses = [TOKENIZER.decode(row["token_ids"][row["response_start"] :]) for row in rows(tmp_path / "last")]
    assert responses == ["Boil it.", "No.", "Boil it."]


def test_a_prompt_beyond_max_tokens_is_counted_and_not_broken(tmp_path):
    long = {"prompt": "rice " * 40, "response": "yes"}
    later = chat(0, 1)["messages"] + [{"role": "user", "content": "rice " * 40}, {"role": "assistant", "content": "no"}]
    corpus = write(tmp_path / "c.jsonl", [long, *short(2), {"messages": later}])
    told = []
    settings = AnnotateSettings(max_tokens=100, strict=True)
    counts = annotate(corpus, rule()[0], tmp_path / "all", settings, report=told.append)["counts"]
    assert (counts["too_long"], counts["broken"], counts["rows"], counts["records"]) == (1, 0, 4 - 1, 4)
    settings = AnnotateSettings(max_tokens=100, turns="last")
    counts = annotate(corpus, rule()[0], tmp_path / "last", settings, report=told.append)["counts"]
    assert (counts["too_long"], counts["broken"], counts["rows"]) == (2, 0, 2)
    assert told == []


BROKEN = {
    3: ('{"prompt": "a", "respo', "not valid JSON"),
    5: ('{"a": 1, "b": 2}', "has the fields a, b"),
    6: ("[1, 2]", "not an object"),
    9: ('{"messages": [{"role": "narrator", "content": "x"}]}', "narrator"),
    11: ('{"prompt": "a", "response": " "}', "no assistant turn"),
}


def broken_corpus(path):
    good = iter(short(20))
    return write(path, [BROKEN[line][0] if line in BROKEN else next(good) for line in range(1, 13)])


def test_broken_records_are_counted_reported_and_named(tmp_path):
    told = []
    settings = AnnotateSettings(shard_size=5)
    manifest = annotate(broken_corpus(tmp_path / "c.jsonl"), rule()[0], tmp_path / "out", settings, report=told.append)
    assert manifest["counts"] | {"broken": 5, "rows": 7, "records": 12} == manifest["counts"]
    for lines in (manifest["broken"], told):
        assert [line.split(": ", 1)[0] for line in lines] == [f"c.jsonl, line {line}" for line in BROKEN]
        assert all(problem in line for line, (_, problem) in zip(lines, BROKEN.values(), strict=True))
    assert told == [f"{line}; skipped" for line in manifest["broken"]]
    # the numbers of the others are those of the corpus
    assert [row["record"] for row in rows(tmp_path / "out")] == [0, 1, 3, 6, 7, 9, 11]


def test_only_so_many_broken_records_are_named(tmp_path):
    corpus = write(tmp_path / "c.jsonl", [*short(1), *["{"] * 130])
    manifest = annotate(corpus, rule()[0], tmp_path / "out", AnnotateSettings(shard_size=40))
    assert manifest["counts"]["broken"] == 130
    assert manifest["broken"][0].startswith("c.jsonl, line 2: ")
    assert 1 < len(manifest["broken"]) <= 100


def test_strict_ends_at_the_first_broken_record_and_keeps_earlier_shards(tmp_path):
    corpus = broken_corpus(tmp_path / "c.jsonl")
    annotate(corpus, rule()[0], tmp_path / "whole", AnnotateSettings(shard_size=2))
    whole = content(tmp_path / "whole")
    with pytest.raises(CorpusError, match=r"c\.jsonl, line 3: not valid JSON"):
        annotate(corpus, rule()[0], tmp_path / "out", AnnotateSettings(shard_size=2, strict=True))
    found = content(tmp_path / "out")
    assert json.loads(found.pop("manifest.json"))["complete"] is False
    assert found == {"shard-00000.parquet": whole["shard-00000.parquet"]}
    annotate(corpus, rule()[0], tmp_path / "out", AnnotateSettings(shard_size=2))
    assert content(tmp_path / "out") == whole


def test_an_answer_that_the_prm_has_no_room_for_is_broken(tmp_path, guard):
    # 256 positions, most of them taken by the guard's task
    task = "rice " * (150 // len(ids(" rice")))
    template = RewardTemplate(add_bos=True, preamble=task, system="{text}", user="{text}", assistant="{text}")
    model = ProcessRewardModel.from_pretrained(str(guard), QUESTION.model_copy(update={"template": template}))
    long = {"prompt": "b", "response": "boil " * 60}
    told = []
    settings = AnnotateSettings(max_tokens=200)
    corpus = write(tmp_path / "c.jsonl", [*short(1), long, *short(1)])
    counts = annotate(corpus, model, tmp_path / "out", settings, report=told.append)["counts"]
    assert (counts["rows"], counts["broken"], counts["too_long"]) == (2, 1, 0)
    assert "line 2" in told[0]
    assert "256" in told[0]


def test_the_same_run_gives_the_same_bytes(tmp_path, guard, prm):
    corpus = write(tmp_path / "c.jsonl", [chat(i) for i in range(14)])
    settings = AnnotateSettings(shard_size=5, batch_size=3)
    annotate(corpus, prm, tmp_path / "one", settings)
    annotate(
        Corpus.open(tmp_path / "c.jsonl"),
        ProcessRewardModel.from_pretrained(str(guard), QUESTION),
        tmp_path / "two",
        settings,
    )
    assert content(tmp_path / "one") == content(tmp_path / "two")
    assert len(content(tmp_path / "one")) == 4


@pytest.mark.parametrize("shards", [1, 2])
def test_a_run_that_was_cut_short_goes_on_to_the_same_bytes(tmp_path, prm, shards):
    corpus = write(tmp_path / "c.jsonl", [chat(i) for i in range(14)])
    settings = AnnotateSettings(shard_size=5, batch_size=3)
    annotate(corpus, prm, tmp_path / "whole", settings)

    def stop(done, rewards):
        if done > shards * 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        annotate(corpus, prm, tmp_path / "out", settings, progress=stop)
    kept = stamps(tmp_path / "out")
    assert len(kept) == shards
    assert set(content(tmp_path / "out")) == {*kept, "manifest.json"}
    manifest = annotate(corpus, prm, tmp_path / "out", settings)
    assert content(tmp_path / "out") == content(tmp_path / "whole")
    assert manifest["complete"] is True
    assert stamps(tmp_path / "out").items() >= kept.items()


def test_nothing_is_scored_twice(tmp_path):
    corpus = write(tmp_path / "c.jsonl", short(12))
    everything = rule()[1]
    annotate(
        corpus,
        ProcessRewardModel.from_function(everything, TOKENIZER),
        tmp_path / "whole",
        AnnotateSettings(shard_size=4),
    )
    model, _ = rule(fails_at=len(everything.asked) - 5)
    with pytest.raises(KeyboardInterrupt):
        annotate(corpus, model, tmp_path / "out", AnnotateSettings(shard_size=4))
    assert sorted(content(tmp_path / "out")) == ["manifest.json", "shard-00000.parquet", "shard-00001.parquet"]
    model, second = rule()
    annotate(corpus, model, tmp_path / "out", AnnotateSettings(shard_size=4))
    assert content(tmp_path / "out") == content(tmp_path / "whole")
    assert second.asked == everything.asked[-len(second.asked) :]
    assert len(second.asked) == sum(len(ids(record["response"])) for record in short(12)[8:])
    before = stamps(tmp_path / "out")
    model, third = rule()
    manifest = annotate(corpus, model, tmp_path / "out", AnnotateSettings(shard_size=4))
    assert third.asked == []
    assert manifest == json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert content(tmp_path / "out") == content(tmp_path / "whole")
    assert stamps(tmp_path / "out") == before


@pytest.mark.parametrize("order", [*itertools.permutations((1, 2, 3))])
def test_parts_make_the_whole_in_any_order(tmp_path, order):
    corpus = write(tmp_path / "c.jsonl", [*short(8), "{", *short(4)])
    annotate(corpus, rule()[0], tmp_path / "whole", AnnotateSettings(shard_size=3))
    there = set()
    for i in order:
        there |= {f"shard-{index:05d}.parquet" for index in range(5) if index % 3 == i - 1}
        manifest = annotate(corpus, rule()[0], tmp_path / "out", AnnotateSettings(shard_size=3, part=(i, 3)))
        assert set(stamps(tmp_path / "out")) == there
        assert manifest["complete"] == (i == order[-1])
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_parts_may_start_at_once(tmp_path):
    records = short(6)
    write(tmp_path / "c.jsonl", records)
    barrier, failed = threading.Barrier(3), []

    def run(i):
        model, corpus = ProcessRewardModel.from_function(Rule(), tiny_tokenizer()), Corpus.open(tmp_path / "c.jsonl")
        for turn in range(20):
            barrier.wait()
            try:
                annotate(corpus, model, tmp_path / str(turn), AnnotateSettings(shard_size=2, part=(i, 3)))
            except Exception as error:
                failed.append(error)

    threads = [threading.Thread(target=run, args=(i,)) for i in (1, 2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    annotate(Corpus.open(tmp_path / "c.jsonl"), rule()[0], tmp_path / "whole", AnnotateSettings(shard_size=2))
    assert all(content(tmp_path / str(turn)) == content(tmp_path / "whole") for turn in range(20))


def test_a_corpus_of_the_wrong_shape_is_refused_at_once(tmp_path):
    model, asked = rule()
    corpus = write(tmp_path / "c.jsonl", [{"inputs": "a", "targets": "b"}] * 30)
    with pytest.raises(CorpusError, match=r"wrong shape.*c\.jsonl, line 1: has the fields inputs, targets"):
        annotate(corpus, model, tmp_path / "out")
    assert asked.asked == []
    assert not (tmp_path / "out").exists()


def test_one_good_record_among_the_first_is_enough(tmp_path):
    corpus = write(tmp_path / "c.jsonl", ["{"] * 19 + short(2))
    assert annotate(corpus, rule()[0], tmp_path / "out")["counts"]["rows"] == 2


def test_a_corpus_of_long_prompts_alone_is_refused_with_the_reason(tmp_path):
    corpus = write(tmp_path / "c.jsonl", [{"prompt": "rice " * 50, "response": "yes"}, "{"])
    with pytest.raises(CorpusError, match=r"none of the 2 records.*1 broken, 1 with a prompt of max_tokens"):
        annotate(corpus, rule()[0], tmp_path / "out", AnnotateSettings(max_tokens=40))
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["complete"] is False


@pytest.mark.parametrize("fails_at", [0, 2])
def test_a_full_disk_leaves_what_was_written_whole(tmp_path, monkeypatch, fails_at):
    corpus = write(tmp_path / "c.jsonl", short(8))
    settings = AnnotateSettings(shard_size=2)
    annotate(corpus, rule()[0], tmp_path / "whole", settings)
    whole, real, written = content(tmp_path / "whole"), pq.write_table, []

    def write_table(table, where, *options, **named):
        real(table, where, *options, **named)
        if len(written) == fails_at:
            Path(where).write_bytes(Path(where).read_bytes()[:300])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written.append(where)

    with monkeypatch.context() as patched:
        patched.setattr(pq, "write_table", write_table)
        with pytest.raises(StorageError, match=rf"shard-0000{fails_at}\.parquet .*No space left"):
            annotate(corpus, rule()[0], tmp_path / "out", settings)
    found = content(tmp_path / "out")
    assert json.loads(found.pop("manifest.json"))["complete"] is False
    assert found == {name: whole[name] for name in sorted(whole)[1 : 1 + fails_at]}
    annotate(corpus, rule()[0], tmp_path / "out", settings)
    assert content(tmp_path / "out") == whole


@pytest.mark.parametrize("size", [100, 1000, 2000])
def test_a_disk_that_really_takes_no_more_is_told(tmp_path, size):
    corpus = write(tmp_path / "c.jsonl", short(8))
    settings = AnnotateSettings(shard_size=2)
    annotate(corpus, rule()[0], tmp_path / "whole", settings)
    with files_of_at_most(size), pytest.raises(StorageError, match="too large"):
        annotate(corpus, rule()[0], tmp_path / "out", settings)
    assert not list((tmp_path / "out").glob("*.partial"))
    annotate(corpus, rule()[0], tmp_path / "out", settings)
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_a_reward_of_zero_is_not_safe(tmp_path):
    model = ProcessRewardModel.from_function(lambda prompt, answer: 0.0 if len(answer) > 1 else 1e-6, TOKENIZER)
    counts = annotate(write(tmp_path / "c.jsonl", short(3)), model, tmp_path / "out")["counts"]
    assert counts["safe_share"] == pytest.approx(3 / counts["rewards"], abs=1e-6)


def test_a_limit_takes_the_first_records(tmp_path):
    corpus = write(tmp_path / "c.jsonl", short(9))
    annotate(corpus, rule()[0], tmp_path / "whole", AnnotateSettings(shard_size=2))
    manifest = annotate(corpus, rule()[0], tmp_path / "out", AnnotateSettings(shard_size=2, limit=5))
    assert manifest["counts"]["records"] == 5
    assert rows(tmp_path / "out") == rows(tmp_path / "whole")[:5]
    assert annotate(corpus, rule()[0], tmp_path / "more", AnnotateSettings(limit=99))["counts"]["records"] == 9


def test_progress_rises_to_the_counts(tmp_path):
    seen = []
    corpus = write(tmp_path / "c.jsonl", [*short(5), "{", *short(5)])
    settings = AnnotateSettings(shard_size=4, batch_size=2)
    manifest = annotate(corpus, rule()[0], tmp_path / "out", settings, progress=lambda *done: seen.append(done))
    assert seen == sorted(seen)
    assert len(set(seen)) > 4
    assert seen[-1] == (11, manifest["counts"]["rewards"])


def test_control_strings_in_answers_are_plain_characters(tmp_path):
    record = {"prompt": "say <|im_end|>", "response": "<|im_end|> and <|begin_of_text|>"}
    annotate(write(tmp_path / "c.jsonl", [record]), rule()[0], tmp_path / "out")
    row = rows(tmp_path / "out")[0]
    controls = set(TOKENIZER.all_special_ids) | set(TOKENIZER.added_tokens_decoder)
    assert [token for token in row["token_ids"] if token in controls] == [BOS]
    assert TOKENIZER.decode(row["token_ids"][row["response_start"] :]) == record["response"]


def test_texts_and_names_that_are_not_unicode_are_taken(tmp_path):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/c\xff.jsonl"))
    lone = {"prompt": "x \ud800", "response": "y \udfff z"}
    manifest = annotate(write(path, [lone, "{", *short(1)]), rule()[0], tmp_path / "out")
    assert manifest["settings"]["corpus"]["name"] == path.name
    assert manifest["broken"][0].startswith(f"{path.name}, line 2")
    assert json.loads((tmp_path / "out" / "manifest.json").read_text()) == manifest
    row = rows(tmp_path / "out")[0]
    assert TOKENIZER.decode(row["token_ids"][row["response_start"] :]) == "y \ufffd z"
    annotate(Corpus.open(path), rule()[0], tmp_path / "out")


def test_every_kind_of_corpus_gives_the_same_rows(tmp_path):
    records = [chat(i) for i in range(6)]
    annotate(write(tmp_path / "c.jsonl", records), rule()[0], tmp_path / "lines")
    pq.write_table(pa.Table.from_pylist([*records, {"messages": None}]), tmp_path / "c.parquet")
    told = []
    annotate(Corpus.open(tmp_path / "c.parquet"), rule()[0], tmp_path / "table", report=told.append)
    assert rows(tmp_path / "table") == rows(tmp_path / "lines")
    assert len(told) == 1
    assert told[0].startswith("c.parquet, row 6: ")


def test_markers_of_tool_calls_are_control_tokens_where_a_record_gives_calls(tmp_path):
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["<tool_call>", "</tool_call>"])
    asked = []

    def reward(prompt, answer):
        asked.append((prompt, answer))
        return 1.0

    prm = ProcessRewardModel.from_function(reward, tokenizer)
    call = {"name": "note", "arguments": {"text": "</tool_call> and <tool_call>"}}
    inner = json.dumps(call)
    typed = f"<tool_call>\n{inner}\n</tool_call>"
    records = [
        {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ok", "tool_calls": [call]}]},
        {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": f"ok\n{typed}"}]},
    ]
    annotate(write(tmp_path / "corpus.jsonl", records), prm, tmp_path / "out", AnnotateSettings(max_tokens=400))
    called, written = (row["token_ids"][row["response_start"] :] for row in rows(tmp_path / "out"))
    start, end = tokenizer.convert_tokens_to_ids(["<tool_call>", "</tool_call>"])
    assert called.count(start) == called.count(end) == 1
    assert start not in written
    assert end not in written
    assert tokenizer.decode(called) == tokenizer.decode(written) == f"ok\n{typed}"
    hello = {"role": "assistant", "content": "hello"}
    # a call among the turns before is text, in the same form
    records = [{"messages": [*records[0]["messages"], {"role": "tool", "content": "done"}, hello]}]
    asked.clear()
    annotate(write(tmp_path / "later.jsonl", records), prm, tmp_path / "later", AnnotateSettings(turns="last"))
    assert asked[0][0].endswith(f"Agent:ok\n{typed}\n\nUser:done\n\nAgent:")
