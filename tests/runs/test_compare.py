"""One table and one figure of several runs."""

import csv
import json
import sys
from pathlib import Path

import pytest

from lightning_igm.cli import console as igm
from lightning_igm.runs.compare import compare, console, interval, read_curve


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
        (["{4}"], "no score in common; give one by --scores ({4} has generator_loss)"),
        (["{2}", "{5}"], "one by --scores ({2} has fid, generator_loss; {5} has none yet)"),
        (["{5}", "--scores", "fid"], "begun: no score 'fid'; its metrics.csv has none yet"),
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
    begun = write_run(tmp_path / "begun", 0, 1, {})
    (begun / "metrics.csv").unlink()
    folders = *runs, late, none, begun
    words = [word.format(*folders) for word in words]
    with pytest.raises(SystemExit):
        console([*words, "--out", str(tmp_path / "out")])
    (line,) = capsys.readouterr().err.splitlines()
    assert message.format(*folders) in line
    assert not (tmp_path / "out").exists()


def test_score_between_evaluations_and_at_the_plateau(runs: list[Path]) -> None:
    curve = read_curve(runs[0])
    assert curve.at_step(25) == 3
    assert curve.plateau() == 2
    assert curve._replace(seconds=300.0).at(150) == 6


def test_interval() -> None:
    assert interval([1.0, 2.0, 3.0]) == "2 ± 1 (1 to 3)"
    assert interval([3.14159]) == "3.142"


def write_scores(folder: Path, fid: float | None, **changed: object) -> None:
    protocol = {"num_samples": 2000, "split": "train", "weights": "average"} | changed
    entry = {"step": 30.0, "fid": fid, "fid_std": 0.1, "protocol": protocol}
    entries = [{**entry, "stage": "test", "fid": 99.0}, {**entry, "stage": "test"}]
    text = json.dumps([*entries, {**entry, "stage": "validate", "fid": 98.0}])
    (folder / "scores.json").write_text(text)


def test_last_scores_of_test_make_a_table(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for run, fid in zip(runs, (2.0, 4.0, None), strict=True):
        write_scores(run, fid)
    write_scores(runs[1], 4.0, weights="raw")
    console([*map(str, runs), "--stage", "test", "--out", str(tmp_path / "out")])
    assert capsys.readouterr().out.splitlines() == [
        "Scores of igm test, of each run's checkpoint.",
        "",
        "| | seeds | generator steps | fid |",
        "|---|---|---|---|",
        "| a-0 | 2 | 30 | 3 ± 1.4 (2 to 4) |",
        "| b | 1 | 30 | nan |",
    ]
    with (tmp_path / "out/comparison.csv").open() as file:
        assert [row["value"] for row in csv.DictReader(file)] == ["2", "4", "nan"]
    assert (tmp_path / "out/comparison.png").stat().st_size > 1000


def test_runs_that_were_not_scored_alike_are_not_compared(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_scores(runs[0], 2.0)
    words = [str(runs[0]), str(runs[1]), "--stage", "test", "--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit):
        console(words)
    assert "a-1: no scores of test in scores.json; run igm test" in capsys.readouterr().err
    write_scores(runs[1], 2.0, num_samples=500)
    with pytest.raises(SystemExit):
        console(words)
    assert "a-1: num_samples was 500, and 2000 in" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_runs_of_different_settings_in_folders_of_one_name_are_apart(tmp_path: Path) -> None:
    folders = [
        write_run(tmp_path / "gan/0", 0, 0.1, {10: 8, 20: 4}),
        write_run(tmp_path / "gan/1", 1, 0.1, {10: 8, 20: 6}),
        write_run(tmp_path / "smmd/0", 0, 0.2, {10: 80, 20: 40}),
    ]
    table = compare([(None, folder) for folder in folders], None, tmp_path / "out")
    assert table.splitlines()[4:] == [
        f"| {folders[0]} | 2 | 5 ± 1.4 (4 to 6) |",
        f"| {folders[2]} | 1 | 40 |",
    ]


def test_a_folder_with_an_equals_sign_is_a_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_run(tmp_path / "lr=0.1", 0, 0.1, {10: 8})
    console([str(folder), f"two={folder}", "--out", str(tmp_path / "out")])
    assert capsys.readouterr().out.splitlines()[4:] == ["| lr=0.1 | 1 | 8 |", "| two | 1 | 8 |"]


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("metrics.csv", "epoch,fid\n1,2\n"),
        ("metrics.csv", "step,fid\n1,much\n"),
        ("metrics.csv", "step,fid\n1,\0 2\n"),
        ("config.yaml", "a: [1\nb: }"),
        ("config.yaml", "- 1\n- 2\n"),
        ("config.yaml", "5\n"),
        ("scores.json", "{"),
        ("scores.json", '{"a": 1}'),
        ("scores.json", "[1, 2]"),
        ("scores.json", '[{"stage": "test", "step": 1, "fid": 2}]'),
        ("scores.json", '[{"stage": "test", "fid": 2, "protocol": {}}]'),
    ],
)
def test_files_that_no_run_wrote_are_named_in_one_line(
    file: str, content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_run(tmp_path / "run", 0, 0.1, {10: 8})
    (folder / file).write_text(content)
    stage = ["--stage", "test"] if file == "scores.json" else []
    with pytest.raises(SystemExit):
        console([str(folder), *stage, "--out", str(tmp_path / "out")])
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"igm-compare: {folder / file}: it is not what a run writes (")


def test_it_is_a_command_of_igm(runs: list[Path], tmp_path: Path, monkeypatch, capsys) -> None:
    out = ["--out", str(tmp_path / "out")]
    console([*map(str, runs), *out])
    table = capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["igm", "compare", *map(str, runs), *out])
    igm()
    assert capsys.readouterr().out == table
    monkeypatch.setattr(sys, "argv", ["igm", "compare", str(tmp_path / "nowhere"), *out])
    with pytest.raises(SystemExit):
        igm()
    assert "no run is there" in capsys.readouterr().err
