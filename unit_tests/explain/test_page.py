"""The page of a search: what it holds, and that no text on it can become anything else."""

import json
import re
from typing import get_args

import pytest

from langchain_saffron import ChatSaffron, SaffronEngine, SearchSettings
from langchain_saffron.errors import SettingsError
from langchain_saffron.explain import record_traces, trace_page
from langchain_saffron.explain.page import TEMPLATE
from langchain_saffron.search.trace import Fate
from unit_tests.tiny_models import PROMPTS, random_model, random_prm, random_reward_model, tiny_tokenizer

HOSTILE = [
    "</script><script>document.title='taken'</script>",
    "<!--<script>",
    "]]>\u2028\u2029",
    "<img src=x onerror=\"document.title='taken'\">",
    "{title}{data}",
    "&lt;b&gt;",
    "\x00\u202e\\u003c",
]


class HostileTokenizer:
    """Spells every token as something that a page must not take for its own."""

    def decode(self, tokens, **options):
        return "".join(HOSTILE[token % len(HOSTILE)] for token in tokens)


@pytest.fixture(scope="module")
def engine():
    made = SaffronEngine(random_model("llama"), tiny_tokenizer(), random_reward_model())
    yield made
    made.close()


@pytest.fixture(scope="module")
def result(engine):
    settings = SearchSettings(width=3, max_tokens=10, min_tokens=6, step_back=True, top_p=0.6, mask="off")
    return engine.generate(PROMPTS[0], settings=settings, record_trace=True)


def embedded(page):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)[1])


def test_no_text_ends_the_script_or_is_markup(result):
    page = trace_page(result, HostileTokenizer(), title="</title><script>{data}")
    assert page.count("<script") == 2
    assert page.count("</script>") == 2
    assert "<img" not in page
    assert page.count("<!--") == 0
    data = embedded(page)
    assert {text for text in data["texts"] if text} <= set(HOSTILE)
    assert "<title>&lt;/title&gt;&lt;script&gt;{data}</title>" in page


def test_nothing_is_fetched(result, engine):
    page = trace_page(result, engine.tokenizer)
    assert "default-src 'none'" in page
    markup = page.replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?:|\bsrc=|@import|url\(|innerHTML|eval\(", markup)


def test_totals_are_those_of_the_stats(result, engine):
    totals = embedded(trace_page(result, engine.tokenizer))["totals"]
    for name, value in result.stats.as_dict().items():
        assert totals[name] == (None if value is None else pytest.approx(value, rel=1e-3))
    assert totals["reward"] == pytest.approx(result.reward, rel=1e-3)


def test_every_fate_is_explained_and_a_last_look_is_there(engine):
    script = TEMPLATE.read_text(encoding="utf-8").partition("const fates = {")[2].partition("};")[0]
    assert set(re.findall(r"(\w+): \"", script)) == set(get_args(Fate))
    looking = SaffronEngine(
        engine.policy.model, engine.tokenizer, random_reward_model(), process_reward_model=random_prm()
    )
    settings = SearchSettings(width=2, max_tokens=8, verify="prm", safety_threshold=0.0, top_p=0.6, mask="off")
    found = [looking.generate(prompt, settings=settings, record_trace=True) for prompt in PROMPTS[:4]]
    looking.close()
    assert sum(one.stats.overruled for one in found) > 0
    for one in found:
        steps = embedded(trace_page(one, engine.tokenizer))["steps"]
        assert [sum(step[i] for step in steps) for i in (-2, -1)] == [one.stats.verified, one.stats.overruled]


def test_a_search_that_was_not_recorded_has_no_page(engine):
    plain = engine.generate(PROMPTS[0], settings=SearchSettings(max_tokens=2))
    with pytest.raises(SettingsError, match="record_trace=True"):
        trace_page(plain, engine.tokenizer)


async def test_what_a_chat_model_answers_is_recorded(engine):
    engine.tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    chat = ChatSaffron(engine=engine, max_tokens=4)
    chat.invoke("a tart")
    with record_traces() as results:
        said = [chat.invoke("a tart").text, "".join(chunk.text for chunk in chat.stream("a soup"))]
        said.append((await chat.ainvoke("a stew")).text)
        chat.invoke("a tart", effort="off")
    chat.invoke("a tart")
    assert [result.text for result in results[:3]] == said
    assert [result.trace is not None for result in results] == [True, True, True, False]
