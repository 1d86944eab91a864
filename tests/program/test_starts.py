"""What a command imports before its work begins: seconds of every start, and easily one module more."""

import subprocess
import sys
from inspect import unwrap
from pathlib import Path

import pytest
import torch
from torch.optim import Optimizer

from meanstep.program.training.optimiser import AdamW

COMPILER = (
    "torch._dynamo",
    "torch._inductor",
    "torch.distributed.tensor",
    "torch.distributed.fsdp",
    "torch.distributed.checkpoint",
    "sympy",
)
PACKAGES = "sklearn scipy matplotlib jinja2 pandas pyarrow diffusers datasets transformers timm onnx triton ot"
NEVER = (*COMPILER, *PACKAGES.split())

WATCHED = """
import sys
from meanstep.cli import main
from meanstep.program.training import events

def after(self, state, show, last):
    assert state.step == 1
    print("first step", *sorted(set(sys.modules) & set(NEVER)), sep=",")
    sys.exit(0)

events.Events.after = after
main(sys.argv[1:])
"""


def test_training_imports_no_compiler_and_no_large_package_before_its_first_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("sklearn", reason="the embedded digits need the extra digits")
    monkeypatch.setenv("MEANSTEP_CACHE", str(tmp_path / "cache"))
    words = ["train", "--preset", "digits", "--out", str(tmp_path / "run"), "--device", "cpu"]
    done = subprocess.run([sys.executable, "-c", f"NEVER = {NEVER}{WATCHED}", *words], check=True, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "first step"


def test_the_optimiser_is_torchs_own_to_the_bit():
    """Also tells when the subclass can go: torch's own optimiser then imports no compiler."""
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    weights = [torch.nn.Parameter(x.clone()) for _ in range(2)]
    ours, theirs = (kind([w], 0.1, (0.8, 0.9), weight_decay=0.3) for kind, w in zip((AdamW, torch.optim.AdamW), weights, strict=True))
    for k in range(4):
        for optimiser, weight in zip((ours, theirs), weights, strict=True):
            optimiser.zero_grad()
            assert weight.grad is None
            (weight.sin() * (k + x)).sum().backward()
            optimiser.step()
        if k == 1:  # as a resumed run does
            again = AdamW([weights[0]], 0.7)
            again.load_state_dict(ours.state_dict())
            ours = again
    assert torch.equal(*weights) and not torch.equal(weights[0], x)
    assert str(ours.state_dict()) == str(theirs.state_dict())


def test_torchs_own_optimiser_still_wraps_its_methods():
    methods = (Optimizer.add_param_group, Optimizer.zero_grad, Optimizer.state_dict, Optimizer.load_state_dict)
    assert any(unwrap(method) is not method for method in methods), "torch.optim.AdamW may be used as it is: drop training.optimiser.AdamW"
