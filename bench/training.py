"""One cell, from spec to record: train, validate, select, test. Resumable at every step, to the bit."""

from __future__ import annotations

import contextlib
import copy
import json
import math
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast, get_args

import torch
from torch import Tensor

from bench import checkpoints, data, environment, records
from bench.api import Backend, Episode, Examples, Learner, Split, Task, TrainedMethod, answer, check_shapes
from bench.config import canonical
from bench.errors import BenchError, Unsuited
from bench.grid import Cell
from bench.seeding import generator, torch_seed

CHECKPOINT_S = 20.0
COMPILING = "compiling"
INSTANCES = 10
"""Accuracy is recorded for the first ten presentations of a class, or the first ten groups of a task."""


class Interrupted(Exception):
    """The user asked to stop; a checkpoint holds the work so far."""


@dataclass(frozen=True)
class Progress:
    """What a running cell says of itself."""

    id: str
    phase: str
    step: int
    steps: int
    loss: float = math.nan


@dataclass
class Context:
    """How to run, as opposed to what: nothing in here changes a result, but for what is said."""

    results: Path
    device: str = "cpu"
    threads: int = 1
    backend: Backend = "auto"
    report: Callable[[Progress], None] = lambda progress: None
    stopping: Callable[[], bool] = lambda: False
    checkpoint_s: float = CHECKPOINT_S
    stack: int = 1
    """Seeds at once, of methods that can train several in one pass: results are the same but for rounding."""


NOTES = ("best_step", "best_score", "loss_sum", "loss_steps", "train_s", "train_cpu_s", "curve", "resumed", "stacked",
         "device", "made")  # fmt: skip
"""What a checkpoint keeps of `Training` as JSON."""


@dataclass
class Training:
    """All that changes while a cell trains; a checkpoint is this and nothing more."""

    learner: Learner
    optimiser: torch.optim.Optimizer | None
    step: int = 0
    best_step: int = 0
    best_score: float | None = None
    best: dict[str, Tensor] = field(default_factory=dict)
    curve: list[dict[str, Any]] = field(default_factory=list)
    loss_sum: float = 0.0
    """Sum of training losses since the last point of the curve."""
    loss_steps: int = 0
    train_s: float = 0.0
    train_cpu_s: float = 0.0
    """Processor time of all threads: what training costs also where other programs run beside it."""
    ran: list[str] = field(default_factory=list)
    """Backends that have been at work, before a resumption too."""
    resumed: list[dict[str, Any]] = field(default_factory=list)
    """Where training was taken up again, by which code, on what device the part before ran, and what of its code and
    data was another."""
    device: str = ""
    """What it trains on; in a checkpoint, what it was made on."""
    made: dict[str, Any] = field(default_factory=dict)
    """By which code it trains and on which data, see `_made`; in a checkpoint, what made it."""
    stacked: int = 1
    """The most cells that took a step side by side, before a resumption too."""

    def state(self) -> dict[str, Any]:
        """As a checkpoint holds it."""
        assert self.optimiser is not None
        notes = {k: getattr(self, k) for k in NOTES} | {"ran": sorted({*self.ran, *self.learner.ran})}
        return {
            "learner": self.learner.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "best": self.best,
            # JSON keeps floats to the bit and needs no pickled containers.
            "notes": json.dumps(notes),
        }

    def restore(self, content: dict[str, Any]) -> None:
        """Take up a checkpoint."""
        assert self.optimiser is not None
        self.learner.load_state_dict(content["learner"])
        self.optimiser.load_state_dict(content["optimiser"])
        self.best, self.step = content["best"], content["step"]
        for key, value in notes(content).items():
            setattr(self, key, value)


def notes(content: Mapping[str, Any]) -> dict[str, Any]:
    """What a checkpoint keeps as JSON: those of `NOTES` that it has, and `ran`."""
    return json.loads(content["notes"])


class Asked(NamedTuple):
    """A training step of one cell, up to its gradient."""

    cell: Cell
    learner: Learner
    episode: Episode
    task: Task
    step: int


class Answered(NamedTuple):
    """Its loss, what it cost, of how many cells the step was taken side by side, and whether to keep a checkpoint.

    The learner's parameters have their gradients, unless the loss is not finite.
    """

    loss: float
    seconds: float
    cpu_seconds: float
    together: int
    keep: bool = False


Running = Generator[Asked, Answered, records.Record]


def run_cell(cell: Cell, context: Context) -> records.Record:
    """Train and test one cell and write its record. Takes up the latest checkpoint where there is one.

    Raises:
        Interrupted: asked to stop; run again to resume.
        BenchError: the method, task or checkpoint cannot be used.
    """
    (record,) = run_stack([cell], context)
    return record


def run_stack(cells: Sequence[Cell], context: Context) -> list[records.Record]:
    """Run cells that differ in their seed alone, side by side: each step takes the gradients of all in one pass.

    Each keeps its own parameters, optimiser, episodes, checkpoints and record, which says how many ran with it. Raises
    as `run_cell`; what is recorded by then stays, and what was trained is in checkpoints: of one step for all, so that
    the same stack finds the same to the bit when it goes on. Killed just while they are written, it finds the same but
    for rounding, which depends on how many take a step together.
    """
    torch.set_num_threads(context.threads)
    if context.device == "cuda":
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.allow_tf32 = False  # records say float32, and convolutions are to mean it
    done: dict[int, records.Record] = {}
    with torch.random.fork_rng(devices=[]):
        running = {i: _run(cell, context) for i, cell in enumerate(cells)}
        answers: dict[int, Any] = dict.fromkeys(running)  # the first is None: it starts the cell
        kept_at = time.monotonic()
        try:
            while running:
                asked, interrupted = {}, False
                for i, run in list(running.items()):
                    try:
                        asked[i] = run.send(answers[i])
                    except StopIteration as end:
                        done[i] = end.value
                        del running[i]
                    except Interrupted:  # the others take the same step before they stop
                        interrupted = True
                        del running[i]
                if interrupted:
                    raise Interrupted
                if keep := time.monotonic() - kept_at > context.checkpoint_s:
                    kept_at = time.monotonic()
                answered = _gradients(list(asked.values())) if asked else []
                answers = {i: each._replace(keep=keep) for i, each in zip(asked, answered, strict=True)}
        except BaseException:
            for run in running.values():  # they save what they have; nothing, the one that raised
                with contextlib.suppress(Interrupted):
                    run.throw(Interrupted())
            raise
    return [done[i] for i in range(len(cells))]


def _gradients(asked: Sequence[Asked]) -> list[Answered]:
    """Take the gradients of some training steps, in one pass where there are several and their method can."""
    began, cpu_began = time.monotonic(), time.process_time()
    first = asked[0]
    method = cast(TrainedMethod, first.cell.method)
    alike = len(asked) > 1 and all(a.task == first.task and _form(a) == _form(first) for a in asked)
    if joined := alike and method.stacks(first.task):
        torch.manual_seed(_step_seed(first))
        losses = method.losses([a.learner for a in asked], [a.episode for a in asked], first.task)
        values = [loss.item() for loss in losses]
        if finite := [loss for loss, value in zip(losses, values, strict=True) if math.isfinite(value)]:
            (finite[0] if len(finite) == 1 else torch.stack(finite).sum()).backward()
    else:
        values = []
        for a in asked:
            torch.manual_seed(_step_seed(a))
            loss = a.learner.loss(a.episode, a.task)
            values.append(loss.item())
            if math.isfinite(values[-1]):
                loss.backward()
    spent, cpu_spent = time.monotonic() - began, time.process_time() - cpu_began
    together = len(asked) if joined else 1
    return [Answered(value, spent / len(asked), cpu_spent / len(asked), together) for value in values]


def _form(asked: Asked) -> list[torch.Size]:
    return [part.shape for examples in asked.episode for part in examples]


def _step_seed(asked: Asked) -> int:
    """For dropout and the like: a function of the step."""
    return torch_seed("step", asked.cell.seed, asked.step)


def _run(cell: Cell, context: Context) -> Running:
    """One cell, which asks for the gradients of its training steps."""
    started = _now()
    cell.method.check_packages()
    environment.reset_peak_memory(context.device)
    env = environment.describe(context.device, context.threads, cell.method.packages)
    content = {"name": cell.task.dataset, "sha256": data.digest(cell.task.dataset)} if cell.task.dataset else None
    torch.manual_seed(torch_seed("init", cell.method.name, cell.seed))
    learner = _kind(cell.method.build(cell.task.training()), Learner, f"{cell.method.name}.build").to(context.device)
    testers = _testers(cell, learner, context.device)
    for each in (learner, *(tester for _, tester in testers.values())):
        each.use(context.backend, lambda: context.report(Progress(cell.id, COMPILING, 0, 0)))
    training = Training(learner, None, made=_made(env, content))
    finite = True
    if isinstance(cell.method, TrainedMethod):
        training.optimiser = cell.method.optimiser(learner)
    try:
        if isinstance(cell.method, TrainedMethod):
            finite = yield from _train(cell, cell.method, training, testers[""][1], context)
        evaluations, eval_s = _test(cell, training, testers, context) if finite else ({}, 0.0)
        ran = {*training.ran, *learner.ran}.union(*(tester.ran for _, tester in testers.values()))
        diagnostics = _diagnostics(cell, testers[""][1], context) if evaluations else None
    except Interrupted:
        if training.optimiser is not None:
            checkpoints.save_step(context.results, cell.id, training.step, training.state())
        raise
    record = records.Record(
        id=cell.id,
        spec=cell.spec,
        outcome="ok" if evaluations else "diverged",
        result={
            "metric": cell.task.metric,
            "higher_is_better": cell.task.higher_is_better,
            **({} if cell.task.solved is None else {"solved": cell.task.solved}),
            "selected_step": training.best_step,
            "curve": training.curve,
            "evaluations": evaluations,
            "diverged": [name for name in testers if evaluations.get(name, {"mean": None})["mean"] is None],
            **({} if diagnostics is None else {"diagnostics": diagnostics}),
        },
        cost={
            "train_s": round(training.train_s, 3),
            "train_cpu_s": round(training.train_cpu_s, 3),
            "eval_s": round(eval_s, 3),
            "params": sum(p.numel() for p in learner.parameters()),
            "train_episodes_per_s": _rate(cell, training),
            "peak_bytes": environment.peak_memory(context.device),
        },
        data=content,
        env=env
        | ({"backend": " and ".join(sorted(ran))} if ran else {})
        | ({"resumed": training.resumed} if training.resumed else {})
        | ({"stacked": training.stacked} if training.stacked > 1 else {}),
        started=started,
        finished=_now(),
    )
    if isinstance(cell.method, TrainedMethod):
        final = {"learner": training.best or learner.state_dict(), "step": training.best_step}
        checkpoints.save(checkpoints.folder(context.results, cell.id) / "final.pt", cell.id, final)
    records.write(context.results, record)
    checkpoints.drop_steps(context.results, cell.id)
    return record


T = TypeVar("T")


def _kind(made: Any, kind: type[T], maker: str) -> T:
    """What a plug-in made, if it is of the kind that it must be."""
    if not isinstance(made, kind):
        raise BenchError(f"{maker} must give {kind.__name__}, not {type(made).__name__}")
    return made


def _drawn(made: Any, task: Task, maker: str) -> Episode:
    """What a task or a method drew, if a learner can read it: torch's own words would not say who is to blame.

    Raises:
        BenchError: no episode, or one whose parts have not the shapes and types of `bench.api.Examples`.
    """
    episode = _kind(made, Episode, maker)
    for part, examples in zip(episode._fields, episode, strict=True):
        x, y = _kind(examples, Examples, f"the {part} of {maker}")
        for name, values, types in (("x", x, (torch.float32,)), ("y", y, (torch.int64, torch.float32))):
            if not isinstance(values, Tensor) or values.dtype not in types:
                found = f"a {type(values).__name__} of {getattr(values, 'dtype', 'no type')}"
                wanted = " or ".join(str(t).removeprefix("torch.") for t in types)
                raise BenchError(f"{maker} must give a tensor of {wanted} as {name} of the {part}, not {found}")
        if x.shape[:1] + x.shape[2:] != episode.query.x.shape[:1] + tuple(task.x_shape) or y.shape[:2] != x.shape[:2]:
            raise BenchError(
                f"{maker} must give as {part} x [batch, n, {', '.join(map(str, task.x_shape))}] and y [batch, n, …], "
                f"not {[*x.shape]} and {[*y.shape]}"
            )
    return episode


def evaluate(
    learner: Learner, task: Task, split: Split, count: int, seed: int, context: Context, whole: bool = False
) -> dict[str, Any]:
    """Scores on evaluation episodes: mean, per_episode and, where they apply, by_instance; whole: by_step, nll."""
    learner.eval()
    scores: list[float] = []
    hits, shown = torch.zeros(INSTANCES, dtype=torch.float64), torch.zeros(INSTANCES, dtype=torch.int64)
    steps: dict[str, list[float]] = {}
    surprise: list[float] = []
    with torch.no_grad():
        for each in task.episodes(split, count, seed):
            drawn = _drawn(each, task, f"{task.name}.sample")
            if context.stopping():
                raise Interrupted
            if not all(x.isfinite().all() for x in (drawn.support.x, drawn.query.x)):
                raise BenchError(f"{task.name} draws episodes whose inputs are not finite: nothing to score")
            episode = drawn.to(context.device)
            prediction = answer(learner, episode, task)
            scores += _graded(task, prediction, episode)
            _count_instances(task, prediction, episode, hits, shown)
            if whole and not task.online:
                for step, adapted in learner.by_step(episode.support, episode.query.x).items():
                    check_shapes(learner, episode, task, adapted)
                    steps.setdefault(str(step), []).extend(_graded(task, adapted, episode))
                if told := learner.distribution(episode.support, episode.query.x):
                    check_shapes(learner, episode, task, *told)
                    density = torch.distributions.Normal(*told, validate_args=False).log_prob(episode.query.y)
                    surprise += (-density.flatten(1).mean(1)).double().tolist()
    if len(scores) > max(count, task.fixed):
        raise BenchError(f"{task.name}.episodes was asked for {count} and gives {len(scores)}; say so by `fixed`")
    return _scores(scores) | {
        "by_instance": _by_instance(task, hits.tolist(), shown.tolist()) if shown.any() else None,
        # Too many steps may diverge where the answer itself does not: such a step has no score.
        "by_step": {k: _scores(v) for k, v in steps.items() if _finite(v)} or None,
        # Minus the log-likelihood of the values, in nats a value.
        **({"nll": _scores(surprise)} if surprise and _finite(surprise) else {}),
    }


def _made(env: Mapping[str, Any], content: Mapping[str, Any] | None) -> dict[str, Any]:
    """The code and the data that train: commit, digests of the sources, of plug-ins by name, and of the data."""
    return {
        "commit": env["commit"],
        "source": env["source_sha256"],
        "plugins": env.get("plugins", {}),
        "data": content["sha256"] if content else None,
    }


def _train(
    cell: Cell, method: TrainedMethod, training: Training, validator: Learner, context: Context
) -> Generator[Asked, Answered, bool]:
    """Train to the end of the budget. Returns False where the loss became infinite or NaN."""
    budget, task, learner, optimiser = cell.budget, cell.task.training(), training.learner, training.optimiser
    assert optimiser is not None
    # Groups of parameters with rates of their own keep their ratio to the method's.
    ratios = [group["lr"] / method.lr if method.lr else 1.0 for group in optimiser.param_groups]
    saved = checkpoints.latest(context.results, cell.id)
    if saved:
        made, training.made = training.made, {}
        training.restore(saved)
        others = {part: value for part, value in training.made.items() if value != made.get(part)}
        if plugins := {n: d for n, d in others.pop("plugins", {}).items() if d != made["plugins"].get(n)}:
            others["plugins"] = plugins
        training.resumed.append(
            {"step": training.step, "commit": made["commit"], "source": made["source"]}
            | ({"device": training.device} if training.device else {})
            | ({"before": others} if others else {})
        )
        training.made = made
    training.device = environment.device_name(context.device)
    validations = set(budget.validation_steps())
    # Without validation the curve still gets twenty points of training loss.
    points = validations or set(replace(budget, validations=20).validation_steps())
    setting = canonical(task.setting())
    while True:
        if training.step in points and (not training.curve or training.curve[-1]["step"] < training.step):
            _add_point(cell, training, validator if validations else None, context)
        if training.step == budget.steps:
            break
        if context.stopping():
            raise Interrupted
        began, cpu_began, step = time.monotonic(), time.process_time(), training.step
        rng = generator("train", task.name, task.version, setting, cell.seed, step)
        now = cell.task.curriculum(step)
        episode = _drawn(method.draw(now, rng), now, f"{method.name}.draw of {now.name}").to(context.device)
        learner.train()
        optimiser.zero_grad()
        seconds, cpu_seconds = time.monotonic() - began, time.process_time() - cpu_began
        before = [buffer.clone() for buffer in learner.buffers()]
        try:
            answered = yield Asked(cell, learner, episode, now, step)
        except Interrupted:  # in the middle of a step: what its forward pass has followed is followed again
            for buffer, kept in zip(learner.buffers(), before, strict=True):
                buffer.copy_(kept)
            raise
        began, cpu_began = time.monotonic(), time.process_time()
        value = answered.loss
        if not math.isfinite(value):
            training.curve.append({"step": step + 1, "loss": None, "val": None, "val_by_instance": None})
            return False
        if method.clip:
            torch.nn.utils.clip_grad_norm_(learner.parameters(), method.clip)
        for group, ratio in zip(optimiser.param_groups, ratios, strict=True):
            group["lr"] = ratio * method.rate(step)
        optimiser.step()
        training.step += 1
        training.loss_sum += value
        training.loss_steps += 1
        training.stacked = max(training.stacked, answered.together)
        training.train_s += seconds + answered.seconds + time.monotonic() - began
        training.train_cpu_s += cpu_seconds + answered.cpu_seconds + time.process_time() - cpu_began
        context.report(Progress(cell.id, "training", training.step, budget.steps, value))
        if answered.keep:
            checkpoints.save_step(context.results, cell.id, training.step, training.state())
    if budget.select == "last" or not training.best:
        training.best_step, training.best = budget.steps, copy.deepcopy(learner.state_dict())
    return True


def _add_point(cell: Cell, training: Training, validator: Learner | None, context: Context) -> None:
    """Add a point to the curve; keep the parameters that are best on validation."""
    point: dict[str, Any] = {
        "step": training.step,
        "loss": _short(training.loss_sum / training.loss_steps),
        "val": None,
        "val_by_instance": None,
    }
    if validator is not None:
        validator.load_state_dict(training.learner.state_dict())
        scores = evaluate(validator, cell.task, "val", cell.budget.val_episodes, cell.seed, context)
        point["val"] = scores["mean"] if _finite([scores["mean"]]) else None
        point["val_by_instance"] = scores["by_instance"]["mean"] if scores["by_instance"] else None
        sign = 1 if cell.task.higher_is_better else -1
        best = training.best_score
        if point["val"] is not None and (best is None or sign * point["val"] > sign * best):
            training.best_score, training.best_step = point["val"], training.step
            training.best = copy.deepcopy(training.learner.state_dict())
    training.curve.append(point)
    training.loss_sum, training.loss_steps = 0.0, 0


def _test(
    cell: Cell, training: Training, testers: dict[str, tuple[Task, Learner]], context: Context
) -> tuple[dict[str, Any], float]:
    """Touch the test split once, in every setting. Returns the evaluations, and seconds.

    There are none where the task itself is not finite. A further setting that is not loses its scores alone: it keeps
    those after fewer steps, for without them the seeds that are left would look better than they all were.
    """
    from bench import intervals  # brings scipy, which `bench list` need not wait for

    began = time.monotonic()
    evaluations = {}
    for name, (task, learner) in testers.items():
        context.report(Progress(cell.id, "testing", training.step, cell.budget.steps))
        if training.best:
            learner.load_state_dict(training.best)
        scores = evaluate(learner, task, "test", cell.budget.test_episodes, cell.seed, context, whole=True)
        finite = _finite(scores["per_episode"])
        if not finite and not name:
            break
        if finite or scores["by_step"]:
            lost: dict[str, Any] = {} if finite else {"mean": None, "per_episode": []}
            evaluations[name] = scores | lost | {"setting": json.loads(canonical(task.setting()))}
            if finite and (members := _members(task, "test", cell.budget.test_episodes, cell.seed)):
                evaluations[name]["open"] = intervals.opened(scores["per_episode"], members)
    return evaluations, time.monotonic() - began


def _members(task: Task, split: Split, count: int, seed: int) -> list[list[int]]:
    """The classes of each evaluation episode; none where the task has none."""
    return [episode for size, rng in task.lots(split, count, seed) for episode in task.members(split, size, rng) or ()]


def _diagnostics(cell: Cell, learner: Learner, context: Context) -> dict[str, Any] | None:
    """What the memory did on the first test episodes; None where it has no addresses, or the task no classes."""
    from bench import diagnostics  # brings pandas, which a cell without a memory does not need

    count = min(diagnostics.EPISODES, cell.budget.test_episodes)
    return diagnostics.examine(learner, cell.task, count, cell.seed, context.device)


def _testers(cell: Cell, learner: Learner, device: str) -> dict[str, tuple[Task, Learner]]:
    """For each evaluation setting its task and a learner that can take the trained parameters."""
    testers = {}
    for name, task in cell.task.evaluations().items():
        reason = cell.method.unsuited(task)
        if reason:
            raise Unsuited(f"{cell.method.name} does not run on {cell.task.name} with {name}: {reason}")
        torch.manual_seed(torch_seed("init", cell.method.name, cell.seed))  # what is drawn and not learned is the same
        tester = cell.method.build(task).to(device)
        try:
            tester.load_state_dict(learner.state_dict())
        except RuntimeError:
            where = f" ({name})" if name else ""
            raise Unsuited(
                f"{cell.method.name} cannot be trained and tested at different sizes: its parameters for "
                f"{cell.task.name} in training do not fit the test setting{where}; use the same way in both"
            ) from None
        testers[name] = (task, tester)
    return testers


def _graded(task: Task, prediction: Tensor, episode: Episode) -> list[float]:
    """Scores of a batch, NaN where a prediction is: argmax would make a class of it."""
    broken = prediction.isnan().flatten(1).any(1)
    scores = _kind(task.score(prediction, episode.query.y), Tensor, f"{task.name}.score")
    if scores.shape != broken.shape:
        raise BenchError(f"{task.name}.score must give one score an episode, {[*broken.shape]}, not {[*scores.shape]}")
    if task.metric in records.FRACTIONS and ((scores < 0) | (scores > 1)).any():
        raise BenchError(f"{task.name}.score must be from 0 to 1, as its metric is called {task.metric}")
    return scores.double().masked_fill(broken, math.nan).tolist()


def _count_instances(task: Task, prediction: Tensor, episode: Episode, hits: Tensor, shown: Tensor) -> None:
    instances = task.instances(episode.query.y)
    if instances is None or task.metric != "accuracy":
        return
    right = task.correct(prediction, episode.query.y)
    for k in range(INSTANCES):
        here = instances == k + 1
        hits[k] += right[here].sum().item()
        shown[k] += int(here.sum())


def _by_instance(task: Task, hits: list[float], shown: list[int]) -> dict[str, Any]:
    means = [_short(h / n) if n else None for h, n in zip(hits, shown, strict=True)]
    return {"mean": means, "n": shown} | ({"groups": list(task.groups)} if task.groups else {})


def _scores(values: list[float]) -> dict[str, Any]:
    return {"mean": _short(sum(values) / len(values)), "per_episode": [_short(v) for v in values]}


def _finite(scores: Sequence[float]) -> bool:
    return all(abs(score) < records.ENDLESS for score in scores)  # NaN is not


def _short(value: float) -> float:
    """Seven digits: more than float32 holds, so nothing is lost and records stay readable."""
    return float(f"{value:.7g}")


def _rate(cell: Cell, training: Training) -> float | None:
    if not isinstance(cell.method, TrainedMethod) or training.train_s == 0:
        return None
    return float(f"{training.step * cell.method.batch / training.train_s:.4g}")


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def device_of(choice: str) -> str:
    """The device that a choice of cpu, cuda or auto means here.

    Raises:
        BenchError: CUDA was asked for and is not there.
    """
    there = torch.cuda.is_available()
    if device_named(choice) == "cuda" and not there:
        raise BenchError("there is no CUDA device here; use --device cpu, or see `bench doctor`")
    return "cuda" if there and choice != "cpu" else "cpu"


def device_named(choice: str) -> str:
    """A choice of cpu, cuda or auto.

    Raises:
        BenchError: it is none of them.
    """
    if choice not in ("cpu", "cuda", "auto"):
        raise BenchError(f"the device is cpu, cuda or auto, not '{choice}'")
    return choice


def backend_of(choice: str) -> Backend:
    """A backend by its name.

    Raises:
        BenchError: there is no such backend.
    """
    if choice not in get_args(Backend):
        raise BenchError(f"the backend is auto, reference or fused, not '{choice}'")
    return cast(Backend, choice)
