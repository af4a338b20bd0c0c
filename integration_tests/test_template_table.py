"""The table of chat templates: over the project's own small ones, and over a folder of real ones where one is named."""

import json
import os
import shutil
from pathlib import Path

import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage

from integration_tests.template_calls import TOOLS
from integration_tests.template_table import COLUMNS, as_markdown, measure, share, templates_in, wrong_columns
from langchain_saffron import ChatSaffron
from langchain_saffron.errors import ModelLoadError
from langchain_saffron.interface.prompts import PromptRenderer
from langchain_saffron.interface.tool_templates import ToolTemplates
from langchain_saffron.models.loading import load_tokenizer
from langchain_saffron.models.source import find_gguf
from unit_tests.builders import CHATML, GEMMA, LLAMA3, byte_level_tokenizer
from unit_tests.call_templates import FAMILIES
from unit_tests.gguf_files import gguf_tokenizer, write_gguf
from unit_tests.thought_templates import CUT, HARMONY, HEADER, OWN, PARTS
from unit_tests.tiny_models import random_model
from unit_tests.tool_templates import HERMES3, LLAMA31, QWEN3, QWEN25

TEMPLATES = {
    **{f"calls of {name}": template for name, template in FAMILIES.items()},
    "QWEN25": QWEN25, "QWEN3": QWEN3, "LLAMA31": LLAMA31, "HERMES3": HERMES3,
    "CHATML": CHATML, "GEMMA": GEMMA, "LLAMA3": LLAMA3,
    "CUT": CUT, "HARMONY": HARMONY, "HEADER": HEADER, "OWN": OWN, "PARTS": PARTS,
}  # fmt: skip
# what stays wrong, and why, by the names of templates: none of those above, and these of a folder
_CALLS = frozenset({"auto", "any", "named", "history"})
EXCEPTIONS: dict[str, tuple[frozenset[str], str]] = {
    "CohereForAI-c4ai-command-r-plus-tool_use": (
        _CALLS,
        "its template raises at an object without additionalProperties, and indents the JSON of calls by its depth",
    ),
    "NVIDIA-Nemotron-Nano-v2": (
        frozenset({"prefill"}),
        "its template puts the beginning of an answer into the thought; here it is put behind an empty one",
    ),
    "tool_chat_template_gemma3_pythonic": (
        frozenset({"history"}),
        "it writes no commas between arguments; calls are written into its messages instead",
    ),
}
REAL = os.environ.get("SAFFRON_CHAT_TEMPLATES", "")
USE = FAMILIES["mistral_args"]


@pytest.mark.slow
@pytest.mark.parametrize("name", TEMPLATES)
def test_nothing_is_wrong_of_a_template(name):
    row = measure(TEMPLATES[name])
    assert tuple(row) == COLUMNS
    assert wrong_columns(row) == _exceptions(name), {c: cell.reason for c, cell in row.items() if cell.state == "wrong"}
    assert row["plain"].state == "right"
    if name in {f"calls of {family}" for family in FAMILIES}:
        assert [row[column].state for column in ("auto", "any", "named", "history")] == ["right"] * 4


@pytest.mark.slow
def test_the_table_finds_what_is_wrong(monkeypatch):
    monkeypatch.setattr(ToolTemplates, "are_shown", False)
    row = measure(QWEN25)
    assert {row[column].state for column in ("auto", "any", "named")} == {"wrong"}
    assert row["plain"].state == "right"
    assert share({"one": row, "other": measure(CHATML)}) == 0.5
    assert "- one, auto: wrong: " in as_markdown({"one": row})


@pytest.mark.skipif(not REAL, reason="SAFFRON_CHAT_TEMPLATES names no folder of chat templates (*.jinja)")
@pytest.mark.slow
def test_real_chat_templates():
    """Of at least 92% of the templates in a folder, and of the cells, nothing is wrong; all that is is an exception."""
    rows = {name: measure(source) for name, source in templates_in(Path(REAL)).items()}
    cells = [cell.state for row in rows.values() for cell in row.values()]
    assert share(rows) >= 0.92, as_markdown(rows, ["wrong"])
    assert cells.count("wrong") <= 0.08 * len(cells)
    wrong = {name: wrong_columns(row) for name, row in rows.items()}
    assert wrong == {name: _exceptions(name) for name in rows}, as_markdown(rows, ["wrong"])


def _exceptions(name):
    return EXCEPTIONS[name][0] if name in EXCEPTIONS else set()


def test_the_same_from_files_and_from_gguf(tmp_path):
    tokenizer, model = gguf_tokenizer(), random_model()
    one = {"jinja": "chat_template.jinja", "config": "tokenizer_config.json", "named": "additional_chat_templates"}
    for kind in one:
        tokenizer.chat_template = {"default": CHATML, "tool_use": USE} if kind == "named" else USE
        tokenizer.save_pretrained(tmp_path / kind)
        model.save_pretrained(tmp_path / kind)
    config = json.loads((tmp_path / "config" / "tokenizer_config.json").read_text())
    template = (tmp_path / "config" / "chat_template.jinja").read_text()
    (tmp_path / "config" / "chat_template.jinja").unlink()
    (tmp_path / "config" / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": template}))
    assert all((tmp_path / kind / file).exists() for kind, file in one.items())
    for kind, template, entries in (
        ("gguf", USE, {}),
        ("named_gguf", CHATML, {"tokenizer.chat_template.tool_use": USE}),
    ):
        (tmp_path / kind).mkdir()
        write_gguf(tmp_path / kind / "model.gguf", model, tokenizer, template=template, entries=entries)
    call = {"name": "weather", "args": {"place": "Paris"}, "id": "abcdefgh1"}
    messages = [HumanMessage("Hi."), AIMessage("", tool_calls=[call]), ToolMessage("sunny", tool_call_id="abcdefgh1")]
    found = set()
    for kind in (*one, "gguf", "gguf/model.gguf", "named_gguf"):
        renderer = PromptRenderer(load_tokenizer(tmp_path / kind, "policy"))
        chat = ChatSaffron(model=tmp_path / kind, effort="off", max_tokens=3)
        profile = chat.profile
        assert profile["tool_calling"] is True, kind
        assert profile["max_input_tokens"] == model.config.max_position_embeddings, kind
        form = renderer.tool_format
        found.add((form.name, form.form, renderer.render(messages, list(TOOLS)).policy_ids))
        plain = CHATML if "named" in kind else USE
        expected = tokenizer.apply_chat_template(
            [{"role": "user", "content": "Hi."}], chat_template=plain, add_generation_prompt=True, return_dict=False
        )
        assert list(renderer.render(messages[:1]).policy_ids) == expected
    assert len(found) == 1


def test_the_profile_of_an_adapter_is_that_of_its_base(tmp_path):
    tokenizer, model = gguf_tokenizer(), random_model()
    tokenizer.chat_template = USE
    model.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "../base"}))
    profile = ChatSaffron(model=adapter, effort="off").profile
    assert profile["max_input_tokens"] == model.config.max_position_embeddings
    assert profile["tool_calling"] is True
    # a template of its own comes first
    (adapter / "chat_template.jinja").write_text(CHATML)
    assert ChatSaffron(model=adapter, effort="off").profile["tool_calling"] is False


def test_quotes_that_a_template_forgets_to_escape():
    single = """{{ ("'" + v + "'") if v is string else ([v] | string)[1:-1] }}"""
    quoted = FAMILIES["pythonic"].replace("{{ ([v] | string)[1:-1] }}", single)
    tokenizer = byte_level_tokenizer(chat_template=quoted)
    call = {"name": "weather", "args": {"place": "it's here"}, "id": "abcdefgh1"}
    messages = [HumanMessage("Hi."), AIMessage("", tool_calls=[call]), ToolMessage("sunny", tool_call_id="abcdefgh1")]
    assert quoted != FAMILIES["pythonic"]
    decoded = tokenizer.decode(PromptRenderer(tokenizer).render(messages, list(TOOLS)).policy_ids)
    assert """weather(place="it's here")""" in decoded


def test_a_blank_before_answers_is_a_part_of_a_prefill():
    template = CHATML.replace("assistant\n'", "assistant:\n\n'").replace("m.role + '\n' +", "m.role + ': ' +")
    tokenizer = byte_level_tokenizer(chat_template=template)
    said = [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "the answer"}]
    expected = tokenizer.apply_chat_template(said, continue_final_message=True, return_dict=False)
    prompt = PromptRenderer(tokenizer).render([HumanMessage("Hi."), AIMessage("the answer")])
    assert list(prompt.policy_ids) == expected
    assert tokenizer.decode(prompt.prefill_ids) == " the answer"


def test_a_directory_of_several_gguf_files(tmp_path):
    write_gguf(tmp_path / "a.gguf")
    assert find_gguf(tmp_path, "policy") == tmp_path / "a.gguf"
    shutil.copy(tmp_path / "a.gguf", tmp_path / "b.gguf")
    with pytest.raises(ModelLoadError, match=r"several GGUF files: pass one of a\.gguf, b\.gguf"):
        find_gguf(tmp_path, "policy")
    assert ChatSaffron(model=tmp_path, effort="off").profile.get("max_input_tokens") is None
