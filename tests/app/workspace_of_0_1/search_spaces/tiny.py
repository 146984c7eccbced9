"""One hidden layer."""


def sample(trial, dataset):
    return {"width": trial.suggest_int("width", 2, 8), "learning_rate": trial.suggest_float("rate", 1e-3, 1e-1, log=True)}


def build(params, dataset):
    import keras

    images = keras.Input(dataset.input_shape)
    x = keras.layers.Flatten()(images)
    x = keras.layers.Dense(params["width"], activation="relu")(x)
    return keras.Model(images, keras.layers.Dense(dataset.classes)(x))
