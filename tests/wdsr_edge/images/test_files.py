import dataclasses
import errno
import io
import itertools
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, TiffImagePlugin

import wdsr_edge
from wdsr_edge._errors import InputError, MissingExtraError
from wdsr_edge.images.files import Picture, check_writable, read_picture, read_rgb, write_picture
from wdsr_edge.images.folders import list_images
from wdsr_edge.images.formats import SUFFIXES

H, W = 48, 64
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
EXIF_IFD, GPS_IFD = 0x8769, 0x8825


def photo(channels=3):
    """A crop of the coffee photograph; 1 channel is [H, W], 4 adds a slanted alpha."""
    path = Path(wdsr_edge.__file__).parent / "images" / "photos" / "coffee.png"
    with Image.open(path) as image:
        rgb = np.array(image.convert("RGB").crop((200, 100, 200 + W, 100 + H)))
    if channels == 1:
        return np.ascontiguousarray(rgb[..., 1])
    alpha = np.add.outer(np.arange(H) * 2, np.arange(W)).astype(np.uint8)
    return np.dstack([rgb, alpha])[..., :channels].copy()


def photo16(channels=3):
    """The same with low bytes of their own."""
    low = (np.arange(H * W * channels) * 37 % 256).astype(np.uint16).reshape(photo(channels).shape)
    return photo(channels).astype(np.uint16) * 256 + low


def exif_bytes(orientation=None):
    exif = Image.Exif()
    exif[271], exif[306], exif[40091] = "ACME", "2024:05:06 07:08:09", "title".encode("utf-16le")
    if orientation is not None:
        exif[274] = orientation
    exif[EXIF_IFD] = {0x9003: "2024:05:06 07:08:09", 0x829A: 0.004, 0x927C: b"maker" * 9, 0xA002: W, 0xA003: H}
    exif[GPS_IFD] = {1: "N", 2: (50.0, 4.0, 30.5)}
    return exif.tobytes()


def gray_profile():
    """A minimal v2 profile header of the colour space GRAY; nothing reads past it."""
    data = bytearray(SRGB)
    data[16:20] = b"GRAY"
    return bytes(data)


def described(path):
    """The fields of an Exif block that a photographer would miss."""
    with Image.open(path) as image:
        exif = image.getexif()
        sub, gps = exif.get_ifd(EXIF_IFD), exif.get_ifd(GPS_IFD)
        return (exif.get(271), exif.get(306), sub.get(0x9003), float(sub.get(0x829A, 0)), sub.get(0x927C), gps.get(1))


DESCRIBED = ("ACME", "2024:05:06 07:08:09", "2024:05:06 07:08:09", 0.004, b"maker" * 9, "N")


def close_to(a, b, tolerance):
    return a.shape == b.shape and np.abs(a.astype(int) - b.astype(int)).mean() < tolerance


# The files that were there before


def test_list_images_and_read_rgb_still_work(tmp_path):
    Image.fromarray(photo(4)).save(tmp_path / "a.PNG")
    (tmp_path / "b.txt").write_text("no")
    assert list_images(tmp_path) == list_images(tmp_path / "a.PNG") == [tmp_path / "a.PNG"]
    assert np.array_equal(read_rgb(tmp_path / "a.PNG"), photo())
    assert {".png", ".tiff", ".webp"} <= SUFFIXES


def test_importing_the_package_does_not_import_pillow():
    code = "import sys, wdsr_edge; sys.exit('PIL' in sys.modules)"
    paths = [str(Path(wdsr_edge.__file__).parent.parent)]
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": paths[0]})


# Round trips


@pytest.mark.parametrize(
    ("suffix", "channels"),
    [(suffix, 1) for suffix in (".png", ".tif", ".TIFF", ".bmp", ".jpg", ".jpeg", ".webp")]
    + [(suffix, 3) for suffix in (".png", ".tif", ".TIFF", ".bmp", ".jpg", ".jpeg", ".webp")]
    + [(suffix, 4) for suffix in (".png", ".tif", ".TIFF", ".webp")],
)
def test_8_bits_round_trip(tmp_path, suffix, channels):
    pixels = photo(channels)
    path = tmp_path / "new" / f"a{suffix}"
    write_picture(path, Picture(pixels))
    again = read_picture(path)
    assert again.pixels.dtype == np.uint8
    assert (again.icc, again.exif, again.dpi, again.grey) == (None, None, None, False)
    if suffix.lower() in (".png", ".tif", ".tiff", ".bmp"):
        assert np.array_equal(again.pixels, pixels)
    else:
        want = pixels if suffix != ".webp" or channels != 1 else np.dstack([pixels] * 3)
        if channels == 4:
            assert np.array_equal(again.pixels[..., 3], want[..., 3])
            want, got = want[want[..., 3] > 0][:, :3], again.pixels[want[..., 3] > 0][:, :3]
        else:
            got = again.pixels
        assert close_to(got, want, 2.5)
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_16_bits_are_exact(tmp_path, suffix, channels):
    pixels = photo16(channels)
    flat = pixels.reshape(-1)
    flat[:4] = [0x1234, 0x1235, 0xFFFE, 0xFFFF]
    path = tmp_path / f"a{suffix}"
    write_picture(path, Picture(pixels, icc=SRGB, exif=exif_bytes(), dpi=(300, 200)))
    again = read_picture(path)
    assert again.pixels.dtype == np.uint16
    assert np.array_equal(again.pixels, pixels)
    assert again.icc == SRGB
    assert again.dpi == pytest.approx((300, 200), abs=0.02)
    assert again.exif is not None
    assert described(path) == DESCRIBED
    twice = tmp_path / f"b{suffix}"
    write_picture(twice, again)
    assert described(twice) == DESCRIBED
    assert np.array_equal(read_picture(twice).pixels, pixels)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_16_bits_say_nothing_that_was_not_known(tmp_path, suffix, channels):
    write_picture(tmp_path / f"a{suffix}", Picture(photo16(channels)))
    again = read_picture(tmp_path / f"a{suffix}")
    assert (again.icc, again.exif, again.dpi, again.grey) == (None, None, None, False)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_a_file_written_over_is_read_anew(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    for pixels in (photo16(), photo16()[::-1] // 2):
        write_picture(path, Picture(pixels))
        assert np.array_equal(read_picture(path).pixels, pixels)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_grey_with_alpha_stays_grey_with_alpha(tmp_path, suffix, dtype):
    grey, alpha = (photo(1), photo(4)[..., 3]) if dtype == np.uint8 else (photo16(1), photo16(4)[..., 3])
    pixels = np.dstack([grey, grey, grey, alpha])
    path = tmp_path / f"a{suffix}"
    write_picture(path, Picture(pixels, grey=True))
    again = read_picture(path)
    assert again.grey
    assert np.array_equal(again.pixels, pixels)
    if dtype == np.uint8:
        with Image.open(path) as image:
            assert image.mode == "LA"
    elif suffix == ".png":
        assert path.read_bytes()[24:26] == b"\x10\x04"
    else:
        with open(path, "rb") as file:
            tags = TiffImagePlugin.ImageFileDirectory_v2(file.read(8))
            file.seek(tags.next)
            tags.load(file)
        assert (tags[258], tags[277], tags[262], tags[338]) == ((16, 16), 2, 1, (2,))
    webp = tmp_path / "a.webp"
    if dtype == np.uint8:
        write_picture(webp, again)
        assert np.array_equal(read_picture(webp).pixels[..., 3], alpha)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg", ".webp"])
def test_a_photo_loses_nothing(tmp_path, suffix):
    source = tmp_path / "in.jpg"
    Image.fromarray(photo()).save(source, quality=95, icc_profile=SRGB, exif=exif_bytes(), dpi=(300, 200))
    picture = read_picture(source)
    assert (picture.icc, picture.dpi) == (SRGB, (300, 200))
    path = tmp_path / f"out{suffix}"
    write_picture(path, picture)
    again = read_picture(path)
    assert again.icc == SRGB
    assert again.dpi == pytest.approx((300, 200), abs=0.02)
    assert described(path) == DESCRIBED
    final = tmp_path / "final.jpg"
    write_picture(final, again)
    assert described(final) == DESCRIBED
    with Image.open(final) as image:
        assert image.info["dpi"] == (300, 200)
        assert not {0xA002, 0xA003} & set(image.getexif().get_ifd(EXIF_IFD))


def test_bmp_keeps_the_resolution(tmp_path):
    write_picture(tmp_path / "a.bmp", Picture(photo(), icc=SRGB, exif=exif_bytes(), dpi=(300, 300)))
    again = read_picture(tmp_path / "a.bmp")
    assert again.dpi == pytest.approx((300, 300), abs=0.02)
    assert (again.icc, again.exif) == (None, None)


def test_exif_loses_thumbnail_and_keeps_interoperability(tmp_path):
    thumbnail = b"\xff\xd8" + b"t" * 500 + b"\xff\xd9"
    inner = Image.Exif()
    inner.endian = "<"
    inner[271] = "ACME"
    inner[EXIF_IFD] = {0x9003: "2024:05:06 07:08:09", 0xA005: {1: "R03"}}
    data = inner.tobytes()[6:]
    first = struct.unpack("<L", data[4:8])[0]
    count = struct.unpack_from("<H", data, first)[0]
    data = bytearray(data)
    data += bytes(len(data) % 2)
    struct.pack_into("<L", data, first + 2 + 12 * count, len(data))
    at = len(data) + 2 + 24 + 4
    data += struct.pack("<HHHLLHHLLL", 2, 513, 4, 1, at, 514, 4, 1, len(thumbnail), 0) + thumbnail
    Image.fromarray(photo()).save(tmp_path / "a.jpg", exif=b"Exif\0\0" + bytes(data))
    exif = read_picture(tmp_path / "a.jpg").exif
    assert exif is not None
    assert b"R03" in exif
    assert thumbnail not in exif


def test_a_damaged_exif_block_is_left_out(tmp_path):
    Image.fromarray(photo()).save(tmp_path / "a.webp", exif=b"Exif\0\0no such thing", lossless=True)
    picture = read_picture(tmp_path / "a.webp")
    assert picture.exif is None
    assert np.array_equal(picture.pixels, photo())


def test_exif_too_long_for_jpeg_is_left_out(tmp_path):
    exif = exif_bytes()
    block = Image.Exif()
    block.load(exif)
    block[EXIF_IFD] = {0x927C: bytes(70000)}
    write_picture(tmp_path / "a.jpg", Picture(photo(), exif=block.tobytes()))
    assert read_picture(tmp_path / "a.jpg").exif is None


def test_jpeg_is_444_and_follows_quality(tmp_path):
    for quality in (60, 95):
        write_picture(tmp_path / f"{quality}.jpg", Picture(photo()), quality=quality)
        write_picture(tmp_path / f"{quality}.webp", Picture(photo()), quality=quality)
    for suffix in ("jpg", "webp"):
        assert (tmp_path / f"60.{suffix}").stat().st_size < (tmp_path / f"95.{suffix}").stat().st_size
    with Image.open(tmp_path / "95.jpg") as image:
        assert {layer[1:3] for layer in image.layer} == {(1, 1)}


def test_tiff_is_compressed(tmp_path):
    pixels = np.repeat(np.repeat(photo(), 4, axis=0), 4, axis=1)
    for dtype in (np.uint8, np.uint16):
        write_picture(tmp_path / "a.tif", Picture(pixels.astype(dtype)))
        assert (tmp_path / "a.tif").stat().st_size < pixels.astype(dtype).nbytes / 2


def test_a_grey_profile_does_not_get_into_an_rgb_webp(tmp_path):
    write_picture(tmp_path / "a.webp", Picture(photo(1), icc=gray_profile()))
    assert read_picture(tmp_path / "a.webp").icc is None
    write_picture(tmp_path / "a.png", Picture(photo(1), icc=gray_profile()))
    assert read_picture(tmp_path / "a.png").icc == gray_profile()


# Orientation


def upright(pixels, orientation):
    """As the EXIF specification puts it: which side of the stored image is the top and which the left."""
    return {
        1: lambda a: a,
        2: np.fliplr,
        3: lambda a: np.rot90(a, 2),
        4: np.flipud,
        5: lambda a: np.rot90(np.fliplr(a), 1),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: np.rot90(np.fliplr(a), -1),
        8: lambda a: np.rot90(a, 1),
    }[orientation](pixels)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["png", "webp", "tif", "tif-deflate", "png16", "tif16", "grey16"])
def test_orientation(tmp_path, kind, orientation):
    stored = photo16() if kind in ("png16", "tif16") else photo16(1) if kind == "grey16" else photo()
    path = tmp_path / f"a.{'tif' if kind.startswith('tif') else 'png' if kind != 'webp' else 'webp'}"
    exif = exif_bytes(orientation)
    if kind == "png16":
        density = struct.pack(">LLB", 11811, 7874, 1)
        rows = [row.astype(">u2").tobytes() for row in stored]
        path.write_bytes(png(16, 2, rows, chunk(b"pHYs", density), chunk(b"eXIf", exif[6:])))
    elif kind == "tif16":
        write_picture(path, Picture(stored, dpi=(300, 200)))
        set_tiff_short(path, 274, orientation)
    elif kind == "tif":
        Image.fromarray(stored).save(path, exif=exif, dpi=(300, 200))
    elif kind == "tif-deflate":
        Image.fromarray(stored).save(path, compression="tiff_lzw", tiffinfo={274: orientation}, dpi=(300, 200))
    elif kind == "webp":
        Image.fromarray(stored).save(path, exif=exif, lossless=True)
    else:
        Image.fromarray(stored).save(path, exif=exif, dpi=(300, 200))
    picture = read_picture(path)
    assert np.array_equal(picture.pixels, upright(stored, orientation))
    assert picture.pixels.flags.c_contiguous
    if kind != "webp":
        assert picture.dpi == pytest.approx((300, 200) if orientation < 5 else (200, 300), abs=0.02)
    again = tmp_path / ("b" + path.suffix)
    write_picture(again, picture)
    assert np.array_equal(read_picture(again).pixels if kind != "webp" else picture.pixels, picture.pixels)
    with Image.open(again) as image:
        assert image.getexif().get(274, 1) == 1


def test_orientation_of_a_jpeg(tmp_path):
    for orientation in (1, 6):
        Image.fromarray(photo()).save(tmp_path / f"{orientation}.jpg", exif=exif_bytes(orientation), quality=90)
    straight, turned = (read_picture(tmp_path / f"{orientation}.jpg").pixels for orientation in (1, 6))
    assert np.array_equal(turned, upright(straight, 6))


# Modes


def chunk(name, data):
    return struct.pack(">L", len(data)) + name + data + struct.pack(">L", zlib.crc32(name + data))


def png(depth, color, rows, *chunks):
    """A PNG from packed rows of bytes."""
    width = {1: 8, 2: 4, 4: 2}.get(depth, 0) * len(rows[0]) or len(rows[0]) * 8 // depth // {0: 1, 2: 3, 4: 2}[color]
    head = struct.pack(">LLBBBBB", width, len(rows), depth, color, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row for row in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + b"".join(chunks) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def tiff(pixels, photometric, *, endian="<", extra=None, sample=1):
    """An uncompressed TIFF from an array."""
    pixels = np.atleast_3d(pixels)
    height, width, channels = pixels.shape
    data = pixels.astype(pixels.dtype.newbyteorder(endian)).tobytes()
    bits = pixels.dtype.itemsize * 8
    tags = [(256, 4, [width]), (257, 4, [height]), (258, 3, [bits] * channels), (259, 3, [1]), (262, 3, [photometric])]
    tags += [(273, 4, [8]), (277, 3, [channels]), (278, 4, [height]), (279, 4, [len(data)])]
    tags += [] if extra is None else [(338, 3, [extra])]
    tags += [(339, 3, [sample] * channels)]
    start = 8 + len(data)
    rest, entries = b"", b""
    for tag, kind, values in tags:
        value = struct.pack(endian + ("H" if kind == 3 else "L") * len(values), *values)
        if len(value) > 4:
            at = start + 6 + 12 * len(tags) + len(rest)
            rest, value = rest + value, struct.pack(endian + "L", at)
        entries += struct.pack(endian + "HHL", tag, kind, len(values)) + value.ljust(4, b"\0")
    head = (b"II*\0" if endian == "<" else b"MM\0*") + struct.pack(endian + "L", start)
    return head + data + struct.pack(endian + "H", len(tags)) + entries + bytes(4) + rest


def set_tiff_short(path, tag, value):
    """Change a SHORT in a little-endian TIFF that has it."""
    data = bytearray(path.read_bytes())
    start = struct.unpack_from("<L", data, 4)[0]
    for entry in range(start + 2, start + 2 + 12 * struct.unpack_from("<H", data, start)[0], 12):
        if struct.unpack_from("<H", data, entry)[0] == tag:
            struct.pack_into("<H", data, entry + 8, value)
    path.write_bytes(data)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif"])
def test_bilevel_becomes_grey(tmp_path, suffix):
    Image.fromarray(photo()).convert("1").save(tmp_path / f"a{suffix}")
    picture = read_picture(tmp_path / f"a{suffix}")
    with Image.open(tmp_path / f"a{suffix}") as image:
        assert np.array_equal(picture.pixels, np.asarray(image.convert("L")))
    assert set(np.unique(picture.pixels)) == {0, 255}


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp"])
def test_palette_becomes_rgb(tmp_path, suffix):
    image = Image.fromarray(photo()).quantize(32)
    image.save(tmp_path / f"a{suffix}")
    assert np.array_equal(read_picture(tmp_path / f"a{suffix}").pixels, np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("transparency", [3, bytes([255, 0, 128]) + bytes([255] * 29)])
def test_transparent_palette_becomes_rgba(tmp_path, transparency):
    image = Image.fromarray(photo()).quantize(32)
    image.save(tmp_path / "a.png", transparency=transparency)
    index = np.asarray(image)
    pixels = read_picture(tmp_path / "a.png").pixels
    assert np.array_equal(pixels[..., :3], np.asarray(image.convert("RGB")))
    table = np.full(256, 255)
    if isinstance(transparency, int):
        table[transparency] = 0
    else:
        table[:3] = 255, 0, 128
    assert np.array_equal(pixels[..., 3], table[index])


def test_transparent_colour_of_rgb_becomes_alpha(tmp_path):
    pixels = photo()
    key = tuple(int(value) for value in pixels[5, 6])
    Image.fromarray(pixels).save(tmp_path / "a.png", transparency=key)
    picture = read_picture(tmp_path / "a.png")
    assert np.array_equal(picture.pixels[..., :3], pixels)
    assert np.array_equal(picture.pixels[..., 3], np.where((pixels == key).all(axis=2), 0, 255))
    assert not picture.grey


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_transparent_grey_becomes_alpha(tmp_path, depth):
    rows = [bytes([0x1B, 0xE4, 0x12, 0x34]), bytes([0x00, 0xFF, 0x12, 0x35])]
    key = {1: 1, 2: 2, 4: 3, 8: 0x12, 16: 0x1234}[depth]
    (tmp_path / "a.png").write_bytes(png(depth, 0, rows, chunk(b"tRNS", struct.pack(">H", key))))
    bits = np.unpackbits(np.frombuffer(b"".join(rows), np.uint8)).reshape(2, -1, depth)
    values = bits @ (1 << np.arange(depth)[::-1])
    picture = read_picture(tmp_path / "a.png")
    top = 65535 if depth == 16 else 255
    assert picture.grey
    assert np.array_equal(picture.pixels[..., 0], values * top // (2**depth - 1))
    assert np.array_equal(picture.pixels[..., 3], np.where(values == key, 0, top))
    assert 0 < (picture.pixels[..., 3] == 0).sum() < values.size


def test_transparent_colour_of_16_bit_rgb_becomes_alpha(tmp_path):
    pixels = photo16()
    key = pixels[5, 6].astype(">u2").tobytes()
    (tmp_path / "a.png").write_bytes(png(16, 2, [row.astype(">u2").tobytes() for row in pixels], chunk(b"tRNS", key)))
    picture = read_picture(tmp_path / "a.png")
    assert np.array_equal(picture.pixels[..., :3], pixels)
    assert np.array_equal(picture.pixels[..., 3], np.where((pixels == pixels[5, 6]).all(axis=2), 0, 65535))


@pytest.mark.parametrize("mode", ["RGBX", "YCbCr", "CMYK"])
def test_other_tiff_modes(tmp_path, mode):
    image = Image.fromarray(photo()).convert(mode)
    image.save(tmp_path / "a.tif", compression="tiff_lzw")  # Pillow 10.3 cannot read its own YCbCr without
    pixels = read_picture(tmp_path / "a.tif").pixels
    with Image.open(tmp_path / "a.tif") as image:
        assert np.array_equal(pixels, np.asarray(image.convert("RGB")))


def test_premultiplied_8_bits(tmp_path):
    straight = np.full((H, W, 4), (200, 100, 51, 128), np.uint8)
    stored = straight.copy()
    stored[..., :3] = np.rint(straight[..., :3] * (128 / 255))
    (tmp_path / "a.tif").write_bytes(tiff(stored, 2, extra=1))
    assert np.abs(read_picture(tmp_path / "a.tif").pixels.astype(int) - straight).max() <= 2


def test_palette_with_alpha():
    pixels = np.dstack([np.arange(H * W, dtype=np.uint32).reshape(H, W) % 200, photo(4)[..., 3]]).astype(np.uint8)
    from wdsr_edge.images import files as images

    image = Image.frombytes("PA", (W, H), pixels.tobytes())
    image.putpalette(list(range(256)) * 3)
    got, grey = images._pixels(image, 8)
    assert not grey
    assert got.shape == (H, W, 4)
    assert np.array_equal(got[..., 3], pixels[..., 1])


def test_cmyk_goes_through_its_profile_and_loses_it(tmp_path):
    image = Image.fromarray(photo()).convert("CMYK")
    image.save(tmp_path / "plain.jpg", quality=95)
    image.save(tmp_path / "useless.jpg", quality=95, icc_profile=SRGB)
    plain, useless = read_picture(tmp_path / "plain.jpg"), read_picture(tmp_path / "useless.jpg")
    assert close_to(plain.pixels, photo(), 6)
    assert np.array_equal(plain.pixels, useless.pixels)
    assert plain.icc is useless.icc is None


def test_cmyk_profile_is_used(tmp_path, monkeypatch):
    Image.fromarray(photo()).convert("CMYK").save(tmp_path / "a.tif", icc_profile=SRGB)
    marked = Image.new("RGB", (W, H), (1, 2, 3))
    seen = []

    def transform(image, source, target, outputMode):
        seen.append((image.mode, source.tobytes(), outputMode))
        return marked

    monkeypatch.setattr(ImageCms, "profileToProfile", transform)
    picture = read_picture(tmp_path / "a.tif")
    assert seen == [("CMYK", SRGB, "RGB")]
    assert (picture.pixels == (1, 2, 3)).all()
    assert picture.icc is None


@pytest.mark.parametrize("endian", ["<", ">"])
def test_16_bit_tiffs_of_both_byte_orders(tmp_path, endian):
    path = tmp_path / "a.tif"
    grey, rgb, rgba = photo16(1), photo16(3), photo16(4)
    for pixels, photometric, extra in ((grey, 1, None), (rgb, 2, None), (rgba, 2, 2)):
        path.write_bytes(tiff(pixels, photometric, endian=endian, extra=extra))
        assert np.array_equal(read_picture(path).pixels, pixels)
    path.write_bytes(tiff(grey, 0, endian=endian))
    assert np.array_equal(read_picture(path).pixels, 65535 - grey)
    path.write_bytes(tiff(rgba[..., 2:], 1, endian=endian, extra=2))
    picture = read_picture(path)
    assert picture.grey
    assert np.array_equal(picture.pixels, rgba[..., [2, 2, 2, 3]])


def test_premultiplied_alpha_is_undone(tmp_path):
    straight = np.full((H, W, 4), (40000, 20000, 10001, 32768), np.uint16)
    stored = straight.copy()
    stored[..., :3] = np.rint(straight[..., :3] * (32768 / 65535))
    (tmp_path / "a.tif").write_bytes(tiff(stored, 2, extra=1))
    assert np.abs(read_picture(tmp_path / "a.tif").pixels.astype(int) - straight).max() <= 2


def test_big_tiff(tmp_path):
    pyvips = pytest.importorskip("pyvips")
    for pixels in (photo(), photo16()):
        pyvips.Image.new_from_array(pixels).tiffsave(str(tmp_path / "a.tif"), bigtiff=True)
        assert np.array_equal(read_picture(tmp_path / "a.tif").pixels, pixels)


def test_the_content_counts_and_not_the_suffix(tmp_path):
    Image.fromarray(photo()).save(tmp_path / "a.jpg", "PNG")
    assert np.array_equal(read_picture(tmp_path / "a.jpg").pixels, photo())


def test_a_jpeg_with_a_second_picture_is_the_first(tmp_path):
    first, second = Image.fromarray(photo()), Image.fromarray(photo()[::-1])
    first.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[second], quality=95)
    assert close_to(read_picture(tmp_path / "a.jpg").pixels, photo(), 6)


# Refusals


def saved(kind="PNG", **options):
    stream = io.BytesIO()
    Image.fromarray(photo()).save(stream, kind, **options)
    return stream.getvalue()


def frames(kind):
    stream = io.BytesIO()
    Image.fromarray(photo()).save(stream, kind, save_all=True, append_images=[Image.fromarray(photo()[::-1])])
    return stream.getvalue()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        pytest.param(lambda: b"", "is empty", id="empty"),
        pytest.param(lambda: b"hello there, no image", "not a PNG, JPEG, WebP, BMP, TIFF, AVIF, HEIC", id="text"),
        pytest.param(lambda: frames("GIF"), "has 2 frames or pages: save the one", id="animated-gif"),
        pytest.param(lambda: saved("PPM"), "not a PNG, JPEG, WebP, BMP, TIFF, AVIF, HEIC", id="ppm"),
        *(
            pytest.param(
                lambda kind=kind, part=part: (lambda d: d[: int(len(d) * part)])(saved(kind)),
                "cannot be read as an image",
                id=f"{kind}-{part}",
            )
            for kind, part in itertools.product(("PNG", "JPEG", "WEBP", "BMP", "TIFF"), (0.05, 0.5))
        ),
        pytest.param(lambda: b"\x89PNG\r\n\x1a\n", "cannot be read as an image", id="png-head"),
        pytest.param(lambda: b"II*\0", "cannot be read as an image", id="tiff-head"),
        pytest.param(lambda: b"MM\0+\0\x08", "cannot be read as an image", id="big-tiff-head"),
        pytest.param(lambda: tiff(photo16(), 2)[:9000], "cannot be read as an image", id="tiff16-cut"),
        pytest.param(
            lambda: png(16, 2, [r.astype(">u2").tobytes() for r in photo16()])[:9000], "cannot be read", id="png16-cut"
        ),
        pytest.param(lambda: frames("PNG"), "has 2 frames or pages: save the one", id="apng"),
        pytest.param(lambda: frames("WEBP"), "has 2 frames or pages: save the one", id="animated-webp"),
        pytest.param(lambda: frames("TIFF"), "has 2 frames or pages: save the one", id="tiff-pages"),
        pytest.param(lambda: tiff(photo(1).astype(np.uint32), 1), "32-bit TIFF is not supported: convert", id="int32"),
        pytest.param(lambda: tiff(photo(1).astype(np.float32), 1, sample=3), "floating-point TIFF", id="float32"),
        pytest.param(lambda: tiff(photo16(1), 1, sample=2), "signed or floating-point TIFF", id="int16"),
        pytest.param(lambda: tiff(photo16(3), 2, sample=3), "16-bit signed or floating", id="half-float"),
        pytest.param(lambda: tiff(photo(3), 8), "neither grey nor RGB", id="lab"),
        pytest.param(lambda: tiff(photo16(4), 5), "neither grey nor RGB", id="cmyk16"),
    ],
)
def test_refused_files(tmp_path, data, message):
    path = tmp_path / "some.png"
    path.write_bytes(data())
    with pytest.raises(InputError, match=message) as caught:
        read_picture(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_two_deep_pages_are_refused(tmp_path):
    pyvips = pytest.importorskip("pyvips")
    image = pyvips.Image.new_from_array(np.vstack([photo16(), photo16()])).copy()
    image.set_type(pyvips.GValue.gint_type, "page-height", H)
    image.tiffsave(str(tmp_path / "a.tif"))
    with pytest.raises(InputError, match="has 2 frames or pages"):
        read_picture(tmp_path / "a.tif")


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(InputError, match=r"no\.png: cannot be read as an image \(No such file"):
        read_picture(tmp_path / "no.png")
    with pytest.raises(InputError, match=r"cannot be read as an image \(Is a directory"):
        read_picture(tmp_path)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "TIFF", "PNG16", "TIFF16"])
def test_a_bomb_is_refused_before_decoding(tmp_path, kind, monkeypatch):
    path = tmp_path / "a"
    data = {
        "PNG16": lambda: png(16, 2, [r.astype(">u2").tobytes() for r in photo16()]),
        "TIFF16": lambda: tiff(photo16(), 2),
    }
    path.write_bytes(data[kind]() if kind in data else saved(kind))
    assert read_picture(path, max_pixels=H * W).pixels.shape == (H, W, 3)
    monkeypatch.setattr("wdsr_edge.images.files.read_deep", None)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", None)
    with pytest.raises(InputError, match=f"64x48 is more than {H * W - 1} pixels"):
        read_picture(path, max_pixels=H * W - 1)


def test_pillows_own_limit_is_neither_heeded_nor_changed(tmp_path, monkeypatch):
    picture, damaged = Picture(np.tile(photo(), (20, 1, 1))), saved("TIFF")[:2000]
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64 * W)
    for name in ("a.png", "a.jpg", "a.webp", "a.bmp", "a.tif"):
        write_picture(tmp_path / name, picture)
        assert read_picture(tmp_path / name).pixels.shape == (20 * H, W, 3)
    assert Image.MAX_IMAGE_PIXELS == 64 * W
    (tmp_path / "a.tif").write_bytes(damaged)
    with pytest.raises(InputError):
        read_picture(tmp_path / "a.tif")
    assert Image.MAX_IMAGE_PIXELS == 64 * W


def refused(path, picture, message, **options):
    before = sorted(path.parent.rglob("*"))
    with pytest.raises((InputError, MissingExtraError), match=message) as caught:
        write_picture(path, picture, **options)
    assert "\n" not in str(caught.value)
    assert sorted(path.parent.rglob("*")) == before


@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".bmp"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_16_bits_are_refused(tmp_path, suffix, channels):
    refused(tmp_path / f"a{suffix}", Picture(photo16(channels)), r"has no 16 bits per channel: write \.png or \.tif")


@pytest.mark.parametrize("suffix", [".jpeg", ".bmp"])
def test_alpha_is_refused(tmp_path, suffix):
    refused(tmp_path / f"a{suffix}", Picture(photo(4)), r"has no transparency: write \.png, \.webp or \.tif")


@pytest.mark.parametrize("suffix", ["", ".gif", ".JP2"])
def test_unknown_suffix_is_refused(tmp_path, suffix):
    refused(tmp_path / f"a{suffix}", Picture(photo()), r"unknown suffix .*: use one of \.avif \.bmp .* \.png \.tif ")


@pytest.mark.parametrize(("suffix", "limit"), [(".jpg", 65500), (".webp", 16383)])
def test_side_limits(tmp_path, suffix, limit):
    line = np.zeros((1, limit + 1), np.uint8)
    path = tmp_path / f"a{suffix}"
    refused(path, Picture(line), f"{limit + 1}x1 is more than the {limit} a side of .*: write .png or .tif")
    refused(path, Picture(line.T), f"1x{limit + 1} is more than the {limit} a side")
    write_picture(path, Picture(line[:, :-1]))
    assert read_picture(path).pixels.shape[:2] == (1, limit)
    write_picture(tmp_path / "a.png", Picture(line))


def test_check_writable_needs_no_picture(tmp_path):
    check_writable(tmp_path / "a.png", size=(100_000, 100_000), alpha=True, deep=True)
    with pytest.raises(InputError, match="16383"):
        check_writable(tmp_path / "a.webp", size=(5, 20_000), alpha=False, deep=False)
    (tmp_path / "b.png").mkdir()
    with pytest.raises(InputError, match="is a folder: name a file in it"):
        check_writable(tmp_path / "b.png", size=(1, 1), alpha=False, deep=False)


@pytest.mark.parametrize("quality", [0, 101, 95.0, True])
def test_quality_is_checked(tmp_path, quality):
    refused(tmp_path / "a.jpg", Picture(photo()), "quality must be an integer from 1 to 100", quality=quality)


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.zeros((4, 4), np.float32), r"got float32 \[4, 4\]"),
        (np.zeros((4, 4, 2), np.uint8), r"got uint8 \[4, 4, 2\]"),
        (np.zeros(4, np.uint8), r"got uint8 \[4\]"),
        (np.zeros((0, 4, 3), np.uint8), "at least one pixel, got 4x0"),
    ],
)
def test_pixels_are_checked(tmp_path, pixels, message):
    refused(tmp_path / "a.png", Picture(pixels), message)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".bmp", ".tif"])
def test_a_full_disk_leaves_the_old_file(tmp_path, suffix, monkeypatch):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"old")
    old = path.read_bytes()

    def write(self, data):
        with open(self, "wb") as file:
            file.write(bytes(data)[:100])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", write)
    refused(path, Picture(photo()), "cannot write .*: No space left on device")
    assert path.read_bytes() == old
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_a_failure_of_vips_leaves_the_old_file(tmp_path, suffix, monkeypatch):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"old")
    monkeypatch.setattr("wdsr_edge.images.writing.replacing", lambda path, **_: _Gone(path))
    refused(path, Picture(photo16()), "cannot write .*: .*unable to")
    assert path.read_bytes() == b"old"


class _Gone:
    """In place of ``replacing``: a path that cannot be opened."""

    def __init__(self, path):
        self.path = path.parent / "gone" / path.name

    def __enter__(self):
        return self.path

    def __exit__(self, *_):
        return None


def test_a_file_in_the_way_of_the_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        write_picture(tmp_path / "file" / "a.png", Picture(photo()))


# Without pyvips


def test_without_pyvips(tmp_path, monkeypatch):
    deep = {}
    for suffix in (".png", ".tif"):
        deep[suffix] = tmp_path / f"deep{suffix}"
        write_picture(deep[suffix], Picture(photo16()))
    monkeypatch.setitem(sys.modules, "pyvips", None)
    for suffix, path in deep.items():
        with pytest.raises(MissingExtraError, match=r"16 bits .*pip install 'wdsr-edge\[image16\]'") as caught:
            read_picture(path)
        assert str(caught.value).startswith(str(path))
        assert "\n" not in str(caught.value)
        refused(tmp_path / f"new{suffix}", Picture(photo16()), r"pip install 'wdsr-edge\[image16\]'")
        for pixels in (photo16(1), photo(), photo(4)):
            write_picture(tmp_path / f"fine{suffix}", Picture(pixels))
            assert np.array_equal(read_picture(tmp_path / f"fine{suffix}").pixels, pixels)


def test_without_the_c_library_of_pyvips(tmp_path, monkeypatch):
    def fail(module, extra):
        raise OSError("cannot load library 'libvips.so.42'")

    monkeypatch.setattr("wdsr_edge.images.deep.require", fail)
    refused(tmp_path / "a.png", Picture(photo16()), r"libvips\.so\.42.*pip install 'wdsr-edge\[image16\]'")


def test_picture_can_be_replaced():
    picture = dataclasses.replace(Picture(photo(), dpi=(72, 72)), pixels=photo(1))
    assert picture.pixels.ndim == 2
    assert picture.dpi == (72, 72)
