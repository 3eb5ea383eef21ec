"""One pass: moments of all, evenly spaced rows of some, by name."""

import itertools

import pytest
import torch

from lightning_igm.metrics import collection
from lightning_igm.metrics.collection import Collection, Measures, collect
from lightning_igm.metrics.frechet import moments


def parts_of(rows, size):
    count = len(next(iter(rows.values())))
    return (
        (start, {name: values[start : start + size] for name, values in rows.items()})
        for start in range(0, count, size)
    )


@pytest.mark.parametrize("size", [1, 7, 23])
def test_all_rows_and_moments(size):
    rows = {"features": torch.randn(23, 4) + 5, "modes": torch.arange(23)}
    made = collect(parts_of(rows, size), 23, 23, sums=True)
    for name, values in rows.items():
        assert torch.equal(made.rows[name], values)
    mean, cov = moments(rows["features"])
    torch.testing.assert_close(made.mean, mean, rtol=1e-12, atol=0)
    torch.testing.assert_close(made.cov, cov, rtol=1e-10, atol=1e-12)
    assert collect(parts_of(rows, size), 23, 23, sums=False).mean is None


@pytest.mark.parametrize("size", [1, 4, 10])
@pytest.mark.parametrize("most", [1, 3, 7, 9, 10, 11])
def test_rows_beyond_the_limit_are_left_out_evenly(monkeypatch, size, most):
    monkeypatch.setitem(collection._MOST_ROWS, "features", most)
    rows = {"features": torch.arange(10.0)[:, None], "modes": torch.arange(10)}
    made = collect(parts_of(rows, size), 10, 10, sums=True)
    kept = made.rows["features"][:, 0].tolist()
    assert len(kept) == min(most, 10)
    gaps = {int(b - a) for a, b in itertools.pairwise(kept)}
    assert max(gaps, default=0) - min(gaps, default=0) <= 1
    assert torch.equal(made.rows["modes"], rows["modes"])
    assert float(made.mean) == 4.5


def test_images_are_limited_by_their_bytes(monkeypatch):
    monkeypatch.setitem(collection._MOST_BYTES, "images", 5 * 3 * 16 * 16)
    made = Collection(20)
    made.put(0, {"images": torch.zeros(20, 3, 16, 16, dtype=torch.uint8)})
    assert len(made.rows["images"]) == 5


class Counting(torch.nn.Module):
    calls = 0

    def forward(self, images):
        self.calls += 1
        flat = images.flatten(1).float()
        return flat[:, :3], flat[:, 3:7], "more"


def test_one_pass_makes_all_rows():
    extractor = Counting()
    images = torch.randint(256, (4, 3, 28, 28), dtype=torch.uint8)
    names = ["features", "logits", "images", "colors", "modes"]
    rows = Measures(extractor, names)(images)
    assert extractor.calls == 1
    assert {name: tuple(values.shape) for name, values in rows.items()} == {
        "features": (4, 3),
        "logits": (4, 4),
        "images": (4, 3, 28, 28),
        "colors": (4, 3),
        "modes": (4,),
    }
    assert Measures(extractor, ["images"])(images).keys() == {"images"}
    assert extractor.calls == 1


def test_an_extractor_without_logits_is_named():
    measures = Measures(torch.nn.Flatten(), ["logits"])
    with pytest.raises(ValueError, match=r"scores: 'is' is not allowed .* Flatten, which gives no"):
        measures(torch.zeros(1, 3, 4, 4, dtype=torch.uint8))
