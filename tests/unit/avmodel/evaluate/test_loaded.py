from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from avmanifest.errors import ConfigError
from avmodel.checkpoint import save_weights
from avmodel.checkpoint_folder import MODEL_FILE, latest_checkpoint
from avmodel.evaluate.loaded import untrained, with_settings
from avmodel.evaluate.loading import load_pretrained
from avmodel.models.deepavfusion import DeepAVFusion
from avmodel.rundir import CHECKPOINTS
from tests.evaluating import tiny_model
from tests.runs import TINY

CPU = torch.device("cpu")


def test_a_run_a_checkpoint_and_a_file_are_the_same_subject(tiny_run: Path) -> None:
    checkpoint = latest_checkpoint(tiny_run / CHECKPOINTS)
    assert checkpoint is not None
    models = [load_pretrained(path, CPU) for path in (tiny_run, str(checkpoint), checkpoint / MODEL_FILE)]
    for loaded in models:
        assert loaded.origin["sha256"] == models[0].origin["sha256"]
        assert (loaded.profile, loaded.window_s, loaded.folder) == ("paper", 1.0, tiny_run)
        assert (loaded.origin["family"], loaded.origin["step"]) == ("deepavfusion", 7)
        assert not loaded.model.training
    weights = load_file(checkpoint / MODEL_FILE)
    assert all(torch.equal(x, weights[name]) for name, x in models[0].model.state_dict().items())


def test_fusion_as_drawn_is_refused(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = DeepAVFusion(TINY)
    donor = tiny_model()
    model.encoder.image.load_state_dict(donor.encoder.image.state_dict())  # branches loaded, fusion not
    model.encoder.audio.load_state_dict(donor.encoder.audio.state_dict())
    save_weights(tmp_path / "half.safetensors", model, TINY)
    with pytest.raises(ConfigError, match="fusion weights are as initialized"):
        load_pretrained(tmp_path / "half.safetensors", CPU)


def test_one_moved_weight_of_the_fusion_is_trained_fusion(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = DeepAVFusion(TINY)
    with torch.no_grad():
        model.get_parameter("encoder.fusion_blocks.1.norm2.bias")[3] = 1e-6
    save_weights(tmp_path / "new.safetensors", model, TINY)
    assert load_pretrained(tmp_path / "new.safetensors", CPU).profile is None


@pytest.mark.parametrize("name", ["nothing", "nothing.safetensors", "nothing.pth"])
def test_what_is_not_there_is_said(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="no such"):
        load_pretrained(tmp_path / name, CPU)


def test_an_untrained_subject_is_a_function_of_its_seed(tiny_run: Path) -> None:
    loaded = load_pretrained(tiny_run, CPU)
    before = torch.get_rng_state()
    one, again, other = (untrained(loaded, seed).model.state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    name = "encoder.image.patch_embed.proj.weight"
    assert torch.equal(one[name], again[name])
    assert not torch.equal(one[name], other[name])
    assert not torch.equal(one[name], loaded.model.state_dict()[name])


def test_settings_that_a_family_has_are_changed_and_weights_stay(tiny_run: Path) -> None:
    loaded = load_pretrained(tiny_run, CPU)
    changed = with_settings(loaded, drop_path=0.3)
    assert changed.model.config.drop_path == 0.3
    assert all(torch.equal(x, loaded.model.state_dict()[name]) for name, x in changed.model.state_dict().items())
    same = with_settings(loaded, no_such_field=1)
    assert same.model.config == loaded.model.config
    with torch.no_grad():
        next(same.model.parameters()).add_(1)  # training the one leaves the other as it was
    assert not torch.equal(next(same.model.parameters()), next(loaded.model.parameters()))
