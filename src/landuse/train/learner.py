"""The steps of training, in TensorFlow's own loop: a call from Python costs more than a step of a small network."""

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter

import keras
import tensorflow as tf

from landuse import model
from landuse.params import TrainParams
from landuse.train.passes import Passes

Moved = Callable[[int, "Outcome"], None]


@dataclass(frozen=True)
class Outcome:
    """What came of a pass so far: mean loss, accuracy, and how fast it went."""

    loss: float
    accuracy: float
    images_per_second: float


class Learner:
    """A network in training: `learn` and `judge` each make a pass, and tell `moved` how many images are done."""

    def __init__(self, network: keras.Model, params: TrainParams, train: Passes) -> None:
        self.network, self.batch_size = network, params.batch_size
        self.loss = keras.losses.CategoricalCrossentropy(label_smoothing=params.label_smoothing, reduction=None)
        self.class_weight = tf.constant(train.class_weight())
        self.optimizer = optimizer(params, train.batches)
        self.optimizer.build(network.trainable_variables)
        inputs = tf.TensorSpec((None, *train.example.shape[1:]), train.example.dtype)
        signature = [inputs, tf.TensorSpec((None, train.labels.shape[1])), tf.TensorSpec((None,))]
        self.learn_chunk = tf.function(self.learn_batches, input_signature=signature)
        self.judge_chunk = tf.function(self.judge_batches, input_signature=signature)

    @property
    def rate(self) -> float:
        """The learning rate of the next step."""
        return float(self.optimizer.learning_rate)

    def learn(self, chunks: Passes, moved: Moved) -> Outcome:
        """One pass that changes the network."""
        return go_through(self.learn_chunk, chunks, moved)

    def judge(self, chunks: Passes, moved: Moved) -> Outcome:
        """One pass that only looks."""
        return go_through(self.judge_chunk, chunks, moved)

    def learn_batches(self, inputs: tf.Tensor, labels: tf.Tensor, shares: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """A step per batch; returns the sum of the losses, and how many images were right before their step."""
        total, right = tf.zeros(()), tf.zeros(())
        for start in tf.range(0, tf.shape(labels)[0], self.batch_size):
            end = start + self.batch_size
            share = shares[start:end]
            batch = tf.cast(mix(inputs[start:end], share), self.network.inputs[0].dtype)
            wanted = mix(labels[start:end], share)
            with tf.GradientTape() as tape:
                probabilities = self.network(batch, training=True)
                losses = self.weighed_loss(wanted, probabilities)
                loss = self.optimizer.scale_loss(tf.reduce_mean(losses))
            variables = self.network.trainable_variables
            self.optimizer.apply(tape.gradient(loss, variables), variables)
            total += tf.reduce_sum(losses)
            right += count_right(wanted, probabilities)
        return total, right

    def judge_batches(self, inputs: tf.Tensor, labels: tf.Tensor, shares: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The sum of the losses, without weights of classes, and how many images are right."""
        total, right = tf.zeros(()), tf.zeros(())
        for start in tf.range(0, tf.shape(labels)[0], self.batch_size):
            end = start + self.batch_size
            batch = tf.cast(inputs[start:end], self.network.inputs[0].dtype)
            probabilities = self.network(batch, training=False)
            total += tf.reduce_sum(self.loss(labels[start:end], probabilities))
            right += count_right(labels[start:end], probabilities)
        return total, right

    def weighed_loss(self, labels: tf.Tensor, probabilities: tf.Tensor) -> tf.Tensor:
        """Loss per image [n]; images of rare classes weigh more."""
        return self.loss(labels, probabilities) * tf.linalg.matvec(labels, self.class_weight)


def mix(values: tf.Tensor, shares: tf.Tensor) -> tf.Tensor:
    """Mixup (Zhang et al., 2018): each of [n, …] by its share with the one that mirrors it in the shuffled batch."""
    values = tf.cast(values, tf.float32)
    shares = tf.reshape(shares, [-1, *[1] * (values.shape.rank - 1)])
    return shares * values + (1 - shares) * values[::-1]


def count_right(labels: tf.Tensor, probabilities: tf.Tensor) -> tf.Tensor:
    """How many images are taken for what they mostly are."""
    return tf.reduce_sum(tf.cast(tf.argmax(labels, 1) == tf.argmax(probabilities, 1), tf.float32))


def go_through(step: Callable[..., tuple[tf.Tensor, tf.Tensor]], chunks: Passes, moved: Moved) -> Outcome:
    """One pass, chunk by chunk."""
    start, done, total, right = perf_counter(), 0, 0.0, 0.0
    for chunk in chunks:
        sums = step(*chunk)
        done, total, right = done + len(chunk.labels), total + float(sums[0]), right + float(sums[1])
        outcome = Outcome(total / done, right / done, done / (perf_counter() - start))
        moved(done, outcome)
    return outcome


def optimizer(params: TrainParams, steps_per_epoch: int) -> keras.optimizers.Optimizer:
    """AdamW whose learning rate rises linearly to its peak, then falls to 0 along a cosine."""
    steps = params.epochs * steps_per_epoch
    rising = int(params.warmup * steps)
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0 if rising else params.learning_rate,
        decay_steps=max(steps - rising, 1),
        warmup_target=params.learning_rate if rising else None,
        warmup_steps=rising,
    )
    adam = keras.optimizers.AdamW(schedule, weight_decay=params.weight_decay)
    return keras.optimizers.LossScaleOptimizer(adam) if model.device() == "GPU" else adam
