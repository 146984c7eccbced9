"""Residual networks with pre-activation blocks, in stages that halve the image and double the width."""

import math


def sample(trial, dataset):
    """Choose the configuration: plain values only, and only those that this model uses."""
    from mloptimizer.spaces import suggest_optimizer

    side = min(dataset.input_shape[:2]) // stem_stride(dataset)
    most_stages = max(1, min(3, int(math.log2(side)) - 1))  # the last stage keeps 4 pixels or more
    params = {
        "stages": trial.suggest_int("stages", min(2, most_stages), most_stages),
        "blocks": trial.suggest_int("blocks", 1, 3),
        "width": trial.suggest_categorical("width", [16, 24, 32, 48, 64]),
        "stem_kernel": trial.suggest_categorical("stem_kernel", [3, 5]),
        "normalization": trial.suggest_categorical("normalization", ["batch", "group"]),
        "activation": trial.suggest_categorical("activation", ["gelu", "relu", "silu"]),
        "pooling": trial.suggest_categorical("pooling", ["average", "max"]),
        "dropout": trial.suggest_float("dropout", 0.0, 0.4, step=0.1),
        "head_units": trial.suggest_categorical("head_units", [0, 128, 256]),
    }
    if params["width"] <= 32:  # larger kernels cost too much in wider blocks
        params["kernel"] = trial.suggest_categorical("kernel", [3, 5])
    if params["normalization"] == "group":
        params["groups"] = trial.suggest_categorical("groups", [4, 8])  # all divide every width
    return {**params, **suggest_optimizer(trial)}


def build(params, dataset):
    """Return the Keras model: standardised float32 images (height, width, channels) to logits (classes,)."""
    import keras
    from keras import layers

    def convolve(x, width, kernel, stride, name):
        return layers.Conv2D(
            width, kernel, stride, padding="same", use_bias=False, kernel_initializer="he_normal", name=name
        )(x)

    def normalize(x, name):
        if params["normalization"] == "group":
            return layers.GroupNormalization(params["groups"], name=name)(x)
        return layers.BatchNormalization(momentum=0.9, name=name)(x)  # 0.99 is too slow for a few hundred steps

    def activate(x):
        if params["activation"] == "gelu":
            return keras.ops.gelu(x, approximate=True)
        return keras.ops.relu(x) if params["activation"] == "relu" else keras.ops.silu(x)

    def block(x, width, stride, name):
        start = activate(normalize(x, f"{name}_norm1"))
        y = convolve(start, width, params.get("kernel", 3), stride, f"{name}_conv1")
        y = convolve(activate(normalize(y, f"{name}_norm2")), width, 3, 1, f"{name}_conv2")
        if stride > 1 or x.shape[-1] != width:
            x = convolve(start, width, 1, stride, f"{name}_shortcut")
        return layers.Add(name=f"{name}_add")([x, y])

    images = keras.Input(dataset.input_shape, name="images")
    x = convolve(images, params["width"], params["stem_kernel"], stem_stride(dataset), "stem")
    for stage in range(params["stages"]):
        for number in range(params["blocks"]):
            stride = 2 if stage > 0 and number == 0 else 1
            x = block(x, params["width"] * 2**stage, stride, f"stage{stage + 1}_block{number + 1}")
    x = activate(normalize(x, "last_norm"))
    pool = layers.GlobalMaxPooling2D if params["pooling"] == "max" else layers.GlobalAveragePooling2D
    x = pool(name="pool")(x)
    if params["head_units"]:
        x = activate(layers.Dense(params["head_units"], kernel_initializer="he_normal", name="head")(x))
    if params["dropout"]:
        x = layers.Dropout(params["dropout"], name="dropout")(x)
    return keras.Model(images, layers.Dense(dataset.classes, dtype="float32", name="logits")(x), name="resnet")


def stem_stride(dataset):
    """Return the stride of the first convolution, which shrinks images of 64 to 255 pixels to 32 to 63 pixels."""
    side = min(dataset.input_shape[:2])
    return 1 if side < 64 else 2 if side < 128 else 4
