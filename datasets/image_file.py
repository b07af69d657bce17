"""One image file of any kind, read as RGB pixels of the run's size."""

import numpy as np
from PIL import Image, ImageOps

ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
# Formats that Pillow may open. It goes by content, and would start Ghostscript for PostScript.
# "JPEG" includes the files of several pictures (MPO) that some cameras write.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
PIXELS_MAX = 2**26  # of one picture that are decoded; each takes 8 to 20 bytes of memory
SHRUNK_MAX = 3 * PIXELS_MAX  # of a JPEG, decoded at a smaller size; telephones make 200 million
Image.MAX_IMAGE_PIXELS = None  # Pillow's own limit, at which it warns of photographs, too


def read_image(path, size, crop=None):
    """Read a file as RGB pixels of the output size: (uint8 [H, W, 3], whether it is grey).

    `size` and `crop` are (height, width). Transparent parts become white, 16 bits become 8, EXIF
    rotation is applied, and only the first frame of an animation is read. Raises OSError or
    ValueError.
    """
    with Image.open(path, formats=FORMATS) as image:
        width, height = image.size
        if not crop:
            # A JPEG decoder can shrink while it decodes, fast and antialiased. EXIF may turn the
            # picture later, so both sides leave room for the longer one.
            image.draft(None, (max(size), max(size)))
        if image.width * image.height > PIXELS_MAX or width * height > SHRUNK_MAX:
            raise ValueError(f"{width}x{height} pixels are too many to decode; make it smaller")
        ImageOps.exif_transpose(image, in_place=True)
        image, grey = _to_rgb(image)
    return np.asarray(fit_image(image, size, crop)), grey


def fit_image(image, size, crop=None):
    """Crop the centre, if `crop` is given, and resize, antialiased, to the output size.

    `size` and `crop` are (height, width). Raises ValueError if the crop is larger than the image.
    """
    if crop:
        height, width = crop
        if height > image.height or width > image.width:
            raise ValueError(
                f"{image.height}x{image.width} pixels, smaller than the crop of {height}x{width}"
            )
        left, top = (image.width - width) // 2, (image.height - height) // 2
        image = image.crop((left, top, left + width, top + height))
    if (image.height, image.width) != tuple(size):
        image = image.resize(size[::-1], Image.Resampling.LANCZOS)
    return image


def _to_rgb(image):
    """Convert any Pillow mode to RGB; returns the image and whether it had no colour."""
    if image.mode.startswith("I"):  # 16 or 32 bits of grey, of which 16 are used
        image = Image.fromarray((np.clip(np.asarray(image), 0, 65535) // 257).astype(np.uint8))
    if image.has_transparency_data:
        grey = image.mode in ("1", "L", "LA")
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB"), grey
    return image.convert("RGB"), image.mode in ("1", "L")
