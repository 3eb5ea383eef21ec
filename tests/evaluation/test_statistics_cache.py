"""Statistics on disk: found again, made anew when damaged, done without where they cannot be."""

import logging
import threading

import pytest
import torch

from lightning_igm.evaluation.cache import StatisticsCache

KEY = {"data": "noise", "count": 3}


def collection():
    return {
        "real_sum": torch.ones(2).double(),
        "real_outer": torch.eye(2).double(),
        "real_features": torch.rand(3, 2),
    }


@pytest.fixture
def told(caplog):
    caplog.set_level(logging.INFO, "lightning.pytorch.utilities.rank_zero")
    return caplog


def test_what_was_saved_is_loaded(tmp_path):
    cache, saved = StatisticsCache(tmp_path / "new" / "folder", KEY), collection()
    assert cache.load() is None
    cache.save(saved)
    loaded = cache.load()
    assert loaded.keys() == saved.keys()
    assert all(torch.equal(loaded[name], saved[name]) for name in saved)
    assert [p.suffix for p in cache.path.parent.iterdir()] == [".pt"]


def test_another_key_is_another_file(tmp_path):
    StatisticsCache(tmp_path, KEY).save(collection())
    assert StatisticsCache(tmp_path, KEY | {"count": 4}).load() is None
    assert StatisticsCache(tmp_path, dict(reversed(KEY.items()))).load() is not None


def damaged(data, kind):
    if kind == "truncated":
        return data[:-50]
    return b"" if kind == "empty" else b"garbage"


@pytest.mark.parametrize("kind", ["truncated", "empty", "garbage"])
def test_a_damaged_file_is_made_anew(tmp_path, told, kind):
    cache = StatisticsCache(tmp_path, KEY)
    cache.save(collection())
    cache.path.write_bytes(damaged(cache.path.read_bytes(), kind))
    assert cache.load() is None
    assert f"{cache.path} is damaged and made anew" in told.text
    cache.save(collection())
    assert cache.load() is not None


def test_a_single_wrong_bit_is_seen(tmp_path):
    cache = StatisticsCache(tmp_path, KEY)
    cache.save(collection())
    content = torch.load(cache.path, weights_only=True)
    content["tensors"]["real_features"][1, 1] += 1e-7
    torch.save(content, cache.path)
    assert cache.load() is None


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_nothing_in_a_file_is_executed(tmp_path, told):
    cache = StatisticsCache(tmp_path, KEY)
    torch.save({"about": cache.about, "tensors": Bomb(tmp_path / "executed")}, cache.path)
    assert cache.load() is None
    assert not (tmp_path / "executed").exists()


def test_a_folder_that_cannot_be_used_is_said_and_done_without(tmp_path, told):
    (tmp_path / "file").write_text("in the way")
    cache = StatisticsCache(tmp_path / "file", KEY)
    with cache.locked():
        assert cache.load() is None
        cache.save(collection())
    assert "statistics of the real images are not kept" in told.text
    assert told.text.count("metrics:") == 1


def test_a_writer_waits_for_another(tmp_path):
    cache, order = StatisticsCache(tmp_path, KEY), []
    inside, go_on = threading.Event(), threading.Event()

    def first():
        with cache.locked():
            inside.set()
            go_on.wait(10)
            order.append("first")

    def second():
        with StatisticsCache(tmp_path, KEY).locked():
            order.append("second")

    threads = [threading.Thread(target=first), threading.Thread(target=second)]
    threads[0].start()
    assert inside.wait(10)
    threads[1].start()
    threads[1].join(0.2)
    assert order == []
    go_on.set()
    for thread in threads:
        thread.join(10)
    assert order == ["first", "second"]


def test_a_writer_that_takes_too_long_is_not_waited_for(tmp_path, told, monkeypatch):
    monkeypatch.setattr("lightning_igm.evaluation.cache._PATIENCE", 0)
    cache = StatisticsCache(tmp_path, KEY)
    with cache.locked(), StatisticsCache(tmp_path, KEY).locked():
        pass
    assert "another process still makes" in told.text
