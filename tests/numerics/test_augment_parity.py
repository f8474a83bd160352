"""Batched augmentation against torchvision-v2, which transforms one uint8 image at a time.

Pixels of one operation may differ by one level (rounding of a float32 sum), and in a few pixels by more where a
nearest neighbour is a tie; how many may do so stands in `TOLERANCE`.
"""

import math
from pathlib import Path

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from scaledl.config.schema import AugmentConfig
from scaledl.data import Arrays
from scaledl.data.augment import color, filters
from scaledl.data.augment.affine import Affine, draw_affine, resample, source_matrix
from scaledl.data.augment.draws import normals, symmetric_beta_quantiles
from scaledl.data.augment.images import build_pixels_fn, draw_jitter
from scaledl.data.augment.mix import Mix, cut_box
from scaledl.data.augment.policy import KINDS, PolicyOperation, apply_kinds_, magnitudes
from scaledl.data.hashing import CUTOUT_X, CUTOUT_Y, NOISE, below, hash_ids, hash_key
from scaledl.data.idx import find_idx, read_idx

v2 = pytest.importorskip("torchvision.transforms.v2")
F = v2.functional

pytestmark = pytest.mark.numerics

TOLERANCE = 0.002  # share of the values of an image that may differ by more than one level
COUNT = 20_000  # draws of a moment


def digits() -> Tensor:
    """uint8 [4, 1, 28, 28]: real digits, enlarged."""
    small = torch.from_numpy(load_digits().images[:4]).float().unsqueeze(1)
    large = torch.nn.functional.interpolate(small, (28, 28), mode="bilinear")
    return (large * (255 / 16)).round().to(torch.uint8)


def colored() -> Tensor:
    """uint8 [4, 3, 24, 32]: smooth shapes of random colours, and noise."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(4, 3, 5, 6, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (24, 32), mode="bicubic").clamp(0, 1) * 230
    return (smooth + torch.rand(4, 3, 24, 32, generator=generator) * 25).to(torch.uint8)


def fashion() -> dict[str, Tensor]:
    """uint8 [4, 1, 28, 28], where the Debian package is installed."""
    path = find_idx(Path("/usr/share/datasets/fashion-mnist"), "t10k-images-idx3-ubyte")
    return {"fashion": read_idx(path, 3)[:4].unsqueeze(1)} if path else {}


IMAGES = {"digits": digits(), "colored": colored(), **fashion()}


@pytest.fixture(params=IMAGES)
def images(request: pytest.FixtureRequest) -> Tensor:
    return IMAGES[request.param]


def check(ours: Tensor, theirs: Tensor, tolerance: float = TOLERANCE) -> None:
    difference = (ours - theirs.float()).abs()
    assert (difference > 1).float().mean().item() <= tolerance
    assert (difference > 0).float().mean().item() <= 0.02


def one_by_one(images: Tensor, function: object, values: Tensor) -> Tensor:
    return torch.stack([function(image, value) for image, value in zip(images, values.tolist(), strict=True)])


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
def test_affine(images: Tensor, mode: str) -> None:
    degrees, shears = torch.tensor([-170.0, -20, 13, 90]), torch.tensor([0.0, 30, -17, 5])
    x, y, scale = torch.tensor([3.0, -5, 0, 1]), torch.tensor([0.0, 2, -4, 7]), torch.tensor([1.0, 0.6, 1.7, 1.1])
    affine = Affine.identity(degrees)._replace(
        angle=degrees.double().deg2rad(),
        x=x.double(),
        y=y.double(),
        scale=scale.double(),
        shear_x=shears.double().deg2rad().tan(),
        shear_y=-shears.double().deg2rad().tan(),
    )
    theirs = [
        F.affine(image, angle, [x_, y_], scale_, [shear, -shear], interpolation=v2.InterpolationMode(mode))
        for image, angle, x_, y_, scale_, shear in zip(
            images, *(values.tolist() for values in (degrees, x, y, scale, shears)), strict=True
        )
    ]
    check(resample(images.float(), source_matrix(affine), mode), torch.stack(theirs))


FACTORS = torch.tensor([0.0, 0.37, 1.0, 1.9], dtype=torch.float64)


def test_brightness_contrast_saturation_sharpness(images: Tensor) -> None:
    x = images.float()
    check(color.blend(x, color.black(x), FACTORS), one_by_one(images, F.adjust_brightness, FACTORS), 0)
    check(color.blend(x, color.mean_grey(x), FACTORS), one_by_one(images, F.adjust_contrast, FACTORS), 0)
    if images.shape[1] == 3:
        check(color.blend(x, color.grey(x), FACTORS), one_by_one(images, F.adjust_saturation, FACTORS), 0)
    check(filters.sharpen(x, FACTORS), one_by_one(images, F.adjust_sharpness, FACTORS), 0)


def test_what_tables_of_levels_do(images: Tensor) -> None:
    x, bits, thresholds = images.float(), torch.tensor([1, 4, 7, 8]), torch.tensor([0.0, 40.5, 128, 255])
    assert torch.equal(color.posterize(x, bits), one_by_one(images, F.posterize, bits).float())
    assert torch.equal(color.solarize(x, thresholds), one_by_one(images, F.solarize, thresholds).float())
    for flat in (images, torch.full_like(images, 9), images // 64 * 30, images // 255):
        assert torch.equal(color.equalize(flat.float()), F.equalize(flat).float())
        check(color.autocontrast(flat.float()), F.autocontrast(flat), 0)


def test_blur(images: Tensor) -> None:
    sigma = torch.tensor([0.1, 0.5, 1.3, 2.0], dtype=torch.float64)
    radius = filters.blur_radius(2.0, *images.shape[2:])
    assert radius == 6
    check(
        filters.blur(images.float(), sigma, radius),
        one_by_one(images, lambda image, value: F.gaussian_blur(image, [13, 13], [value, value]), sigma),
        0,
    )


def test_cutout(images: Tensor) -> None:
    top, left = torch.tensor([0, 3, 16, 9]), torch.tensor([20, 0, 7, 5])
    erased = [
        F.erase(image, i, j, 8, 8, torch.zeros(1, 1, 1))
        for image, i, j in zip(images, top.tolist(), left.tolist(), strict=True)
    ]
    assert torch.equal(filters.cutout(images.float(), top, left, 8), torch.stack(erased).float())


@pytest.mark.parametrize("policy", ["randaugment", "trivialaugment"])
def test_every_kind_of_a_policy_at_every_strength(images: Tensor, policy: str) -> None:
    theirs = {"randaugment": v2.RandAugment, "trivialaugment": v2.TrivialAugmentWide}[policy]()
    height, width = images.shape[2:]
    table = magnitudes(policy, height, width)
    names = list(theirs._AUGMENTATION_SPACE)
    assert [name.lower() for name in names] == [kind.replace("_", "") for kind in KINDS]
    image = images[:1]
    for number, (name, (values_fn, signed)) in enumerate(theirs._AUGMENTATION_SPACE.items()):
        values = values_fn(31, height, width)
        strengths = [float(value) for value in values] if values is not None else [0.0]
        if signed:
            strengths += [-strength for strength in strengths]
        ours_at = table[number, : len(values) if values is not None else 1]
        ours_at = torch.cat([ours_at, -ours_at]) if signed else ours_at
        scale = 255 if name == "Solarize" else 1
        assert ours_at.tolist() == pytest.approx([strength * scale for strength in strengths])
        expected = [theirs._apply_image_or_video_transform(image[0], name, s, "nearest", {}) for s in strengths]
        many = image.float().expand(len(strengths), -1, -1, -1).clone()
        ours = apply_kinds_(many, torch.full((len(strengths),), number), ours_at)
        check(ours, torch.stack(expected))


def test_a_policy_draws_every_kind_bin_and_sign_evenly() -> None:
    trivial = PolicyOperation("trivialaugment", 2, 9, seed=1, height=28, width=28)
    kind, magnitude = trivial.draw(torch.arange(62_000), 0, 0)
    counts = torch.bincount(kind, minlength=14).double()
    expected = 62_000 / 14
    assert (counts - expected).abs().max() <= 5 * (expected * 13 / 14) ** 0.5
    shears = magnitude[kind == 1]
    bins = (shears.abs() / 0.99 * 30).round().long()
    assert ((torch.bincount(bins, minlength=31) / len(bins) - 1 / 31).abs() < 5 * (1 / 31 / len(bins)) ** 0.5).all()
    assert abs((shears[bins > 0] < 0).double().mean().item() - 0.5) < 0.04
    assert (magnitude[kind == 11] >= 0).all()
    rand = PolicyOperation("randaugment", 2, 9, seed=1, height=28, width=28)
    kinds = [rand.draw(torch.arange(1000), 0, turn)[0] for turn in (0, 1)]
    assert abs((kinds[0] == kinds[1]).double().mean().item() - 1 / 14) < 0.04
    assert set(rand.draw(torch.arange(1000), 0, 0)[1][kinds[0] == 1].abs().tolist()) == {
        magnitudes("randaugment", 28, 28)[1, 9].item()
    }


def close_moments(ours: Tensor, theirs: Tensor, low: float, high: float) -> None:
    """Mean and deviation of two samples of a distribution on [low, high], within five standard errors; same limits."""
    ours, theirs = ours.double(), theirs.double()
    error = theirs.std().item() * (1 / len(ours) + 1 / len(theirs)) ** 0.5
    assert abs((ours.mean() - theirs.mean()).item()) <= 5 * error + 1e-9
    assert abs((ours.std() - theirs.std()).item()) <= 5 * error + 1e-9
    assert low <= ours.min().item() <= ours.max().item() <= high


def test_parameters_of_the_affine_map_are_distributed_as_in_random_affine() -> None:
    augment = AugmentConfig(rotation=30, translation=0.2, scale=(0.7, 1.4), shear=12)
    ours = draw_affine(torch.arange(COUNT), augment, 0, 0, 24, 32)
    torch.manual_seed(0)
    transform = v2.RandomAffine(30, (0.2, 0.2), (0.7, 1.4), 12)
    drawn = [transform.make_params([IMAGES["colored"][0]]) for _ in range(4000)]

    def theirs(read: object) -> Tensor:
        return torch.tensor([float(read(params)) for params in drawn])

    close_moments(ours.angle.rad2deg(), theirs(lambda p: p["angle"]), -30, 30)
    close_moments(ours.x, theirs(lambda p: p["translate"][0]), -6, 6)
    close_moments(ours.y, theirs(lambda p: p["translate"][1]), -5, 5)
    close_moments(ours.scale, theirs(lambda p: p["scale"]), 0.7, 1.4)
    close_moments(ours.shear_x.atan().rad2deg(), theirs(lambda p: p["shear"][0]), -12.0001, 12)
    assert not ours.shear_y.any()
    parameters = torch.stack([ours.angle, ours.x, ours.y, ours.scale, ours.shear_x])
    assert (torch.corrcoef(parameters) - torch.eye(5)).abs().max() < 5 / COUNT**0.5


def test_factors_and_order_are_distributed_as_in_color_jitter() -> None:
    factors, order = draw_jitter(torch.arange(COUNT), {"brightness": 0.4, "contrast": 1.5, "saturation": 0.1}, 0, 0)
    torch.manual_seed(0)
    transform = v2.ColorJitter(0.4, 1.5, 0.1)
    drawn = [transform.make_params([]) for _ in range(4000)]
    for ours, name, (low, high) in zip(
        factors, ("brightness", "contrast", "saturation"), ((0.6, 1.4), (0, 2.5), (0.9, 1.1)), strict=True
    ):
        close_moments(ours, torch.tensor([params[f"{name}_factor"] for params in drawn]), low, high)
    counts = torch.bincount(order[0] * 3 + order[1], minlength=9).double()
    assert counts[[0, 4, 8]].sum() == 0
    assert (counts[counts > 0] - COUNT / 6).abs().max() <= 5 * (COUNT / 6 * 5 / 6) ** 0.5


def test_cutout_lies_where_random_erasing_lies() -> None:
    keys = [hash_key(0, 0, draw) for draw in (CUTOUT_Y, CUTOUT_X)]
    top, left = below(hash_ids(torch.arange(COUNT), keys), (28 - 7 + 1, 28 - 7 + 1))
    torch.manual_seed(0)
    transform = v2.RandomErasing(1.0, scale=(1 / 16, 1 / 16), ratio=(1, 1))
    drawn = [transform.make_params([IMAGES["digits"][0]]) for _ in range(4000)]
    assert {(params["h"], params["w"]) for params in drawn} == {(7, 7)}
    close_moments(top, torch.tensor([params["i"] for params in drawn]), 0, 21)
    close_moments(left, torch.tensor([params["j"] for params in drawn]), 0, 21)


def test_noise_is_normal_and_as_in_gaussian_noise() -> None:
    drawn = normals(torch.arange(500), 0, 0, NOISE, 28 * 28).double()
    assert abs(drawn.mean().item()) < 5 / drawn.numel() ** 0.5
    assert abs(drawn.var().item() - 1) < 5 * (2 / drawn.numel()) ** 0.5
    assert abs((drawn**4).mean().item() - 3) < 5 * (96 / drawn.numel()) ** 0.5
    neighbours = (drawn[:, :-1] * drawn[:, 1:]).mean().item()
    samples = (drawn[:-1] * drawn[1:]).mean().item()
    assert max(abs(neighbours), abs(samples)) < 5 / drawn.numel() ** 0.5
    image = torch.full((500, 1, 28, 28), 60.0)
    ours = filters.add_noise(image, drawn.float(), 0.2)
    torch.manual_seed(0)
    theirs = F.gaussian_noise(image / 255, sigma=0.2) * 255
    close_moments(ours.flatten(), theirs.flatten(), 0, 255)


@pytest.mark.parametrize("alpha", [0.1, 0.2, 0.5, 1.0, 2.0, 8.0, 100.0])
def test_beta_quantiles(alpha: float) -> None:
    special = pytest.importorskip("scipy.special")
    middles = (torch.arange(65_536, dtype=torch.float64) + 0.5) / 65_536
    expected = torch.from_numpy(special.betaincinv(alpha, alpha, middles.numpy()))
    torch.testing.assert_close(symmetric_beta_quantiles(alpha), expected, rtol=0, atol=1e-5)


def make_mix(mixup: float, cutmix: float, images: Tensor) -> Mix:
    augment = AugmentConfig(mixup=mixup, cutmix=cutmix)
    arrays = Arrays(images, torch.arange(len(images)) % 3, torch.arange(len(images)) + 50)
    return Mix(arrays, build_pixels_fn(images, augment, 0), augment, 3, 0)


def test_weights_partners_and_boxes_are_distributed_as_in_mixup_and_cutmix() -> None:
    mix = make_mix(0.4, 0.7, torch.zeros(40, 24, 32, 1, dtype=torch.uint8))
    draws = mix.draw(torch.arange(COUNT), 0)
    assert (torch.bincount(draws.partner, minlength=40) - COUNT / 40).abs().max() < 5 * (COUNT / 40) ** 0.5
    assert abs(draws.cut.double().mean().item() - 0.5) < 0.02
    torch.manual_seed(0)
    close_moments(draws.mixup_weight, torch.distributions.Beta(0.4, 0.4).sample((COUNT,)), 0, 1)
    close_moments(draws.cutmix_weight, torch.distributions.Beta(0.7, 0.7).sample((COUNT,)), 0, 1)
    top, left, bottom, right = cut_box(draws, 24, 32)
    transform = v2.CutMix(alpha=0.7, num_classes=3)
    theirs = [transform.make_params([torch.zeros(2, 1, 24, 32)]) for _ in range(8000)]
    boxes = torch.tensor([params["box"] for params in theirs])
    for ours, column in ((left, 0), (top, 1), (right, 2), (bottom, 3)):
        close_moments(ours, boxes[:, column], 0, 32)
    area = (bottom - top) * (right - left) / (24 * 32)
    close_moments(1 - area, torch.tensor([params["lam_adjusted"] for params in theirs]), 0, 1)


def test_augmented_pixels_have_the_moments_of_the_customary_pipeline() -> None:
    image = IMAGES["colored"][0]
    augment = AugmentConfig(
        rotation=20, translation=0.1, scale=(0.8, 1.2), brightness=0.4, contrast=0.4, saturation=0.4
    )
    stored = image.permute(1, 2, 0).unsqueeze(0).expand(2000, -1, -1, -1).contiguous()
    ours = build_pixels_fn(stored, augment, 0)(torch.arange(2000), torch.arange(2000), 0).permute(0, 3, 1, 2)
    torch.manual_seed(0)
    bilinear = v2.InterpolationMode.BILINEAR
    transform = v2.Compose(
        [v2.RandomAffine(20, (0.1, 0.1), (0.8, 1.2), interpolation=bilinear), v2.ColorJitter(0.4, 0.4, 0.4)]
    )
    theirs = torch.stack([transform(image) for _ in range(2000)]).float()
    error = theirs.std(0) * math.sqrt(2 / 2000) + 0.2
    assert ((ours.mean(0) - theirs.mean(0)).abs() <= 5 * error).all()
    assert ((ours.std(0) - theirs.std(0)).abs() <= 5 * error).all()


@pytest.mark.parametrize("policy", ["randaugment", "trivialaugment"])
def test_pixels_of_a_policy_have_the_moments_of_torchvision(policy: str) -> None:
    image = IMAGES["colored"][0]
    stored = image.permute(1, 2, 0).unsqueeze(0).expand(3000, -1, -1, -1).contiguous()
    fn = build_pixels_fn(stored, AugmentConfig(policy=policy), 0)
    ours = fn(torch.arange(3000), torch.arange(3000), 0).permute(0, 3, 1, 2)
    torch.manual_seed(0)
    transform = {"randaugment": v2.RandAugment, "trivialaugment": v2.TrivialAugmentWide}[policy]()
    theirs = torch.stack([transform(image) for _ in range(3000)]).float()
    error = theirs.std(0) * math.sqrt(2 / 3000) + 0.2
    assert ((ours.mean(0) - theirs.mean(0)).abs() <= 5 * error).all()
    assert ((ours.std(0) - theirs.std(0)).abs() <= 5 * error).all()
