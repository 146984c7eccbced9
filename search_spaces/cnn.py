"""Plain convolutional networks in the style of VGG: groups of convolutions, each followed by max pooling."""

import math


def sample(trial, dataset):
    """Choose the configuration: plain values only, and only those that this model uses."""
    from mloptimizer.spaces import suggest_optimizer

    side = min(dataset.input_shape[:2]) // stem_stride(dataset)
    most_stages = max(1, min(4, int(math.log2(side)) - 1))  # the last stage sees 4 pixels or more
    params = {
        "stages": trial.suggest_int("stages", min(most_stages, max(2, most_stages - 1)), most_stages),
        "convolutions": trial.suggest_int("convolutions", 1, 2),
        "width": trial.suggest_categorical("width", [16, 24, 32, 48, 64]),
        "first_kernel": trial.suggest_categorical("first_kernel", [3, 5]),
        "kernel": trial.suggest_categorical("kernel", [3, 5]),
        "normalization": trial.suggest_categorical("normalization", ["batch", "group"]),
        "activation": trial.suggest_categorical("activation", ["gelu", "relu", "silu"]),
        "stage_dropout": trial.suggest_float("stage_dropout", 0.0, 0.2, step=0.1),
        "pooling": trial.suggest_categorical("pooling", ["average", "max"]),
        "dropout": trial.suggest_float("dropout", 0.0, 0.4, step=0.1),
        "head_units": trial.suggest_categorical("head_units", [0, 128, 256]),
    }
    if params["normalization"] == "group":
        params["groups"] = trial.suggest_categorical("groups", [4, 8])  # all divide every width
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

    def convolve(x, width, kernel, stride, name):
        x = layers.Conv2D(
            width, kernel, stride, padding="same", use_bias=False, kernel_initializer="he_normal", name=name
        )(x)
        return activate(normalize(x, f"{name}_norm"))

    x = images = keras.Input(dataset.input_shape, name="images")
    for stage in range(params["stages"]):
        for number in range(params["convolutions"]):
            first = stage == number == 0
            kernel = params["first_kernel"] if first else params["kernel"]
            stride = stem_stride(dataset) if first else 1
            width = min(256, params["width"] * 2**stage)
            x = convolve(x, width, kernel, stride, f"stage{stage + 1}_conv{number + 1}")
        if stage < params["stages"] - 1:
            x = layers.MaxPooling2D(2, padding="same", name=f"stage{stage + 1}_pool")(x)
        if params["stage_dropout"]:
            x = layers.SpatialDropout2D(params["stage_dropout"], name=f"stage{stage + 1}_dropout")(x)
    pool = layers.GlobalMaxPooling2D if params["pooling"] == "max" else layers.GlobalAveragePooling2D
    x = pool(name="pool")(x)
    if params["head_units"]:
        x = activate(layers.Dense(params["head_units"], kernel_initializer="he_normal", name="head")(x))
    if params["dropout"]:
        x = layers.Dropout(params["dropout"], name="dropout")(x)
    return keras.Model(images, layers.Dense(dataset.classes, dtype="float32", name="logits")(x), name="cnn")


def stem_stride(dataset):
    """Return the stride of the first convolution, which shrinks images of 64 to 255 pixels to 32 to 63 pixels."""
    side = min(dataset.input_shape[:2])
    return 1 if side < 64 else 2 if side < 128 else 4
