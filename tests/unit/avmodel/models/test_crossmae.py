from dataclasses import replace

import pytest
import torch

from avmodel.configs.crossmae import CrossMAEConfig
from avmodel.masking import gather_visible
from avmodel.models.crossmae import CrossMAE, Encoded, most_attended
from avmodel.presets import crossmae as runs
from avmodel.presets import run_config
from tests.families import SIZES, batch, count, draws_for, on_meta

TINY = SIZES | {"size": "32x2x4", "decoder_depth": 2, "feature_decoder_depth": 1}
SMALL = CrossMAEConfig(**TINY)


def small(**changes: object) -> CrossMAE:
    torch.manual_seed(0)
    return CrossMAE(replace(SMALL, **changes))


def test_parameters_are_those_of_the_table() -> None:
    model = on_meta(CrossMAEConfig(feature_decoder_dim=512, feature_decoder_num_heads=16))
    parts = {name: count(part) / 1e6 for name, part in model.named_children()}
    assert parts["encoder"] == pytest.approx(171.5, rel=0.01)
    assert parts["image_decoder"] + parts["audio_decoder"] == pytest.approx(54, rel=0.02)
    assert parts["image_features"] + parts["audio_features"] == pytest.approx(36, rel=0.02)


@pytest.mark.parametrize(
    ("name", "terms"),
    [
        ("cl-av", "contrast"),
        ("self-mae", "image audio"),
        ("cl-self-mae", "contrast image audio"),
        ("cl-cross-cdt", "contrast image audio"),
        ("cl-cross-emb", "contrast image_features audio_features"),
        ("crossmae", "contrast image audio image_features audio_features"),
        ("crossmae-literal", "contrast image audio image_features audio_features"),
        *(
            (f"crossmae-condition-{how}", "contrast image audio image_features audio_features")
            for how in runs.CONDITIONS
        ),
        *((f"crossmae-queries-{how}", "contrast image audio image_features audio_features") for how in runs.QUERIES),
    ],
)
def test_every_variant_has_its_losses_and_trains_all_it_has(name: str, terms: str) -> None:
    torch.manual_seed(0)
    model = CrossMAE(replace(run_config(name).model, **TINY))
    losses = model(*batch(SMALL), model.choose(draws_for(model))).losses
    assert list(losses) == ["total", *terms.split()]
    expected = sum((0.1 if term == "contrast" else 1) * losses[term] for term in terms.split())
    torch.testing.assert_close(losses["total"], expected)
    losses["total"].backward()
    assert [parameter for parameter, p in model.named_parameters() if p.grad is None] == []
    crossed = any("crosses" in parameter for parameter, _ in model.named_parameters())
    assert crossed == (model.config.reconstruct and model.config.condition != "none")


@pytest.mark.parametrize(
    ("name", "counts", "trained"),
    [
        *((name, (128, 49), False) for name in ("crossmae", "cl-cross-cdt")),
        *((f"crossmae-condition-{condition}", (128, 49), False) for condition in runs.CONDITIONS),
        *((f"{name}-visible", (32, 12), True) for name in ("crossmae", "cl-cross-cdt")),
    ],
)
def test_tokens_that_condition_are_a_quarter_of_their_pass(name: str, counts: tuple[int, int], trained: bool) -> None:
    """In every row of the paper's tables as many, of one pass, without gradient."""
    small_decoders = {"decoder_embed_dim": 16, "decoder_depth": 1, "decoder_num_heads": 4, "feature_decoder_depth": 1}
    model = on_meta(replace(run_config(name).model, size="32x2x4", **small_decoders))
    told, graphs = [], []
    for decoder in (model.image_decoder, model.audio_decoder):
        decoder.register_forward_pre_hook(lambda _, inputs: told.append(inputs[2].shape[1]))
        decoder.register_forward_pre_hook(lambda _, inputs: graphs.append(inputs[2].requires_grad))
    inputs = torch.zeros(2, 3, 224, 224, device="meta"), torch.zeros(2, 1, 128, 1024, device="meta")
    model(*inputs, model.choose(draws_for(model, 2)))
    assert tuple(told) == counts
    assert graphs == [trained, trained]


def test_random_tokens_are_those_of_the_complete_pass_at_visible_places() -> None:
    model = small(condition="random", attentive_ratio=0.25, mask_ratio=0.75).eval()
    image, log_mel = batch(SMALL)
    masks = model.choose(draws_for(model))
    told = []
    model.audio_decoder.register_forward_pre_hook(lambda _, inputs: told.append(inputs[2]))
    model(image, log_mel, masks)
    whole = model.streams(image, None)["image"]
    torch.testing.assert_close(told[0], gather_visible(whole, masks.image_ids[:, : told[0].shape[1]]))


def test_models_of_earlier_versions_are_read_under_todays_names() -> None:
    earlier = {"reduction": "sum", "attentive_source": "auto", "predict_features": False}
    assert CrossMAEConfig.of_earlier(earlier) == {
        "directions": "sum", "attentive_source": "visible", "predict_features": False,
    }  # fmt: skip
    assert CrossMAEConfig.of_earlier({"attentive_source": "auto"}) == {"attentive_source": "complete"}
    assert (
        CrossMAEConfig.of_earlier({"attentive_source": "auto", "condition": "random"})["attentive_source"] == "visible"
    )
    assert CrossMAEConfig.of_earlier({"directions": "mean"}) == {"directions": "mean"}


def test_attentive_tokens_are_those_with_most_attention() -> None:
    tokens = torch.arange(12.0).view(1, 6, 2)
    attention = torch.tensor([[0.1, 0.3, 0.05, 0.2, 0.0, 0.15]])
    found = most_attended(Encoded(tokens[:, 0], tokens, attention), 0.5)
    assert found.ids.tolist() == [[1, 3, 5]]
    assert torch.equal(found.tokens, tokens[:, [1, 3, 5]])


def test_targets_of_features_and_complete_attentive_tokens_carry_no_graph() -> None:
    """The encoder gets gradients through visible tokens alone: without the visible pass it gets none."""
    model = small(contrast_weight=0.0)
    seen = []
    model.image_decoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[2].requires_grad))
    model(*batch(SMALL), model.choose(draws_for(model)))
    assert seen == [False]
    visible = small(attentive_source="visible")
    visible.image_decoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[2].requires_grad))
    visible(*batch(SMALL), visible.choose(draws_for(visible)))
    assert seen == [False, True]


def test_a_teacher_answers_for_the_complete_pass_and_follows_slowly() -> None:
    torch.manual_seed(1)  # draws other towers than small() does
    model = CrossMAE(replace(SMALL, teacher="ema", teacher_momentum=0.9))
    model.encoder.load_state_dict(small().encoder.state_dict())
    model.before_training()
    assert model.teacher is not None
    inputs, masks = batch(SMALL), model.choose(draws_for(model))
    losses = model(*inputs, masks).losses
    losses["total"].backward()
    assert all(p.grad is None and not p.requires_grad for p in model.teacher.parameters())
    with torch.no_grad():
        for parameter in model.encoder.parameters():
            parameter.add_(1.0)
    before = {name: x.clone() for name, x in model.teacher.state_dict().items()}
    model.after_step()
    now, towers = model.teacher.state_dict(), dict(model.encoder.named_parameters())
    for name in towers:
        torch.testing.assert_close(now[name], before[name] + 0.1)
    with torch.no_grad():
        for parameter in model.teacher.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    again = small(teacher="ema")
    again.load_state_dict(model.state_dict())
    moved = again(*inputs, masks).losses
    again.before_training()
    assert not torch.equal(moved["image_features"], again(*inputs, masks).losses["image_features"])


def test_features_are_restored_from_the_other_modality_alone() -> None:
    model = small(contrast_weight=0.0, reconstruct=False)
    image, log_mel = batch(SMALL)
    masks = model.choose(draws_for(model))
    asked = []
    model.audio_features.register_forward_hook(lambda _, inputs, out: asked.append(out))
    model(image, log_mel, masks)
    model(image, log_mel + torch.randn_like(log_mel), masks)
    assert torch.equal(asked[0], asked[1])
    assert asked[0].shape == (10, 16, 32)


def test_the_condition_changes_the_prediction_of_the_other_modality() -> None:
    image, log_mel = batch(SMALL)
    for condition, depends in (("attentive", True), ("random", True), ("zero", False), ("none", False)):
        model = small(condition=condition).eval()
        masks = model.choose(draws_for(model))
        predicted = [model(image, heard, masks).image_pred for heard in (log_mel, log_mel.flip(0))]
        assert torch.allclose(*predicted, atol=1e-6) != depends, condition


@pytest.mark.parametrize("changes", [{"cross_at": "every_block", "cross_queries": "all"}, {"cross_queries": "all"}])
def test_the_condition_can_come_in_elsewhere(changes: dict) -> None:
    model = small(**changes)
    output = model(*batch(SMALL), model.choose(draws_for(model)))
    output.losses["total"].backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    assert len(model.image_decoder.crosses) == (2 if "cross_at" in changes else 1)


def test_attention_maps_are_the_attentive_tokens_and_what_the_queries_attend_to() -> None:
    model = small().eval()
    image, log_mel = batch(SMALL)
    with torch.no_grad():
        attentive, queries = model.attention(image, log_mel)
        whole = model.encoder.image(model.image_input(image))
    assert (attentive.title, queries.title) == ("attentive", "queries")
    best = most_attended(whole, 0.25).ids
    assert (attentive.image > 0).sum(dim=1).tolist() == [4] * 10
    torch.testing.assert_close(attentive.image.gather(1, best), torch.tensor([[1.0, 0.75, 0.5, 0.25]]).expand(10, -1))
    for found in (queries.image, queries.audio):
        assert found.shape == (10, 16)
        torch.testing.assert_close(found.sum(dim=1), torch.ones(10))
    # Of the image: by the queries that restore the audio's features, so the audio itself has no part in it.
    with torch.no_grad():
        again = model.attention(image, log_mel.flip(0))[1]
    assert torch.equal(again.image, queries.image)
    assert not torch.allclose(again.audio, queries.audio)
    assert [one.title for one in small(predict_features=False).attention(image, log_mel)] == ["attentive"]
    assert [one.title for one in small(queries="attentive").attention(image, log_mel)] == ["attentive"]


def test_audio_goes_along_time_first() -> None:
    model = small().eval()
    assert model.encoder.audio.grid == (8, 2)
    log_mel = batch(SMALL)[1]
    late = log_mel.clone()
    late[..., -8:] = 0
    seen = []
    model.encoder.audio.patch_embed.register_forward_hook(lambda _, inputs, out: seen.append(out))
    model.streams(None, log_mel)
    model.streams(None, late)
    changed = (seen[0] != seen[1]).any(dim=2).any(dim=0)
    assert changed.nonzero()[:, 0].tolist() == [14, 15]
    torch.testing.assert_close(model.audio_output(model.audio_input(log_mel)), log_mel, atol=1e-5, rtol=0)


def test_streams_leave_the_class_token_out_and_need_one_modality_only() -> None:
    model = small().eval()
    image, log_mel = batch(SMALL)
    both = model.streams(image, log_mel)
    assert {name: tuple(x.shape) for name, x in both.items()} == {"image": (10, 16, 32), "audio": (10, 16, 32)}
    assert torch.equal(model.streams(image, None)["image"], both["image"])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"condition": "all"}, "unknown model.condition 'all'; known: none, zero, random, attentive"),
        ({"queries": "given"}, "unknown model.queries"),
        ({"loss_on": "hidden"}, "unknown model.loss_on"),
        ({"contrast_weight": 0.0, "reconstruct": False, "predict_features": False}, "nothing to learn"),
        ({"cross_at": "every_block"}, "set model.cross_queries=all"),
        ({"feature_decoder_dim": 30}, "model.feature_decoder: the width 30"),
        ({"mask_ratio": 0.99}, "leaves nothing to see"),
        ({"teacher": "ema", "predict_features": False, "condition": "none"}, "answers for the complete pass"),
        ({"teacher": "ema", "contrast_features": "complete"}, "answers for the complete pass"),
        ({"teacher_momentum": 1.5}, "must be from 0 to 1"),
        (
            {"condition": "random", "attentive_ratio": 0.9, "mask_ratio": 0.5},
            "asks for 14 image patches, model.mask_ratio=0.5 leaves 8",
        ),
        ({"attentive_source": "auto"}, "unknown model.attentive_source 'auto'; known: complete, visible"),
        ({"directions": "both"}, "unknown model.directions 'both'; known: sum, mean"),
    ],
)
def test_impossible_models(changes: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        replace(SMALL, **changes)
