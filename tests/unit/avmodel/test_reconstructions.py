"""Reconstructions as files, whatever the keys are called."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.image import imread

from avdata.profiles import profile
from avmanifest.errors import StorageError
from avmodel.evaluate.localization.scores import unit_range
from avmodel.inputs import Inputs, normalize_images, to_inputs
from avmodel.masking import KeptIds
from avmodel.models.crossmae import CrossMAE
from avmodel.models.deepavfusion import DeepAVFusion
from avmodel.reconstructions import HIDDEN, save_attention, save_picture, spread_out, to_rgb, visible
from tests.families import masks_for
from tests.runs import TINY, TINY_CROSSMAE, DrawnBatches

HOSTILE = ("price $5 and $6", "$\\frac{", "кадр-数据\n2", "k" * 500)


def drawn() -> tuple[DeepAVFusion, Inputs, KeptIds]:
    torch.manual_seed(0)
    model = DeepAVFusion(TINY)
    inputs = to_inputs(DrawnBatches().draw(range(4)), torch.device("cpu"))
    return model, inputs, masks_for(model, 4)


def test_a_picture_is_a_png_with_any_keys(tmp_path: Path) -> None:
    model, inputs, ids = drawn()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    path = tmp_path / "new" / "step.png"
    save_picture(path, model, inputs, ids, HOSTILE, profile("paper"))
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    pixels = imread(path)
    assert pixels.shape[0] > 4 * 150
    assert pixels.shape[1] > 6 * 150
    assert pixels[..., :3].std() > 0.1
    assert [p.name for p in path.parent.iterdir()] == ["step.png"]


def test_a_silent_spectrogram_can_be_drawn(tmp_path: Path) -> None:
    model, inputs, ids = drawn()
    silent = inputs._replace(log_mel=torch.full_like(inputs.log_mel, -7.0))
    save_picture(tmp_path / "step.png", model, silent, ids, ("a", "b", "c", "d"), profile("paper"))
    assert (tmp_path / "step.png").stat().st_size > 10_000


def test_attention_is_drawn_for_models_that_have_maps(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = CrossMAE(TINY_CROSSMAE)
    inputs = to_inputs(DrawnBatches().draw(range(5)), torch.device("cpu"))
    path = tmp_path / "attention.png"
    save_attention(path, model, inputs, (*HOSTILE, "fifth"), profile("paper"))
    assert model.training
    pixels = imread(path)
    assert pixels.shape[0] < 5 * 230  # four samples
    assert pixels[..., :3].std() > 0.1
    save_attention(None, model, inputs, HOSTILE, profile("paper"))
    save_attention(tmp_path / "none.png", drawn()[0], inputs, HOSTILE, profile("paper"))
    assert [p.name for p in tmp_path.iterdir()] == ["attention.png"]


def test_maps_are_spread_over_patches() -> None:
    spread = spread_out(torch.tensor([[1.0, 2, 3, 4, 5, 6]]), torch.zeros(1, 3, 32, 48), 16)
    assert spread.shape == (1, 1, 32, 48)
    assert spread[0, 0, ::16, ::16].tolist() == [[1, 2, 3], [4, 5, 6]]
    assert spread[0, 0, 15, 15] == 1
    scaled = unit_range(torch.cat([spread, torch.ones(1, 1, 32, 48)])[:, 0])
    assert (scaled[0].min(), scaled[0].max(), scaled[1].max()) == (0, 1, 0)


def test_a_place_that_takes_no_file_is_a_storage_error(tmp_path: Path) -> None:
    model, inputs, ids = drawn()
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"step\.png: picture not written"):
        save_picture(tmp_path / "file" / "step.png", model, inputs, ids, HOSTILE, profile("paper"))


def test_visible_marks_the_kept_patches() -> None:
    marks = visible(torch.zeros(1, 3, 32, 48), torch.tensor([[1.0, 0, 1, 0, 1, 1]]), 16)
    assert marks.shape == (1, 3, 32, 48)
    expected = torch.zeros(32, 48)
    expected[:16, 16:32] = 1
    expected[16:, :16] = 1
    assert all(torch.equal(plane, expected) for plane in marks[0])


def test_colors_come_back_and_hidden_ones_are_gray() -> None:
    pixels = torch.randint(0, 256, (1, 3, 16, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    normalized = normalize_images(pixels)
    rgb = to_rgb(normalized)
    np.testing.assert_allclose(rgb[0] * 255, pixels[0].movedim(0, -1).numpy(), atol=1e-3)
    shown = visible(normalized, torch.tensor([[1.0, 0.0]]), 16)
    masked = to_rgb(normalized, shown)
    assert (masked[0, :, :16] == np.float32(HIDDEN)).all()
    assert (masked[0, :, 16:] == rgb[0, :, 16:]).all()


def test_images_are_normalized_by_imagenet_and_sound_gets_its_gain() -> None:
    batch = DrawnBatches().draw(range(4))
    loud = replace(batch, gain_db=torch.full((4,), 20.0))
    plain, gained = (to_inputs(b, torch.device("cpu")) for b in (batch, loud))
    white = normalize_images(torch.full((1, 3, 1, 1), 255, dtype=torch.uint8)).flatten().tolist()
    assert white == pytest.approx([(1 - 0.485) / 0.229, (1 - 0.456) / 0.224, (1 - 0.406) / 0.225], rel=1e-5)
    assert plain.log_mel.shape == (4, 1, 128, 50)
    assert plain.log_mel.dtype == torch.float32
    torch.testing.assert_close(plain.log_mel[:, 0], batch.log_mel.float())
    heard = plain.log_mel > -2  # above the 1e-7 that log10(x + 1e-7) adds
    torch.testing.assert_close(gained.log_mel[heard], plain.log_mel[heard] + 2, atol=1e-4, rtol=0)
