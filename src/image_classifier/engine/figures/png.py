"""PNG files of pictures that are drawn between two epochs."""

import struct
import zlib

import numpy as np

SIGNATURE = b"\x89PNG\r\n\x1a\n"
LEVEL = 1  # of zlib's compression
EIGHT_BIT_RGB = 8, 2, 0, 0, 0  # depth, colour type, compression, filter method, interlacing


def png_bytes(pixels: np.ndarray) -> bytes:
    """An (H, W, 3) uint8 picture as the content of a PNG file.

    Pillow takes three times as long, most of it for the choice of filters, which are of little use to flat colours:
    the file of a confusion matrix is a tenth larger without.
    """
    height, width, channels = pixels.shape
    rows = np.zeros((height, 1 + width * channels), np.uint8)  # each begins with its filter, 0 for none
    rows[:, 1:] = pixels.reshape(height, -1)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, *EIGHT_BIT_RGB))
    return SIGNATURE + header + chunk(b"IDAT", zlib.compress(rows.data, LEVEL)) + chunk(b"IEND", b"")


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
