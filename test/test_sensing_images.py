# SPDX-License-Identifier: Apache-2.0
"""Pictures as drivers publish them, and what becomes of them: the colours of the scene, or a refusal."""

import io
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from PIL import Image as Pillow

from specprune_ros.errors import ObservationError
from specprune_ros.sensing.camera_check import CameraCheck
from specprune_ros.sensing.images import ENCODINGS, to_rgb

HEIGHT, WIDTH = 48, 64
SCENE = np.zeros((HEIGHT, WIDTH, 3), np.uint8)  # colours that no mistake maps to themselves
SCENE[:, :32], SCENE[:, 32:], SCENE[:16] = (200, 30, 60), (30, 60, 200), (20, 180, 90)
POINTS = {"top": (6, 32), "left": (34, 12), "right": (34, 52)}  # away from the edges, which demosaicking blurs


def raw(pixels, encoding, padding=0, **changes):
    """Duck-typed sensor_msgs/Image of rows of bytes."""
    rows = np.pad(pixels.reshape(pixels.shape[0], -1), ((0, 0), (0, padding)), constant_values=77)
    fields = {"height": HEIGHT, "width": WIDTH, "encoding": encoding, "is_bigendian": 0, "step": rows.shape[1]}
    return SimpleNamespace(**{**fields, "data": rows.tobytes(), **changes})


def compressed(data, format):
    return SimpleNamespace(format=format, data=bytes(data))


def bayer(order):
    """What a sensor with the colours `order`, row by row, sees of the scene."""
    seen = np.zeros((HEIGHT, WIDTH), np.uint8)
    for k, colour in enumerate(order):
        row, column = divmod(k, 2)
        seen[row::2, column::2] = SCENE[row::2, column::2, "rgb".index(colour)]
    return seen


def ycbcr():
    """(H, W) each, by the formulas of ITU-R BT.601 with 16 to 235, as cameras send it."""
    red, green, blue = (SCENE[..., k].astype(float) for k in range(3))
    y = 16 + (65.481 * red + 128.553 * green + 24.966 * blue) / 255
    cb = 128 + (-37.797 * red - 74.203 * green + 112.0 * blue) / 255
    cr = 128 + (112.0 * red - 93.786 * green - 18.214 * blue) / 255
    return (np.round(plane).astype(np.uint8) for plane in (y, cb, cr))


def yuyv():
    y, u, v = ycbcr()
    pixels = np.zeros((HEIGHT, WIDTH, 2), np.uint8)
    pixels[..., 0], pixels[:, 0::2, 1], pixels[:, 1::2, 1] = y, u[:, 0::2], v[:, 1::2]
    return pixels


def nv(first, second):
    y, u, v = ycbcr()
    planes = {"u": u, "v": v}
    colours = np.zeros((HEIGHT // 2, WIDTH), np.uint8)
    colours[:, 0::2], colours[:, 1::2] = planes[first][::2, ::2], planes[second][::2, ::2]
    return np.vstack([y, colours])


@pytest.mark.parametrize("padding", [0, 8])
@pytest.mark.parametrize(
    ("encoding", "pixels"),
    [
        ("rgb8", SCENE),
        ("bgr8", SCENE[..., ::-1]),
        ("rgba8", np.dstack([SCENE, SCENE[..., 0]])),
        ("bgra8", np.dstack([SCENE[..., ::-1], SCENE[..., 0]])),
        *((f"bayer_{order}8", bayer(order)) for order in ("rggb", "bggr", "gbrg", "grbg")),
        ("yuyv", yuyv()),
        ("yuv422_yuy2", yuyv()),
        ("uyvy", yuyv()[..., ::-1]),
        ("yuv422", yuyv()[..., ::-1]),
        ("nv12", nv("u", "v")),
        ("nv21", nv("v", "u")),
    ],
)
def test_every_encoding_shows_the_scene(encoding, pixels, padding):
    frame = to_rgb(raw(np.ascontiguousarray(pixels), encoding, padding), "/cam")
    assert frame.shape == SCENE.shape and frame.dtype == np.uint8
    for point in POINTS.values():
        assert np.abs(frame[point].astype(int) - SCENE[point]).max() <= 4, f"{frame[point]} for {SCENE[point]}"


def test_planes_may_be_counted_into_the_height():
    frame = to_rgb(raw(nv("u", "v"), "nv12", height=HEIGHT * 3 // 2), "/cam")
    assert frame.shape == SCENE.shape


@pytest.mark.parametrize(
    "encoding",
    [
        *("rgb16", "bgr16", "bgra16", "mono16", "16UC1", "32FC1", "16SC1", "bayer_rggb16"),  # another depth
        *("8UC1", "8UC3", "8UC4"),  # no order of colours
        *("RGB8", "nv24", "yuv444", "h264", ""),
    ],
)
def test_what_may_not_be_colours_of_8_bits_is_refused(encoding):
    message = raw(np.zeros((HEIGHT, WIDTH, 8), np.uint8), encoding)
    with pytest.raises(ObservationError, match=r"image on /cam .*publish rgb8"):
        to_rgb(message, "/cam")


@pytest.mark.parametrize("encoding", ["yuv422", "uyvy", "yuv422_yuy2", "yuyv"])
def test_an_odd_width_cannot_share_colours(encoding):
    with pytest.raises(ObservationError, match="set an even resolution"):
        to_rgb(raw(np.zeros((HEIGHT, 63, 2), np.uint8), encoding, width=63), "/cam")


def jpeg(pixels, **options):
    """By Pillow, another implementation than the one that decodes."""
    file = io.BytesIO()
    Pillow.fromarray(pixels).save(file, "jpeg", quality=98, subsampling=0, **options)
    return file.getvalue()


@pytest.mark.parametrize(
    ("format", "data"),
    [
        ("jpeg", jpeg(SCENE)),
        ("rgb8; jpeg compressed bgr8", jpeg(SCENE)),
        ("bgr8; jpeg compressed bgr8", jpeg(SCENE)),
        # Written without bringing the colours to OpenCV's order: red lies where blue belongs.
        ("rgb8; jpeg compressed rgb8", jpeg(SCENE[..., ::-1])),
        ("rgb8; jpeg compressed ", jpeg(SCENE[..., ::-1])),
        ("bgr8; png compressed bgr8", cv2.imencode(".png", SCENE[..., ::-1])[1]),
        ("rgb8; png compressed rgb8", cv2.imencode(".png", SCENE)[1]),
        ("png", cv2.imencode(".png", np.dstack([SCENE[..., ::-1], SCENE[..., :1]]))[1]),
        ("rgba8; png compressed rgba8", cv2.imencode(".png", np.dstack([SCENE, SCENE[..., :1]]))[1]),
    ],
)
def test_compressed_colours_follow_the_format(format, data):
    frame = to_rgb(compressed(data, format), "/cam")
    assert frame.shape == SCENE.shape
    for point in POINTS.values():
        assert np.abs(frame[point].astype(int) - SCENE[point]).max() <= 6, f"{frame[point]} for {SCENE[point]}"


@pytest.mark.parametrize("order", ["rggb", "bggr", "gbrg", "grbg"])
def test_a_mosaic_that_was_compressed_as_it_is_has_its_colours(order):
    data = cv2.imencode(".png", bayer(order))[1]
    frame = to_rgb(compressed(data, f"bayer_{order}8; png compressed "), "/cam")
    for point in POINTS.values():
        assert np.abs(frame[point].astype(int) - SCENE[point]).max() <= 4


def with_thumbnail(pixels):
    """A JPEG that holds another one, whole, before its own picture."""
    data = jpeg(pixels)
    small = b"Exif\0\0" + jpeg(pixels[::2, ::2])
    return data[:2] + b"\xff\xe1" + (len(small) + 2).to_bytes(2, "big") + small + data[2:]


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9, 0.999])
@pytest.mark.parametrize(
    "data",
    [
        jpeg(SCENE),
        jpeg(SCENE, progressive=True),
        with_thumbnail(SCENE),
        jpeg(SCENE)[:2] + b"\xff\xff" + jpeg(SCENE)[2:],
    ],
    ids=["baseline", "progressive", "exif", "filled"],
)
def test_half_a_jpeg_is_no_picture(monkeypatch, data, share):
    assert to_rgb(compressed(data + b"\0" * 100, "jpeg"), "/cam").shape == SCENE.shape  # some drivers fill a buffer
    # As the OpenCV of Ubuntu 24.04 does, which takes what is there.
    monkeypatch.setattr(cv2, "imdecode", lambda *_: SCENE)
    with pytest.raises(ObservationError, match=r"/cam .* is cut short; check the camera"):
        to_rgb(compressed(data[: int(len(data) * share)], "jpeg"), "/cam")


def test_a_megabyte_that_decodes_to_gigabytes_is_refused_by_its_header(monkeypatch):
    monkeypatch.setattr(cv2, "imdecode", None)
    for width in (8001, 12_000, 23_000):  # at the last two Pillow warns, and refuses
        data = io.BytesIO()
        Pillow.new("1", (width, 8000)).save(data, "PNG")
        with pytest.raises(ObservationError, match="more than 64 million pixels; check the camera's driver"):
            to_rgb(compressed(data.getvalue(), "png"), "/camera")


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_picture_without_width_is_told(encoding):
    with pytest.raises(ObservationError, match="/camera has 96 bytes for height 24 x step 4 and width 0"):
        to_rgb(SimpleNamespace(encoding=encoding, height=24, width=0, step=4, data=bytes(96)), "/camera")


def test_exif_does_not_turn_the_picture():
    exif = Pillow.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    frame = to_rgb(compressed(jpeg(SCENE, exif=exif), "jpeg"), "/cam")
    assert frame.shape == SCENE.shape


@pytest.mark.parametrize(
    ("format", "data", "says"),
    [
        ("png", cv2.imencode(".png", np.full((48, 64), 900, np.uint16))[1], "16 bits"),
        ("png", cv2.imencode(".png", np.full((48, 64, 3), 900, np.uint16))[1], "16 bits"),
        ("16UC1; png compressed ", cv2.imencode(".png", np.full((48, 64), 900, np.uint16))[1], "not a colour picture"),
        ("16UC1; jpeg compressed mono8", jpeg(SCENE[..., 0]), "not a colour picture"),
        ("16UC1; compressedDepth png", b"\0" * 12, "not a colour picture"),
        ("h264", b"\0\0\0\1\x67", "does not decode"),
    ],
)
def test_compressed_depth_is_refused(format, data, says):
    with pytest.raises(ObservationError, match=says):
        to_rgb(compressed(data, format), "/cam")


@pytest.mark.parametrize("message", [raw(SCENE[..., 0].copy(), "mono8"), compressed(jpeg(SCENE[..., 0]), "jpeg")])
def test_grey_is_used_and_told(message):
    check = CameraCheck("/cam", "/camera_info")
    check.on_frame(to_rgb(raw(SCENE, "rgb8"), "/cam"), 1)
    assert check.problem(3.0) == ""
    check.on_frame(to_rgb(message, "/cam"), 2)
    assert "image on /cam has no colours" in check.problem(3.0)
