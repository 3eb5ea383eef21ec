"""Options and fixtures shared by all tests."""

import pytest
import torch
from benchmarks.table import Table
from margins import Margins

CACHES = {".pytest_cache", ".ruff_cache", ".mypy_cache", "__pycache__"}


def pytest_addoption(parser):
    parser.addoption("--run-slow", action="store_true", help="run the tests marked slow, too")
    parser.addoption("--table", metavar="FILE", help="write the benchmarks' figures as Markdown")
    parser.addoption("--margins", metavar="FILE", help="write how near assertions come to limits")


def pytest_configure(config):
    if path := config.getoption("--table"):
        config.pluginmanager.register(Table(path, config.invocation_params.args))
    if path := config.getoption("--margins"):
        config.pluginmanager.register(Margins(path))


def pytest_collection_modifyitems(config, items):
    if config.getoption("--run-slow"):
        return
    skip = pytest.mark.skip(reason="slow; run with --run-slow")
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(skip)


def pytest_sessionstart(session):
    session.config.there_before = set(session.config.rootpath.iterdir())


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session):
    """Tests leave nothing in the checkout, nor wherever they are started."""
    if hasattr(session.config, "workerinput") or not hasattr(session.config, "there_before"):
        return
    left = set(session.config.rootpath.iterdir()) - session.config.there_before
    if left := sorted(path.name for path in left if path.name not in CACHES):
        print(f"\nThe tests left behind: {', '.join(left)}")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
