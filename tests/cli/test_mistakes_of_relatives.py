"""Mistakes with drifting models, R3GAN, repulsive MMD GAN and feature matching give one line."""

import pytest
from test_cli import files, mistake

MISTAKES = {
    "unknown field": (
        ["--config=drifting/digits", "--model.field=NoField"],
        ["field", "'NoField'", "TwoSidedField"],
    ),
    "unknown features": (
        ["--config=drifting/digits", "--model.features=NoFeatures"],
        ["features", "'NoFeatures'", "ImageStatistics"],
    ),
    "temperature": (
        ["--config=drifting/digits", "--model.temperatures=[0.1,-1]"],
        ["temperatures", "-1", "above 0"],
    ),
    "weight of the penalties": (
        ["--config=r3gan/digits", "--model.penalty_weight=-1"],
        ["penalty_weight", "-1", "0 or more"],
    ),
    "bounds": (
        ["--config=repulsive_mmdgan/digits", "--model.lower=5"],
        ["lower", "5", "below upper"],
    ),
    "statistics": (
        ["--config=feature_matching/digits", "--model.statistics=skewness"],
        ["statistics", "skewness", "covariance"],
    ),
    "covariance of many features": (
        ["--config=feature_matching/digits", "--model.statistics=covariance"],
        ["batch of 200", "16384 features"],
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistake_gives_one_line_and_leaves_nothing(name, tmp_path, monkeypatch, capsys):
    arguments, words = MISTAKES[name]
    run = tmp_path / "run"
    quiet = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
    line = mistake(["fit", f"--run.dir={run}", *arguments, *quiet], monkeypatch, capsys)
    for word in words:
        assert word in line
    assert not run.exists() or "checkpoints/last.ckpt" not in files(run)
