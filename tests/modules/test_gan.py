import torch
from tiny_models import copied, fit, same, tiny

from lightning_igm.modules import GAN


def test_losses_are_those_of_the_paper():
    model = tiny(GAN).double()
    draw = torch.Generator().manual_seed(0)
    real, fake = torch.rand(2, 5, 3, 8, 8, generator=draw, dtype=torch.float64)
    on_real, on_fake = torch.sigmoid(model.critic(real)), torch.sigmoid(model.critic(fake))
    critic_loss = -(on_real.log().mean() + (1 - on_fake).log().mean())
    torch.testing.assert_close(model.critic_loss(real, fake), critic_loss)
    torch.testing.assert_close(model.generator_loss(real, fake), -on_fake.log().mean())


def test_the_critic_gets_better_at_its_loss():
    model = tiny(GAN, critic_steps=15)
    draw = torch.Generator().manual_seed(0)
    real, fake = torch.rand(8, 3, 8, 8, generator=draw), model.sample(8, draw)
    before = model.critic_loss(real, fake).item()
    fit(model, max_steps=1)
    assert model.critic_loss(real, fake).item() < before


def test_the_generator_gets_better_at_its_loss():
    model = tiny(GAN, critic_steps=0)
    critic = copied(model.critic)

    def loss():
        fake = model.sample(20, torch.Generator().manual_seed(0))
        return model.generator_loss(fake, fake).item()

    before = loss()
    fit(model, max_steps=15)
    assert loss() < before
    assert same(copied(model.critic), critic)
