"""One suite for all networks: any size, save and load, export, and the same answer by every way in."""

from __future__ import annotations

import copy
import io
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from phnet_monai.networks import PHNet, embedding_at, make_teacher
from phnet_monai.networks.backbones import pad_to_multiple
from phnet_monai.transforms import fit_batch, unfit_batch

ODD = (125, 83)


def pictures(count: int, size: tuple[int, int] = ODD, channels: int = 1, seed: int = 0) -> Tensor:
    return torch.rand(count, channels, *size, generator=torch.Generator().manual_seed(seed))


def storages(network: torch.nn.Module) -> set[int]:
    return {t.untyped_storage().data_ptr() for t in network.state_dict().values()}


class NetworkSuite:
    """What every network must do; a subclass names the network."""

    arguments: ClassVar[dict[str, Any]]
    divisor: ClassVar[int]
    needs_two_images = False
    scripted_fit_size: ClassVar[int | None] = 64

    def build(self, seed: int = 0, **changes) -> PHNet:
        torch.manual_seed(seed)
        small = {"embedding_size": 8, "head_channels": 8, "decoder_channels": 16, "weights": None}
        return PHNet(**{**small, **self.arguments, **changes})

    @pytest.fixture(scope="class")
    def network(self) -> PHNet:
        network = self.build()
        network.train()
        with torch.no_grad():  # statistics of real values, so that layers do not vanish in the comparisons
            for seed in range(3):
                network.forward_features(pictures(3, (64, 64), seed=seed))
        return network.eval()

    @torch.no_grad()
    def test_odd_sizes(self, network):
        logits, embedding = network.forward_features(pictures(2))
        rows, columns = ((extent + -extent % self.divisor) // 4 for extent in ODD)
        assert logits.shape == (2, 2, *ODD)
        assert embedding.shape == (2, 8, rows, columns)
        assert logits.isfinite().all()
        assert logits.std() > 1e-4  # an answer, not a constant

    @torch.no_grad()
    def test_odd_sizes_are_padded_at_the_bottom_and_right(self, network):
        images = pictures(1)
        bottom, right = (-extent % self.divisor for extent in ODD)
        padded = F.pad(images, (0, right, 0, bottom), mode="replicate")
        torch.testing.assert_close(network(images), network(padded)[:, :, : ODD[0], : ODD[1]])
        torch.testing.assert_close(network.forward_features(images)[1], network.forward_features(padded)[1])

    @torch.no_grad()
    def test_images_do_not_influence_each_other_in_eval_mode(self, network):
        images = pictures(3)
        alone = torch.cat([network(image[None]) for image in images])
        torch.testing.assert_close(network(images), alone, atol=1e-5, rtol=1e-4)

    @torch.no_grad()
    def test_channels_last_gives_the_same(self, network):
        images = pictures(2)
        expected = network.forward_features(images)
        other = copy.deepcopy(network).to(memory_format=torch.channels_last)
        found = other.forward_features(images.to(memory_format=torch.channels_last))
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)

    @torch.no_grad()
    def test_forward_is_the_first_half_of_forward_features(self, network):
        images = pictures(2)
        assert torch.equal(network(images), network.forward_features(images)[0])

    @torch.no_grad()
    def test_encode_and_decode_apart_equal_forward(self, network):
        images = pictures(2)
        decoded = network.decode(network.encode(images))
        logits, embedding = network.forward_features(images)
        assert torch.equal(network.classify(decoded, *ODD), logits)
        assert torch.equal(network.project(decoded), embedding)

    @torch.no_grad()
    def test_normalisation_is_inside(self, network):
        decoded = network.backbone.decode(
            network.backbone.encode(
                (pad_to_multiple(pictures(1), self.divisor).expand(-1, 3, -1, -1) - network.mean) / network.std
            )
        )
        torch.testing.assert_close(network.classify(decoded, *ODD), network(pictures(1)))
        assert not {"mean", "std"} & set(network.state_dict())

    def test_one_image_in_training(self):
        network = self.build().train()
        if not self.needs_two_images:
            assert network(pictures(1, (64, 64))).shape == (1, 2, 64, 64)
            return
        with pytest.raises(ValueError, match="a batch of one image cannot train DeepLabv3+"):
            network(pictures(1, (64, 64)))
        assert network.eval()(pictures(1, (64, 64))).shape == (1, 2, 64, 64)

    @torch.no_grad()
    def test_state_is_saved_and_loaded(self, network):
        file = io.BytesIO()
        torch.save(network.state_dict(), file)
        file.seek(0)
        other = PHNet(**network.arguments).eval()  # the arguments rebuild it
        assert not torch.equal(other(pictures(1)), network(pictures(1)))
        other.load_state_dict(torch.load(file, weights_only=True))
        images = pictures(2)
        assert torch.equal(other(images), network(images))

    def test_arguments_are_plain_data(self, network):
        import json

        assert PHNet(**json.loads(json.dumps(network.arguments))).arguments == network.arguments

    @torch.no_grad()
    @pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")  # sizes are constants of a trace
    def test_trace_gives_the_same(self, network, tmp_path: Path):
        traced = torch.jit.trace(network, pictures(1), check_trace=False)
        torch.jit.save(traced, tmp_path / "network.ts")
        loaded = torch.jit.load(tmp_path / "network.ts")
        for seed in (1, 2):
            images = pictures(1, seed=seed)
            torch.testing.assert_close(loaded(images), network(images))

    @torch.no_grad()
    @pytest.mark.filterwarnings("ignore:The TorchScript type system")
    def test_script_takes_any_size(self, network, tmp_path: Path):
        whole = self.build(embedding_size=None, fit_size=self.scripted_fit_size).eval()
        whole.load_state_dict(make_teacher(network).state_dict())
        torch.jit.save(torch.jit.script(whole), tmp_path / "network.ts")
        loaded = torch.jit.load(tmp_path / "network.ts")
        for images in (pictures(2), pictures(1, (40, 70), seed=1)):
            torch.testing.assert_close(loaded(images), whole(images), atol=1e-4, rtol=1e-3)

    @torch.no_grad()
    def test_teacher_is_an_independent_copy_without_projector(self, network):
        teacher = make_teacher(network)
        assert teacher.projector is None
        assert network.projector is not None  # the student keeps its own
        assert teacher.arguments == {**network.arguments, "embedding_size": None}
        assert not teacher.training
        assert not any(parameter.requires_grad for parameter in teacher.parameters())
        assert all(parameter.requires_grad for parameter in network.parameters())
        assert not storages(teacher) & storages(network)
        images = pictures(2)
        logits, embedding = teacher.forward_features(images)
        assert embedding is None
        assert torch.equal(logits, network(images))
        with pytest.raises(ValueError, match="built without a projector"):
            teacher.project(teacher.decode(teacher.encode(images)))

    def test_gradients_reach_all_parameters(self):
        network = self.build(dropout=0.0).train()
        logits, embedding = network.forward_features(pictures(3, (64, 64)))
        generator = torch.Generator().manual_seed(0)
        loss = (logits * torch.randn(logits.shape, generator=generator)).mean()
        (loss + (embedding * torch.randn(embedding.shape, generator=generator)).mean()).backward()
        without = [
            name
            for name, p in network.named_parameters()
            if p.grad is None or not p.grad.isfinite().all() or not p.grad.any()
        ]
        assert without == []

    @torch.no_grad()
    def test_fitting_inside_equals_fitting_by_hand(self, network):
        fitting = self.build(fit_size=64, pad_value=0.2)
        fitting.load_state_dict(network.state_dict())
        images = pictures(2)
        by_hand = unfit_batch(network(fit_batch(images, 64, 0.2)).softmax(dim=1), *ODD)
        found = fitting.eval()(images)
        assert found.shape == (2, 2, *ODD)
        torch.testing.assert_close(found.softmax(dim=1), by_hand)
        torch.testing.assert_close(found.exp(), by_hand)  # already normalised

    @torch.no_grad()
    def test_damaged_weights_are_no_answer(self):
        """As MONAI's own workflows load them, which look at no value; NaN would be background everywhere."""
        fitting = self.build(fit_size=64).eval()
        next(iter(fitting.classifier.parameters())).fill_(float("nan"))
        with pytest.raises(ValueError, match="gave NaN or infinite values"):
            fitting(pictures(2))

    @torch.no_grad()
    def test_bfloat16_autocast(self, network):
        images = pictures(2)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits, embedding = network.forward_features(images)
        assert logits.isfinite().all()
        assert embedding.isfinite().all()
        assert (logits.float() - network(images)).abs().mean() < 0.1 * network(images).std() + 0.02

    @pytest.mark.parametrize("shape", [(2, 3, 64, 64), (2, 64, 64), (1, 64, 64)])
    def test_images_of_another_shape_are_refused(self, network, shape):
        with pytest.raises(ValueError, match=r"expected \(B, 1, H, W\)"):
            network(torch.zeros(shape))


class TestDeepLabStride8(NetworkSuite):
    arguments: ClassVar = {
        "encoder": "resnet18",
        "decoder": "deeplabv3plus",
        "output_stride": 8,
        "atrous_rates": [12, 24, 36],
    }
    divisor = 8
    needs_two_images = True
    scripted_fit_size = None

    @torch.no_grad()
    def test_the_encoder_is_dilated(self, network):
        assert network.encode(pictures(1, (64, 64)))[-1].shape[-2:] == (8, 8)


class TestDeepLabStride16(NetworkSuite):
    arguments: ClassVar = {
        "encoder": "resnet18",
        "decoder": "deeplabv3plus",
        "output_stride": 16,
        "atrous_rates": [6, 12, 18],
    }
    divisor = 16
    needs_two_images = True

    @torch.no_grad()
    def test_the_encoder_is_dilated(self, network):
        assert network.encode(pictures(1, (64, 64)))[-1].shape[-2:] == (4, 4)


class TestDeepLabLite0(NetworkSuite):
    arguments: ClassVar = {
        "encoder": "tu-tf_efficientnet_lite0",
        "decoder": "deeplabv3plus",
        "output_stride": 16,
        "atrous_rates": [6, 12, 18],
    }
    divisor = 16
    needs_two_images = True

    def test_inputs_are_scaled_to_minus_one_and_one(self, network):
        assert network.mean.unique().tolist() == [0.5]
        assert network.std.unique().tolist() == [0.5]


class TestUNetResNet18(NetworkSuite):
    arguments: ClassVar = {"encoder": "resnet18", "decoder": "unet"}
    divisor = 32


class TestPlainUNet(NetworkSuite):
    arguments: ClassVar = {"decoder": "plain_unet", "unet_features": [4, 8, 8, 16, 16]}
    divisor = 16

    def test_five_widths_are_needed(self):
        with pytest.raises(ValueError, match=r"expected 5 widths in unet_features, found \(4, 8\)"):
            self.build(unet_features=[4, 8])

    def test_there_are_no_weights(self):
        with pytest.raises(ValueError, match="plain_unet is trained from scratch, but weights='imagenet'"):
            self.build(weights="imagenet")


class TestResidualAttentionUNet(NetworkSuite):
    arguments: ClassVar = {"decoder": "residual_attention_unet", "unet_features": [4, 8, 8, 16, 16]}
    divisor = 16

    def test_five_widths_are_needed(self):
        with pytest.raises(ValueError, match=r"expected 5 widths in unet_features, found \(4, 8\)"):
            self.build(unet_features=[4, 8])

    def test_there_are_no_weights(self):
        with pytest.raises(ValueError, match="residual_attention_unet is trained from scratch, but weights='imagenet'"):
            self.build(weights="imagenet")

    def test_dropout_is_in_the_deep_levels_only(self):
        backbone = self.build().backbone
        rates = [[m.p for m in level.modules() if isinstance(m, torch.nn.Dropout)] for level in backbone.levels]
        assert rates == [[], [], [], [0.3, 0.3], [0.5, 0.5]]

    @torch.no_grad()
    def test_a_closed_gate_shuts_the_skip(self, network):
        """With the gate of the finest level at 0, only what came from below is left of it."""
        other = copy.deepcopy(network)
        stage = other.backbone.up_0
        norm = stage.gate.psi[1]
        norm.weight.zero_()
        norm.bias.fill_(-1e4)
        features = other.encode(pictures(1))
        changed = [features[0] + 5, *features[1:]]
        torch.testing.assert_close(other.decode(features).segmentation, other.decode(changed).segmentation)
        difference = network.decode(features).segmentation - network.decode(changed).segmentation
        assert difference.abs().max() > 1e-3


class TestPDFUNet(NetworkSuite):
    arguments: ClassVar = {"decoder": "pdf_unet", "unet_features": [4, 8, 8, 16, 16]}
    divisor = 16

    @pytest.mark.parametrize("widths", [[4, 8], [4, 8, 7, 16, 16], [4, 8, 8, 16, 18]])
    def test_widths_that_cannot_be_halved_are_refused(self, widths):
        with pytest.raises(ValueError, match=r"pdf_unet: unet_features are .* expected 5 even widths"):
            self.build(unet_features=widths)

    def test_there_are_no_weights(self):
        with pytest.raises(ValueError, match="pdf_unet is trained from scratch, but weights='imagenet'"):
            self.build(weights="imagenet")

    def test_the_parts_are_those_of_the_source(self):
        backbone = self.build(unet_features=[32, 64, 128, 256, 512]).backbone
        rates = [[m.p for m in level.modules() if isinstance(m, torch.nn.Dropout)] for level in backbone.levels]
        assert rates == [[0.0], [0.0], [0.3], [0.4], [0.5]]
        first = [level[0].conv for level in backbone.levels]
        assert [conv.in_channels for conv in first] == [3, 64, 128, 256, 512]  # max and average, side by side
        assert [bridge.conv.out_channels for bridge in backbone.bridges] == [16, 32, 64, 128]
        convs = [(conv.kernel_size[0], conv.dilation[0], conv.out_channels) for conv in backbone.bottleneck.convs]
        assert convs == [(1, 1, 128), (3, 2, 128), (3, 4, 128), (3, 6, 128)]


# the embedding at single pixels


@pytest.mark.parametrize("size", [(16, 24), (13, 22), (4, 4)])
@pytest.mark.parametrize("stride", [4, 2])
def test_embedding_at_equals_upsampling_everything(size, stride):
    batch, depth = 3, 5
    rows, columns = (-(-extent // stride) for extent in size)
    embedding = torch.randn(batch, depth, rows, columns, generator=torch.Generator().manual_seed(0))
    full = F.interpolate(embedding, scale_factor=stride, mode="bilinear", align_corners=False)
    full = full[..., : size[0], : size[1]].permute(0, 2, 3, 1).reshape(-1, depth)
    index = torch.randperm(len(full), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(embedding_at(embedding, index, size, stride=stride), full[index])


def test_embedding_at_no_pixel_and_repeated_pixels():
    embedding = torch.randn(2, 3, 4, 4)
    assert embedding_at(embedding, torch.zeros(0, dtype=torch.long), (16, 16)).shape == (0, 3)
    twice = embedding_at(embedding, torch.tensor([300, 300]), (16, 16))
    assert torch.equal(twice[0], twice[1])


def test_embedding_at_has_the_gradient_of_upsampling():
    embedding = torch.randn(1, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    index, factor = torch.tensor([0, 17, 100, 255]), torch.randn(4, 2, generator=torch.Generator().manual_seed(1))
    sparse, full = embedding.clone().requires_grad_(), embedding.clone().requires_grad_()
    (embedding_at(sparse, index, (16, 16)) * factor).sum().backward()
    dense = F.interpolate(full, scale_factor=4, mode="bilinear", align_corners=False)
    (dense.permute(0, 2, 3, 1).reshape(-1, 2)[index] * factor).sum().backward()
    torch.testing.assert_close(sparse.grad, full.grad)


@torch.no_grad()
def test_the_embedding_lies_where_the_pixels_are(tiny):
    """A bright dot moves its footprint in the embedding by as much as itself is moved."""
    network = tiny().eval()
    centres = []
    for y, x in ((32, 32), (64, 96)):
        image = torch.zeros(1, 1, 125, 141)
        image[0, 0, y : y + 4, x : x + 4] = 1.0
        change = (
            (network.forward_features(image)[1] - network.forward_features(torch.zeros_like(image))[1]).abs().sum(1)[0]
        )
        total = change.sum()
        centres.append(
            (
                (change.sum(1) * torch.arange(change.shape[0])).sum() / total,
                (change.sum(0) * torch.arange(change.shape[1])).sum() / total,
            )
        )
    assert float(centres[1][0] - centres[0][0]) == pytest.approx(32 / 4, abs=1.0)
    assert float(centres[1][1] - centres[0][1]) == pytest.approx(64 / 4, abs=1.0)


# other arguments


def test_three_channels_and_more_classes(tiny):
    network = tiny(in_channels=3, num_classes=4).eval()
    assert network(pictures(1, channels=3)).shape == (1, 4, *ODD)
    with pytest.raises(ValueError, match=r"expected \(B, 3, H, W\)"):
        network(pictures(1))


@torch.no_grad()
def test_grey_is_repeated_to_three_channels(tiny):
    grey, colour = tiny(0).eval(), tiny(1, in_channels=3).eval()
    colour.load_state_dict(grey.state_dict())
    torch.testing.assert_close(grey(pictures(1)), colour(pictures(1).repeat(1, 3, 1, 1)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"in_channels": 2}, r"in_channels is 2, expected 1 \(grey\) or 3"),
        ({"num_classes": 1}, "num_classes is 1, expected 2 or more"),
        ({"decoder": "segformer"}, "unknown decoder 'segformer'; expected one of deeplabv3plus, unet, plain_unet"),
        ({"decoder": "unet", "encoder": "resnet19"}, "encoder 'resnet19' cannot be built"),
        ({"decoder": "deeplabv3plus", "encoder": "tu-nothing_here"}, "encoder 'tu-nothing_here' cannot be built"),
        ({"decoder": "deeplabv3plus", "output_stride": 32}, "output_stride is 32, expected 8 or 16"),
    ],
)
def test_bad_arguments_are_refused(tiny, arguments, message):
    with pytest.raises(ValueError, match=message):
        tiny(**arguments)


def test_the_teacher_of_a_network_without_projector(tiny):
    student = tiny(embedding_size=None)
    teacher = make_teacher(student)
    assert student.projector is None
    assert teacher.projector is None
    assert not storages(teacher) & storages(student)
