"""--export: writes the averaged generator as a file for other programs, and checks that file.

Imports TensorFlow and the runtimes only when they are used.
"""

import contextlib
import importlib
import os
import shutil
import stat
from pathlib import Path

import numpy as np

from run import folders
from system import device, screen
from system.errors import Failed, Refused, explain

NAMES = {
    "savedmodel": "savedmodel",
    "onnx": "generator.onnx",
    "tflite": "generator.tflite",
}
MODULES = {  # of other packages, each after those that it imports
    "savedmodel": (),
    "onnx": ("onnx", "onnxruntime", "tf2onnx.convert"),
    "tflite": ("ai_edge_litert.interpreter",),
}
UNFINISHED = ".unfinished"  # a folder in export/, of what does not have its name yet
OLD = "old"  # in there, the SavedModel that a new one is about to replace
WRITTEN = {  # all that this program writes into export/, and what each is
    UNFINISHED: stat.S_IFDIR,
    "generator.onnx": stat.S_IFREG,
    "generator.tflite": stat.S_IFREG,
    "savedmodel": stat.S_IFDIR,
    "savedmodel/assets": stat.S_IFDIR,
    "savedmodel/fingerprint.pb": stat.S_IFREG,
    "savedmodel/saved_model.pb": stat.S_IFREG,
    "savedmodel/variables": stat.S_IFDIR,
    "savedmodel/variables/variables.data-00000-of-00001": stat.S_IFREG,
    "savedmodel/variables/variables.index": stat.S_IFREG,
}
IN_THE_WAY = "{}: in the way, but not written by --export {}; move it to another folder"
CALLS = {
    "savedmodel": (
        "import tensorflow as tf",
        "generator = tf.saved_model.load({path!r}).signatures['serving_default']",
        "{name} = generator({arguments})['{name}'].numpy()",
    ),
    "onnx": (
        "import onnxruntime",
        "generator = onnxruntime.InferenceSession({path!r})",
        "{name} = generator.run(['{name}'], dict({arguments}))[0]",
    ),
    "tflite": (
        "from ai_edge_litert.interpreter import Interpreter",
        "generator = Interpreter({path!r}).get_signature_runner()",
        "{name} = generator({arguments})['{name}']",
    ),
}
OPSET = 17  # of ONNX; every onnxruntime since 1.12 of 2022 reads it
MOST_BYTES = 2e9  # of weights: protocol buffers and flat buffers end at 2 GiB
COMPARED = 64  # pictures
# How far apart results may be. In grey levels: a number near the middle between two may be rounded
# either way. In units of the plane: as far as float32 rounds.
MOST_APART = {"images": 1, "points": 1e-5}


def check(kind, folder):
    """Refuse to export a kind of file into a folder where that cannot be done; changes nothing."""
    folders.check_free(folder)
    if foreign := find_foreign(Path(folder) / NAMES[kind]):
        raise Refused(IN_THE_WAY.format(foreign, kind))
    device.import_tensorflow()  # before tf2onnx does, and louder
    with screen.hushed():
        for name in MODULES[kind]:
            try:
                importlib.import_module(name)
            except Exception as error:  # another package's first lines can raise anything
                again = "" if isinstance(error, ModuleNotFoundError) else "--force-reinstall "
                raise Refused(
                    f"--export {kind}: cannot import {name} ({explain(error)});"
                    f" pip install {again}-r requirements-export.txt"
                ) from None


def export(gan, kind, seed):
    """Write the averaged generator of a float32 WGAN into its run's export/; print how to call it.

    The file gets its name once its own runtime has made the same pictures as `WGAN.sample`. Raises
    Refused, and Failed where they differ; then an earlier file stays.
    """
    size = sum(variable.numpy().nbytes for variable in gan.average.variables)
    if size > MOST_BYTES:
        raise Refused(
            f"--export {kind}: the weights are {size / 1e9:.1f} GB, more than the"
            f" {MOST_BYTES / 1e9:.1f} GB that such a file can hold"
        )
    path = Path(gan.config.export_dir) / NAMES[kind]
    with replacing(path, kind) as new:
        with screen.hushed():
            write(build_function(gan), kind, new)
            apart = compare(gan, read(kind, new, output_name(gan)), seed)
        if apart > MOST_APART[output_name(gan)]:
            raise Failed(
                f"{path}: not written, because its {output_name(gan)} would differ from those of"
                f" this program by up to {apart:.3g}; export another kind of file"
            )
        size = sum(file.stat().st_size for file in (new, *new.rglob("*")) if file.is_file())
    print_call(gan, kind, path, apart, size)


def output_name(gan):
    """Return the name of the exported generator's output."""
    return "images" if len(gan.shape) == 3 else "points"


@contextlib.contextmanager
def replacing(path, kind):
    """Give a name under which to write a file or folder, which then replaces the one at `path`.

    Raises Refused while another export writes into that folder. Raises Failed where something is in
    the way in the end. After a kill, `path` is whole, the old or the new one: a file at once, a
    folder once this has been called again.
    """
    work = path.parent / UNFINISHED
    with folders.claim(path.parent):
        mend(path.parent)
        work.mkdir()
        try:
            yield work / path.name
            if foreign := find_foreign(path):
                raise Failed(IN_THE_WAY.format(foreign, kind))
            if path.is_dir():
                path.rename(work / OLD)
            (work / path.name).replace(path)
        finally:
            mend(path.parent)


def mend(folder):
    """Delete what an export left unfinished, and put back a SavedModel that it had moved aside."""
    work, path = folder / UNFINISHED, folder / NAMES["savedmodel"]
    if (work / OLD).exists() and not os.path.lexists(path):
        (work / OLD).rename(path)
    if work.exists():
        shutil.rmtree(work)


def find_foreign(path):
    """Return what this program cannot have written among all that it would replace, or None.

    That is a file for a folder or the other way round, a link, or another name in a SavedModel.
    """
    for place in (path.parent / UNFINISHED, path, *path.rglob("*")):
        expected = WRITTEN.get(str(place.relative_to(path.parent)))
        if os.path.lexists(place) and stat.S_IFMT(place.lstat().st_mode) != expected:
            return place
    return None


def build_function(gan):
    """Return the tf.function of z [n, z_dim] and, in conditional runs, label [n] to export.

    It gives {"images": uint8 [n, H, W, C]} or {"points": float32 [n, 2]}. The weights are constants
    in it, because the conversion to TFLite loses the values of variables.
    """
    import tensorflow as tf

    import kernels
    import networks
    import ops

    z_dim, classes = gan.config.z_dim, gan.classes
    weights = [
        [variable.numpy() for variable in variables]
        for variables in (gan.average.trainable_variables, gan.average.non_trainable_variables)
    ]
    signature = [tf.TensorSpec([None, z_dim], tf.float32, "z")]
    if classes:
        signature.append(tf.TensorSpec([None], tf.int32, "label"))

    def one_hot(label):
        # As tf.one_hot, but a label out of range is an error in every runtime. Below 0 it would be
        # counted from the end in ONNX.
        return tf.gather(tf.eye(classes), tf.where(label < 0, classes, label))

    def pictures(z, label=None):
        inputs = [z, one_hot(label)] if classes else z
        images, _ = generator.stateless_call(*weights, inputs, training=False)
        return {output_name(gan): ops.to_pixels(images)}

    function = tf.function(pictures, input_signature=signature, autograph=False)
    with kernels.plain():
        generator = networks.build_generator(
            gan.config.arch, gan.shape, z_dim, classes, gan.config.condition
        )
        function.get_concrete_function()
    return function


def write(function, kind, path):
    """Write a function with an input signature. Raises Failed where that cannot be done."""
    import tensorflow as tf

    try:
        if kind == "savedmodel":
            tf.saved_model.save(tf.Module(), str(path), function.get_concrete_function())
        elif kind == "onnx":
            import tf2onnx

            tf2onnx.convert.from_function(
                function, function.input_signature, opset=OPSET, output_path=str(path)
            )
        else:
            # Given the function itself, TensorFlow would save it in /tmp, which may be full, and
            # then go on without the signature.
            saved = path.with_name(NAMES["savedmodel"])
            write(function, "savedmodel", saved)
            with contextlib.chdir(saved):  # TensorFlow takes a path for a pattern
                content = tf.lite.TFLiteConverter.from_saved_model(".").convert()
            path.write_bytes(content)
    except (tf.errors.OpError, OSError) as error:
        raise Failed(
            f"{path}: cannot be written ({explain(error)}); make room, then export again"
        ) from None


def read(kind, path, output="images"):
    """Load a file by its own runtime: a function of {name of input: array} to the named output."""
    if kind == "savedmodel":
        import tensorflow as tf

        with contextlib.chdir(path):  # TensorFlow takes a path for a pattern
            function = tf.saved_model.load(".").signatures["serving_default"]
        return lambda inputs: function(**inputs)[output].numpy()
    if kind == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        return lambda inputs: session.run([output], inputs)[0]
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(str(path)).get_signature_runner()
    return lambda inputs: runner(**inputs)[output]


def compare(gan, function, seed):
    """Return by how much an exported function's results differ from `WGAN.sample`'s at most.

    Images are compared in grey levels, 0 to 255.

    They are made in two batches of different size, because any number may be asked for.
    """
    z, labels = gan.picture_inputs(COMPARED, seed)
    inputs = {"z": z} if labels is None else {"z": z, "label": labels}
    parts = slice(0, 1), slice(1, None)
    made = [function({name: values[part] for name, values in inputs.items()}) for part in parts]
    return np.abs(np.concatenate(made) - gan.sample(z, labels).astype(np.float64)).max()


def print_call(gan, kind, path, apart, size):
    """Print what is in an exported file of so many bytes and how to call it."""
    name = output_name(gan)
    print(
        f"{path}: {size / 1e6:.1f} MB; its {name} differ from those of this program by at most"
        f" {apart:.3g}{' of 255' * (name == 'images')} ({COMPARED} compared)"
    )
    label = f"; label int32 [n], 0 to {gan.classes - 1}" if gan.classes else ""
    drawn = {"uniform": "U(-1, 1)", "normal": "N(0, 1)"}[gan.config.latents]
    print(f"Inputs: z float32 [n, {gan.config.z_dim}], from {drawn}{label}")
    dtype = "uint8" if name == "images" else "float32"
    print(f"Output: {name} {dtype} [n, {', '.join(map(str, gan.shape))}]. In Python:")
    arguments = "z=z, label=label" if gan.classes else "z=z"
    for line in CALLS[kind]:
        print(f"    {line.format(path=str(path), arguments=arguments, name=name)}")
