"""learn2learn's methods beside ours, without the package, and what its Omniglot task sets draw."""

from __future__ import annotations

import importlib
import json
import math
import re
import sys
from pathlib import Path
from typing import Any

import learn2learn_leak
import pytest
import torch
from shell import QUICK, bench, toys  # noqa: F401
from test_maml import TASKS, drawn, learner, meta_loss
from torch import Tensor
from torch.testing import assert_close

from baselines import l2l
from baselines.l2l import LibraryMAML, LibraryMAMLLearner, LibraryProtoNet
from baselines.maml import MAMLLearner
from baselines.protonet import ProtoNet
from bench import environment, extras, grid, registry
from bench.api import BenchError, Episode, Examples, MissingPackage, TrainedMethod, generator
from bench.tasks.glyphs import Glyphs
from bench.tasks.sinusoid import Sinusoid

PAGE = Path(__file__).parent.parent / "docs" / "learn2learn.md"
NAMES = ["maml-l2l", "protonet-l2l"]
SINUSOID = ("run", "-t", "sinusoid", "--steps", 3, "--results", "out", *QUICK)


@pytest.fixture
def library() -> Any:
    """learn2learn; the test is skipped where it is not installed."""
    try:
        LibraryMAML().check_packages()
    except MissingPackage as missing:
        pytest.skip(str(missing))
    return l2l.learn2learn()


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if learn2learn were not installed."""
    found = environment.package
    monkeypatch.setattr(environment, "package", lambda name: None if name == "learn2learn" else found(name))


# ----------------------------------------------------------------------------------------------- without the package


@pytest.mark.usefixtures("toys", "nowhere")
def test_without_it_a_run_says_how_to_get_it_and_the_list_names_its_methods(
    capsys: pytest.CaptureFixture[str],
) -> None:
    said = bench(capsys, *SINUSOID, "-m", "maml-l2l")
    assert said.code == 2
    assert said.err.count("\n") == 1
    assert (
        "error: maml-l2l needs learn2learn 0.2.0, which is not installed here: make learn2learn in a clone" in said.err
    )
    assert "--no-deps --use-pep517 --config-settings=--build-option=build_ext learn2learn==0.2.0" in said.err
    assert not Path("out").exists()
    listed = bench(capsys, "list", "methods", "--json").json
    assert {m["name"] for m in listed} >= set(NAMES)
    assert "learn2learn==0.2.0" in bench(capsys, "doctor", "--json").json["optional"]["learn2learn"]


@pytest.mark.usefixtures("toys", "nowhere")
def test_without_it_a_pattern_leaves_its_methods_out_and_a_dry_run_names_them(
    capsys: pytest.CaptureFixture[str],
) -> None:
    said = bench(capsys, *SINUSOID, "-m", "maml*", "--dry-run", "--json")
    assert {c["method"] for c in said.json["cells"]} == {"maml"}
    assert "left out: maml-l2l needs learn2learn" in said.err
    said = bench(capsys, *SINUSOID, "-m", "maml-l2l", "--dry-run", "--json")
    assert {c["method"] for c in said.json["cells"]} == {"maml-l2l"}
    said = bench(capsys, *SINUSOID, "-m", "*-l2l")
    assert said.code == 2
    assert "maml-l2l needs learn2learn" in said.err


@pytest.mark.usefixtures("nowhere")
def test_an_optional_block_of_a_suite_does_without_it(tmp_path: Path) -> None:
    block = '[[grid]]\nmethods = ["maml", "maml-l2l"]\ntasks = ["sinusoid"]\n'
    suite = tmp_path / "some.toml"
    suite.write_text(block)
    with pytest.raises(MissingPackage, match="maml-l2l needs learn2learn"):
        grid.plan(str(suite))
    assert len(grid.plan(str(suite), offline=True).cells) == 2, "what is recorded elsewhere still counts here"
    suite.write_text(block + "optional = true\n")
    plan = grid.plan(str(suite))
    assert [c.method.name for c in plan.cells] == ["maml"]
    assert len(plan.notes) == 1


def test_another_version_of_it_is_refused_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "package", lambda name: "0.1.7")
    for name in NAMES:
        with pytest.raises(
            MissingPackage, match=rf"^{name} needs learn2learn 0\.2\.0, but 0\.1\.7 is installed here: "
        ):
            registry.get(registry.METHODS, name)().build(TASKS["mlp"])


def test_one_that_cannot_be_imported_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> None:
        raise ModuleNotFoundError("No module named 'tqdm'")

    monkeypatch.setattr(environment, "package", lambda name: "0.2.0")
    monkeypatch.setattr(importlib, "import_module", broken)
    l2l.learn2learn.cache_clear()
    with pytest.raises(
        BenchError, match=r"learn2learn is installed but cannot be imported \(.*'tqdm'\); `make learn2le"
    ):
        LibraryMAML().build(TASKS["mlp"])
    assert not any(isinstance(finder, l2l._Absent) for finder in sys.meta_path)


def test_it_is_installed_as_the_message_says() -> None:
    """`make learn2learn` and the commands for any other environment are one recipe, for the version that is used."""
    recipe = re.search(r"pip install (--quiet )?(--no-deps .* learn2learn)==(\S+)", rules("learn2learn"))
    assert recipe
    assert recipe[3] == l2l.PACKAGES["learn2learn"]
    assert f"pip install {recipe[2]}=={recipe[3]}, with a C compiler" in extras.EXTRAS["learn2learn"].how


def rules(target: str) -> str:
    """The commands that make runs for a target's stamp, each on one line."""
    makefile = (PAGE.parent.parent / "Makefile").read_text().replace("\\\n\t\t", "")
    return makefile.partition(f"$(VENV)/.{target}: ")[2].partition("\n\n")[0]


# -------------------------------------------------------------------------------------------------- beside our methods


def beside(ours: MAMLLearner, **config: Any) -> LibraryMAMLLearner:
    """learn2learn's learner of the same config, with the weights of ours."""
    theirs = LibraryMAML(**config).build(ours.task).double().train(ours.training)
    net, left = theirs.net, [weight.detach() for weight in ours.net.weights]
    with torch.no_grad():
        for i, layer in enumerate([*net.layers, net.last]):
            weight = left.pop(0)
            if isinstance(layer, torch.nn.Conv2d):
                layer.weight.copy_(weight.view(3, 3, -1, weight.shape[1]).permute(3, 2, 0, 1))
            else:
                layer.weight.copy_(weight.mT)
            if net.norms and i < len(net.norms):
                net.norms[i].scale.copy_(left.pop(0)[0])
                net.norms[i].shift.copy_(left.pop(0)[0])
            else:
                layer.bias.copy_(left.pop(0)[0])
    assert not left
    return theirs


def in_our_form(net: LibraryMAMLLearner, gradients: dict[str, Tensor]) -> list[Tensor]:
    """Gradients by the names of learn2learn's parameters, in the order and shapes of ours."""
    found = []
    for i, layer in enumerate([*net.net.layers, net.net.last]):
        name = f"layers.{i}" if i < len(net.net.layers) else "last"
        weight = gradients[f"{name}.weight"]
        found.append(weight.permute(2, 3, 1, 0).flatten(0, 2) if isinstance(layer, torch.nn.Conv2d) else weight.mT)
        if f"{name}.bias" in gradients:
            found.append(gradients[f"{name}.bias"][None])
        else:
            found += [gradients[f"norms.{i}.{part}"][None] for part in ("scale", "shift")]
    return found


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("backbone", list(TASKS))
@pytest.mark.parametrize("batch_norm", ["support", "transductive", "none"])
@pytest.mark.parametrize(("order", "steps"), [("second", 1), ("second", 3), ("first", 2)])
def test_meta_gradient_is_that_of_learn2learn(backbone: str, batch_norm: str, order: str, steps: int) -> None:
    """In float64 to 1e-6. `test_maml.py` compares ours with `higher` and with a double backward by hand."""
    task = TASKS[backbone]
    config = {"backbone": backbone, "batch_norm": batch_norm, "order": order, "train_steps": steps, "inner_lr": 0.1}
    ours = learner(task, **config).train()
    theirs, episode = beside(ours, **config), drawn(task)
    our_loss, their_loss = meta_loss(ours, episode, task), meta_loss(theirs, episode, task)
    assert_close(our_loss, their_loss, rtol=1e-9, atol=1e-12)
    named = dict(theirs.net.named_parameters())
    gradients = dict(zip(named, torch.autograd.grad(their_loss, list(named.values())), strict=True))
    our_gradients = torch.autograd.grad(our_loss, list(ours.net.weights))
    for a, b in zip(our_gradients, in_our_form(theirs, gradients), strict=True):
        assert b.abs().max() > 0
        assert_close(a, b, rtol=1e-6, atol=1e-6 * float(b.abs().max()))


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("backbone", list(TASKS))
def test_predictions_are_those_of_maml(backbone: str) -> None:
    task = TASKS[backbone]
    ours = learner(task, backbone=backbone).eval()
    theirs, (support, query) = beside(ours, backbone=backbone), drawn(task)
    nothing = Examples(support.x[:, :0], support.y[:, :0])
    with torch.no_grad():
        for shown in (support, nothing):
            assert_close(theirs(shown, query.x), ours(shown, query.x))
            assert_close(theirs.by_step(shown, query.x), ours.by_step(shown, query.x))


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("training", [False, True])
def test_prototypes_are_those_of_protonet(training: bool) -> None:
    """Answers and gradients; in evaluation with classes that are not shown, and online."""
    task = Glyphs(way=4, shot=2, query=3, size=20)
    ours, theirs = (made.build(task).double().train(training) for made in (ProtoNet(), LibraryProtoNet()))
    theirs.load_state_dict(ours.state_dict())
    episode = Episode(*(Examples(p.x.double(), p.y) for p in task.sample("train", 2, generator("prototypes"))))
    gradients = []
    for each in (ours, theirs):
        gradients.append(torch.autograd.grad(each.loss(episode, task), list(each.parameters())))
    for a, b in zip(*gradients, strict=True):
        assert_close(a, b, rtol=1e-6, atol=1e-6 * float(a.abs().max()))
    support, query = episode
    if not training:
        for shown in range(support.x.shape[1] + 1):
            part = Examples(support.x[:, :shown], support.y[:, :shown])
            assert_close(theirs(part, query.x), ours(part, query.x))
        assert_close(theirs.stream(*query), ours.stream(*query))


def test_what_stands_in_for_torchvision_stays_nowhere(library: Any) -> None:
    assert not any(isinstance(finder, l2l._Absent) for finder in sys.meta_path)
    assert not [name for name in sys.modules if isinstance(getattr(sys.modules[name], "__loader__", None), l2l._Absent)]
    assert library.__version__ == l2l.PACKAGES["learn2learn"]


@pytest.mark.usefixtures("toys", "library")
def test_its_runs_are_recorded_with_its_version_and_stand_in_tables(capsys: pytest.CaptureFixture[str]) -> None:
    said = bench(capsys, *SINUSOID, "-m", "maml-l2l", "-m", "maml", "--set", "*.batch=2")
    assert said.code == 0
    (path,) = Path("out/runs/sinusoid/maml-l2l").glob("*.json")
    assert json.loads(path.read_text())["env"]["packages"] == {"learn2learn": "0.2.0"}
    (other,) = Path("out/runs/sinusoid/maml").glob("*.json")
    assert "packages" not in json.loads(other.read_text())["env"]
    assert bench(capsys, "tables", "--dirty", "--results", "out").code == 0
    assert any("maml-l2l" in table.read_text() for table in Path("out/tables").glob("*.md"))


# ------------------------------------------------------------------------------------------------- its own task sets


@pytest.mark.usefixtures("library")
def test_omniglot_task_sets_of_learn2learn_leak_classes() -> None:
    """Each split draws from all 1,623 classes, as often as chance has it; and a task turns all its classes alike."""
    found = learn2learn_leak.look()
    assert "\n".join(learn2learn_leak.lines(found)) in PAGE.read_text(encoding="utf-8")
    announced = [split.announced for split in found.values()]
    assert [len(classes) for classes in announced] == [1100, 100, 423]
    assert len(set.union(*announced)) == learn2learn_leak.CLASSES, "the splits themselves share no class"
    for split in found.values():
        for classes in announced:
            share = len(classes) / learn2learn_leak.CLASSES
            sigma = math.sqrt(len(split.drawn) * share * (1 - share))
            assert abs(len(split.drawn & classes) - len(split.drawn) * share) < 4 * sigma
        assert {len(turns) for turns in split.turns} == {1}
        assert len(set.union(*split.turns)) == 4, "tasks are turned differently"


# --------------------------------------------------------------------------------------------- the curve of a sinusoid

CURVE = {0: (3.06, 0.24), 1: (0.86, 0.07), 5: (0.47, 0.05), 10: (0.41, 0.05)}
"""learn2learn's own script, seed 0: mean squared error by steps at inner rate .01, with 1.96 standard errors over 600
test tasks. Network 1-40-40-1, 2,000 iterations of 25 tasks, 10 points and 10 queries, one step, Adam at 1e-3; errors
there are over a grid of 100 points, here over 100 points drawn as those of the support."""


@pytest.mark.long
@pytest.mark.parametrize("name", ["maml", "maml-l2l"])
def test_sinusoid_curve_is_that_of_learn2learn(
    name: str, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    """After 2,000 iterations the interval over test tasks meets that of learn2learn, at every number of steps."""
    if name != "maml":
        request.getfixturevalue("library")
    method: TrainedMethod = registry.get(registry.METHODS, name)(batch=25, inner_lr=0.01)
    task = Sinusoid()
    torch.manual_seed(0)
    net = method.build(task).train()
    optimiser = method.optimiser(net)
    for step in range(2000):
        optimiser.zero_grad()
        net.loss(task.training().sample("train", method.batch, generator("curve", step)), task).backward()
        optimiser.step()
    scores: dict[int, list[Tensor]] = {step: [] for step in CURVE}
    for support, query in task.episodes("test", 600, seed=0):
        with torch.no_grad():
            for step, prediction in net.eval().by_step(support, query.x).items():
                scores[step].append(task.score(prediction, query.y))
    found = {}
    for step, parts in scores.items():
        values = torch.cat(parts)
        found[step] = (float(values.mean()), float(1.96 * values.std() / math.sqrt(len(values))))
    with capsys.disabled():
        print(f"\n{name}:", ", ".join(f"{step} steps {mean:.3f} ± {half:.3f}" for step, (mean, half) in found.items()))
    for step, (mean, half) in found.items():
        assert abs(mean - CURVE[step][0]) <= half + CURVE[step][1], f"after {step} steps"
