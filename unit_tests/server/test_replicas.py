"""What a configuration file of Ray Serve may say; that it serves is in the integration tests."""

import importlib
import re
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from langchain_saffron.cli import main
from langchain_saffron.errors import SettingsError
from langchain_saffron.extras import REPLICAS
from langchain_saffron.server.rules import Asker

pytestmark = [
    pytest.mark.skipif(not REPLICAS.available(), reason="Ray is not installed"),
    # of Ray's own settings
    pytest.mark.filterwarnings("ignore:Using extra keyword arguments on `Field`"),
]


@pytest.fixture(scope="module")
def application():
    from langchain_saffron.server.replicas import application

    return application


def test_fields_of_the_server_and_of_the_model_are_told_apart(application, tmp_path):
    (tmp_path / "keys").write_text("# who\nalice:sk-one\n")
    (tmp_path / "rules.yaml").write_text("rules:\n  - at_most: {max_tokens: 9}\n")
    made = application(
        {
            "model": "kitchen",
            "effort": False,
            "max_tokens": 20,
            "replicas": 3,
            "num_cpus": 2,
            "max_running": "5",
            "max_queue": 7,
            "shutdown_timeout": 4,
            "api_key_file": str(tmp_path / "keys"),
            "rules": str(tmp_path / "rules.yaml"),
            "audit_log": str(tmp_path / "audit"),
            "rate_limit": None,
        }
    )
    deployment = made._bound_deployment
    options, settings = deployment.init_args
    # YAML's `off`
    assert options == {"model": "kitchen", "effort": "off", "max_tokens": 20}
    assert settings.api_keys == ("alice:sk-one",)
    assert (settings.max_running, settings.audit_log) == (5, tmp_path / "audit")
    assert settings.rules.matching(Asker("chat", "alice"))
    assert deployment.num_replicas == 3
    assert deployment.max_ongoing_requests == 12
    assert deployment.ray_actor_options["num_cpus"] == 2
    assert deployment._deployment_config.graceful_shutdown_timeout_s >= 4


def test_the_documented_configuration_is_one(application):
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```yaml\n(applications:.*?)```", readme, re.DOTALL)
    (told,) = yaml.safe_load(block)["applications"]
    module, _, name = told["import_path"].partition(":")
    assert getattr(importlib.import_module(module), name) is application
    made = application(told["args"])._bound_deployment
    assert made.init_args[0] == {"model": "kitchen", "effort": "low"}
    assert made.name == told["deployments"][0]["name"]


def test_keys_do_not_belong_into_what_ray_shows(application):
    with pytest.raises(SettingsError, match="api_key_file"):
        application({"api_keys": ["sk-one"]})


@pytest.mark.parametrize(
    "wrong", [{"replicas": 0}, {"max_running": 0}, {"max_queue": "many"}, {"api_key_file": "/nowhere"}]
)
def test_what_cannot_work_is_told_before_a_replica_starts(application, wrong):
    with pytest.raises(SettingsError, match=next(iter(wrong))):
        application({"model": "kitchen", **wrong})


def test_a_name_that_nothing_has_is_told(application):
    with pytest.raises(ValidationError, match="oven"):
        application({"model": "kitchen", "oven": 1})


@pytest.mark.parametrize("device", ["oven", "cuda:1"])
def test_a_device_that_is_none_is_told_before_ray_starts(device, capsys):
    import ray

    assert main(["serve", "--port", "0", "--replicas", "2", "--device", device]) == 2
    assert "--device: " in capsys.readouterr().err
    assert not ray.is_initialized()
