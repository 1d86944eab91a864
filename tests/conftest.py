"""What all tests share. Tests are many and small: one thread a process is faster than two, and steadier on a shared machine."""

import pytest
import torch

torch.set_num_threads(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--regold", action="store_true", help="write the golden values of tests/golden instead of comparing with them")
