"""Which files count as images, and links that lead back."""

from collections import Counter

import pytest

from lightning_igm.data.listing import endings, find_classes, find_images, tell_of


def touch(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


@pytest.fixture
def root(tmp_path):
    touch(*(tmp_path / "root" / name for name in ("a/1.png", "a/deep/2.JPG", "b/3.gif")))
    touch(tmp_path / "beside" / "9.png")
    return tmp_path / "root"


IMAGES = ["a/1.png", "a/deep/2.JPG", "b/3.gif"]
LOOPS = {
    "itself": {"a/self": "../a"},
    "up": {"a/up": "..", "b/up": ".."},
    "each other": {"a/b": "../b", "b/a": "../a", "a/deep/b": "../../b"},
    "above the folder": {"up": "..", "a/up": "../.."},
    "nothing": {"gone": "nowhere", "a/mirror": "mirror"},
    "a folder that is there": {"A": "a", "z": "a/deep"},
}


@pytest.mark.parametrize("links", LOOPS.values(), ids=LOOPS)
def test_each_folder_counts_once_at_its_own_place(root, links):
    for name, target in links.items():
        (root / name).symlink_to(target)
    assert find_images(root) == IMAGES


def test_many_loops_end(root):
    for name in "abcdefghijklmnop":
        (root / name).mkdir(exist_ok=True)
        for other in "abcdefghijklmnop":
            (root / name / f"to-{other}").symlink_to(f"../{other}")
    assert find_images(root) == IMAGES


def test_links_to_other_places_are_followed(root, tmp_path):
    touch(tmp_path / "x" / "1.png", tmp_path / "y" / "2.png", tmp_path / "1.png")
    for name in "xy":
        (root / name).symlink_to(tmp_path / name)
    (tmp_path / "x" / "y").symlink_to("../y")
    (tmp_path / "y" / "x").symlink_to("../x")
    (root / "4.png").symlink_to(tmp_path / "1.png")
    assert find_images(root) == ["4.png", *IMAGES, "x/1.png", "y/2.png"]


def test_other_endings_are_counted_and_told(root, caplog):
    others = Counter()
    touch(root / "a/x.TXT", root / "y.txt", root / "z.jfif", root / "README", root / ".hidden.txt")
    assert find_images(root, others) == IMAGES
    assert others == {".txt": 2, ".jfif": 1, "none": 1}
    with caplog.at_level("INFO"):
        tell_of(others, "root='faces'")
        tell_of(Counter(), "root='faces'")
    [line] = [record.getMessage() for record in caplog.records]
    told = "files left out, which do not end like images: 4 (.txt 2, .jfif 1, none 1)"
    assert line == f"root='faces': {told}"
    assert endings(Counter(dict.fromkeys("abcdef", 9))) == "a 9, b 9, c 9, d 9, e 9, ..."


def test_classes_are_folders_but_for_links_back(root, tmp_path):
    touch(tmp_path / "other" / "1.png", root / "2.png", root / ".cache" / "1.png")
    for name, target in (("up", ".."), ("self", "."), ("c", tmp_path / "other"), ("loop", "loop")):
        (root / name).symlink_to(target)
    assert find_classes(root) == ["a", "b", "c"]
