"""--export: the averaged generator as a file for other programs, checked before it has its name.

Imports TensorFlow and the runtimes only when they are used.
"""

import importlib.util
import shutil
from pathlib import Path

import numpy as np

import draws
from system import screen
from system.errors import Failed, Refused

NAMES = {
    "savedmodel": "savedmodel",
    "onnx": "generator.onnx",
    "tflite": "generator.tflite",
}
PACKAGES = {
    "savedmodel": (),
    "onnx": ("tf2onnx", "onnx", "onnxruntime"),
    "tflite": ("ai_edge_litert",),
}
CALLS = {
    "savedmodel": (
        "import tensorflow as tf",
        "generator = tf.saved_model.load({path!r}).signatures['serving_default']",
        "images = generator({arguments})['images'].numpy()",
    ),
    "onnx": (
        "import onnxruntime",
        "generator = onnxruntime.InferenceSession({path!r})",
        "images = generator.run(['images'], dict({arguments}))[0]",
    ),
    "tflite": (
        "from ai_edge_litert.interpreter import Interpreter",
        "generator = Interpreter({path!r}).get_signature_runner()",
        "images = generator({arguments})['images']",
    ),
}
OPSET = 17  # of ONNX; every onnxruntime since 1.12 of 2022 reads it
MOST_BYTES = 2e9  # of weights: protocol buffers and flat buffers end at 2 GiB
COMPARED = 64  # pictures
MOST_APART = 1  # grey level: a number near the middle between two may be rounded either way


def check_packages(kind):
    """Refuse a kind of file of which a package is missing."""
    for name in PACKAGES[kind]:
        if importlib.util.find_spec(name) is None:
            raise Refused(
                f"--export {kind}: needs the package {name.replace('_', '-')};"
                " pip install -r requirements-export.txt"
            )


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
    new = path.with_name(f"{path.name}.new")
    path.parent.mkdir(exist_ok=True)
    remove(new)  # which a command left that was killed
    try:
        with screen.hushed():
            write(build_function(gan), kind, new)
            apart = compare(gan, read(kind, new), seed)
        if apart > MOST_APART:
            raise Failed(
                f"{path}: not written, because its pictures would differ from those of this program"
                f" by up to {apart} of 255; export another kind of file"
            )
        remove(path)
        new.rename(path)
    finally:
        remove(new)
    print_call(gan, kind, path, apart)


def build_function(gan):
    """Return the tf.function of z [n, z_dim] and, in conditional runs, label [n] to export.

    It gives {"images": uint8 [n, H, W, C]}. The weights are constants in it: of variables the
    conversion to TFLite keeps the names alone.
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

    def pictures(z, label=None):
        inputs = [z, tf.one_hot(label, classes)] if classes else z
        images, _ = generator.stateless_call(*weights, inputs, training=False)
        return {"images": ops.to_pixels(images)}

    function = tf.function(pictures, input_signature=signature, autograph=False)
    with kernels.plain():
        generator = networks.build_generator(
            gan.config.arch, gan.shape, z_dim, classes, gan.config.condition
        )
        function.get_concrete_function()
    return function


def write(function, kind, path):
    """Write a function with an input signature. Raises Failed where TensorFlow cannot."""
    import tensorflow as tf

    from run import weights

    try:
        if kind == "savedmodel":
            tf.saved_model.save(tf.Module(), str(path), function.get_concrete_function())
        elif kind == "onnx":
            import tf2onnx

            tf2onnx.convert.from_function(
                function, function.input_signature, opset=OPSET, output_path=str(path)
            )
        else:
            converter = tf.lite.TFLiteConverter.from_concrete_functions(
                [function.get_concrete_function()], tf.Module()
            )
            path.write_bytes(converter.convert())
    except tf.errors.OpError as error:
        raise Failed(f"{path}: cannot be written ({weights.reason(error)})") from None


def read(kind, path):
    """Load a file by its own runtime: a function of {name of input: array} to images."""
    if kind == "savedmodel":
        import tensorflow as tf

        from run import weights

        with weights.plain_name(str(path)) as name:
            function = tf.saved_model.load(name).signatures["serving_default"]
        return lambda inputs: function(**inputs)["images"].numpy()
    if kind == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        return lambda inputs: session.run(["images"], inputs)[0]
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(str(path)).get_signature_runner()
    return lambda inputs: runner(**inputs)["images"]


def compare(gan, function, seed):
    """Return by how many grey levels an exported function's pictures differ from sample's at most.

    They are made in two batches of different size, because any number may be asked for.
    """
    z, labels = draws.picture_draws(
        seed, 0, COMPARED, gan.config.z_dim, gan.label_counts, kind=gan.config.latents
    )
    inputs = {"z": z} if labels is None else {"z": z, "label": labels}
    parts = slice(0, 1), slice(1, None)
    made = [function({name: values[part] for name, values in inputs.items()}) for part in parts]
    return int(np.abs(np.concatenate(made) - gan.sample(z, labels).astype(int)).max())


def print_call(gan, kind, path, apart):
    """Print what is in an exported file and how to call it."""
    files = [path, *path.rglob("*")]
    size = sum(file.stat().st_size for file in files if file.is_file())
    print(
        f"{path}: {size / 1e6:.1f} MB; its pictures differ from those of this program by {apart}"
        f" of 255 at most ({COMPARED} compared)"
    )
    label = f"; label int32 [n], 0 to {gan.classes - 1}" if gan.classes else ""
    drawn = {"uniform": "U(-1, 1)", "normal": "N(0, 1)"}[gan.config.latents]
    print(f"Inputs: z float32 [n, {gan.config.z_dim}], from {drawn}{label}")
    print(f"Output: images uint8 [n, {', '.join(map(str, gan.shape))}]. In Python:")
    arguments = "z=z, label=label" if gan.classes else "z=z"
    for line in CALLS[kind]:
        print(f"    {line.format(path=str(path), arguments=arguments)}")


def remove(path):
    """Delete a file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
