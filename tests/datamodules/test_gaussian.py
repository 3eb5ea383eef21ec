import math
from pathlib import Path

import pytest
import torch

from lightning_igm.cli import main
from lightning_igm.data.gaussian import GaussianDataModule
from lightning_igm.data.sampler import stream_seed


def ready(**kwargs):
    data = GaussianDataModule(**kwargs)
    data.setup()
    return data


def test_points_equal_the_formula_one_by_one():
    data = ready(mean=(1, -3), covariance=((4, 1), (1, 2)), count=50, test_count=30, batch_size=10)
    # Of [[4, 1], [1, 2]]: the lower triangular square root.
    a, b, c = 2, 0.5, math.sqrt(1.75)
    for stream, points in ((0, data.train_data), (1, data.test_data)):
        generator = torch.Generator().manual_seed(stream_seed(1, stream))
        draws = torch.randn(len(points), 2, generator=generator, dtype=torch.float64)
        assert points.dtype == torch.float32
        for point, (x, y) in zip(points.tolist(), draws.tolist(), strict=True):
            assert point == pytest.approx([1 + a * x, -3 + b * x + c * y], abs=1e-6)


def test_defaults_are_the_published_law():
    data = ready()
    assert (data.seed, data.batch_size, data.value_range, data.num_classes) == (1, 200, None, None)
    assert data.image_shape == (2,)
    assert data.mean.tolist() == [2, 2]
    assert data.covariance.tolist() == [[1, 0.81], [0.81, 1]]
    assert data.test_data.shape == (10_000, 2)
    assert data.train_data.shape == (60_000, 2)
    assert (data.train_data.mean(0) - 2).abs().max() < 0.02
    assert (data.train_data.T.cov() - data.covariance).abs().max() < 0.02


def test_other_dimensions():
    covariance = torch.tensor([[2.0, 0.3, 0.1], [0.3, 1.0, -0.5], [0.1, -0.5, 0.7]])
    data = ready(mean=[0, 1, 2], covariance=covariance.tolist())
    assert data.image_shape == (3,)
    assert (data.train_data.T.cov() - covariance).abs().max() < 0.05
    line = ready(mean=[5], covariance=[[0.01]])
    assert line.train_data.std().item() == pytest.approx(0.1, abs=0.002)


def test_seeds():
    small = {"count": 100, "test_count": 100, "batch_size": 10}
    first, again, other = (ready(seed=seed, **small) for seed in (1, 1, 2))
    assert torch.equal(first.train_data, again.train_data)
    assert torch.equal(first.test_data, again.test_data)
    assert not torch.equal(first.train_data, other.train_data)
    assert not torch.equal(first.train_data, first.test_data)


@pytest.mark.parametrize(
    "covariance",
    [
        ((1, 0.81), (0.8, 1)),  # not symmetric
        ((1, 2), (2, 1)),  # indefinite
        ((1, 1), (1, 1)),  # singular
        ((-1, 0), (0, 1)),
        ((1,),),
        ((1, 0), (0,)),
        ((1, 0), (0, 1), (0, 0)),
        ((float("nan"), 0), (0, 1)),
        ((float("inf"), 0), (0, 1)),
        (),
    ],
)
def test_bad_covariance(covariance):
    with pytest.raises(
        ValueError, match=r"^covariance=.* symmetric positive definite.* 2 x 2"
    ) as e:
        GaussianDataModule(covariance=covariance)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mean": ()}, r"mean=\(\) must be one or more finite numbers"),
        ({"mean": (0, float("nan"))}, r"mean=\(0, nan\) must be one or more finite numbers"),
        ({"mean": (0, 0, 0)}, r"covariance=.* 3 x 3 finite numbers, as many as mean has"),
        ({"count": 0}, "count=0 and test_count=10000 must be at least 1"),
        ({"test_count": 0}, "test_count=0 must be at least 1"),
        ({"seed": -1}, "seed=-1 must not be negative"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        GaussianDataModule(**arguments)


def test_from_the_command_line(tmp_path, capsys):
    preset = Path(__file__).parents[2] / "configs/gan/digits.yaml"
    words = ["--config", str(preset), "--data=lightning_igm.data.gaussian.GaussianDataModule"]
    quiet = ["--trainer.enable_progress_bar=false", f"--run.dir={tmp_path / 'run'}"]
    assert main([*words, *quiet], run=False).datamodule.mean.tolist() == [2, 2]
    words += ["--data.mean=[0,0]", "--data.covariance=[[.25,.25],[.25,1]]", "--data.count=1000"]
    with pytest.raises(SystemExit):
        main([*words, *quiet, "--print_config"], run=False)
    written = tmp_path / "printed.yaml"
    written.write_text(capsys.readouterr().out)
    for arguments in ([*words, *quiet], ["--config", str(written)]):
        data = main(arguments, run=False).datamodule
        assert data.mean.tolist() == [0, 0]
        assert data.covariance.tolist() == [[0.25, 0.25], [0.25, 1]]
        assert data.count == 1000
