"""What options of torch change in the time of an update."""

import sys
from pathlib import Path

import pytest
import torch
from bare_loop import loop_over_noise
from timing import interleaved, median_ratio, report

from lightning_igm.cli import main
from lightning_igm.metrics import InceptionV3
from lightning_igm.metrics.extractors import extract
from lightning_igm.modules.compilation import check_compiler, compile_in_place

sys.path.append(str(Path(__file__).parents[1] / "metrics"))
import random_inception

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]
PRESET = Path(__file__).parents[2] / "configs" / "sngan" / "digits.yaml"
FUSED = [f"--model.{player}_optimizer.fused=true" for player in ("generator", "critic")]


def loop(*arguments):
    model = main(["--config", str(PRESET), *arguments], run=False).model
    return loop_over_noise(model, batch_size=50, size=16)


def compiled():
    check_compiler(True, torch.device("cpu"))
    with_compiled = loop()
    compile_in_place(with_compiled.model.compiled_networks(), True)
    return with_compiled


def channels_last():
    with_format = loop()
    with_format.model.to(memory_format=torch.channels_last)
    return with_format


OPTIONS = {
    "compiled": compiled,
    "fused Adam": lambda: loop(*FUSED),
    "channels last": channels_last,
}


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@pytest.mark.parametrize("option", OPTIONS)
def test_option(option, record_property):
    loops = {"plain": loop(), option: OPTIONS[option]()}
    functions = {name: each.both_updates for name, each in loops.items()}
    rounds = interleaved(functions, rounds=15, processor_time=True)
    ratio = median_ratio(rounds, lambda seconds: seconds[option] / seconds["plain"])
    report(record_property, f"digits, SNGAN: update {option} / plain", ratio)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
def test_half_precision(record_property):
    """As `igm fit` takes both updates with `bf16-mixed`; it pays where bfloat16 has hardware."""

    def updates(precision, channels_last):
        preset = PRESET.parents[1] / "gan" / "cifar10.yaml"
        words = [f"--model.channels_last={channels_last}", "--run.dir=none"]
        model = main(["--config", str(preset), *words], run=False).model
        if channels_last == "true":  # In `igm fit`, setup does it.
            model.to(memory_format=torch.channels_last)
        each = loop_over_noise(model, batch_size=32, size=32)

        def both():
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed"):
                each.both_updates()

        return both

    functions = {
        "plain": updates("32-true", "false"),
        "half": updates("bf16-mixed", "false"),
        "half, channels last": updates("bf16-mixed", "true"),
    }
    rounds = interleaved(functions, rounds=5, processor_time=True)
    for name in list(functions)[1:]:
        ratio = median_ratio(rounds, lambda seconds, name=name: seconds[name] / seconds["plain"])
        report(record_property, f"CIFAR-10, GAN: update, bfloat16: {name} / plain", ratio)


@torch.no_grad()
def test_compiled_extractor(tmp_path, record_property):
    weights = random_inception.write(tmp_path / "inception.pth")
    plain, compiled = (InceptionV3(weights, sha256=None) for _ in range(2))
    for extractor in (plain, compiled):
        extractor.prepare()
    compile_in_place([compiled], True)
    images = torch.randint(256, (16, 3, 32, 32), dtype=torch.uint8)
    functions = {
        "compiled": lambda: extract(compiled, images),
        "plain": lambda: extract(plain, images),
    }
    rounds = interleaved(functions, rounds=5, processor_time=True)
    ratio = median_ratio(rounds, lambda seconds: seconds["compiled"] / seconds["plain"])
    report(record_property, "InceptionV3, 16 images: compiled / plain", ratio)
