"""Inception networks: modules of parallel 1×1, 3×3, 5×5 and pooling branches with joined outputs."""

import math


def sample(trial, dataset):
    """Choose the configuration: plain values only, and only those that this model uses."""
    from mloptimizer.spaces import suggest_optimizer

    side = min(dataset.input_shape[:2]) // stem_stride(dataset)
    most_stages = max(1, min(3, int(math.log2(side)) - 1))  # the last stage keeps 4 pixels or more
    params = {
        "stages": trial.suggest_int("stages", min(2, most_stages), most_stages),
        "modules": trial.suggest_int("modules", 1, 2),
        "width": trial.suggest_int("width", 32, 64, step=16),
        "stem_kernel": trial.suggest_categorical("stem_kernel", [3, 5]),
        "wide_branch": trial.suggest_categorical("wide_branch", ["double_3x3", "5x5"]),
        "branch_pool": trial.suggest_categorical("branch_pool", ["average", "max"]),
        "normalization": trial.suggest_categorical("normalization", ["batch", "group"]),
        "activation": trial.suggest_categorical("activation", ["gelu", "relu", "silu"]),
        "pooling": trial.suggest_categorical("pooling", ["average", "max"]),
        "dropout": trial.suggest_float("dropout", 0.0, 0.4, step=0.1),
        "head_units": trial.suggest_categorical("head_units", [0, 128, 256]),
    }
    if params["normalization"] == "group":
        params["groups"] = trial.suggest_categorical("groups", [2, 4])  # all divide every branch's width
    return {**params, **suggest_optimizer(trial)}


def build(params, dataset):
    """Return the Keras model: standardised float32 images (height, width, channels) to logits (classes,)."""
    import keras
    from keras import layers

    def normalize(x, name):
        if params["normalization"] == "group":
            return layers.GroupNormalization(params["groups"], name=name)(x)
        return layers.BatchNormalization(momentum=0.9, name=name)(x)  # 0.99 is too slow for a few hundred steps

    def activate(x):
        if params["activation"] == "gelu":
            return keras.ops.gelu(x, approximate=True)
        return keras.ops.relu(x) if params["activation"] == "relu" else keras.ops.silu(x)

    def convolve(x, width, kernel, name, stride=1):
        x = layers.Conv2D(
            width, kernel, stride, padding="same", use_bias=False, kernel_initializer="he_normal", name=name
        )(x)
        return activate(normalize(x, f"{name}_norm"))

    def module(x, width, name):
        quarter = width // 4
        # One 1×1 convolution computes the inputs of all four branches: the same as four, in far fewer operations.
        plain, middle, wide, pooled = keras.ops.split(convolve(x, width, 1, f"{name}_1x1"), 4, axis=-1)
        middle = convolve(middle, quarter, 3, f"{name}_3x3")
        if params["wide_branch"] == "5x5":
            wide = convolve(wide, quarter, 5, f"{name}_5x5")
        else:
            wide = convolve(convolve(wide, quarter, 3, f"{name}_double1"), quarter, 3, f"{name}_double2")
        pool = layers.MaxPooling2D if params["branch_pool"] == "max" else layers.AveragePooling2D
        pooled = pool(3, strides=1, padding="same", name=f"{name}_pool")(pooled)
        return layers.Concatenate(name=f"{name}_join")([plain, middle, wide, pooled])

    images = keras.Input(dataset.input_shape, name="images")
    x = convolve(images, params["width"], params["stem_kernel"], "stem", stem_stride(dataset))
    for stage in range(params["stages"]):
        if stage > 0:
            x = layers.MaxPooling2D(2, padding="same", name=f"stage{stage + 1}_pool")(x)
        for number in range(params["modules"]):
            x = module(x, params["width"] * 2**stage, f"stage{stage + 1}_module{number + 1}")
    pool = layers.GlobalMaxPooling2D if params["pooling"] == "max" else layers.GlobalAveragePooling2D
    x = pool(name="pool")(x)
    if params["head_units"]:
        x = activate(layers.Dense(params["head_units"], kernel_initializer="he_normal", name="head")(x))
    if params["dropout"]:
        x = layers.Dropout(params["dropout"], name="dropout")(x)
    return keras.Model(images, layers.Dense(dataset.classes, dtype="float32", name="logits")(x), name="inception")


def stem_stride(dataset):
    """Return the stride of the first convolution, which shrinks images of 64 to 255 pixels to 32 to 63 pixels."""
    side = min(dataset.input_shape[:2])
    return 1 if side < 64 else 2 if side < 128 else 4
