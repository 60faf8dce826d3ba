"""The norms of a decoder: what of a sample's map depends on the samples beside it."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from avmanifest.errors import ConfigError
from avmodel.evaluate.decoder import Decoder, DecoderConfig, group_norm, segmentation_decoder
from avmodel.evaluate.segmentation.config import SegmentationConfig
from avmodel.evaluate.separation.config import SeparationConfig

GRID, DIM = (2, 3), 48
SMALL = DecoderConfig(divisors=(1, 2, 4))


def maps(config: DecoderConfig, parts: list[slice]) -> torch.Tensor:
    """Logits in training of four samples, which enter in these parts."""
    torch.manual_seed(0)
    decoder = Decoder(config, DIM, GRID, (8, 12)).train()
    taps = [torch.randn(4, 6, DIM) for _ in config.divisors]
    condition = torch.randn(4, 5, DIM)
    return torch.cat([decoder([tap[part] for tap in taps], condition[part]) for part in parts])


@pytest.mark.parametrize("config", [SMALL, segmentation_decoder(2)])
def test_with_group_norms_a_sample_does_not_depend_on_those_beside_it(config: DecoderConfig) -> None:
    """So neither the number of devices nor the size of a micro-step changes a gradient."""
    together, apart = [slice(0, 4)], [slice(0, 1), slice(1, 4)]
    group = replace(config, norm="group")
    torch.testing.assert_close(maps(group, apart), maps(group, together))
    assert not torch.allclose(maps(config, apart), maps(config, together), atol=1e-2)


def test_all_norms_of_convolutions_are_of_the_kind_asked_for() -> None:
    for norm, kind, other in (("batch", nn.BatchNorm2d, nn.GroupNorm), ("group", nn.GroupNorm, nn.BatchNorm2d)):
        modules = list(Decoder(replace(SMALL, norm=norm), DIM, GRID, (8, 12)).modules())
        assert sum(isinstance(module, kind) for module in modules) == 10
        assert not any(isinstance(module, other) for module in modules)


@pytest.mark.parametrize(("channels", "groups"), [(768, 32), (48, 16), (6, 2), (1, 1)])
def test_groups_divide_the_channels(channels: int, groups: int) -> None:
    assert group_norm(channels).num_groups == groups


def test_batch_norms_are_the_default_and_others_refused() -> None:
    assert SegmentationConfig().decoder_norm == SeparationConfig().decoder_norm == DecoderConfig().norm == "batch"
    with pytest.raises(ConfigError, match="unknown norm 'layer'; known: batch, group"):
        DecoderConfig(norm="layer")
    for config in (SegmentationConfig, SeparationConfig):
        with pytest.raises(ConfigError, match="unknown decoder_norm 'ghost'; known: batch, group"):
            config(decoder_norm="ghost")
