"""The page explore.html of a run: squares of pictures to wander in, all in one file.

What the page looks like and does is in the template explore.html beside this file. Knows no model.
"""

import base64
import importlib.resources
import io
import json
import math

import numpy as np
from PIL import Image

import utils
from run.folders import write_atomically

SETS = 3  # of four corners
CLASSES = 10  # at most, that have squares: the first ones of a run
STEPS, PICTURES = 16, 4000  # at most: pictures along a side of a square, and in the page
PIXELS = 128  # at most, of the longer side of a picture
LIMIT = 4_000_000  # bytes of the page, where squares of 2 x 2 pictures fit into that
JPEG = {"format": "jpeg", "quality": 90, "subsampling": 0}  # whose blocks and colours do not show


def write(path, about, class_names, draw):
    """Write the page with as many pictures as fit.

    `about` names the run, the iteration and the seed; `class_names` is empty for a run without
    labels. `draw(steps)` yields the squares, uint8 [steps * steps, H, W, C], SETS for each class.
    """
    steps = min(STEPS, math.isqrt(PICTURES // (SETS * max(1, len(class_names)))))
    while len(page := fill(about, class_names, draw(steps), steps)) >= LIMIT and steps > 2:
        steps = max(2, min(steps - 1, int(steps * math.sqrt(LIMIT / len(page)))))
    write_atomically(path, page)


def fill(about, class_names, squares, steps):
    """Return the text of the page, in ASCII."""
    sheets = []
    for pictures in squares:
        count, height, width, channels = (pictures := shrink(pictures)).shape
        table = pictures.reshape(steps, count // steps, height, width, channels)
        sheets.append(encode(table.swapaxes(1, 2).reshape(steps * height, -1, channels)))
    data = about | {"classes": class_names, "sets": SETS, "steps": steps, "sheets": sheets}
    data |= {"width": width, "height": height}
    template = importlib.resources.files("run").joinpath("explore.html").read_text("ascii")
    return template.replace("{{data}}", json.dumps(data).replace("<", "\\u003c"))


def shrink(images):
    """Return uint8 images [n, H, W, C] with at most PIXELS along the longer side."""
    height, width = images.shape[1:3]
    share = PIXELS / max(height, width)
    if share >= 1:
        return images
    size = max(1, round(width * share)), max(1, round(height * share))
    small = [utils.to_pillow(image).resize(size, Image.Resampling.LANCZOS) for image in images]
    return np.stack([np.atleast_3d(np.asarray(image)) for image in small])


def encode(image):
    """Return a uint8 image [H, W, C] as a data: URL, a PNG if it is grey, else a JPEG."""
    file = io.BytesIO()
    options = {"format": "png", "optimize": True} if image.shape[-1] == 1 else JPEG
    utils.to_pillow(image).save(file, **options)
    content = base64.b64encode(file.getvalue()).decode()
    return f"data:image/{options['format']};base64,{content}"
