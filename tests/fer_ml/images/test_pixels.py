"""Decoding, cropping and normalising, against numpy by hand."""

from dataclasses import fields, replace

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms.v2.functional import normalize

from fer_ml.images.pixels import (
    crop_face,
    cut_square,
    decode,
    encode_png,
    is_grey,
    normalise,
    prepare,
    prepare_packed,
    read_image,
)
from fer_ml.recipes.preprocess import Frame, Preprocess
from fer_ml.training.views import to_input
from tests.refusals import refused

PLAIN = Preprocess(size=32, clahe_clip=0.0)


def png(image: np.ndarray) -> bytes:
    ok, data = cv2.imencode(".png", image)
    assert ok
    return data.tobytes()


def photo(width: int = 40, height: int = 30) -> np.ndarray:
    return np.random.default_rng(5).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_png_round_trip_keeps_every_pixel_and_the_channel_order() -> None:
    image = photo()
    assert (decode(encode_png(image), where="x") == image).all()
    red = np.zeros((4, 4, 3), np.uint8)
    red[..., 0] = 255
    assert decode(png(red[..., ::-1]), where="x")[0, 0].tolist() == [255, 0, 0]


def test_grey_becomes_three_equal_channels() -> None:
    grey = photo()[..., 0]
    for data in (png(grey), encode_png(grey)):
        image = decode(data, where="x")
        assert image.shape == (30, 40, 3)
        assert (image == grey[..., None]).all()


def test_alpha_is_dropped_and_16_bit_is_scaled_to_8() -> None:
    bgra = np.dstack([photo(), np.full((30, 40), 7, np.uint8)])
    assert (decode(png(bgra), where="x") == bgra[..., 2::-1]).all()
    deep = np.array([[0, 255, 256, 65535]], np.uint16)
    assert decode(png(deep), where="x").dtype == np.uint8
    assert decode(png(deep), where="x")[0, :, 0].tolist() == [0, 0, 1, 255]


@pytest.mark.parametrize(
    "data",
    [b"", b"not an image", b"\x89PNG\r\n\x1a\n", png(photo())[:60], png(photo())[:20], b"\0" * 500],
)
def test_what_is_no_image_is_refused_by_name(data: bytes) -> None:
    with refused("undecodable-image" if data else "empty-image", where="faces/7.png"):
        decode(data, where="faces/7.png")


def test_an_absent_file_or_a_folder_is_refused_by_name(tmp_path) -> None:
    for path, code in ((tmp_path / "no.png", "unreadable-file"), (tmp_path, "not-regular-file")):
        with refused(code, where=path):
            read_image(path)


INSIDE = (0, 0, 40, 30)


@pytest.mark.parametrize(
    "box",
    [
        (-1, 0, 10, 10),
        (0, -1, 10, 10),
        (0, 0, 41, 30),
        (0, 0, 40, 31),
        (10, 5, 10, 20),
        (20, 5, 10, 20),
        (5, 20, 10, 20),
        (5, 25, 10, 20),
        (40, 30, 50, 40),
    ],
)
def test_a_box_outside_the_photo_is_never_clamped(box: tuple[int, int, int, int]) -> None:
    with refused("invalid-box"):
        crop_face(photo(), box)
    with refused("invalid-box"):
        prepare(photo(), box, PLAIN)


@given(st.data())
@settings(max_examples=60)
def test_the_square_is_centred_on_the_box_whatever_its_shape(data: st.DataObject) -> None:
    """Against cutting it from a canvas on which the photo's edges go on."""
    left, top = data.draw(st.integers(0, 39)), data.draw(st.integers(0, 29))
    right, bottom = data.draw(st.integers(left + 1, 40)), data.draw(st.integers(top + 1, 30))
    frame = Frame(data.draw(st.sampled_from([0.5, 1.0, 1.3, 3.0])), 0.25)
    side = max(1, round(frame.side * (bottom - top)))
    image = photo()
    canvas = cv2.copyMakeBorder(image, 100, 100, 100, 100, cv2.BORDER_REPLICATE)
    x = round(left + (right - left - side) / 2) + 100
    y = round(top + (bottom - top - side) / 2 + 0.25 * (bottom - top)) + 100
    wanted = canvas[y : y + side, x : x + side]
    assert (cut_square(image, (left, top, right, bottom), frame, side) == wanted).all()


def test_no_box_is_a_published_crop_and_never_squashed() -> None:
    image = photo(30, 30)
    assert crop_face(image, None) is image
    assert (cut_square(image, None, Frame(3.0, 0.4), 30) == image).all(), "it is the square"
    wide = photo(40, 30)
    found = cut_square(wide, None, Frame(), 40)
    assert (found[5:35] == wide).all()
    assert (found[:5] == wide[:1]).all() and (found[35:] == wide[-1:]).all()


@pytest.mark.parametrize("shape", [(1, 20_000), (20_000, 1), (1, 1), (2, 3)])
def test_a_crop_of_an_odd_shape_costs_no_more_than_its_pixels(shape: tuple[int, int]) -> None:
    image = np.zeros((*shape, 3), np.uint8)
    assert cut_square(image, None, Frame(), 48).shape == (48, 48, 3)
    box = (0, 0, shape[1], shape[0])
    assert cut_square(image, box, Frame(5.0, 0.4), 48).shape == (48, 48, 3)


def test_grey_is_told_from_colour_and_changes_no_grey_face() -> None:
    grey = np.repeat(photo()[..., :1], 3, axis=2)
    jpeg = cv2.imdecode(cv2.imencode(".jpg", grey)[1], cv2.IMREAD_COLOR)
    assert is_grey(grey) and is_grey(jpeg) and not is_grey(photo())
    for clip in (0.0, 2.0):
        spec = Preprocess(size=32, clahe_clip=clip)
        assert (
            prepare(grey, None, replace(spec, colour="grey")) == prepare(grey, None, spec)
        ).all()


def test_clahe_has_an_effect_at_every_size() -> None:
    """With eight tiles a side on 48 px, OpenCV raised every limit to the same one."""
    smooth = cv2.GaussianBlur(photo(224, 224), (0, 0), 5)
    for size in (48, 64, 224):
        face = cv2.resize(smooth, (size, size), interpolation=cv2.INTER_AREA)
        made = [
            prepare_packed(face, None, Preprocess(size=size, clahe_clip=clip)).tobytes()
            for clip in (0.0, 2.0, 7.0, 14.0)
        ]
        assert len(set(made)) == len(made), size
        tiles = [
            prepare_packed(face, None, Preprocess(size=size, clahe_tiles=tiles)).tobytes()
            for tiles in (1, 2, 3)
        ]
        assert len(set(tiles)) == len(tiles), size


@pytest.mark.parametrize(
    ("size", "oversize", "tiles"), [(16, 1.0, 1), (48, 1.0, 3), (64, 1.5, 6), (224, 1.0, 8)]
)
def test_tiles_follow_the_face(size: int, oversize: float, tiles: int) -> None:
    assert Preprocess(size=size, oversize=oversize).tiles == tiles
    assert Preprocess(size=size, oversize=oversize, clahe_tile_px=1).tiles == 8


@pytest.mark.parametrize("size", [16, 48, 224])
@pytest.mark.parametrize("box", [None, (3, 4, 5, 6), INSIDE])
def test_prepare_always_gives_the_square(size: int, box: tuple[int, int, int, int] | None) -> None:
    for clip in (0.0, 2.0):
        face = prepare(photo(), box, Preprocess(size=size, clahe_clip=clip))
        assert face.shape == (size, size, 3)
        assert face.dtype == np.uint8


def test_clahe_zero_is_off_and_otherwise_changes_lightness() -> None:
    image = np.tile(np.linspace(90, 110, 32).astype(np.uint8)[None, :, None], (32, 1, 3))
    assert (prepare(image, None, PLAIN) == image).all()
    spread = prepare(image, None, Preprocess(size=32, clahe_clip=2.0))
    assert np.ptp(spread) > 1.5 * np.ptp(image)
    assert np.ptp(spread.astype(int), axis=2).max() <= 2, "grey stays grey"


def test_prepare_does_not_touch_its_input() -> None:
    image = photo(32, 32)
    before = image.copy()
    prepare(image, None, Preprocess(size=32))
    assert (image == before).all()


def test_normalise_is_torchvisions_and_the_training_inputs() -> None:
    """What serving feeds the network is what training fed it, to the last bits of a float."""
    spec = Preprocess(size=16)
    faces = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    ours = normalise(faces, spec)
    theirs = normalize(
        torch.from_numpy(faces).permute(0, 3, 1, 2).float() / 255, list(spec.mean), list(spec.std)
    )
    assert ours.dtype == np.float32
    assert ours.flags.c_contiguous
    np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-6)
    np.testing.assert_allclose(ours, to_input(faces, spec).numpy(), atol=1e-6)


def test_the_digest_follows_every_field() -> None:
    base = Preprocess(size=48)
    others = [
        {"size": 64},
        {"frame": Frame(1.2)},
        {"colour": "grey"},
        {"oversize": 1.15},
        {"clahe_clip": 0.0},
        {"clahe_tiles": 4},
        {"clahe_tile_px": 8},
        {"mean": (0.5, 0.5, 0.5)},
        {"std": (0.5, 0.5, 0.5)},
    ]
    assert {next(iter(change)) for change in others} == {field.name for field in fields(Preprocess)}
    digests = {replace(base, **change).digest() for change in others} | {base.digest()}
    assert len(digests) == len(others) + 1
    assert Preprocess(size=48).digest() == base.digest()


def test_a_chunk_that_claims_more_than_the_file_has_is_refused_before_decoding() -> None:
    # OpenCV's decoder would take a gigabyte for it first.
    whole = encode_png(np.zeros((4, 5), np.uint8))
    overlong = (10**9).to_bytes(4, "big") + b"IDAT" + b"name"
    with refused("undecodable-image"):
        decode(whole[:-12] + overlong + whole[-12:], where="a.png")
    assert decode(whole + b"what a camera appends", where="a.png").shape == (4, 5, 3)
