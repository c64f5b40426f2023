"""What every method and every task must hold to, as plain functions that raise AssertionError.

A third party's tests call `check_method(method, task)` and `check_task(task)`, or the functions one by one. A method's
check takes a config and a small task; it builds learners itself. All run in eval mode and float64 unless they say
otherwise, so that a difference is an influence and not rounding. Calls are made on copies of learner and inputs, so
that a learner that keeps state fails the check for that and no other.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import tempfile
import typing
from collections import defaultdict
from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor
from torch.testing import assert_close

from bench import checkpoints, config
from bench.api import Episode, Examples, Learner, Method, Split, Task, TrainedMethod, generator
from bench.grid import Budget, Cell
from bench.training import Context, Interrupted, run_cell

TOLERANCE = 1e-6
"""Where the same sum may be taken in another order, in float64: far above rounding, far below any influence."""
LONGEST = 6
"""Sequences are cut to so many presentations: methods that adapt anew at each are slow."""
Z = 4.0
"""Standard errors that a limit may be passed by: a false alarm in 30,000 checks."""


def learner_of(method: Method, task: Task, seed: int = 0, dtype: torch.dtype = torch.float64) -> Learner:
    """A fresh learner in eval mode."""
    torch.manual_seed(seed)
    return method.build(task).to(dtype).eval()


def episodes_of(
    task: Task, batch: int = 2, key: str = "contract", split: Split | None = None, dtype: torch.dtype = torch.float64
) -> Episode:
    """A batch of episodes as support and query; a sequence is cut in half."""
    drawn = task.sample(split or task.splits[0], batch, generator(key))
    if task.online:
        half = drawn.query.x.shape[1] // 2
        drawn = Episode(
            *(Examples(*(part[:, cut] for part in drawn.query)) for cut in (slice(half), slice(half, None)))
        )
    return Episode(*(Examples(e.x.to(dtype), e.y.to(dtype) if e.y.is_floating_point() else e.y) for e in drawn))


def sequence_of(task: Task, key: str = "contract") -> Examples:
    """A batch of sequences; those of a task that is not online are the end of its support, then its queries."""
    support, query = episodes_of(task, key=key)
    return Examples(*(torch.cat(parts, 1)[:, -LONGEST:] for parts in zip(support, query, strict=True)))


def other_labels(y: Tensor) -> Tensor:
    """Labels of which each differs from the one before, of the same kind."""
    changed = y + 1 if y.is_floating_point() else (y + 1) % (y.max() + 1)
    assert (changed != y).all(), "the task draws one label only: nothing to check with"
    return changed


def ask(learner: Learner, support: Examples, query_x: Tensor) -> Tensor:
    """`forward` on copies, so that nothing stays; random layers draw the same each time."""
    torch.manual_seed(1)
    return copy.deepcopy(learner)(Examples(support.x.clone(), support.y.clone()), query_x.clone())


def follow(learner: Learner, x: Tensor, y: Tensor) -> Tensor:
    """`stream` on copies, so that nothing stays; random layers draw the same each time."""
    torch.manual_seed(1)
    return copy.deepcopy(learner).stream(x.clone(), y.clone())


# Methods


def answers_have_the_right_form(method: Method, task: Task) -> None:
    """Shape, dtype and finiteness of everything a learner returns; float32 in, float32 out."""
    learner = learner_of(method, task, dtype=torch.float32)
    episode = episodes_of(task, dtype=torch.float32)
    support, query = episode
    answers = {"forward": learner(support, query.x), "stream": learner.stream(*query)}
    answers |= {f"by_step {step}": each for step, each in learner.by_step(support, query.x).items()}
    for where, value in answers.items():
        _has_form(value, (*query.x.shape[:2], task.n_out), where)
        assert value.dtype == torch.float32, f"{where}: {value.dtype}, not float32"
    if told := learner.distribution(support, query.x):
        assert_close(told[0], answers["forward"], msg="the mean of the distribution is not the answer")
        assert (told[1] > 0).all(), "a standard deviation is not above 0"
    if isinstance(method, TrainedMethod):
        _has_form(learner.train().loss(_natural(method, task, torch.float32), task), (), "loss")


def works_in_float64(method: Method, task: Task) -> None:
    """`learner.double()` answers float64 inputs in float64."""
    learner = learner_of(method, task)
    support, query = episodes_of(task)
    assert learner(support, query.x).dtype == torch.float64, "forward loses float64"
    assert learner.stream(*query).dtype == torch.float64, "stream loses float64"


def works_on_a_single_episode(method: Method, task: Task) -> None:
    """A batch of one, and a single query."""
    learner = learner_of(method, task)
    support, query = episodes_of(task, batch=1)
    _has_form(learner(support, query.x[:, :1]), (1, 1, task.n_out), "forward")
    _has_form(learner.stream(query.x[:, :1], query.y[:, :1]), (1, 1, task.n_out), "stream")


def has_a_prior(method: Method, task: Task) -> None:
    """With nothing shown the answer is finite."""
    _, query = episodes_of(task)
    empty = Examples(query.x[:, :0], query.y[:, :0])
    prior = ask(learner_of(method, task), empty, query.x)
    _has_form(prior, (*query.x.shape[:2], task.n_out), "forward on an empty support")


def hides_the_future(method: Method, task: Task) -> None:
    """`stream`: what comes after t changes nothing up to t, to the bit; neither when trained nor when tested."""
    learner, (x, y), other = learner_of(method, task), sequence_of(task), sequence_of(task, "other")
    for mode in ("eval", "train") if isinstance(method, TrainedMethod) else ("eval",):
        learner.train(mode == "train")
        before = follow(learner, x, y)
        for t in _some_times(x.shape[1] - 1) if mode == "eval" else (x.shape[1] // 2,):
            new_x, new_y = _after(x, other.x, t + 1), _after(y, other_labels(y), t + 1)
            after = follow(learner, new_x, new_y)
            assert torch.equal(after[:, : t + 1], before[:, : t + 1]), f"in {mode} mode out[:, :{t + 1}] saw the future"


def hides_the_answer(method: Method, task: Task) -> None:
    """`stream`: the label of t changes nothing at t, to the bit."""
    learner, (x, y) = learner_of(method, task), sequence_of(task)
    before = follow(learner, x, y)
    for t in _some_times(x.shape[1]):
        changed = y.clone()
        changed[:, t] = other_labels(y)[:, t]
        assert torch.equal(follow(learner, x, changed)[:, t], before[:, t]), f"out[:, {t}] saw y[:, {t}]"


def streams_as_it_answers(method: Method, task: Task) -> None:
    """`stream` at t is `forward` with all before t as support."""
    learner, (x, y) = learner_of(method, task), sequence_of(task)
    streamed = follow(learner, x, y)
    for t in _some_times(x.shape[1]):
        asked = ask(learner, Examples(x[:, :t], y[:, :t]), x[:, t : t + 1])
        _same(streamed[:, t : t + 1], asked, f"stream at {t} is not forward after {t} examples")


def queries_do_not_meet(method: Method, task: Task) -> None:
    """Other queries changed, taken away or put in another order: the same answer. So for `by_step`."""
    learner, (support, query), other = learner_of(method, task), episodes_of(task), episodes_of(task, key="other")

    def by_step(x: Tensor) -> dict[int, Tensor]:
        return copy.deepcopy(learner).by_step(support, x)

    order = torch.randperm(query.x.shape[1], generator=torch.Generator().manual_seed(0))
    changed = query.x[:, order]
    strange = _after(query.x, other.query.x * 3 + 1, 1)
    whole, steps = ask(learner, support, query.x), by_step(query.x)
    _same(ask(learner, support, changed), whole[:, order], "the order of queries matters")
    _same(ask(learner, support, query.x[:, :1]), whole[:, :1], "a query alone is answered otherwise")
    _same(ask(learner, support, strange)[:, :1], whole[:, :1], "a query sees the others")
    for step, prediction in by_step(strange).items():
        _same(prediction[:, :1], steps[step][:, :1], f"by_step {step}: a query sees the others")


def episodes_do_not_meet(method: Method, task: Task) -> None:
    """Other episodes of the batch changed or taken away: the same answer."""
    learner, (support, query), other = learner_of(method, task), episodes_of(task), episodes_of(task, key="other")
    asked, streamed = ask(learner, support, query.x), follow(learner, *query)
    for i in (0, len(query.x) - 1):  # the last too: a network that runs across the batch spares the first
        this = slice(i, i + 1)
        alone = [part[this] for part in (*support, *query)]
        strange = [b * 3 + 1 if b.is_floating_point() else b.clone() for b in (*other.support, *other.query)]
        for new, old in zip(strange, alone, strict=True):
            new[this] = old
        for (sx, sy, qx, qy), at, how in ((strange, this, "sees the others"), (alone, slice(1), "alone is otherwise")):
            _same(ask(learner, Examples(sx, sy), qx)[at], asked[this], f"forward: an episode {how}")
            _same(follow(learner, qx, qy)[at], streamed[this], f"stream: an episode {how}")


def keeps_nothing(method: Method, task: Task) -> None:
    """A call leaves learner and inputs as they were: parameters, buffers, and the answer to the same question."""
    learner, (support, query), other = learner_of(method, task), episodes_of(task), episodes_of(task, key="other")
    before = copy.deepcopy(learner.state_dict())
    inputs = copy.deepcopy((support, query))
    for call in (lambda e: learner(e.support, e.query.x), lambda e: learner.stream(*e.query)):
        first = call(Episode(support, query))
        call(other)
        assert torch.equal(call(Episode(support, query)), first), "the same question is answered otherwise later"
    for name, value in learner.state_dict().items():
        assert torch.equal(value, before[name]), f"a call in eval mode changed {name}"
    for given, kept in zip((*support, *query), (*inputs[0], *inputs[1]), strict=True):
        assert torch.equal(given, kept), "a call changed its inputs in place"


def same_seed_same_bits(method: Method, task: Task) -> None:
    """Parameters and answers are a function of torch's seed, and building leaves that seed alone."""
    support, query = episodes_of(task)
    one, two = (learner_of(method, task, seed=5) for _ in range(2))
    for (name, a), b in zip(one.state_dict().items(), two.state_dict().values(), strict=True):
        assert torch.equal(a, b), f"{name} is not a function of the seed"
    assert torch.equal(ask(one, support, query.x), ask(two, support, query.x)), "answers are not a function of the seed"
    later = []
    for seed in (1, 2):
        learner_of(method, task, seed=seed)
        later.append(torch.rand(()))
    assert later[0] != later[1], "build sets torch's global seed"


def gradients_arrive(method: Method, task: Task) -> None:
    """A trained method's loss reaches all its parameters, with finite gradients."""
    if not isinstance(method, TrainedMethod):
        return
    learner = learner_of(method, task).train()
    reached: dict[str, bool] = defaultdict(bool)
    for key in ("one", "two"):
        learner.zero_grad()
        loss = learner.loss(_natural(method, task, torch.float64, key), task)
        loss.backward()
        for name, parameter in learner.named_parameters():
            if parameter.grad is not None:
                assert parameter.grad.isfinite().all(), f"the gradient of {name} is not finite"
                reached[name] |= bool(parameter.grad.any())
    missed = [name for name, p in learner.named_parameters() if p.requires_grad and not reached[name]]
    assert not missed, f"no gradient reaches {', '.join(missed)}"


def training_hides_the_answers(method: Method, task: Task) -> None:
    """The predictions that `loss` scores do not depend on the labels they are scored against."""
    if not isinstance(method, TrainedMethod):
        return
    episode = _natural(method, task, torch.float64)
    last = episode.query.y.clone()
    last[:, -1] = other_labels(last)[:, -1]
    changed = last if task.online else other_labels(episode.query.y)
    learner, scored = learner_of(method, task).train(), []
    for y in (episode.query.y, changed):
        spy = _Spy(task)
        torch.manual_seed(1)
        copy.deepcopy(learner).loss(Episode(episode.support, Examples(episode.query.x, y)), spy)  # type: ignore[arg-type]
        scored.append(spy.predictions)
    for a, b in zip(*scored, strict=True):
        _same(a, b, "loss: a prediction saw the label it is scored against")


def config_round_trips(method: Method, task: Task) -> None:
    """Config to JSON and back, and to the text of the command line and back: equal, with the same cell id."""
    for each in (method, task):
        values = json.loads(config.canonical(config.as_dict(each)))
        assert config.build(type(each), values) == each, "JSON does not give the config back"
        texts = {f.name: _as_text(getattr(each, f.name)) for f in dataclasses.fields(each)}
        assert config.build(type(each), texts) == each, "the command line's text does not give the config back"
        for f in dataclasses.fields(each):
            assert f.metadata.get("help"), f"the field {f.name} of {each.name} has no line of documentation"
    again = config.build(type(method), json.loads(config.canonical(config.as_dict(method))))
    assert _cell(again, task).id == _cell(method, task).id, "the id is not a function of the config"


def resumes(method: Method, task: Task, stops: Iterable[int] = (2,)) -> None:
    """Interrupted at any questions of `stopping` (from 1), a run ends as an uninterrupted one does, to the bit."""
    whole, parts = _uninterrupted(method, task), _run(method, task, stops)
    assert parts[0] == whole[0], "the resumed run has another result"
    same_bits(parts[1], whole[1], "final.pt")


METHOD_CHECKS: dict[str, Callable[[Method, Task], None]] = {
    check.__name__: check
    for check in (
        answers_have_the_right_form, works_in_float64, works_on_a_single_episode, has_a_prior, hides_the_future,
        hides_the_answer, streams_as_it_answers, queries_do_not_meet, episodes_do_not_meet, keeps_nothing,
        same_seed_same_bits, gradients_arrive, training_hides_the_answers, config_round_trips, resumes,
    )
}  # fmt: skip


def check_method(method: Method, task: Task) -> None:
    """All checks of a method on a small task."""
    for check in METHOD_CHECKS.values():
        check(method, task)


def ceiling(way: int) -> float:
    """Best accuracy at first presentations, by elimination of labels already used: (1/N) sum of 1/k."""
    return sum(1 / k for k in range(1, way + 1)) / way


def floor(way: int, steps: int) -> float:
    """Least expected cross-entropy a presentation of a perfect memory where all classes appear: ln(N!) / T nats."""
    return math.lgamma(way + 1) / steps


def knows_no_more_than_it_may(method: Method, task: Task, train_steps: int = 0, episodes: int = 40) -> None:
    """Online, balanced, one label a class: first presentations are no better than elimination, the loss than memory.

    A method that passes either limit by more than `Z` standard errors reads labels before they are shown.
    """
    learner = learner_of(method, task, dtype=torch.float32)
    if train_steps and isinstance(method, TrainedMethod):
        _train(method, learner, task, train_steps)
    accuracy, losses = [], []
    for chunk in task.episodes("test", episodes, seed=0):
        x, y = chunk.query
        with torch.no_grad():
            prediction = learner.stream(x, y)
        instances = task.instances(y)
        assert instances is not None, "an online task counts instances"
        first, right = instances == 1, task.correct(prediction, y)
        assert (first.sum(1) == task.n_out).all(), "the limits hold where every class appears"
        accuracy += (right & first).sum(1).div(first.sum(1)).tolist()
        losses += [float(task.loss(p[None], t[None])) for p, t in zip(prediction, y, strict=True)]
    best = floor(task.n_out, y.shape[1])
    assert _low(accuracy) <= ceiling(task.n_out), f"first presentations: {np.mean(accuracy):.3f} right"
    assert -_low([-value for value in losses]) >= best * (1 - 1e-5), (
        f"loss {np.mean(losses):.4f} below the floor {best:.4f}"
    )


# Tasks


def draws_well_formed_episodes(task: Task) -> None:
    """Shapes, dtypes, finite values, labels in range; training episodes too; a score an episode, a scalar loss."""
    for split in task.splits:
        each = task.training() if split == "train" else task
        episode = each.sample(split, 2, generator("form", split))
        for part in episode:
            assert part.x.dtype == torch.float32, "x is float32"
            assert part.x.shape[2:] == each.x_shape, f"an input is {tuple(part.x.shape[2:])}, not {each.x_shape}"
            assert part.x.shape[:2] == part.y.shape[:2], "as many labels as inputs"
            assert len(part.x) == 2, "as many episodes as asked for"
            assert part.x.isfinite().all(), "inputs are finite"
            classes = task.kind == "classification"
            assert part.y.dtype == (torch.int64 if classes else torch.float32), f"labels are {part.y.dtype}"
        y = episode.query.y
        encoded = each.encode(y)
        assert encoded.shape == (*y.shape[:2], each.y_size), "an encoded label is y_size wide"
        assert encoded.dtype == torch.float32, "an encoded label is float32"
        prediction = torch.zeros(*y.shape[:2], each.n_out, requires_grad=True)
        assert each.loss(prediction, y).shape == (), "the loss is a scalar"
        assert each.score(prediction.detach(), y).shape == (2,), "one score an episode"
        if each.online:
            assert episode.support.x.shape[1] == 0, "online, the support is empty"
            counted = each.instances(y)
            assert each.y_size == 0 or counted is not None, "online, each presentation whose label is shown is counted"
            assert counted is None or counted.shape == y.shape[:2], "online, each presentation has its instance"
        each.loss(prediction, y).backward()


def keeps_its_form_in_training(task: Task) -> None:
    """Whatever the training step, its task fits the learner that was built for training."""
    built = task.training()
    for step in (0, 1, 10**9):
        now = task.curriculum(step)
        now.check()
        for name in ("x_shape", "y_size", "n_out"):
            assert getattr(now, name) == getattr(built, name), f"{name} of training step {step} is another"
        assert task.curriculum(step) == now, "the task of a step is not a function of the step"


def draws_from_its_generator(task: Task) -> None:
    """Same generator, same bits, whatever was drawn before; another generator, another episode."""
    for split in task.splits:
        first, other = (task.sample(split, 2, generator("draw", key)) for key in ("a", "b"))
        again = task.sample(split, 2, generator("draw", "a"))
        for one, two in zip((*first.support, *first.query), (*again.support, *again.query), strict=True):
            assert torch.equal(one, two), "an episode is not a function of its generator"
        assert not torch.equal(first.query.x, other.query.x), "two generators give the same episode"


def labels_have_no_place(task: Task, episodes: int = 600) -> None:
    """Every label is equally likely at every place, and at every place of the query given any of the support."""
    drawn = task.sample(task.splits[0], episodes, generator("places"))
    y = torch.cat([part.y for part in drawn], 1)
    if y.ndim == 3 or task.kind == "regression":
        return
    count = torch.stack([(y == label).sum(0) for label in range(task.n_out)])
    # A label's count at a place is binomial; Bonferroni over all of them.
    _fair(count.flatten().tolist(), episodes, 1 / task.n_out, "a label prefers a place")
    support, query = drawn.support.y, drawn.query.y
    if support.shape[1] == 0:
        return
    same = (support[:, :, None] == query[:, None]).sum(0)
    _fair(same.flatten().tolist(), episodes, 1 / task.n_out, "a query's label is told by places of the support")


def labels_are_dealt_anew(task: Task, episodes: int = 400) -> None:
    """The same image gets a fresh label in each episode, so that weights cannot learn it (images only)."""
    if task.kind == "regression" or not is_of_images(task):
        return
    seen: dict[bytes, list[Tensor]] = defaultdict(list)
    for key in range(20):
        drawn = still(task).sample(task.splits[-1], episodes // 20, generator("labels", key))
        x, y = torch.cat([p.x for p in drawn], 1), torch.cat([p.y for p in drawn], 1)
        for pictures, labels in zip(fingerprints(task, x), y, strict=True):
            for picture, label in dict(zip(pictures, labels, strict=True)).items():
                seen[picture].append(label)
    pairs = [bool((a == b).all()) for labels in seen.values() for a, b in zip(labels[::2], labels[1::2], strict=False)]
    assert len(pairs) >= 30, "no image was drawn twice: draw more episodes"
    kinds = task.n_out if y.ndim == 2 else 5**5
    _fair([sum(pairs)], len(pairs), 1 / kinds, "an image keeps its label")


def splits_share_nothing(task: Task, episodes: int = 200) -> None:
    """No image of one split is in another, in any of its four quarter turns (images only)."""
    if not is_of_images(task):
        return
    seen = {}
    for split in task.splits:
        seen[split] = {
            picture
            for key in range(10)
            for part in still(task).sample(split, episodes // 10, generator("splits", split, key))
            for pictures in fingerprints(task, part.x)
            for picture in pictures
        }
    for a in seen:
        for b in seen:
            shared = len(seen[a] & seen[b])
            assert a == b or not shared, f"{shared} images are in both {a} and {b}"


def shows_no_image_twice(task: Task) -> None:
    """No image is both support and query, or comes twice in a sequence."""
    if not is_of_images(task):
        return
    drawn = still(task).sample(task.splits[-1], 50, generator("twice"))
    for pictures in fingerprints(task, torch.cat([p.x for p in drawn], 1)):
        assert len(set(pictures)) == len(pictures), "an image comes twice in an episode"


def tests_alike_for_all(task: Task) -> None:
    """Test episodes do not depend on what shapes training only, nor on being drawn in one go; each seed has its own."""
    trained_otherwise = _with_other_training(task)
    ways = (task.episodes("test", 12, 3), trained_otherwise.episodes("test", 12, 3))
    for one, two in zip(*ways, strict=True):
        for a, b in zip((*one.support, *one.query), (*two.support, *two.query), strict=True):
            assert torch.equal(a, b), "a training-only field changes test episodes"
    first, other = (next(task.episodes("test", 2, seed)) for seed in (3, 4))
    assert not torch.equal(first.query.x, other.query.x), "two seeds have the same test episodes"


TASK_CHECKS: dict[str, Callable[[Task], None]] = {
    check.__name__: check
    for check in (
        draws_well_formed_episodes, keeps_its_form_in_training, draws_from_its_generator, labels_have_no_place,
        labels_are_dealt_anew, splits_share_nothing, shows_no_image_twice, tests_alike_for_all,
    )
}  # fmt: skip


def check_task(task: Task) -> None:
    """All checks of a task."""
    for check in TASK_CHECKS.values():
        check(task)


def is_of_images(task: Task) -> bool:
    """Whether inputs are square images, flat or not, of at least 8 × 8 pixels."""
    size = math.prod(task.x_shape)
    side = math.isqrt(size)
    return side >= 8 and side * side == size


def still(task: Task) -> Task:
    """The task without random motion of its training images, so that an image is known again."""
    names = {f.name for f in dataclasses.fields(task)}
    return dataclasses.replace(task, **{name: 0.0 for name in ("rotation", "shift") if name in names})


def fingerprints(task: Task, x: Tensor) -> list[list[bytes]]:
    """One for each image, the same for its four quarter turns. x: [batch, n, *x_shape]."""
    side = math.isqrt(math.prod(task.x_shape))
    # 16 grey levels: a quarter turn by resampling is right to rounding only.
    pixels = (x.reshape(*x.shape[:2], side, side) * 15).round().to(torch.uint8)
    turned = [torch.rot90(pixels, k, (2, 3)).flatten(2).numpy() for k in range(4)]
    return [[min(t[b, i].tobytes() for t in turned) for i in range(x.shape[1])] for b in range(len(x))]


# What the checks share


class _Spy:
    """A task that notes the predictions it is asked to score."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self.predictions: list[Tensor] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._task, name)

    def loss(self, prediction: Tensor, y: Tensor) -> Tensor:
        self.predictions.append(prediction.detach())
        return self._task.loss(prediction, y)


def _natural(method: TrainedMethod, task: Task, dtype: torch.dtype, key: str = "natural") -> Episode:
    """A training batch as the method draws it."""
    drawn = dataclasses.replace(method, batch=2).draw(task, generator(key))
    return Episode(*(Examples(e.x.to(dtype), e.y.to(dtype) if e.y.is_floating_point() else e.y) for e in drawn))


def _has_form(value: Tensor, shape: tuple[int, ...], where: str) -> None:
    assert value.shape == shape, f"{where}: shape {tuple(value.shape)}, not {shape}"
    assert value.isfinite().all(), f"{where}: not finite"


def _same(value: Tensor, expected: Tensor, otherwise: str) -> None:
    assert_close(value, expected, rtol=TOLERANCE, atol=TOLERANCE, msg=lambda m: f"{otherwise}\n{m}")


def _after(old: Tensor, new: Tensor, t: int) -> Tensor:
    return torch.cat((old[:, :t], new[:, t : old.shape[1]]), 1)


def _some_times(count: int) -> list[int]:
    """First, middle and last of 0..count-1."""
    return sorted({0, count // 2, count - 1})


def _low(values: list[float]) -> float:
    """Lower end of an interval of Z standard errors around the mean."""
    return float(np.mean(values) - Z * np.std(values, ddof=1) / math.sqrt(len(values)))


def _fair(counts: list[int], trials: int, probability: float, otherwise: str) -> None:
    """Whether counts are binomial: two-sided, one false alarm in a million however many there are."""
    p = 1e-6 / len(counts) / 2
    low, high = stats.binom.ppf(p, trials, probability), stats.binom.isf(p, trials, probability)
    odd = [count for count in counts if not low <= count <= high]
    assert not odd, f"{otherwise}: {odd[0]} of {trials}, where {probability:.3f} of them are expected"


def _train(method: TrainedMethod, learner: Learner, task: Task, steps: int) -> None:
    method = dataclasses.replace(method, batch=4)
    optimiser = method.optimiser(learner.train())
    for step in range(steps):
        optimiser.zero_grad()
        learner.loss(method.draw(task, generator("brief", step)), task).backward()
        optimiser.step()
    learner.eval()


def _as_text(value: Any) -> str:
    if isinstance(value, tuple):
        return ("+" if value and isinstance(value[0], str) else ",").join(map(str, value))
    return str(value)


def _with_other_training(task: Task) -> Task:
    """The task with each number that shapes training only raised by one."""
    hints = typing.get_type_hints(type(task))
    shaping = [f.name for f in dataclasses.fields(task) if f.metadata.get("training") and hints[f.name] in (int, float)]
    return dataclasses.replace(task, **{name: getattr(task, name) + 1 for name in shaping})


def _cell(method: Method, task: Task) -> Cell:
    budget = Budget(steps=3, validations=2, val_episodes=2, test_episodes=2)
    return Cell(dataclasses.replace(method, batch=2) if isinstance(method, TrainedMethod) else method, task, 0, budget)


def _run(method: Method, task: Task, stops: Iterable[int]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Result and final parameters of a cell interrupted at each of the stops in turn."""
    cell = _cell(method, task)
    with tempfile.TemporaryDirectory() as folder:
        context = Context(Path(folder))
        for stop in stops:
            questions = iter(range(1, stop))
            try:
                run_cell(cell, dataclasses.replace(context, stopping=lambda q=questions: next(q, None) is None))  # type: ignore[misc]
                break
            except Interrupted:
                pass
        result = run_cell(cell, context).result
        final = checkpoints.folder(context.results, cell.id) / "final.pt"
        return result, checkpoints.load(final, cell.id) if final.exists() else {}


@lru_cache(maxsize=8)
def _uninterrupted(method: Method, task: Task) -> tuple[dict[str, Any], dict[str, Any]]:
    return _run(method, task, ())


def same_bits(value: Any, expected: Any, where: str) -> None:
    if isinstance(expected, Tensor):
        assert torch.equal(value, expected), f"{where} differs"
    elif isinstance(expected, dict):
        assert value.keys() == expected.keys(), f"{where} has other entries"
        for key in expected:
            same_bits(value[key], expected[key], f"{where}: {key}")
    else:
        assert value == expected, f"{where} differs"
