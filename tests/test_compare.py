"""One table and one figure of several runs."""

import csv
from pathlib import Path

import pytest

from lightning_igm.compare import compare, console, interval, read_curve


def write_run(folder: Path, seed: int, lr: float, fid: dict[int, float], **more: float) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(
        f"seed_everything: {seed}\nrun:\n  dir: {folder}\ntrainer:\n  default_root_dir: {folder}\n"
        f"model:\n  lr: {lr}\n"
    )
    with (folder / "metrics.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["step", "generator_loss", "fid", *more])
        writer.writerow([1, 0.5, "", *["" for _ in more]])
        writer.writerows([step, "", value, *more.values()] for step, value in fid.items())
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    return [
        write_run(tmp_path / "a-0", 0, 0.1, {10: 8, 20: 4, 30: 2}, kid=0.5),
        write_run(tmp_path / "a-1", 1, 0.1, {10: 8, 20: 6}, kid=0.25),
        write_run(tmp_path / "b", 0, 0.2, {10: 16, 30: 12}),
    ]


def test_seeds_of_one_configuration_make_one_row(runs: list[Path], tmp_path: Path) -> None:
    table = compare([(None, run) for run in runs], None, tmp_path / "out")
    assert table.splitlines() == [
        "After 20 generator steps, which all runs reached.",
        "",
        "| | seeds | fid |",
        "|---|---|---|",
        "| a-0 | 2 | 5 ± 1.4 (4 to 6) |",
        "| b | 1 | 14 |",
    ]
    assert (tmp_path / "out/comparison.md").read_text() == table
    assert (tmp_path / "out/comparison.png").stat().st_size > 1000
    with (tmp_path / "out/comparison.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 7
    assert rows[0] == {
        "label": "a-0",
        "run": str(runs[0]),
        "score": "fid",
        "generator_step": "10",
        "value": "8",
    }


def test_labels_and_scores_are_what_was_typed(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"ours={runs[0]}", f"theirs={runs[1]}", "--scores", "kid", "--out", str(tmp_path)]
    console(words)
    assert capsys.readouterr().out.splitlines()[4:] == [
        "| ours | 1 | 0.5 |",
        "| theirs | 1 | 0.25 |",
    ]


def test_kid_is_there_if_all_runs_have_it(runs: list[Path], tmp_path: Path) -> None:
    table = compare([(None, run) for run in runs[:2]], None, tmp_path)
    assert "| | seeds | fid | kid |" in table


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{0}", "{0}/nothing"], "nothing: no run is there; metrics.csv is missing"),
        (["{2}", "--scores", "kid"], "no score 'kid'; its metrics.csv has fid, generator_loss"),
        (["{0}", "{3}"], "runs: one has no score before generator step 40 and another none after"),
        (["{4}"], "runs: they have no score in common; give one by --scores"),
    ],
)
def test_bad_input_gives_one_line(
    runs: list[Path],
    tmp_path: Path,
    words: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    late = write_run(tmp_path / "late", 0, 1, {40: 1})
    none = write_run(tmp_path / "none", 0, 1, {})
    words = [word.format(*runs, late, none) for word in words]
    with pytest.raises(SystemExit):
        console([*words, "--out", str(tmp_path / "out")])
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not (tmp_path / "out").exists()


def test_score_between_evaluations_and_at_the_plateau(runs: list[Path]) -> None:
    curve = read_curve(runs[0])
    assert curve.at_step(25) == 3
    assert curve.plateau() == 2
    assert curve._replace(seconds=300.0).at(150) == 6


def test_interval() -> None:
    assert interval([1.0, 2.0, 3.0]) == "2 ± 1 (1 to 3)"
    assert interval([3.14159]) == "3.142"
