"""What Prometheus reads, beside what was done."""

import math
import re

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from langchain_saffron import ChatSaffron, SaffronEngine
from langchain_saffron.engine.metrics import Distribution
from langchain_saffron.server.metrics import EngineCollector, merged

CHAT = "/v1/chat/completions"
NAMES = {
    "num_requests_running", "num_requests_waiting", "kv_cache_usage_perc", "prefix_cache_queries", "prefix_cache_hits",
    "kv_cache_evictions",
    "prompt_tokens", "generation_tokens", "time_to_first_token_seconds", "inter_token_latency_seconds",
    "e2e_request_latency_seconds", "request_queue_time_seconds", "request_success", "admission_rejections", "refusals",
    "tflops", "answer_risk",
}  # fmt: skip


def test_the_metrics_are_those_of_what_was_done(client_of):
    engine = SaffronEngine.from_pretrained()
    chat = ChatSaffron(engine=engine, effort="low")
    client = client_of(chat)
    asked = {"messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 5}
    answers = [client.post(CHAT, json=asked).json() for _ in range(2)]
    client.post(CHAT, json={**asked, "model": "x"})
    text = client.get("/metrics").text
    families = {family.name.removeprefix("saffron:"): family for family in text_string_to_metric_families(text)}
    assert families.keys() >= NAMES
    samples = {sample.name.removeprefix("saffron:"): sample for f in families.values() for sample in f.samples}
    values = {name: sample.value for name, sample in samples.items()}
    assert all(sample.labels["model_name"] == "kitchen" for sample in samples.values())
    used = [answer["usage"] for answer in answers]
    assert values["prompt_tokens_total"] == sum(one["prompt_tokens"] for one in used)
    assert values["generation_tokens_total"] == 10
    assert values["prefix_cache_hits_total"] == used[1]["prompt_tokens_details"]["cached_tokens"] > 0
    assert samples["request_success_total"].labels["finished_reason"] == "length"
    assert values["request_success_total"] == values["e2e_request_latency_seconds_count"] == 2
    assert values["time_to_first_token_seconds_count"] == values["request_queue_time_seconds_count"] == 2
    assert values["num_requests_running"] == values["num_requests_waiting"] == values["kv_cache_usage_perc"] == 0
    assert values["tflops_total"] == sum(answer["saffron"]["tflops"] for answer in answers)
    lowest = [answer["saffron"]["min_reward"] for answer in answers]
    assert values["answer_risk_sum"] == pytest.approx(sum(1 / (1 + math.exp(one)) for one in lowest))
    assert not re.search(r"HELP \S+ \S*`", text)
    # the same in process
    now = engine.metrics()
    assert now.request_success == {"length": 2}
    assert now.generation_tokens == 10
    now.request_success.clear()
    assert engine.metrics().request_success
    engine.close()


def test_what_several_processes_say_is_one_document(client_of):
    engine = SaffronEngine.from_pretrained()
    client = client_of(ChatSaffron(engine=engine, effort="off", max_tokens=3))
    client.post(CHAT, json={"messages": [{"role": "user", "content": "Hello!"}]})
    texts = [
        generate_latest(registry_of(EngineCollector(engine, client.app.state.load, "kitchen", replica))).decode()
        for replica in ("0", "1")
    ]
    engine.close()
    apart = [list(text_string_to_metric_families(text)) for text in texts]
    together = list(text_string_to_metric_families(merged(texts)))
    assert [family.name for family in together] == [family.name for family in apart[0]]
    for family, *parts in zip(together, *apart, strict=True):
        assert family.samples == [sample for part in parts for sample in part.samples]
        assert (family.type, family.documentation) == (parts[0].type, parts[0].documentation)
    assert {sample.labels["replica"] for family in together for sample in family.samples} == {"0", "1"}
    assert merged(texts[:1]) == texts[0]
    assert merged([]) == ""


def registry_of(collector: EngineCollector) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(collector)
    return registry


def test_a_distribution_counts_values_up_to_its_bounds():
    one = Distribution((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 9.0):
        one.add(value)
    assert (one.counts, one.count, one.total) == ([2, 1, 1], 4, 12.0)
    copy = one.copy()
    one.add(1.0)
    assert copy.count == 4
