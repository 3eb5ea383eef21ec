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


def test_each_player_gets_better_at_its_own_loss():
    model = tiny(GAN, critic_steps=2)
    draw = torch.Generator().manual_seed(0)
    real = torch.rand(8, 3, 8, 8, generator=draw)

    class CriticAlone(GAN):
        def generator_step(self, real):
            self.critic_steps_taken = 0
            if self.trainer.fit_loop.total_batch_idx >= 20:
                super().generator_step(real)

    alone = tiny(CriticAlone)
    fake = alone.sample(8, draw)
    before = alone.critic_loss(real, fake).item()
    fit(alone, max_steps=1)
    assert alone.critic_loss(real, fake).item() < before

    untrained = copied(model)
    fit(model, max_steps=4)
    assert not same(copied(model), untrained)
