"""GGUF files that are damaged, cut short, foreign or no models: one typed error that names the file, and soon."""

import random
import struct
import time

import pytest

from langchain_saffron.errors import ModelLoadError, ModelNotFoundError
from langchain_saffron.models import gguf_reader
from langchain_saffron.models.gguf_reader import read_header
from langchain_saffron.models.loading import load_causal_lm, load_tokenizer
from unit_tests.gguf_files import write_gguf

NAME = r"the policy '.*tiny\.gguf' "


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The bytes of a good file, and where its tensors begin."""
    path = tmp_path_factory.mktemp("whole") / "tiny.gguf"
    write_gguf(path, quantization="Q8_0")
    return path.read_bytes(), read_header(path, "policy").start


@pytest.fixture
def write(tmp_path):
    def write(data):
        path = tmp_path / "tiny.gguf"
        path.write_bytes(data)
        return path

    return write


def load(path):
    """Whether the file can be loaded: a typed error says no, and everything else fails the test."""
    begun = time.monotonic()
    errors = []
    for one in (load_tokenizer, load_causal_lm):
        try:
            one(path, "policy")
        except ModelLoadError as error:
            errors.append(error)
    assert all(str(path) in str(error) and not isinstance(error, ModelNotFoundError) for error in errors)
    assert time.monotonic() - begun < 60
    return not errors


@pytest.mark.parametrize("data", [b"", b"GG", b"PK\x03\x04 a zip", b"FUGG" + bytes(60), b"\x93NUMPY", bytes(4096)])
def test_what_is_no_gguf_file_says_what_it_begins_with(write, data):
    for one in (load_tokenizer, load_causal_lm):
        with pytest.raises(ModelLoadError, match=f"{NAME}is a file, but no GGUF file .it begins with"):
            one(write(data), "policy")


def test_pickles_are_not_opened(write):
    # what it would do, were it opened: fail the test
    path = write(b"cbuiltins\nexec\n(S'raise SystemExit(1)'\ntR.")
    assert not load(path)


@pytest.mark.parametrize("share", [0.00001, 0.001, 0.01, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 0.9, 0.999])
def test_a_file_that_is_cut_short_says_so(write, whole, share):
    path = write(whole[0][: max(8, int(len(whole[0]) * share))])
    with pytest.raises(ModelLoadError, match=f"{NAME}is damaged or cut short: .* .download it again."):
        load_causal_lm(path, "policy")


def test_no_header_that_is_cut_short_is_read(write, whole):
    data, start = whole
    for length in random.Random(0).sample(range(8, start), 200):
        with pytest.raises(ModelLoadError, match="damaged or cut short"):
            read_header(write(data[:length]), "policy")


@pytest.mark.parametrize("seed", range(6))
def test_bytes_that_changed_in_the_header_load_or_are_an_error(write, whole, seed):
    data, start = whole
    chance = random.Random(seed)
    for _ in range(12):
        changed = bytearray(data)
        for _ in range(chance.randint(1, 3)):
            changed[chance.randrange(start)] = chance.randrange(256)
        load(write(changed))


# where numbers decide how much is read or made
KEYS = [
    "block_count",
    "context_length",
    "embedding_length",
    "feed_forward_length",
    "attention.head_count",
    "attention.head_count_kv",
    "rope.dimension_count",
]


@pytest.mark.parametrize("number", [0, 1, 5, 2**20, 2**31, 2**32 - 1])
def test_absurd_sizes_of_the_model_load_or_are_an_error(write, whole, number):
    data, _ = whole
    for key in KEYS:
        at = data.index(f"llama.{key}".encode()) + len(f"llama.{key}") + 4
        changed = data[:at] + struct.pack("<I", number) + data[at + 4 :]
        fine = load(write(changed))
        # these say nothing of the weights' shapes
        assert not fine or key in ("context_length", "rope.dimension_count"), (key, number)


@pytest.mark.parametrize("count", [2**20, 2**40, 2**63, 2**64 - 1])
@pytest.mark.parametrize("at", [8, 16], ids=["tensors", "entries"])
def test_absurd_counts_are_not_believed(write, whole, at, count):
    data = whole[0]
    path = write(data[:at] + struct.pack("<Q", count) + data[at + 8 :])
    with pytest.raises(ModelLoadError, match=f"{NAME}is damaged or cut short: it states"):
        load_causal_lm(path, "policy")


@pytest.mark.parametrize("length", [2**25, 2**40, 2**64 - 1])
@pytest.mark.parametrize("text", [b"general.architecture", b"token_embd.weight", b"tokenizer.chat_template"])
def test_absurd_lengths_are_not_believed(write, whole, text, length):
    data = whole[0]
    at = data.index(text) - 8
    path = write(data[:at] + struct.pack("<Q", length) + data[at + 8 :])
    with pytest.raises(ModelLoadError, match=f"{NAME}is damaged or cut short: it states .* bytes in a text"):
        load_causal_lm(path, "policy")


@pytest.mark.parametrize("count", [2**23, 2**40, 2**64 - 1])
@pytest.mark.parametrize("key", [b"tokenizer.ggml.tokens", b"tokenizer.ggml.token_type"])
def test_absurd_lists_are_not_believed(write, whole, key, count):
    data = whole[0]
    at = data.index(key) + len(key) + 8
    path = write(data[:at] + struct.pack("<Q", count) + data[at + 8 :])
    with pytest.raises(ModelLoadError, match=f"{NAME}is damaged or cut short: it states .* items in lists"):
        load_tokenizer(path, "policy")


def test_tensors_that_share_their_bytes_are_refused(write, whole):
    data = whole[0]
    for name in (b"blk.1.ffn_up.weight", b"blk.2.ffn_up.weight"):
        at = data.index(name) + len(name) + 4 + 16 + 4
        data = data[:at] + struct.pack("<Q", 0) + data[at + 8 :]
    # a file may hold gaps, so that this takes shrinking, too
    path = write(data[: -2 * 64 * 34 - 64])
    with pytest.raises(ModelLoadError, match=f"{NAME}is damaged or cut short: .* are missing"):
        load_causal_lm(path, "policy")


@pytest.mark.parametrize("version", [0, 1, 4, 3 << 24])
def test_other_versions_are_named(write, whole, version):
    path = write(whole[0][:4] + struct.pack("<I", version) + whole[0][8:])
    with pytest.raises(ModelLoadError, match=f"{NAME}is a GGUF file of version {version}, and versions 2 and 3"):
        load_causal_lm(path, "policy")


@pytest.mark.parametrize("architecture", ["rwkv7", "x", "clip", "general"])
def test_an_architecture_that_cannot_be_read_is_named(tmp_path, architecture):
    path = tmp_path / "tiny.gguf"
    write_gguf(path, architecture=architecture)
    says = f"{NAME}has the architecture '{architecture}', which transformers' GGUF reader does not know; it reads bloom"
    with pytest.raises(ModelLoadError, match=says):
        load_causal_lm(path, "policy")


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        ({"split.count": 3, "split.no": 0}, "is one of the 3 parts that a model was split into: join them"),
        ({"general.type": "adapter"}, "holds no model but 'adapter'"),
        ({"general.type": "mmproj"}, "holds no model but 'mmproj'"),
        ({"general.alignment": 24}, "its alignment is 24"),
        ({"tokenizer.ggml.eot_token_id": 320}, "eot_token_id is 320, and there are 320 tokens"),
        ({"llama.expert_count": 2**20}, "it states 1048576 experts"),
    ],
)
def test_what_is_no_whole_model_is_told_apart(tmp_path, entries, says):
    path = tmp_path / "tiny.gguf"
    write_gguf(path, entries=entries)
    with pytest.raises(ModelLoadError, match=f"{NAME}.*{says}"):
        load_causal_lm(path, "policy")


def test_a_long_header_is_not_read_to_its_end(write, whole, monkeypatch):
    monkeypatch.setattr(gguf_reader, "_MOST_BYTES", 2000)
    with pytest.raises(ModelLoadError, match="bytes of header, and 2,000 is the most"):
        read_header(write(whole[0]), "policy")


def test_a_directory_of_that_name_is_a_directory(tmp_path):
    directory = tmp_path / "tiny.gguf"
    directory.mkdir()
    with pytest.raises(ModelLoadError, match="cannot be loaded"):
        load_causal_lm(directory, "policy")
