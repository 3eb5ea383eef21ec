"""What `igm fit` costs beside a bare PyTorch loop that makes the same updates."""

import statistics
import time

import pytest
import torch
from timing import report

from lightning_igm.cli import main
from lightning_igm.losses.adversarial import logistic_critic_loss
from lightning_igm.losses.moments import logits_and_squared_norms, mean_moments
from lightning_igm.modules import MoLM

STEPS = 500
PRESET = ["--config", "configs/molm/digits.yaml"]


@pytest.mark.slow
def test_fit_costs_little_more_than_a_bare_loop(tmp_path, monkeypatch, record_property):
    # One round is a fit of many critic phases and each callback's work at its default cadence.
    # Starting up (imports, the data set, the first sample grid) is not part of the time.
    ratios = []
    for turn in range(3):
        fit = fit_seconds(monkeypatch, str(tmp_path / str(turn)))
        ratios.append(fit / bare_loop_seconds(str(tmp_path / "bare")))
    name = "digits: igm fit / bare loop"
    report(record_property, name, statistics.median(ratios), at_most=1.15)


def fit_seconds(monkeypatch, folder):
    times = []
    on_train_end = MoLM.on_train_end

    def end(self):
        on_train_end(self)
        times.append(time.perf_counter())

    with monkeypatch.context() as patch:
        patch.setattr(MoLM, "on_train_start", lambda self: times.append(time.perf_counter()))
        patch.setattr(MoLM, "on_train_end", end)
        main(["fit", *PRESET, "--run.dir", folder, "--trainer.max_steps", str(STEPS)])
    start, stop = times
    return stop - start


def bare_loop_seconds(folder):
    cli = main([*PRESET, "--run.dir", folder], run=False)
    model, data = cli.model, cli.datamodule
    data.setup()
    generator, critic = model.generator, model.critic
    assert model.estimator == "two_batch"
    generator_adam = torch.optim.Adam(generator.parameters(), lr=5e-4)
    critic_adam = torch.optim.Adam(critic.parameters(), lr=2e-4)
    images, size = data.train_images, data.batch_size

    def real_batches():
        while True:
            for rows in torch.randperm(len(images)).split(size):
                if len(rows) == size:
                    yield images[rows].float() / 255

    def fakes():
        return generator(torch.randn(size, model.latent_dim))

    def update(optimizer, network, loss):
        parameters = list(network.parameters())
        gradients = torch.autograd.grad(loss, parameters, materialize_grads=True)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()

    batches = real_batches()
    start = time.perf_counter()
    for step in range(STEPS):
        if step % model.critic_interval == 0:
            for _ in range(model.critic_steps):
                with torch.no_grad():
                    fake = fakes()
                logits, norms = logits_and_squared_norms(critic, next(batches))
                penalty = (norms.mean() / model.num_moments - 1).square()
                loss = logistic_critic_loss(logits, critic(fake)) + model.penalty_weight * penalty
                update(critic_adam, critic, loss)
            with torch.no_grad():
                data_moments = torch.zeros(model.num_moments)
                for batch in images.split(size):
                    data_moments += mean_moments(critic, batch.float() / 255) * len(batch)
                data_moments /= len(images)
        first, second = (
            mean_moments(critic, fakes(), images_only=True) - data_moments for _ in range(2)
        )
        update(generator_adam, generator, first.dot(second) / 2)
    return time.perf_counter() - start
