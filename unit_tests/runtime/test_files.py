"""Files and folders that appear whole or not at all."""

import errno
import json
import os
from contextlib import suppress

import pytest
from safetensors import SafetensorError

from langchain_saffron.errors import ModelNotFoundError, StorageError
from langchain_saffron.runtime.files import local_path, whole, write_json
from unit_tests.disks import content


def test_a_file_appears_whole(tmp_path):
    path = tmp_path / "deep" / "er" / "file.txt"
    with whole(path) as partial:
        assert partial.parent == path.parent
        partial.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"
    assert [each.name for each in path.parent.iterdir()] == ["file.txt"]


def test_a_directory_takes_the_place_of_the_old_one(tmp_path):
    path = tmp_path / "folder"
    for name in ("old", "new"):
        with whole(path) as partial:
            (partial / "sub").mkdir(parents=True)
            (partial / "sub" / name).write_text(name)
    assert content(path) == {"sub/new": b"new"}
    assert [each.name for each in tmp_path.iterdir()] == ["folder"]


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), StorageError),
        (SafetensorError("I/O error: No space left on device (os error 28)"), StorageError),
        (ValueError("a mistake"), ValueError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
)
@pytest.mark.parametrize("is_folder", [False, True])
def test_an_error_inside_leaves_the_old_content(tmp_path, error, told, is_folder):
    path = tmp_path / "it"
    old = path / "old" if is_folder else path
    old.parent.mkdir(exist_ok=True)
    old.write_text("old")

    def write_half():
        with whole(path) as partial:
            if is_folder:
                partial.mkdir()
            (partial / "half" if is_folder else partial).write_text("half")
            raise error

    with pytest.raises(told) as caught:
        write_half()
    if told is StorageError:
        assert str(path) in str(caught.value)
        assert "No space left" in str(caught.value)
        assert caught.value.__cause__ is error
    assert old.read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["it"]


def test_what_a_crash_left_is_swept_aside(tmp_path):
    (tmp_path / "it.partial").mkdir()
    (tmp_path / "it.partial" / "junk").write_text("junk")
    with whole(tmp_path / "it") as partial:
        assert not partial.exists()
        partial.mkdir()
        (partial / "new").write_text("new")
    assert content(tmp_path) == {"it/new": b"new"}
    (tmp_path / "file.partial").write_text("junk")
    with whole(tmp_path / "file") as partial:
        partial.write_text("new")
    assert content(tmp_path) == {"it/new": b"new", "file": b"new"}


def test_json_is_written_as_text(tmp_path):
    for _ in range(2):
        write_json(tmp_path / "file", {"a": "ä", "b": "\udcff"})
    assert json.loads((tmp_path / "file").read_text(encoding="utf-8")) == {"a": "ä", "b": "\udcff"}
    assert "ä" in (tmp_path / "file").read_text(encoding="utf-8")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_place_below_a_file_is_told(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(StorageError, match="could not be written"), whole(tmp_path / "file" / "below"):
        pytest.fail("there is nothing to write to")
    with suppress(StorageError):
        write_json(tmp_path / "file" / "below", 1)
    assert content(tmp_path) == {"file": b"mine"}


def test_any_name_is_a_path_or_too_long(monkeypatch: pytest.MonkeyPatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert local_path("~/models") == tmp_path / "models"
    # whoever has no home here is no reason to fail otherwise than by "there is no such directory"
    assert str(local_path("~nobody-of-that-name/models")) == "~nobody-of-that-name/models"
    for name in ("x" * 256, "ä" * 128, "/".join(["ab"] * 2000)):
        with pytest.raises(ModelNotFoundError, match="too long"):
            local_path(name)
    assert not local_path("x" * 255).exists()
