"""Test of the image readers with damaged, disguised and hostile files.

    python benchmarks/fuzz_images.py --n 10000

The command damages files of all formats and modes: it truncates, overwrites and splices them, flips bits, and writes
false sizes. It also gives the names of image files to texts, programs and decompression bombs. It prints the outcomes,
the longest CPU time for a file and the growth of memory. The only allowed outcomes are an image and a ValueError that
names the file. After any other outcome, the command fails.
"""

import argparse
import io
import os
import pickle
import resource
import struct
import sys
import tempfile
import time
import traceback
import warnings
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

from sklearn_exdd._images import Images, Masks, read_image

SUFFIXES = (".png", ".jpg", ".tif", ".bmp", ".gif", ".webp", ".avif", ".jp2", ".pgm", ".img", "")
MODES = {
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "TIFF": ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "I;16", "I", "F"),
    "JPEG": ("L", "RGB", "CMYK"),
    "JPEG2000": ("L", "LA", "RGB", "RGBA", "I;16"),
    "BMP": ("1", "L", "P", "RGB", "RGBA"),
    "GIF": ("L", "P", "RGB"),
    "PPM": ("1", "L", "RGB", "I;16", "F"),
    "WEBP": ("L", "RGB", "RGBA"),
    "AVIF": ("L", "RGB", "RGBA"),
    "MPO": ("L", "RGB"),
}
SEVERAL = ("GIF", "WEBP", "TIFF", "PNG", "AVIF", "MPO")  # formats that can hold several images


def picture(rng):
    """Return the bytes of a valid file of random format, mode, size, EXIF rotation, compression and frame count."""
    file_format = rng.choice(list(MODES))
    mode = rng.choice(MODES[file_format])
    height, width = rng.randint(1, 80, size=2)
    grey = Image.fromarray(rng.randint(0, 256, (height, width)).astype(np.uint8))
    frames = [made_in(mode, grey, rng) for _ in range(rng.choice([1, 1, 1, 3]) if file_format in SEVERAL else 1)]
    options = {}
    if rng.randint(4) == 0 and file_format in ("JPEG", "PNG", "TIFF", "WEBP"):
        exif = Image.Exif()
        exif[0x0112] = int(rng.choice([*range(10), 255, 65535]))
        options["exif"] = exif
    if file_format == "TIFF" and rng.randint(2) and mode in ("L", "RGB"):
        options["compression"] = rng.choice(["tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"])
    if file_format == "PNG" and rng.randint(8) == 0:
        options["transparency"] = 0
    if len(frames) > 1:
        options |= {"save_all": True, "append_images": frames[1:]}
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            frames[0].save(buffer, file_format, **options)
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, struct.error):  # combination not supported
            return picture(rng)
    return buffer.getvalue()


def made_in(mode, grey, rng):
    if mode == "I;16":
        return Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    if mode in ("I", "F"):
        scale = rng.choice([1, -1, 300, 70_000, np.nan]) if mode == "F" else rng.choice([1, -1, 300, 70_000])
        pixels = np.asarray(grey, dtype=np.float32) * np.float32(scale)
        return Image.fromarray(pixels if mode == "F" else pixels.astype(np.int32))
    return grey.convert("RGB").convert(mode) if mode in ("CMYK", "LAB", "YCbCr", "RGBA", "LA") else grey.convert(mode)


def cut(content, rng):
    return content[: rng.randint(len(content))]


def flipped(content, rng):
    content = bytearray(content)
    for _ in range(rng.randint(1, 20)):
        content[rng.randint(len(content))] ^= 1 << rng.randint(8)
    return bytes(content)


def flipped_header(content, rng):
    content = bytearray(content)
    for _ in range(rng.randint(1, 6)):
        content[rng.randint(min(64, len(content)))] = rng.randint(256)
    return bytes(content)


def overwritten(content, rng):
    start = rng.randint(len(content))
    length = rng.randint(1, 64)
    filling = [bytes(length), b"\xff" * length, rng.bytes(length)][rng.randint(3)]
    return content[:start] + filling + content[start + length :]


def spliced(content, rng):
    other = picture(rng)
    return content[: rng.randint(len(content))] + other[rng.randint(len(other)) :]


def lengthened(content, rng):
    return content + rng.bytes(rng.randint(1, 500))


def resized(content, rng):
    """Write a false size, such as 0 or a huge number, where the format stores it."""
    size = [int(rng.choice([0, 1, 7, 200, 40_000, 65_535, 2**31 - 1, 2**32 - 1])) for _ in range(2)]
    content = bytearray(content)
    if content[:4] == b"\x89PNG":
        content[16:24] = struct.pack(">2I", *size)
        content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    elif content[:2] == b"BM":
        content[18:26] = struct.pack("<2I", *size)
    elif content[:3] == b"GIF":
        content[6:10] = struct.pack("<2H", *(value & 0xFFFF for value in size))
    elif content[:1] == b"P" and content[1:2].isdigit():
        content[3 : content.index(b"\n", 3)] = b"%d %d" % tuple(size)
    elif content[:2] == b"\xff\xd8":
        start = next(
            (at for at in range(len(content) - 9) if content[at] == 0xFF and content[at + 1] in (0xC0, 0xC2)), 0
        )
        content[start + 5 : start + 9] = struct.pack(">2H", *(value & 0xFFFF for value in size))
    elif content[:2] == b"II":
        for at in range(8, len(content) - 12):
            if content[at : at + 2] in (b"\x00\x01", b"\x01\x01"):  # width and length in the directory
                content[at + 8 : at + 12] = struct.pack("<I", size[content[at] & 1])
    else:
        return flipped_header(bytes(content), rng)
    return bytes(content)


def chunk(name, content):
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def bomb(rng):
    """Return a small PNG file that decompresses to a huge image, a huge text or a large image."""
    kind = rng.choice(3, p=[0.45, 0.45, 0.1])
    height, width = [(60_000, 60_000), (16, 16), (9_000, 9_000)][kind]
    header = struct.pack(">2I5B", width, height, 8, 0, 0, 0, 0)
    text = zlib.compress(bytes(20_000_000 if kind == 1 else 10))
    pixels = zlib.compress(bytes(min((width + 1) * height, 10**8)))
    parts = [(b"IHDR", header), (b"zTXt", b"Comment\0\0" + text), (b"IDAT", pixels), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def disguise(rng):
    """Return the bytes of a file that is not an image."""
    archive = io.BytesIO()
    np.savez(archive, a=np.zeros(9))
    others = [
        b"",
        b"\0",
        rng.bytes(rng.randint(1, 2000)),
        b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><script>alert(1)</script></svg>',
        b"<html><body><img src=x onerror=alert(1)></body></html>",
        b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><a>&b;</a>',
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(x) (w) file\nshowpage\n",
        b"\xc5\xd0\xd3\xc6"
        + struct.pack("<6I", 30, 99, 0, 0, 0, 0)
        + b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        b"%PDF-1.7\n1 0 obj\n<< /OpenAction << /S /Launch >> >>\nendobj\n",
        b"\xd7\xcd\xc6\x9a" + rng.bytes(80),  # Windows metafile
        b"SIMPLE  =                    T" + b" " * 50 + b"END" + b" " * 2797,  # FITS
        b"\x7fELF" + rng.bytes(200),
        b"#!/bin/sh\ntouch /tmp/owned\n",
        b"import os\nos.system('true')\n",
        pickle.dumps({"a": 1}),
        archive.getvalue(),
        b"\x1f\x8b\x08" + rng.bytes(200),
        b"P6\n# " + b"x" * 10_000,
        b"P2\n4 4\n255\n" + b"9" * 5000,
        b"RIFF" + struct.pack("<I", 2**32 - 1) + b"WEBPVP8X" + rng.bytes(60),
        b"\0\0\0\x1cftypavif" + rng.bytes(200),
        b"\0\0\0\x0cjP  \r\n\x87\n" + rng.bytes(100),
    ]
    return others[rng.randint(len(others))]


DAMAGES = (cut, flipped, flipped_header, overwritten, spliced, lengthened, resized)


def hostile_file(rng):
    """Return the kind of damage, the suffix and the bytes of a random hostile file."""
    kind = rng.randint(40)
    suffix = str(rng.choice(SUFFIXES))
    if kind == 0:
        return "bomb", suffix, bomb(rng)
    if kind < 5:
        return "disguise", suffix, disguise(rng)
    if kind < 8:
        return "wrong suffix", suffix, picture(rng)
    damage = DAMAGES[rng.randint(len(DAMAGES))]
    content = damage(picture(rng), rng)
    if rng.randint(4) == 0:
        content = DAMAGES[rng.randint(len(DAMAGES))](content or b"\0", rng)
    return damage.__name__, suffix, content


def outcome(path):
    """Return the outcome of reading a file, "image" or "refused". Raise an error for any other outcome."""
    refused = []
    for read in (
        read_image,
        lambda path: Images([path])[0],
        lambda path: Masks([path], 1).get(0, read_image(path).shape),
    ):
        try:
            pixels = read(path)
        except ValueError as error:
            if str(path) not in str(error):
                raise AssertionError(f"{path} is not named in {error}") from error
            refused.append(str(error))
        else:
            if pixels.ndim not in (2, 3) or 0 in pixels.shape or pixels.dtype not in ("u1", "u2", "f4", "?"):
                raise AssertionError(f"{path}: {pixels.dtype} of shape {pixels.shape}")
    return "refused" if refused else "image"


def fuzz(n_files, seed, folder, kept=None):
    """Return the counts of outcomes by kind, the failures, and the slowest file as (CPU time, kind)."""
    counts, failures, slowest = Counter(), [], (0.0, "")
    for number in range(n_files):
        rng = np.random.RandomState([seed, number])
        kind, suffix, content = hostile_file(rng)
        path = Path(folder) / f"file{suffix}"
        path.write_bytes(content)
        started = time.process_time()
        try:
            counts[kind, outcome(path)] += 1
        except Exception:
            counts[kind, "FAILED"] += 1
            failures.append(f"file {number} ({kind}{suffix}):\n{traceback.format_exc()}")
            if kept is not None:
                (Path(kept) / f"{seed}_{number}{suffix}").write_bytes(content)
        slowest = max(slowest, (time.process_time() - started, f"file {number}, {kind}"))
        path.unlink()
    return counts, failures, slowest


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=10_000, help="number of files")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="existing folder in which failing files are stored")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        counts, failures, slowest = fuzz(arguments.n, arguments.seed, folder, arguments.keep)
        left = os.listdir(folder)
    for (kind, result), count in sorted(counts.items()):
        print(f"{kind:15} {result:8} {count:6}")
    rise = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    seconds = time.perf_counter() - started
    print(
        f"{sum(counts.values())} files in {seconds:.0f} s; the slowest took {slowest[0]:.2f} CPU s ({slowest[1]}); "
        f"memory grew by {rise:.0f} MiB; {len(left)} files left behind; {len(failures)} failures."
    )
    print("\n".join(failures[:20]))
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
