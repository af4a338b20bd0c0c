"""`saffron annotate --ray`: the files of one process, though a worker is killed."""

import json
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path

import psutil
import pytest

from langchain_saffron.cli import main
from langchain_saffron.extras import RAY
from langchain_saffron.kitchen.generator import conversations

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not RAY.available(), reason="Ray is not installed: pip install 'langchain-saffron[ray]'"),
]


def contents(directory: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in directory.iterdir()}


def test_the_files_are_those_of_one_process_though_a_worker_is_killed(tmp_path, capsys):
    corpus = tmp_path / "corpus.jsonl"
    lines = [json.dumps({"messages": one.messages}) for one in islice(conversations("mrm", 100, seed=3), 80)]
    corpus.write_text("\n".join([*lines, "{broken"]) + "\n", encoding="utf-8")
    command = ["annotate", str(corpus), "--shard-size", "10", "--out"]
    assert main([*command, str(tmp_path / "one")]) == 0
    expected = capsys.readouterr().out.replace(str(tmp_path / "one"), "")
    out = tmp_path / "many"
    with subprocess.Popen(
        [sys.executable, "-m", "langchain_saffron", *command, str(out), "--ray", "2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        while not list(out.glob("shard-*.parquet")):
            assert process.poll() is None, process.communicate()
            time.sleep(0.005)
        workers = [one for one in psutil.Process(process.pid).children(recursive=True) if "Annotating" in one.name()]
        workers[0].kill()
        told, log = process.communicate(timeout=120)
    assert process.returncode == 0, log
    assert contents(out) == contents(tmp_path / "one")
    assert told.replace(str(out), "") == expected
    # one shard, or none where it had just been handed over
    assert log.count("is made again") <= 1
    assert "line 81" in log
