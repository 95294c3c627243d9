"""How long threads wait awake."""

import os
import subprocess
import sys

import pytest
from programs import ROOT

from l2o.runs.waiting import SPINS, wait_briefly


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, SPINS),
        ({"GOMP_SPINCOUNT": "7"}, "7"),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, None),
    ],
    ids=["nothing said", "a number", "a policy"],
)
def test_what_the_user_has_said_counts(monkeypatch, given, expected):
    monkeypatch.setattr(os, "environ", environment := dict(given))
    wait_briefly()
    assert environment.get("GOMP_SPINCOUNT") == expected


@pytest.mark.parametrize("script", ["train.py", "evaluate.py"])
def test_a_program_says_it_before_torch_is_imported(script):
    code = (
        "import os, sys, runpy\n"
        "class Watch:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'torch': print('torch with', os.environ.get('GOMP_SPINCOUNT')); sys.exit()\n"
        "sys.meta_path.insert(0, Watch())\n"
        f"sys.argv = ['{script}']\n"
        f"runpy.run_path({str(ROOT / script)!r}, run_name='__main__')\n"
    )
    environment = {
        name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    }
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=60)
    assert run.stdout.strip() == f"torch with {SPINS}", run.stderr[-1000:]
