import errno
import json
import os
import random
import subprocess
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch

from lightning_igm.data import cache
from lightning_igm.data.cache import (
    cache_path,
    load_about,
    load_array,
    load_skipped,
    prepare,
    write_array,
)

SHAPE = (3, 2, 2)
EXPECTED = np.arange(10, dtype=np.uint8).repeat(12).reshape(10, *SHAPE)


def decode(item):
    return np.full(SHAPE, item, np.uint8)


def refuse(item):
    raise AssertionError("decoded although the array is there")


def make(path, decode=decode, items=range(10), **kwargs):
    prepare(path, items, decode, SHAPE, f"cache_dir={str(path.parent)!r}", **kwargs)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "caches" / "images.npy"


def names(path):
    """What is in the folder, but for the lock."""
    return sorted(p.name for p in path.parent.iterdir() if p.suffix != ".lock")


COMPLETE = ["images.json", "images.npy"]


@pytest.mark.parametrize("chunk", [1, 3, 1024])
def test_items_in_order_and_what_the_json_says(path, monkeypatch, chunk):
    monkeypatch.setattr(cache, "_CHUNK", chunk)
    make(path, about={"crop": [1, 2]})
    assert np.array_equal(np.load(path), EXPECTED)
    assert np.array_equal(load_array(path, (10, *SHAPE)), EXPECTED)
    about = {"count": 10, "crop": [1, 2], "skipped": [], "reasons": []}
    assert load_about(path) == about
    assert names(path) == COMPLETE


def test_decodes_once_and_then_only_reads(path, monkeypatch):
    make(path)
    monkeypatch.setattr(cache, "FileLock", None)
    make(path, refuse)
    assert np.array_equal(np.load(path), EXPECTED)


def test_the_array_is_mapped(path):
    make(path)
    images = load_array(path)
    np.load(path, mmap_mode="r+")[4] = 99
    assert images[4].unique().tolist() == [99]
    assert images[3].unique().tolist() == [3]


def test_path_depends_on_the_whole_preparation():
    preparations = [{}, {"size": 64}, {"size": 65}, {"size": 64, "crop": 1}, {"size": [6, 4]}]
    paths = {cache_path(Path("a"), "b", preparation) for preparation in preparations}
    assert len(paths) == len(preparations)
    assert cache_path(Path("a"), "b", {"x": 1, "y": 2}) == cache_path(
        Path("a"), "b", {"y": 2, "x": 1}
    )


@pytest.mark.parametrize("error", [ValueError("bad"), KeyboardInterrupt(), FileNotFoundError("7")])
def test_interrupted_preparation_leaves_nothing(path, error):
    def interrupted(item):
        if item == 7:
            raise error
        return decode(item)

    with pytest.raises(type(error)) as raised:
        make(path, interrupted)
    assert raised.value is error
    assert names(path) == []
    make(path)
    assert np.array_equal(np.load(path), EXPECTED)


def start(path):
    """Starts a process that stops in mid-preparation until it gets a line."""
    program = f"""
import sys
from pathlib import Path
import numpy as np
from lightning_igm.data.cache import prepare

def decode(item):
    if item == 7:
        print("decoding", flush=True)
        sys.stdin.readline()
    return np.full({SHAPE}, item, np.uint8)

prepare(Path({str(path)!r}), range(10), decode, {SHAPE}, "cache_dir")
"""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    folder = Path(__file__).parents[2]
    process = subprocess.Popen([sys.executable, "-c", program], cwd=folder, text=True, **pipes)
    assert process.stdout.readline() == "decoding\n"
    return process


def test_killed_preparation_is_done_anew(path):
    with start(path) as process:
        process.kill()
    assert names(path) == ["images.partial"]
    with pytest.raises(FileNotFoundError, match=r"images\.npy is missing; call prepare_data\(\)"):
        load_array(path)
    make(path)
    assert np.array_equal(np.load(path), EXPECTED)
    assert names(path) == COMPLETE


def test_of_two_processes_one_decodes_and_the_other_waits(path, monkeypatch):
    said = []
    with start(path) as process:

        def go_on(text):
            said.append(text)
            process.stdin.write("\n")
            process.stdin.flush()

        monkeypatch.setattr(cache, "rank_zero_info", go_on)
        make(path, refuse)
    assert process.returncode == 0
    assert len(said) == 1
    assert "Waiting for another process" in said[0]
    assert np.array_equal(np.load(path), EXPECTED)


def test_rest_of_a_killed_run_is_overwritten(path):
    path.parent.mkdir()
    for name in ("images.partial", "images.json.partial"):
        (path.parent / name).write_bytes(b"x" * 5000)
    make(path)
    np.save(path.parent / "expected.npy", EXPECTED)
    assert path.read_bytes() == (path.parent / "expected.npy").read_bytes()
    assert names(path) == ["expected.npy", *COMPLETE]


def assert_refused(path, reason):
    with pytest.raises(OSError, match=reason) as raised:
        make(path)
    text = str(raised.value)
    assert text.startswith(f"cache_dir={str(path.parent)!r}: cannot write {path} (")
    assert text.endswith("); data.cache_dir sets another folder")
    assert "\n" not in text


@pytest.mark.skipif(sys.platform != "linux", reason="needs a folder that cannot have others")
def test_folder_that_cannot_be_made():
    assert_refused(Path("/proc/no such process/images.npy"), "cannot be made")


def test_disk_that_is_too_small(path, monkeypatch):
    usage = cache.shutil.disk_usage("/")
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda folder: usage._replace(free=119))
    assert_refused(path, r"needs 0\.00 GB and the disk has 0\.00 GB free")
    assert names(path) == []
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda folder: usage._replace(free=120))
    make(path)
    assert names(path) == COMPLETE


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("name", ["images.partial", "images.json.partial"])
def test_disk_that_gets_full(path, name):
    path.parent.mkdir()
    (path.parent / name).symlink_to("/dev/full")
    assert_refused(path, os.strerror(errno.ENOSPC))
    assert names(path) == []
    make(path)
    assert np.array_equal(np.load(path), EXPECTED)


def test_file_in_place_of_the_folder(path):
    path.parent.write_text("no folder")
    assert_refused(path, "File exists")
    below = path.parent / "below" / "images.npy"
    assert_refused(below, "Not a directory")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_folder_without_permission(path):
    path.parent.mkdir(mode=0o555)
    assert_refused(path, "Permission denied")


def test_wrong_shape(path):
    with pytest.raises(ValueError, match=r"decoded uint8 \(3, 2, 3\), expected uint8 \(3, 2, 2\)"):
        make(path, lambda item: np.zeros((3, 2, 3), np.uint8))
    with pytest.raises(ValueError, match=r"decoded float64 \(3, 2, 2\), expected uint8"):
        make(path, lambda item: np.zeros(SHAPE))
    with pytest.raises(ValueError, match=r"decoded uint8 \(1, 1, 3, 2, 2\), expected uint8"):
        make(path, lambda item: np.zeros((1, 1, *SHAPE), np.uint8))
    assert names(path) == []


def some_are_bad(item):
    if item % 3 == 1:
        raise ValueError(f"{item} is bad")
    return decode(item)


@pytest.mark.parametrize("chunk", [4, 1024])
def test_skipped_items(path, monkeypatch, chunk):
    monkeypatch.setattr(cache, "_CHUNK", chunk)
    make(path, some_are_bad, skip=True)
    assert np.array_equal(np.load(path), EXPECTED[[0, 2, 3, 5, 6, 8, 9]])
    reasons = ["1 is bad", "4 is bad", "7 is bad"]
    assert load_about(path) == {"count": 7, "skipped": [1, 4, 7], "reasons": reasons}
    with pytest.warns(
        UserWarning, match="3 of 10 images .* 1 is bad; 4 is bad; 7 is bad; left out"
    ):
        assert load_skipped(path, allowed=True) == [1, 4, 7]
    with pytest.raises(ValueError, match=r"3 of 10 images .* 7 is bad; on_error='skip' leaves"):
        load_skipped(path, allowed=False)


def test_nothing_skipped(path):
    make(path, skip=True)
    assert load_skipped(path, allowed=True) == load_skipped(path, allowed=False) == []


def test_items_that_are_all_bad(path):
    with pytest.raises(ValueError, match="none of the 2 images can be used; 1 is bad"):
        make(path, some_are_bad, items=[1, 4], skip=True)
    with pytest.raises(ValueError, match="none of the 0 images"):
        make(path, items=[])
    assert names(path) == []


def test_several_images_at_once_and_one_lot_at_a_time(path):
    before = []

    def lots():
        for start in (0, 4, 8):
            assert all(lot() is None for lot in before)
            lot = EXPECTED[start : start + 4].copy()
            before.append(weakref.ref(lot))
            labels.append(start)
            yield lot
            del lot

    labels = []
    write_array(path, lots(), 500, SHAPE, "cache_dir='x'", {"labels": labels})
    assert len(before) == 3
    assert np.array_equal(load_array(path, (10, *SHAPE)), EXPECTED)
    assert load_about(path) == {"count": 10, "labels": [0, 4, 8]}


def write_npz(file):
    np.savez(file, EXPECTED)


FOREIGN = {
    "nothing": lambda file: None,
    "text": lambda file: file.write(b"no array\n" * 40),
    "npz": write_npz,
    "pickle": lambda file: np.save(file, np.array([{}]), allow_pickle=True),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_foreign_file(path, kind):
    path.parent.mkdir()
    with path.open("wb") as file:
        FOREIGN[kind](file)
    with pytest.raises(ValueError, match=r"images\.npy is damaged \(.*\); delete it") as raised:
        load_array(path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("keep", [1, 9, 60, 128, 200, -1])
def test_truncated_array(path, keep):
    make(path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"images\.npy is damaged"):
        load_array(path)


def test_damaged_header_raises_nothing_but_value_errors(path):
    make(path)
    whole, rng = path.read_bytes(), random.Random(0)
    messages = []
    for _ in range(500):
        damaged = bytearray(whole)
        damaged[rng.randrange(128)] = rng.randrange(256)
        path.write_bytes(damaged)
        try:
            load_array(path, (10, *SHAPE))
        except ValueError as error:
            messages.append(str(error))
    assert len(messages) > 300
    assert not [message for message in messages if "\n" in message]


def test_other_content(path):
    make(path)
    with pytest.raises(ValueError, match=r"holds uint8 \(10, 3, 2, 2\), expected uint8 \(9, 3, 2"):
        load_array(path, (9, *SHAPE))
    np.save(path, EXPECTED.astype(np.int8))
    with pytest.raises(ValueError, match=r"holds int8 \(10, 3, 2, 2\), expected uint8; delete it"):
        load_array(path)
    np.save(path, np.asfortranarray(EXPECTED))
    assert torch.equal(load_array(path), torch.from_numpy(EXPECTED))


@pytest.mark.parametrize("content", [None, "", "[1]", '{"count": 10'])
def test_damaged_description(path, content):
    make(path)
    about = path.with_suffix(".json")
    about.unlink() if content is None else about.write_text(content)
    with pytest.raises(ValueError, match=r"images\.json is missing or damaged .* delete .*\.npy"):
        load_about(path)


def test_description_has_a_line_for_each_key(path):
    make(path, about={"files": ["a", "ü\udc80\n"]})
    lines = path.with_suffix(".json").read_text().splitlines()
    assert lines[0] == "{"
    assert [json.loads("{" + line.rstrip(",") + "}") for line in lines[1:-1]] == [
        {"count": 10},
        {"files": ["a", "ü\udc80\n"]},
        {"skipped": []},
        {"reasons": []},
    ]
    with pytest.raises(FileNotFoundError, match=r"other\.npy is missing"):
        load_about(path.with_name("other.npy"))
