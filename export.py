"""--export: writes the averaged generator to a file for other programs, and checks the file.

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
MODULES = {  # of other packages; each module comes after the modules that it imports
    "savedmodel": (),
    "onnx": ("onnx", "onnxruntime", "tf2onnx.convert"),
    "tflite": ("ai_edge_litert.interpreter",),
}
UNFINISHED = ".unfinished"  # the folder in export/ for files that are not complete
OLD = "old"  # in that folder: the SavedModel that a new one is about to replace
WRITTEN = {  # all that this program writes into export/: files and folders
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
IN_THE_WAY = "{}: in the way, and not written by --export {}; move it to another folder"
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
OPSET = 17  # of ONNX; onnxruntime reads it since version 1.12 (2022)
MOST_BYTES = 2e9  # of weights; a protocol buffer or flat buffer has at most 2 GiB
COMPARED = 64  # pictures
# Largest differences. In grey levels: a value halfway between two may be rounded up or down. In
# units of the plane: the rounding of float32.
MOST_APART = {"images": 1, "points": 1e-5}


def check(file_format, folder):
    """Refuse an export whose folder or packages do not allow it. Changes nothing."""
    folders.check_free(folder)
    if foreign := find_foreign(Path(folder) / NAMES[file_format]):
        raise Refused(IN_THE_WAY.format(foreign, file_format))
    device.import_tensorflow()  # before tf2onnx, which would show its start-up lines
    with screen.hushed():
        for name in MODULES[file_format]:
            try:
                importlib.import_module(name)
            except Exception as error:  # the import of another package can raise any error
                again = "" if isinstance(error, ModuleNotFoundError) else "--force-reinstall "
                raise Refused(
                    f"--export {file_format}: cannot import {name} ({explain(error)});"
                    f" pip install {again}-r requirements-export.txt"
                ) from None


def export(gan, file_format, seed):
    """Write the averaged generator of a float32 WGAN into its run's export/; print how to call it.

    The file gets its name only if its own runtime draws the same pictures as `WGAN.sample`. Raises
    Refused, and Failed if they differ; then an earlier file stays.
    """
    size = sum(variable.numpy().nbytes for variable in gan.average.variables)
    if size > MOST_BYTES:
        raise Refused(
            f"--export {file_format}: the weights are {size / 1e9:.1f} GB, more than the"
            f" {MOST_BYTES / 1e9:.1f} GB that such a file can hold"
        )
    path, name = Path(gan.config.export_dir) / NAMES[file_format], output_name(gan)
    with replacing(path, file_format) as new:
        with screen.hushed():
            write(build_function(gan), file_format, new)
            apart = compare(gan, read(file_format, new, name), seed)
        if apart > MOST_APART[name]:
            raise Failed(
                f"{path}: not written, because its {name} would differ from this program's by up to"
                f" {apart:.3g}; export in another format"
            )
        size = sum(file.stat().st_size for file in (new, *new.rglob("*")) if file.is_file())
    print_call(gan, file_format, path, apart, size)


def output_name(gan):
    """Return the name of the exported generator's output."""
    return "images" if len(gan.shape) == 3 else "points"


@contextlib.contextmanager
def replacing(path, file_format):
    """Yield a temporary path; the file or folder written there then replaces the one at `path`.

    Raises Refused while another export writes into that folder. Raises Failed if a foreign file is
    then at `path`. After a kill `path` is the complete old file or the complete new one. A folder
    is so only after the next call.
    """
    work = path.parent / UNFINISHED
    with folders.claim(path.parent):
        mend(path.parent)
        work.mkdir()
        try:
            yield work / path.name
            if foreign := find_foreign(path):
                raise Failed(IN_THE_WAY.format(foreign, file_format))
            if path.is_dir():
                path.rename(work / OLD)
            (work / path.name).replace(path)
        finally:
            mend(path.parent)


def mend(folder):
    """Delete an export's unfinished files, and move back the SavedModel that it had moved away."""
    work, path = folder / UNFINISHED, folder / NAMES["savedmodel"]
    if (work / OLD).exists() and not os.path.lexists(path):
        (work / OLD).rename(path)
    if work.exists():
        shutil.rmtree(work)


def find_foreign(path):
    """Return a path that an export would replace but that this program did not write, or None.

    That is a file in place of a folder, a folder in place of a file, a link, or a further name in a
    SavedModel.
    """
    for place in (path.parent / UNFINISHED, path, *path.rglob("*")):
        expected = WRITTEN.get(str(place.relative_to(path.parent)))
        if os.path.lexists(place) and stat.S_IFMT(place.lstat().st_mode) != expected:
            return place
    return None


def build_function(gan):
    """Return the tf.function of z [n, z_dim] and, in conditional runs, label [n] to export.

    It returns {"images": uint8 [n, H, W, C]} or {"points": float32 [n, 2]}. Its weights are
    constants, because the conversion to TFLite loses the values of variables.
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
        # Like tf.one_hot, but a label out of range is an error in every runtime. Without tf.where
        # ONNX would count labels below 0 from the end.
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


def write(function, file_format, path):
    """Write a function with an input signature to a file. Raises Failed if TensorFlow cannot."""
    import tensorflow as tf

    try:
        if file_format == "savedmodel":
            tf.saved_model.save(tf.Module(), str(path), function.get_concrete_function())
        elif file_format == "onnx":
            import tf2onnx

            tf2onnx.convert.from_function(
                function, function.input_signature, opset=OPSET, output_path=str(path)
            )
        else:
            # Given the function itself, TensorFlow would save it in /tmp and, if that is full,
            # continue without the signature.
            saved = path.with_name(NAMES["savedmodel"])
            write(function, "savedmodel", saved)
            with contextlib.chdir(saved):  # TensorFlow reads a path as a pattern
                content = tf.lite.TFLiteConverter.from_saved_model(".").convert()
            path.write_bytes(content)
    except (tf.errors.OpError, OSError) as error:
        raise Failed(
            f"{path}: cannot be written ({explain(error)}); free disk space, then export again"
        ) from None


def read(file_format, path, output="images"):
    """Load a file with its own runtime; return a function from {name of input: array} to output."""
    if file_format == "savedmodel":
        import tensorflow as tf

        with contextlib.chdir(path):  # TensorFlow reads a path as a pattern
            function = tf.saved_model.load(".").signatures["serving_default"]
        return lambda inputs: function(**inputs)[output].numpy()
    if file_format == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        return lambda inputs: session.run([output], inputs)[0]
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(str(path)).get_signature_runner()
    return lambda inputs: runner(**inputs)[output]


def compare(gan, function, seed):
    """Return the largest difference between an exported function and WGAN.sample.

    Images are compared in grey levels, 0 to 255.

    The pictures are drawn in two batches of different sizes, because users may choose any size.
    """
    z, labels = gan.picture_inputs(COMPARED, seed)
    inputs = {"z": z} if labels is None else {"z": z, "label": labels}
    parts = slice(0, 1), slice(1, None)
    made = [function({name: values[part] for name, values in inputs.items()}) for part in parts]
    return np.abs(np.concatenate(made) - gan.sample(z, labels).astype(np.float64)).max()


def print_call(gan, file_format, path, apart, size):
    """Print the size in bytes of an exported file, its inputs and output, and how to call it."""
    name = output_name(gan)
    print(
        f"{path}: {size / 1e6:.1f} MB; its {name} differ from this program's by at most {apart:.3g}"
        f"{' of 255' * (name == 'images')} ({COMPARED} compared)"
    )
    label = f"; label int32 [n], 0 to {gan.classes - 1}" if gan.classes else ""
    drawn = {"uniform": "U(-1, 1)", "normal": "N(0, 1)"}[gan.config.latents]
    print(f"Inputs: z float32 [n, {gan.config.z_dim}], from {drawn}{label}")
    dtype = "uint8" if name == "images" else "float32"
    print(f"Output: {name} {dtype} [n, {', '.join(map(str, gan.shape))}]. In Python:")
    arguments = "z=z, label=label" if gan.classes else "z=z"
    for line in CALLS[file_format]:
        print(f"    {line.format(path=str(path), arguments=arguments, name=name)}")
