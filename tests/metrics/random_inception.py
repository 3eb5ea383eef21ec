"""Random weights of Inception-v3 in the format of the real file."""

import io
import warnings

import torch


def network(weights):
    """torch-fidelity's own extractor with weights from a file."""
    with warnings.catch_warnings():
        from torch_fidelity import FeatureExtractorInceptionV3

        return FeatureExtractorInceptionV3(
            "reference", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(weights)
        )


def write(path):
    """Weights that keep activations at one scale from layer to layer."""
    with warnings.catch_warnings():
        from torch_fidelity import feature_extractor_inceptionv3 as module

        class Unloaded(module.FeatureExtractorInceptionV3):
            def load_state_dict(self, state):
                pass

        nothing = io.BytesIO()
        torch.save({}, nothing)
        nothing.seek(0)
        net = Unloaded("random", ["2048"], feature_extractor_weights_path=nothing)
    draw = torch.Generator().manual_seed(0)
    state = net.state_dict()
    for values in state.values():
        if values.ndim > 1:
            fan_in = values[0].numel()
            values.normal_(0, (2 / fan_in) ** 0.5, generator=draw)
    state["fc.weight"] *= 60  # Or the classes of all images would be alike.
    torch.save(state, path)
    return path
