"""What others would use: the default networks without labels in PyTorch's plain loop.

Nothing here is part of the program. It wants a process without TensorFlow, with which PyTorch does
not always go together.
"""

import time

import torch
from torch import nn

ADAM = 2e-4, 0.5, 0.9  # learning rate, beta1, beta2
BATCH, Z_DIM, CRITIC_NUM, LAMBDA = 64, 100, 5, 10.0


def networks():
    """Return generator and critic."""
    up = {"kernel_size": 5, "stride": 2, "padding": 2}
    generator = nn.Sequential(
        *(nn.Linear(Z_DIM, 1024), nn.BatchNorm1d(1024), nn.ReLU()),
        *(nn.Linear(1024, 6272), nn.BatchNorm1d(6272), nn.ReLU(), nn.Unflatten(1, (128, 7, 7))),
        nn.ConvTranspose2d(128, 128, output_padding=1, **up),
        *(nn.BatchNorm2d(128), nn.ReLU()),
        *(nn.ConvTranspose2d(128, 1, output_padding=1, **up), nn.Tanh()),
    )
    critic = nn.Sequential(
        *(nn.Conv2d(1, 1, **up), nn.LeakyReLU(0.2)),
        *(nn.Conv2d(1, 64, **up), nn.GroupNorm(1, 64), nn.LeakyReLU(0.2), nn.Flatten()),
        *(nn.Linear(3136, 1024), nn.GroupNorm(1, 1024), nn.LeakyReLU(0.2)),
        nn.Linear(1024, 1),
    )
    return generator, critic


def measure(repeats=20):
    """Return the ms of an iteration, channels last, which takes less time on a CPU."""
    generator, critic = (net.to(memory_format=torch.channels_last) for net in networks())
    rate, *betas = ADAM
    of_generator, of_critic = (
        torch.optim.Adam(net.parameters(), rate, betas) for net in (generator, critic)
    )
    data = torch.rand(1000, 1, 28, 28) * 2 - 1

    def iterate():
        for _ in range(CRITIC_NUM):
            real = data[torch.randint(len(data), (BATCH,))]
            with torch.no_grad():
                fake = generator(torch.rand(BATCH, Z_DIM) * 2 - 1)
            between = (real + torch.rand(BATCH, 1, 1, 1) * (fake - real)).requires_grad_()
            gradient = torch.autograd.grad(critic(between).sum(), between, create_graph=True)[0]
            slopes = (gradient.flatten(1).square().sum(1) + 1e-12).sqrt()
            loss = critic(fake).mean() - critic(real).mean()
            loss += LAMBDA * (slopes - 1).square().mean()
            of_critic.zero_grad()
            loss.backward()
            of_critic.step()
        of_generator.zero_grad()
        (-critic(generator(torch.rand(BATCH, Z_DIM) * 2 - 1)).mean()).backward()
        of_generator.step()

    for _ in range(2):
        iterate()
    start = time.perf_counter()
    for _ in range(repeats):
        iterate()
    return 1000 * (time.perf_counter() - start) / repeats
