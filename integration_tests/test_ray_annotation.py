"""`saffron annotate --ray`: the files of one process, though a worker is killed."""

import json
import threading
import time
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path

import psutil
import pytest

from langchain_saffron.cli import main
from langchain_saffron.cli.annotators import Models, annotator
from langchain_saffron.embedded import KITCHEN
from langchain_saffron.extras import RAY
from langchain_saffron.kitchen.generator import conversations
from langchain_saffron.runtime.ray_cluster import start_ray
from langchain_saffron.training.settings import AnnotateSettings

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
    killed: list[int] = []

    def kill() -> None:
        while not list(out.glob("shard-*.parquet")):
            time.sleep(0.005)
        started = psutil.Process().children(recursive=True)
        worker = next(one for one in started if "Annotating" in one.name())
        worker.kill()
        killed.append(worker.pid)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    assert main([*command, str(out), "--ray", "2"]) == 0
    killer.join(10)
    told = capsys.readouterr()
    assert killed
    assert contents(out) == contents(tmp_path / "one")
    assert told.out.replace(str(out), "") == expected
    # one shard, or none where it had just been handed over
    assert told.err.count("is made again") <= 1
    assert "line 81" in told.err
    assert not [one for one in psutil.Process().children(recursive=True) if "ray" in one.name()]


@pytest.fixture
def ray_home(tmp_path, monkeypatch) -> Iterator[Path]:
    """A home in which a Ray is started for the first time."""
    import ray
    from ray._raylet import AuthenticationTokenLoader

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    # this process may have started one at home before, and remembers the token from there
    AuthenticationTokenLoader.instance().reset_cache()
    start_ray("local")
    yield tmp_path
    ray.shutdown()
    AuthenticationTokenLoader.instance().reset_cache()


def test_an_idle_worker_that_died_is_replaced_and_others_cannot_join(ray_home):
    from langchain_saffron.training.ray_annotator import RayAnnotator

    for private in (ray_home / ".ray", ray_home / ".ray" / "auth_token"):
        assert private.stat().st_mode & 0o077 == 0
    models = Models(str(KITCHEN / "prm"), device="cpu")
    load = partial(annotator, models, AnnotateSettings(), True)
    with RayAnnotator(load, 1, "cpu") as workers:
        expected = workers.record({"path": "a"})
        (worker,) = (one for one in psutil.Process().children(recursive=True) if "Annotating" in one.name())
        worker.kill()
        worker.wait(10)
        assert workers.record({"path": "a"}) == expected
