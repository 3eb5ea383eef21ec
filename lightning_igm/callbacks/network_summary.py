"""The table of networks before training, without operations that nobody counted."""

from collections.abc import Collection

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelSummary
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.model_summary.model_summary import summarize

__all__ = ["NetworkSummary", "with_network_summary"]


def with_network_summary(callbacks: list[Callback], given: Collection[Callback]) -> list[Callback]:
    """Put our summary for Lightning's, also for the other one that it chooses where rich is.

    Args:
        callbacks: Of a trainer.
        given: Those that the user asked for.
    """
    return [
        NetworkSummary(callback._max_depth)
        if type(callback) is ModelSummary
        or (isinstance(callback, ModelSummary) and callback not in given)
        else callback
        for callback in callbacks
    ]


class NetworkSummary(ModelSummary):
    """Lightning's summary; FLOPs are in it only if the model has an ``example_input_array``.

    Args:
        max_depth: Depth of the modules in it; 0 for no table.
    """

    def __init__(self, max_depth: int = 1) -> None:
        super().__init__(max_depth)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show it."""
        if not self._max_depth:
            return
        summary = summarize(pl_module, max_depth=self._max_depth)
        text = str(summary)
        if not summary.total_flops:
            lines = text.splitlines()[:-1]  # Without "Total Flops".
            width = lines[0].index(" | FLOPs")
            lines = [li[:width] if " | " in li or set(li) == {"-"} else li for li in lines]
            text = "\n".join(lines)
        rank_zero_info(f"\n{text}")
