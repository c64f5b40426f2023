"""Deliberately bad learners and tasks: each must fail the check that is there for it, and no other.

A contract suite that catches nothing proves nothing. Every leak that public implementations have been found with is
written down here once; `Prototypes` of `fakes.py`, from which most are made, passes everything.
"""

from __future__ import annotations

import contract
import numpy as np
import pytest
import torch
from fakes import FEATURES, Prototypes, Toy, ToyNearest, ToyNet, ToyOnline, named, prototypes
from torch import Tensor, nn
from torch.nn import functional as F

from bench.api import BenchError, Episode, Examples, Generator, Learner, Method, Split, Task, TrainedMethod, option
from bench.seeding import generator

CHECKS = [name for name in contract.METHOD_CHECKS if name != "resumes"]


def failing(method: Method, task: Task, names: list[str] = CHECKS) -> set[str]:
    """Names of the checks that a method fails; only assertions count, an accident is an error of the test."""
    failed = set()
    for name in names:
        try:
            contract.METHOD_CHECKS[name](method, task)
        except AssertionError:
            failed.add(name)
    return failed


def failing_task(task: Task) -> set[str]:
    """Names of the task checks that a task fails."""
    failed = set()
    for name, check in contract.TASK_CHECKS.items():
        try:
            check(task)
        except AssertionError:
            failed.add(name)
    return failed


def method_of(learner: type[Prototypes]) -> TrainedMethod:
    """A trained method that builds one kind of learner."""

    @named("bad")
    class Bad(TrainedMethod):
        """Builds what it was told to."""

        width: int = option(5, "width of the embedding")

        def build(self, task: Task) -> Learner:
            return learner(task, self.width)

    return Bad()


# Learners that see what they must not


class ShowsOwnLabel(Prototypes):
    """Online, the answer at t is told by y_t: labels fed one step early."""

    def stream(self, x: Tensor, y: Tensor) -> Tensor:
        return super().stream(x, y) + 5 * self.encode_labels(y).to(x.dtype)


class NormalisesOverTime(Prototypes):
    """Online, features are normalised over all presentations, those to come included."""

    def stream(self, x: Tensor, y: Tensor) -> Tensor:
        return super().stream((x - x.mean(1, keepdim=True)) / (x.std(1, keepdim=True, unbiased=False) + 1), y)


class BatchNormOverTime(Prototypes):
    """All presentations go through BatchNorm at once: in training its statistics hold the future."""

    def __init__(self, task: Task, width: int) -> None:
        super().__init__(task, width)
        self.norm = nn.BatchNorm1d(width)

    def stream(self, x: Tensor, y: Tensor) -> Tensor:
        seen = self.norm(self.embed(x).flatten(0, 1)).view(*x.shape[:2], -1)
        steps = [self._match(Examples(seen[:, :t], y[:, :t]), seen[:, t : t + 1]) for t in range(x.shape[1])]
        return torch.cat(steps, 1)

    def forward(self, support: Examples, query_x: Tensor) -> Tensor:
        batch, queries = query_x.shape[:2]
        seen = self.norm(self.embed(torch.cat((support.x, query_x), 1)).flatten(0, 1)).view(batch, -1, 5)
        return self._match(Examples(seen[:, :-queries], support.y), seen[:, -queries:])

    def _match(self, support: Examples, query: Tensor) -> Tensor:
        labels = self.encode_labels(support.y).to(query.dtype)
        means = labels.transpose(1, 2) @ support.x
        return -self.scale * (query[:, :, None] - means[:, None]).square().sum(-1)


class MixesTheBatch(Prototypes):
    """Inputs are centred over the batch."""

    def embed(self, x: Tensor) -> Tensor:
        return super().embed(x - x.mean(0, keepdim=True))


class RunsAcrossTheBatch(Learner):
    """An LSTM whose input is [batch, time, features] and that reads it as [time, batch, features]."""

    def __init__(self, task: Task, width: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(int(np.prod(task.x_shape)) + task.y_size, width)  # batch_first is missing
        self.output = nn.Linear(width, task.n_out)
        self.encode_labels = task.encode

    def stream(self, x: Tensor, y: Tensor) -> Tensor:
        label = self.encode_labels(y).to(x.dtype)
        label = torch.cat((torch.zeros_like(label[:, :1]), label[:, :-1]), 1)
        return self.output(self.lstm(torch.cat((x.flatten(2), label), 2))[0])

    def forward(self, support: Examples, query_x: Tensor) -> Tensor:
        answers = []
        for q in query_x.unbind(1):
            y = torch.cat((support.y, torch.zeros_like(support.y[:, :1]).new_zeros(len(q), 1)), 1)
            answers.append(self.stream(torch.cat((support.x, q[:, None]), 1), y)[:, -1])
        return torch.stack(answers, 1)


class NormalisesOverQueries(Prototypes):
    """BatchNorm with the statistics of the queries at hand, as in transductive MAML."""

    def forward(self, support: Examples, query_x: Tensor) -> Tensor:
        spread = query_x.std(1, keepdim=True, unbiased=False) + 1
        return super().forward(support, (query_x - query_x.mean(1, keepdim=True)) / spread)


class KeepsItsState(Prototypes):
    """The state of one call is where the next one starts."""

    def __init__(self, task: Task, width: int) -> None:
        super().__init__(task, width)
        self.hidden: Tensor | float = 0.0

    def forward(self, support: Examples, query_x: Tensor) -> Tensor:
        return self._after_the_last_call(super().forward(support, query_x))

    def stream(self, x: Tensor, y: Tensor) -> Tensor:
        steps = [super(KeepsItsState, self).forward(Examples(x[:, :t], y[:, :t]), x[:, t : t + 1])
                 for t in range(x.shape[1])]  # fmt: skip
        return self._after_the_last_call(torch.cat(steps, 1))

    def _after_the_last_call(self, answer: Tensor) -> Tensor:
        before, self.hidden = self.hidden, answer.detach().mean()
        return answer + before


class KeepsABuffer(Prototypes):
    """Counts its calls in a buffer that a checkpoint would carry."""

    def __init__(self, task: Task, width: int) -> None:
        super().__init__(task, width)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, support: Examples, query_x: Tensor) -> Tensor:
        self.calls += 1  # type: ignore[operator]
        return super().forward(support, query_x)


class WritesIntoItsInput(Prototypes):
    """Wipes the support it was lent, when asked several queries."""

    def forward(self, support: Examples, query_x: Tensor) -> Tensor:
        answer = super().forward(support, query_x)
        if query_x.shape[1] > 1 and not self.training:
            support.x.zero_()
        return answer


class TrainsOnTheAnswers(Prototypes):
    """In training the queries are shown with their labels."""

    def loss(self, episode: Episode, task: Task) -> Tensor:
        return task.loss(self(episode.query, episode.query.x), episode.query.y)


class ForgetsItsPrior(Prototypes):
    """Means over no example are 0/0."""

    def forward(self, support: Examples, query_x: Tensor) -> Tensor:
        labels = self.encode_labels(support.y).to(query_x.dtype)
        return super().forward(support, query_x) + 0 * (labels.sum(1) / labels.sum((1, 2))[:, None])[:, None]

    def stream(self, x: Tensor, y: Tensor) -> Tensor:
        return super().stream(x, y).nan_to_num()


class StreamsOtherwise(Prototypes):
    """Online it answers by another rule than with a support."""

    def stream(self, x: Tensor, y: Tensor) -> Tensor:
        return 2 * super().stream(x, y)


class DropsItsWeights(Prototypes):
    """A gradient stopped on the way: the embedding never learns."""

    def embed(self, x: Tensor) -> Tensor:
        return super().embed(x).detach()


class RollsDice(Prototypes):
    """Answers with noise that no seed of the caller's holds."""

    def __init__(self, task: Task, width: int) -> None:
        super().__init__(task, width)
        self.dice = torch.from_numpy(np.random.default_rng().normal(size=task.n_out))

    def forward(self, support: Examples, query_x: Tensor) -> Tensor:
        return super().forward(support, query_x) + self.dice.to(query_x.dtype)


class SinglePrecision(Prototypes):
    """Answers in float32 whatever it is asked in."""

    def forward(self, support: Examples, query_x: Tensor) -> Tensor:
        return super().forward(support, query_x).float()


class WrongShape(Prototypes):
    """One logit too many."""

    def forward(self, support: Examples, query_x: Tensor) -> Tensor:
        return F.pad(super().forward(support, query_x), (0, 1), value=-9.0)


FORM = {"answers_have_the_right_form", "works_on_a_single_episode", "has_a_prior"}


@pytest.mark.parametrize("task", [Toy(), ToyOnline()], ids=["toy", "toy-online"])
@pytest.mark.parametrize("method", [ToyNet(), ToyNearest(), method_of(Prototypes)], ids=["net", "nearest", "plain"])
def test_an_honest_learner_passes_everything(method: Method, task: Task) -> None:
    contract.check_method(method, task)


@pytest.mark.parametrize(
    ("learner", "task", "caught_by"),
    [
        # What streams otherwise than it answers fails that too: the two cannot agree where one sees more.
        (ShowsOwnLabel, Toy(), {"hides_the_answer", "streams_as_it_answers"}),
        (ShowsOwnLabel, ToyOnline(), {"hides_the_answer", "streams_as_it_answers", "training_hides_the_answers"}),
        (NormalisesOverTime, ToyOnline(), {"hides_the_future", "streams_as_it_answers"}),
        (BatchNormOverTime, ToyOnline(), {"hides_the_future"}),
        (MixesTheBatch, ToyOnline(), {"episodes_do_not_meet"}),
        (RunsAcrossTheBatch, Toy(), {"episodes_do_not_meet"}),
        (NormalisesOverQueries, Toy(), {"queries_do_not_meet"}),
        (KeepsItsState, Toy(), {"keeps_nothing"}),
        (KeepsABuffer, Toy(), {"keeps_nothing"}),
        (WritesIntoItsInput, Toy(), {"keeps_nothing"}),
        (TrainsOnTheAnswers, Toy(), {"training_hides_the_answers"}),
        (ForgetsItsPrior, Toy(), {"has_a_prior", "streams_as_it_answers"}),
        (StreamsOtherwise, Toy(), {"streams_as_it_answers"}),
        (DropsItsWeights, Toy(), {"gradients_arrive"}),
        (RollsDice, Toy(), {"same_seed_same_bits"}),
        (SinglePrecision, Toy(), {"works_in_float64"}),
    ],
    ids=lambda value: getattr(value, "__name__", getattr(value, "name", "")),
)
def test_a_leak_is_caught_by_its_check(learner: type[Prototypes], task: Task, caught_by: set[str]) -> None:
    assert failing(method_of(learner), task) == caught_by


def test_a_wrong_shape_is_caught_by_its_checks_and_refused_by_the_harness() -> None:
    assert failing(method_of(WrongShape), Toy(), sorted(FORM)) == FORM
    with pytest.raises(BenchError, match="WrongShape answers toy with"):
        contract.METHOD_CHECKS["gradients_arrive"](method_of(WrongShape), Toy())


def test_a_learner_that_resumes_elsewhere_is_caught() -> None:
    class CountsItsSteps(Prototypes):
        """Its loss depends on how often it was asked since it was built; a checkpoint does not hold that."""

        steps = 0

        def loss(self, episode: Episode, task: Task) -> Tensor:
            self.steps += 1
            return super().loss(episode, task) * self.steps

    assert failing(method_of(CountsItsSteps), Toy(), ["resumes"]) == {"resumes"}
    assert failing(method_of(Prototypes), Toy(), ["resumes"]) == set()


# Limits of the online protocol


class PerfectMemory(Learner):
    """Remembers every class by its code, and of a new one knows that its label is none of those used."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.encode_labels = task.encode

    def forward(self, support: Examples, query_x: Tensor) -> Tensor:
        labels = self.encode_labels(support.y).to(query_x.dtype)
        known = query_x @ support.x.transpose(1, 2) @ labels
        unused = (labels.sum(1, keepdim=True) == 0).to(query_x.dtype)
        return torch.where(known.sum(-1, keepdim=True) > 0, known, unused).log().clamp(min=-1e4)


@named("perfect")
class Perfect(Method):
    """Attains both limits."""

    def build(self, task: Task) -> Learner:
        return PerfectMemory(task)


@pytest.mark.parametrize(("way", "each"), [(2, 3), (3, 3), (5, 10)])
def test_a_perfect_memory_attains_the_limits(way: int, each: int) -> None:
    task = ToyOnline(way=way, each=each)
    contract.check_method(Perfect(), ToyOnline())
    contract.knows_no_more_than_it_may(Perfect(), task)
    x, y = task.sample("test", 500, generator("limits")).query
    prediction = PerfectMemory(task).stream(x, y)
    assert task.loss(prediction, y).item() == pytest.approx(contract.floor(way, way * each), rel=1e-5)
    first, right = task.instances(y) == 1, task.correct(prediction, y)
    assert right[~first].all()
    # Ties go to the lowest label, so its hits are by luck of the draw; the expectation is the ceiling.
    hits = right[first].double()
    assert abs(hits.mean() - contract.ceiling(way)) < contract.Z * (hits.std() / len(hits) ** 0.5)


def test_limits_are_those_of_the_literature() -> None:
    assert [round(100 * contract.ceiling(way), 1) for way in (5, 10, 15, 20)] == [45.7, 29.3, 22.1, 18.0]
    assert round(contract.floor(5, 50), 4) == 0.0957


@pytest.mark.parametrize("strength", [2.0, 50.0])
def test_a_learner_above_the_ceiling_is_caught(strength: float) -> None:
    class Tells(PerfectMemory):
        """A little, or all, of the label that is to be guessed."""

        def stream(self, x: Tensor, y: Tensor) -> Tensor:
            return super().stream(x, y) + strength * self.encode_labels(y).to(x.dtype)

    @named("tells")
    class Telling(Method):
        """Builds it."""

        def build(self, task: Task) -> Learner:
            return Tells(task)

    with pytest.raises(AssertionError, match="first presentations"):
        contract.knows_no_more_than_it_may(Telling(), ToyOnline())


def test_a_loss_below_the_floor_is_caught() -> None:
    class Hedges(PerfectMemory):
        """Guesses first presentations as badly as it should, but gives the true label the better odds of two."""

        def stream(self, x: Tensor, y: Tensor) -> Tensor:
            honest = super().stream(x, y)
            true = self.encode_labels(y).to(x.dtype)
            return torch.where(honest == honest.amax(-1, keepdim=True), honest, honest + 9e3 * true) + 0.7 * true * (
                honest.argmax(-1, keepdim=True) == y[..., None]
            )

    @named("hedges")
    class Hedging(Method):
        """Builds it."""

        def build(self, task: Task) -> Learner:
            return Hedges(task)

    with pytest.raises(AssertionError, match="below the floor"):
        contract.knows_no_more_than_it_may(Hedging(), ToyOnline(), episodes=200)


# Tasks that tell what they must not

SIDE = 8


@named("pictures")
class Pictures(Task):
    """A small task of images, honest unless a fault is asked for."""

    fault: str = option("", "what is wrong")
    way: int = option(3, "classes")
    query: int = option(2, "queries of each class")
    train_way: int = option(0, "means nothing", training=True)

    @property
    def x_shape(self) -> tuple[int, ...]:
        return (1, SIDE, SIDE)

    @property
    def n_out(self) -> int:
        return self.way

    def sample(self, split: Split, batch: int, rng: Generator) -> Episode:
        episodes = [self._one(split, np.random.default_rng() if self.fault == "dice" else rng) for _ in range(batch)]
        x, y = (torch.from_numpy(np.stack(parts)) for parts in zip(*episodes, strict=True))
        return Episode(Examples(x[:, : self.way], y[:, : self.way]), Examples(x[:, self.way :], y[:, self.way :]))

    def _one(self, split: Split, rng: Generator) -> tuple[np.ndarray, np.ndarray]:
        pool = generator("pictures", "shared" if self.fault == "shared classes" and split != "train" else split)
        drawings = pool.integers(0, 2, (10, 1 + self.query, SIDE, SIDE)).astype(np.float32)
        if self.fault == "turned classes" and split == "test":
            drawings = np.rot90(generator("pictures", "val").integers(0, 2, drawings.shape), axes=(2, 3)).astype("f4")
        classes = rng.permutation(10)[: self.way]
        if self.fault == "kept labels":
            classes = rng.permutation(10 // self.way)[0] * self.way + np.arange(self.way)
        order = [rng.permutation(np.repeat(np.arange(self.way), n)) for n in (1, self.query)]
        if self.fault == "sorted support":
            order[0] = np.arange(self.way)
        if self.fault == "queries in the support's order":
            order[1] = np.concatenate([order[0]] * self.query)
        y = np.concatenate(order)
        shown = [rng.permutation(1 + self.query) for _ in range(self.way)]
        nth = np.array([(y[:i] == y[i]).sum() for i in range(len(y))])
        if self.fault == "support asked again":
            nth = np.maximum(nth - 1, 0)
        x = np.stack([drawings[classes[c], shown[c][k]] for c, k in zip(y, nth, strict=True)])
        return np.ascontiguousarray(x[:, None]), y

    def setting(self) -> dict[str, object]:
        return {"way": self.way, **({"train_way": self.train_way} if self.fault == "training in test" else {})}


@pytest.mark.parametrize(
    ("fault", "caught_by"),
    [
        ("", set()),
        ("dice", {"draws_from_its_generator", "tests_alike_for_all"}),
        ("shared classes", {"splits_share_nothing"}),
        ("turned classes", {"splits_share_nothing"}),
        ("kept labels", {"labels_are_dealt_anew"}),
        ("sorted support", {"labels_have_no_place"}),
        ("queries in the support's order", {"labels_have_no_place"}),
        ("support asked again", {"shows_no_image_twice"}),
        ("training in test", {"tests_alike_for_all"}),
    ],
)
def test_a_task_that_tells_is_caught_by_its_check(fault: str, caught_by: set[str]) -> None:
    assert failing_task(Pictures(fault=fault)) == caught_by


def test_the_fakes_are_honest_tasks() -> None:
    contract.check_task(Toy())
    contract.check_task(ToyOnline())
    assert prototypes("train").shape[1] == FEATURES


def test_a_user_error_is_not_taken_for_a_failed_check() -> None:
    class Refuses(Prototypes):
        """Raises what no check may swallow."""

        def forward(self, support: Examples, query_x: Tensor) -> Tensor:
            raise BenchError("no")

    with pytest.raises(BenchError):
        failing(method_of(Refuses), Toy())
