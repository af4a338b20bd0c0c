"""The script that measures the last look runs, and what it says of a wrong MRM holds."""

import re

import pytest

from integration_tests.verify_figures import main


def test_a_wrong_mrm_is_overruled(capsys: pytest.CaptureFixture[str]):
    main(["--cases", "2", "--benign", "0", "--widths", "1", "--raise-by", "6"])
    unsafe = {
        name: float(share) for name, share in re.findall(r"^ *1 (\w*) +([\d.]+) /", capsys.readouterr().out, re.M)
    }
    assert unsafe == {"": 1.0, "step_back": 1.0, "verify": 0.0}
