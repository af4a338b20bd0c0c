"""What is installed: the files, the requirements, and how little an import costs."""

import re
import subprocess
import sys
from importlib.metadata import distribution, version
from importlib.resources import files

import pytest

PACKAGE = distribution("langchain-saffron")


@pytest.mark.parametrize(
    "name",
    [
        "py.typed",
        "kitchen/weights/policy/model.safetensors",
        "kitchen/weights/policy/tokenizer.json",
        "kitchen/weights/mrm/mrm_config.json",
        "kitchen/weights/mrm/mrm.safetensors",
    ],
)
def test_data_is_installed(name):
    assert files("langchain_saffron").joinpath(name).is_file()


def test_license_is_installed():
    assert "Apache License" in (PACKAGE.read_text("licenses/LICENSE") or "")


def test_core_requirements():
    core = {re.split(r"[<>=!~ ;\[]", line)[0] for line in PACKAGE.requires or [] if "extra ==" not in line}
    assert core == {"langchain-core", "torch", "transformers", "accelerate", "pydantic"}
    assert {"train", "agents", "eval", "examples", "test"} <= set(PACKAGE.metadata.get_all("Provides-Extra"))


def test_module_is_the_command(tmp_path):
    command = [sys.executable, "-m", "langchain_saffron", "--version"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == f"langchain-saffron {version('langchain-saffron')}\n"


def test_import_is_light():
    code = "import sys, langchain_saffron, langchain_saffron.settings; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
