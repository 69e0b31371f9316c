"""The steps of training, in TensorFlow's own loop: a call from Python costs more than a step of a small network."""

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from landuse.ml.network import device
from landuse.params import TrainParams
from landuse.train.batches import Chunk, Passes

Moved = Callable[[int, "Outcome"], None]
Sums = tuple[tf.Tensor, tf.Tensor]


@dataclass(frozen=True)
class Outcome:
    """What came of a pass so far: mean loss, accuracy, and how fast it went."""

    loss: float
    accuracy: float
    images_per_second: float


class Learner:
    """A network in training: `seeing` and the head upon it. `learn` and `judge` each make a pass.

    Both tell `moved` how many images are done. It may `begin` any number of times: what is set then stands in
    variables, since to build the graph of a step takes longer than to train a head.
    """

    def __init__(self, seeing: keras.Model, head: keras.layers.Layer, train: Passes) -> None:
        self.seeing, self.head = seeing, head
        self.variables = [*seeing.trainable_variables, *head.trainable_variables]
        self.class_weight = tf.constant(train.class_weight())
        self.batch_size, self.seed = tf.Variable(1), tf.Variable(0)
        self.label_smoothing, self.dropout, self.weight_decay = (tf.Variable(0.0) for _ in range(3))
        adam = keras.optimizers.AdamW(0.0, weight_decay=self.weight_decay)
        self.optimizer = keras.optimizers.LossScaleOptimizer(adam) if device() == "GPU" else adam
        self.optimizer.build(self.variables)
        self.start = [np.array(variable) for variable in self.optimizer.variables]
        inputs = tf.TensorSpec((None, *train.example.shape[1:]), train.example.dtype)
        signature = [inputs, tf.TensorSpec((None, train.labels.shape[1])), tf.TensorSpec((None,))]
        self.learn_chunk = tf.function(self.learn_batches, input_signature=[*signature, tf.TensorSpec((None,))])
        self.judge_chunk = tf.function(self.judge_batches, input_signature=signature)

    def begin(self, params: TrainParams, steps_per_epoch: int) -> None:
        """Forget what earlier steps left behind, but for the weights of the network, and train by other params."""
        for variable, value in zip(self.optimizer.variables, self.start, strict=True):
            variable.assign(value)
        for name in ("batch_size", "seed", "label_smoothing", "dropout", "weight_decay"):
            getattr(self, name).assign(getattr(params, name))
        self.rates = learning_rates(params, steps_per_epoch)

    @property
    def rate(self) -> float:
        """The learning rate of the next step; 0 where there is none."""
        return float(self.rates[0]) if len(self.rates) else 0.0

    def learn(self, chunks: Passes, moved: Moved) -> Outcome:
        """One pass that changes the network."""

        def step(chunk: Chunk) -> Sums:
            batches = -(-len(chunk.labels) // chunks.batch_size)
            now, self.rates = np.split(self.rates, [batches])
            return self.learn_chunk(*chunk, now)

        return go_through(step, chunks, moved)

    def judge(self, chunks: Passes, moved: Moved) -> Outcome:
        """One pass that only looks."""
        return go_through(lambda chunk: self.judge_chunk(*chunk), chunks, moved)

    def learn_batches(self, inputs: tf.Tensor, labels: tf.Tensor, shares: tf.Tensor, rates: tf.Tensor) -> Sums:
        """A step per batch and rate; returns the sum of the losses, and how many were right before their step."""
        total, right, kept = tf.zeros(()), tf.zeros(()), self.kept(tf.shape(labels)[0])
        for number in tf.range(tf.size(rates)):
            rows = slice(number * self.batch_size, (number + 1) * self.batch_size)
            batch = tf.cast(mix(inputs[rows], shares[rows]), self.seeing.inputs[0].dtype)
            wanted = mix(labels[rows], shares[rows])
            with tf.GradientTape() as tape:
                probabilities = self.head(self.seeing(batch, training=True) * kept[rows])
                losses = self.losses(wanted, probabilities) * tf.linalg.matvec(wanted, self.class_weight)
                loss = self.optimizer.scale_loss(tf.reduce_mean(losses))
            self.optimizer.learning_rate.assign(rates[number])
            self.optimizer.apply(tape.gradient(loss, self.variables), self.variables)
            total += tf.reduce_sum(losses)
            right += count_right(wanted, probabilities)
        return total, right

    def judge_batches(self, inputs: tf.Tensor, labels: tf.Tensor, shares: tf.Tensor) -> Sums:
        """The sum of the losses, without weights of classes, and how many images are right."""
        total, right = tf.zeros(()), tf.zeros(())
        for start in tf.range(0, tf.shape(labels)[0], self.batch_size):
            rows = slice(start, start + self.batch_size)
            seen = self.seeing(tf.cast(inputs[rows], self.seeing.inputs[0].dtype), training=False)
            probabilities = self.head(seen)
            total += tf.reduce_sum(self.losses(labels[rows], probabilities))
            right += count_right(labels[rows], probabilities)
        return total, right

    def kept(self, count: tf.Tensor) -> tf.Tensor:
        """Dropout: 0 for each feature [count, channels] that is left out, and what makes up for it for the others.

        Drawn for a whole chunk: to draw for each batch would take as long as all else in the step of a head.
        """
        now = (self.seed, tf.cast(self.optimizer.iterations, tf.int32))
        drawn = tf.random.stateless_uniform((count, self.seeing.output.shape[-1]), now)
        return tf.cast(tf.cast(drawn >= self.dropout, tf.float32) / (1 - self.dropout), self.seeing.output.dtype)

    def losses(self, labels: tf.Tensor, probabilities: tf.Tensor) -> tf.Tensor:
        """Cross-entropy of each image [n], with smoothed labels."""
        classes = labels.shape[1]
        smoothed = labels * (1 - self.label_smoothing) + self.label_smoothing / classes
        return keras.losses.categorical_crossentropy(smoothed, probabilities)


def mix(values: tf.Tensor, shares: tf.Tensor) -> tf.Tensor:
    """Mixup (Zhang et al., 2018): each of [n, …] by its share with the one that mirrors it in the shuffled batch."""
    values = tf.cast(values, tf.float32)
    shares = tf.reshape(shares, [-1, *[1] * (values.shape.rank - 1)])
    return shares * values + (1 - shares) * values[::-1]


def count_right(labels: tf.Tensor, probabilities: tf.Tensor) -> tf.Tensor:
    """How many images are taken for what they mostly are."""
    return tf.reduce_sum(tf.cast(tf.argmax(labels, 1) == tf.argmax(probabilities, 1), tf.float32))


def go_through(step: Callable[[Chunk], Sums], chunks: Passes, moved: Moved) -> Outcome:
    """One pass, chunk by chunk."""
    start, done, total, right = perf_counter(), 0, 0.0, 0.0
    for chunk in chunks:
        sums = step(chunk)
        done, total, right = done + len(chunk.labels), total + float(sums[0]), right + float(sums[1])
        outcome = Outcome(total / done, right / done, done / (perf_counter() - start))
        moved(done, outcome)
    return outcome


def learning_rates(params: TrainParams, steps_per_epoch: int) -> NDArray[np.float32]:
    """Of each step: rises linearly to its peak, then falls to 0 along a cosine."""
    steps = params.epochs * steps_per_epoch
    rising = int(params.warmup * steps)
    step = np.arange(steps)
    falling = (1 + np.cos(np.pi * (step - rising) / max(steps - rising, 1))) / 2
    return np.float32(params.learning_rate * np.where(step < rising, step / max(rising, 1), falling))
