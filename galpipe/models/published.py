"""Networks and schedules as published, to be stated in a survey file and run as they were."""

from __future__ import annotations

from galpipe.models.spec import Stack, Training, VaDE

# Spindler, Geach & Smith 2021 (MNRAS 502, 985; arXiv:2009.08470): 128 x 128 grey images.
ASTROVADER = VaDE(
    latent=20,
    components=12,
    encoder=(
        Stack(channels=64, kernel=3, layers=2),
        Stack(channels=64, kernel=5, layers=2),
        Stack(channels=16, kernel=5, layers=2),
    ),
    decoder=(
        Stack(channels=16, kernel=5, layers=2),
        Stack(channels=64, kernel=5, layers=2),
        Stack(channels=64, kernel=5, layers=2),
    ),
    sampling="pooled",
    linear=False,
    slope=0.1,
    output="relu",
    categorical="sampled",
    view="unmasked",
)

ASTROVADER_TRAINING = Training(
    batch=190,
    warm_up=100,
    cycles=5,
    annealing=25,
    static=25,
    reconstruction=1.0,  # 16384 x the mean squared difference: the sum over 128 x 128 pixels
    warm_up_weight=1.0,
    mixture_weight=0.3,
    static_weight=1.0,
    annealing_power=3.0,
    learning_rate=3e-4,
    final_learning_rate=1e-6,
    decay_every=3,
    clip=1.0,
    l2=0.01,
    flips=True,
    noise=1e-8,
    initialisation_images=200 * 190,
)
