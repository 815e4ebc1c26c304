"""The classic Keras confusion-matrix tutorial: MLP, batch 32, 5 epochs, a matrix image in TensorBoard each epoch.

Needs tensorflow and matplotlib, which this project does not: a Python of their own runs it.

<a Python with tensorflow> benchmarks/keras_loop.py <directory of the data>
"""

import io
import sys
import tempfile
from pathlib import Path

import keras
import matplotlib as mpl
import numpy as np
import tensorflow as tf

mpl.use("Agg")
from matplotlib import pyplot as plt


def read(path: Path) -> np.ndarray:
    content = path.read_bytes()
    dimensions = content[3]
    shape = np.frombuffer(content, ">i4", dimensions, 4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(shape)


raw = Path(sys.argv[1]) / "FashionMNIST" / "raw"
train_images, test_images = (read(raw / f"{part}-images-idx3-ubyte") / 255.0 for part in ("train", "t10k"))
train_labels, test_labels = (read(raw / f"{part}-labels-idx1-ubyte") for part in ("train", "t10k"))

hidden = [keras.layers.Dense(size, activation="relu") for size in (512, 256, 128, 64, 32)]
model = keras.Sequential([keras.layers.Flatten(), *hidden, keras.layers.Dense(10, activation="softmax")])
model.compile(optimizer="adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
writer = tf.summary.create_file_writer(tempfile.mkdtemp())


def log_confusion_matrix(epoch: int, logs: object) -> None:
    predicted = np.argmax(model.predict(test_images, verbose=0), axis=1)
    counts = tf.math.confusion_matrix(test_labels, predicted).numpy()
    figure = plt.figure(figsize=(8, 8))
    plt.imshow(counts, interpolation="nearest", cmap="Blues")
    plt.colorbar()
    for row, column in np.ndindex(counts.shape):
        plt.text(column, row, counts[row, column], horizontalalignment="center")
    plt.tight_layout()
    content = io.BytesIO()
    plt.savefig(content, format="png")
    plt.close(figure)
    image = tf.expand_dims(tf.image.decode_png(content.getvalue(), channels=4), 0)
    with writer.as_default():
        tf.summary.image("Confusion Matrix", image, step=epoch)


model.fit(
    train_images,
    train_labels,
    epochs=5,
    verbose=0,
    callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=log_confusion_matrix)],
    validation_data=(test_images, test_labels),
)
print("test accuracy", model.evaluate(test_images, test_labels, verbose=0)[1])
