"""Published figures: the file is well formed, known anchors are in it, and protocols are compared from facts."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from synthetic import spec

from baselines.adaptation import AdaptingMethod
from baselines.cavia import CAVIA
from baselines.maml import MAML
from baselines.matching import Matching
from baselines.pixel_knn import PixelKNN
from baselines.protonet import ProtoNet
from baselines.r2d2 import R2D2
from baselines.reptile import Reptile
from bench import data, published
from bench.api import generator
from bench.errors import BenchError
from bench.grid import Budget, Cell
from bench.published import lookup, protocol_match, rows
from bench.tasks.gaussian import GaussianProcess
from bench.tasks.glyphs import Glyphs, GlyphsOnline
from bench.tasks.lake import Lake
from bench.tasks.omniglot import OmniglotOnline
from bench.tasks.sinusoid import Sinusoid
from mann.lrua import Mann
from mann.ntm import NTMMethod

ANCHORS = [
    ("maml", "sinusoid", {"shot": 5, "adapt_steps": 1}, "Finn et al. 2017", 0.67),
    ("maml", "sinusoid", {"shot": 5, "adapt_steps": 5}, "Finn et al. 2017", 0.38),
    ("maml", "sinusoid", {"shot": 5, "adapt_steps": 10}, "Finn et al. 2017", 0.35),
    ("mann", "omniglot-online", {"way": 5, "instance": 2, "labels": "onehot"}, "Santoro et al. 2016", 82.8),
    ("mann", "omniglot-online", {"way": 15, "instance": 2, "labels": "string"}, "Santoro et al. 2016", 62.6),
    ("ntm", "omniglot-online", {"way": 15, "instance": 2, "labels": "string"}, "Santoro et al. 2016", 35.4),
    ("lstm", "omniglot-online", {"way": 5, "instance": 10, "labels": "onehot"}, "Santoro et al. 2016", 62.5),
    ("hausdorff", "lake", {}, "Lake et al. 2015", 38.8),
    ("protonet", "omniglot", {"way": 5, "shot": 1}, "Snell et al. 2017", 98.8),
    ("protonet", "omniglot", {"way": 20, "shot": 1}, "Snell et al. 2017", 96.0),
    ("pixel-knn", "omniglot", {"way": 20, "shot": 5}, "Vinyals et al. 2016", 42.6),
    ("maml", "miniimagenet", {"way": 5, "shot": 1}, "Finn et al. 2017", 48.7),
]


def snell() -> published.Published:
    return next(r for r in lookup("protonet", "omniglot", way=5, shot=1) if r.source == "Snell et al. 2017")


def test_kin_have_the_names_of_their_papers() -> None:
    for method, fields, name in (
        ("maml", {}, "maml"), ("maml", {"adapts": "head"}, "anil"), ("maml", {"rates": "each"}, "meta-sgd"),
        ("finetune", {"head": "cosine"}, "baseline++"), ("r2d2", {"backbone": "resnet12"}, "metaoptnet"),
    ):  # fmt: skip
        assert published.published_name(spec(method, "omniglot", fields=fields)) == name
    known = {row.method for row in rows()}
    assert {told for kin in published.KIN.values() for _, told in kin} <= known


def ours(**task_fields: Any) -> dict[str, Any]:
    return spec("protonet", "omniglot", fields={"batch": 1}, task_fields=task_fields)


@pytest.mark.parametrize(("method", "task", "setting", "source", "value"), ANCHORS)
def test_anchor_figures(method: str, task: str, setting: dict[str, Any], source: str, value: float) -> None:
    found = [r for r in lookup(method, task, **setting) if r.source == source]
    assert value in [r.value for r in found]
    assert not any(r.by_others for r in found)


def test_the_file_is_well_formed() -> None:
    texts = {"accuracy": (0, 100), "error": (0, 100), "mse": (0, 20), "ratio": (1, 10_000)}
    for row in rows():
        low, high = texts[row.metric]
        assert low <= row.value <= high
        assert row.ci95 is None or 0 < row.ci95 < 5
        assert all((row.source, row.where, row.method, row.task))
        assert row.confidence in ("verified", "from memory")
        assert "code" in row.source or (row.title and row.year and 2013 < row.year < 2027)
        assert row.method == row.method.lower()
        assert set(row.protocol) <= {*published.COMPARED, "test_episodes"}
        assert (row.task == "omniglot-online") == ("instance" in row.key) == ("labels" in row.key)
        assert (row.task == "sinusoid") == ("adapt_steps" in row.key)


def test_figures_are_unique() -> None:
    keys = Counter(
        (r.method, r.variant, r.task, *r.key.items(), r.source, r.protocol.get("train_shot")) for r in rows()
    )
    assert [key for key, count in keys.items() if count > 1] == []


def test_columns_are_all_used() -> None:
    with published.PLACES[0].open(encoding="utf-8") as file:
        columns = set(next(csv.reader(file)))
    assert columns == {*published.DETAILS, *published.COMPARED, "test_episodes"}


def test_the_plain_network_is_not_mann_ff() -> None:
    plain = lookup(None, "omniglot-online", way=5, labels="onehot", instance=2)
    values = {r.method: r.value for r in plain if r.source == "Santoro et al. 2016"}
    assert values["feedforward"] == 19.6
    assert "mann-ff" not in values
    assert [r.value for r in lookup("mann-ff", "omniglot-online", way=5, labels="string", instance=2)] == [8.0]


def test_lookup_ignores_what_is_no_key() -> None:
    assert lookup("protonet", "omniglot", way=5, shot=1, query=3, size=28) == lookup(
        "protonet", "omniglot", way=5, shot=1
    )
    assert lookup("protonet", "omniglot", way=7, shot=1) == []
    assert lookup("no-such", "omniglot") == []


def test_character_counts_are_those_of_the_splits() -> None:
    lists = {"vinyals": "omniglot-vinyals", "random1200": "omniglot-random1200"}
    for name, folder in lists.items():
        assert published.CHARACTERS[name] == str(len(data.split(folder, "train")))
    assert published.CHARACTERS["background"] == str(len(data.split("lake", "background")))


def test_reasons_name_both_sides() -> None:
    same, text = protocol_match(ours(), snell())
    assert not same
    assert text.startswith("no, because ")
    assert "training way 5 (paper 60)" in text
    assert "training characters 1,028 (paper 1,200)" in text
    assert "batch" not in text


def test_a_fact_that_agrees_is_no_reason() -> None:
    before = protocol_match(ours(), snell()).reasons
    after = protocol_match(ours(train_way=60), snell()).reasons
    assert set(before) - set(after) == {"training way 5 (paper 60)"}
    assert set(after) <= set(before)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"split": "random1200"}, "split random1200 (paper vinyals)"),
        ({"size": 32}, "image side 32 (paper 28)"),
        ({"train_shot": 3}, "training shot 3 (paper 1)"),
    ],
)
def test_each_difference_is_found(fields: dict[str, Any], reason: str) -> None:
    assert reason not in protocol_match(ours(), snell()).reasons
    assert reason in protocol_match(ours(**fields), snell()).reasons


def test_what_is_tested_differs_from_what_was_trained_on() -> None:
    finn = next(r for r in lookup("maml", "sinusoid", shot=5, adapt_steps=1) if r.source == "Finn et al. 2017")
    recipe = {"batch": 25, "order": "second", "inner_lr": 0.0, "train_steps": 1, "eval_steps": 0, "backbone": "auto",
              "batch_norm": "support"}  # fmt: skip
    cell = spec("maml", "sinusoid", fields=recipe, task_fields={"shot": 10}, budget={"steps": 70000})
    match = protocol_match(cell, finn, {"shot": 5})
    assert match.reasons == ()
    assert (
        "training shot 5 (paper 10)"
        in protocol_match(cell | {"task": spec("", "sinusoid", task_fields={"shot": 5})["task"]}, finn).reasons
    )
    short = protocol_match(cell | {"budget": cell["budget"] | {"steps": 100}}, finn)
    assert short.reasons == ("training steps 100 (paper 70,000)",)


def test_what_cavia_leaves_to_the_task_is_its_recipe() -> None:
    fields = {"batch": 25, "inner_lr": 1.0, "train_steps": 0, "eval_steps": 0, "backbone": "auto", "context": 0,
              "batch_norm": "support", "lr": 0.001, "optimizer": "adam"}  # fmt: skip
    cell = spec("cavia", "sinusoid", fields=fields, task_fields={"shot": 10}, budget={"steps": 50000})
    (first, *_) = published.beside(cell, {"shot": 10}, "step 1")
    assert (first.value, first.variant) == (0.19, "")
    assert protocol_match(cell, first, {"shot": 10}).reasons == ()


@pytest.mark.parametrize(
    ("method", "task", "setting", "fields", "value"),
    [
        ("maml", "omniglot", {"way": 20, "shot": 1}, {"adapts": "head"}, 96.2),
        ("cavia", "sinusoid", {"shot": 10}, {"context": 2}, 0.21),
        ("cavia", "sinusoid", {"shot": 10}, {"context": 0}, 0.19),
        ("matching", "miniimagenet", {"way": 5, "shot": 5}, {"reads": 5}, 55.31),
        ("matching", "miniimagenet", {"way": 5, "shot": 5}, {"reads": 0}, 51.09),
        ("r2d2", "miniimagenet", {"way": 5, "shot": 1}, {"backbone": "resnet12"}, 61.41),
        ("reptile", "omniglot", {"way": 5, "shot": 1}, {"batch_norm": "support"}, 95.39),
    ],
)
def test_a_variant_stands_beside_its_own_figure(
    method: str, task: str, setting: dict[str, Any], fields: dict[str, Any], value: float
) -> None:
    at = "step 1" if task == "sinusoid" else ""
    cell = spec(method, "omniglot" if task == "miniimagenet" else task, fields=fields, task_fields=setting)
    cell["task"]["name"] = task
    assert published.beside(cell, cell["task"]["fields"] | setting, at)[0].value == value


def test_a_form_that_nobody_has_published_is_not_taken_for_another() -> None:
    recipe = {"batch": 25, "inner_lr": 0.01, "train_steps": 1, "eval_steps": 10, "backbone": "auto", "lr": 0.001,
              "optimizer": "adam", "batch_norm": "support", "order": "second"}  # fmt: skip
    found = {}
    for name, form in (("second", {}), ("first", {"order": "first"}), ("boil", {"adapts": "body"})):
        cell = spec("maml", "sinusoid", fields=recipe | form, task_fields={"shot": 10}, budget={"steps": 70000})
        rows = published.beside(cell, {"shot": 5}, "step 1")
        found[name] = [(row.value, protocol_match(cell, row, {"shot": 5}).reasons) for row in rows]
    assert found["second"][0] == (0.67, ())
    assert found["first"][0] == (0.67, ("order of gradients first (paper second)",))
    assert found["boil"] == []


def test_other_features_are_a_difference() -> None:
    row = lookup("deep-knn", "omniglot-online", way=5, instance=2, labels="string")[0]
    for features, differ in (("classifier", True), ("autoencoder", False)):
        match = protocol_match(spec("deep-knn", "omniglot-online", fields={"features": features}), row)
        assert (f"features {features} (paper autoencoder)" in match.reasons) == differ


@pytest.mark.parametrize("task", [Sinusoid(), GaussianProcess(), Glyphs()])
@pytest.mark.parametrize("method", [MAML(), MAML(rates="each", train_steps=2), MAML(eval_steps=7), CAVIA()])
def test_what_zero_means_is_what_a_learner_does(method: Any, task: Any) -> None:
    learner = method.build(task)
    known = published.facts(Cell(method, task, 0, Budget()).spec, {})
    assert (int(known["inner_steps"]), int(known["test_steps"])) == (learner.train_steps, learner.eval_steps)
    if method.name == "maml":
        assert all((torch.as_tensor(rate) == float(known["inner_lr"])).all() for rate in learner.rates)
    else:
        assert int(known["context"]) == learner.context
    network = method.backbone_for(task)
    assert known["backbone"] == {"sinusoid": "mlp-40-40"}.get(network, network)


@pytest.mark.parametrize("task", [Sinusoid(), GaussianProcess(), Glyphs(), GlyphsOnline()], ids=lambda task: task.name)
@pytest.mark.parametrize("backbone", ["auto", "mlp", "sinusoid", "conv4"])
@pytest.mark.parametrize("method", [MAML, CAVIA, Reptile, R2D2, ProtoNet])
def test_transductive_is_who_lets_queries_help_one_another(method: Any, backbone: str, task: Any) -> None:
    if backbone == "sinusoid" and not issubclass(method, AdaptingMethod):
        pytest.skip("no such backbone")
    config = method(backbone=backbone, batch_norm="transductive", **({"eval_steps": 2} if method is Reptile else {}))
    if config.unsuited(task):
        pytest.skip("not on this task")
    torch.manual_seed(0)
    learner = config.build(task).eval()
    for norm in learner.modules():  # whose scale and shift would hide it
        if isinstance(norm, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(norm.weight)
    episode = task.sample("train", 2, generator(0))
    with torch.no_grad():
        if task.online:
            x, y = episode.query
            together, alone = learner.stream(x[:, :6], y[:, :6])[:, :3], learner.stream(x[:, :3], y[:, :3])
        else:
            asked = episode.query.x[:, :3]
            together = learner(episode.support, asked)
            alone = torch.cat([learner(episode.support, q) for q in asked.split(1, 1)], 1)
    helped = not torch.allclose(together, alone, rtol=1e-3, atol=1e-4)
    known = published.facts(Cell(config, task, 0, Budget()).spec, {})
    assert (known["batchnorm"] == "transductive") == helped


def test_values_of_another_version_change_nothing_else() -> None:
    cells = [Cell(MAML(), Glyphs(), 0, Budget()).spec, Cell(Matching(reads=3), Glyphs(), 0, Budget()).spec]
    for cell in cells:
        cell["task"]["fields"] |= {"size": "large", "way": None, "forgotten": 3}
        cell["method"]["fields"] |= {"lr": None, "optimizer": "gone", "rate": 1}
    known = [published.facts(cell, {}) for cell in cells]
    assert [k["backbone"] for k in known] == ["conv4", "conv4"]
    assert (known[0]["inner_lr"], known[0]["test_steps"], known[1]["full_context"]) == ("0.4", "3", "yes")
    assert "full_context" not in published.facts(Cell(NTMMethod(), Glyphs(), 0, Budget()).spec, {})


ONLINE_DIFFERENCES: list[tuple[dict[str, Any], str]] = [
    ({"length": 10}, "presentations in an episode 10 (paper 50)"),
    ({"persistent": 5}, "memory kept between episodes yes (paper no)"),
    ({"rotation": 90.0}, "augmentation rotation by 90.0 and shift (paper rotation and shift)"),
    ({"shift": 0.0}, "augmentation rotation (paper rotation and shift)"),
    ({"balanced": True}, "balanced draws yes (paper no)"),
]


@pytest.mark.parametrize(("fields", "reason"), ONLINE_DIFFERENCES)
def test_what_else_an_online_episode_is_is_a_difference(fields: dict[str, Any], reason: str) -> None:
    found = {}
    for name, task in (("usual", OmniglotOnline()), ("other", OmniglotOnline(**fields))):
        cell = Cell(Mann(), task, 0, Budget()).spec
        row = next(r for r in published.beside(cell, {"way": 5, "labels": "onehot"}, "instance 2") if not r.by_others)
        assert row.value == 82.8
        found[name] = protocol_match(cell, row).reasons
    assert reason not in found["usual"]
    assert reason in found["other"]


def test_heads_have_one_name_for_papers() -> None:
    row = lookup("ntm", "omniglot-online", way=15, instance=2, labels="string")[0]
    task = OmniglotOnline(way=15, labels="string")
    for method, reasons in ((NTMMethod(), {"heads 1 (paper 4)", "slot width 20 (paper 40)"}),
                            (NTMMethod(reads=4, writes=4, width=40), set())):  # fmt: skip
        found = protocol_match(Cell(method, task, 0, Budget()).spec, row).reasons
        assert {r for r in found if r.startswith(("heads", "slot"))} == reasons


def test_the_length_of_an_episode_follows_its_classes() -> None:
    cell = Cell(PixelKNN(), OmniglotOnline(), 0, Budget()).spec
    assert [published.facts(cell, {"way": way})["length"] for way in (5, 15)] == ["50", "150"]
    assert published.facts(cell, {"way": 10, "length": 75})["length"] == "75"


def test_nothing_is_published_of_more_labels_than_classes() -> None:
    for among, some in ((0, True), (5, True), (20, False)):
        cell = Cell(Mann(), OmniglotOnline(among=among), 0, Budget()).spec
        assert bool(published.beside(cell, {"way": 5, "labels": "onehot"}, "instance 2")) == some


def test_a_curriculum_and_turned_characters_are_facts_of_training() -> None:
    def known(task: Any) -> dict[str, str]:
        return published.facts(Cell(Mann(), task, 0, Budget()).spec, {})

    assert "curriculum" not in known(OmniglotOnline())
    assert known(OmniglotOnline(start_way=2))["curriculum"] == "from 2 classes on"
    assert known(Lake())["augmentation"] == "none"
    assert known(Lake(train_turned=True))["augmentation"] == "rotations as classes"


def test_batch_statistics_are_a_difference() -> None:
    finn = next(
        r for r in lookup("maml", "omniglot", way=5, shot=1) if r.source == "Finn et al. 2017" and not r.variant
    )
    found = {}
    for mode in ("support", "transductive"):
        found[mode] = protocol_match(spec("maml", "omniglot", fields={"batch_norm": mode}), finn).reasons
    assert "BatchNorm inductive (paper transductive)" in found["support"]
    assert not any("BatchNorm" in reason for reason in found["transductive"])


def test_a_classifier_s_training_has_no_way() -> None:
    for method, ways in (("finetune", False), ("simpleshot", False), ("protonet", True)):
        known = published.facts(spec(method, "omniglot", fields={}), {})
        assert ("train_way" in known, "train_shot" in known, "lr" in known) == (ways, ways, True)


def test_methods_that_do_not_train_are_not_compared_in_training() -> None:
    row = lookup("pixel-knn", "omniglot", way=5, shot=1)[0]
    cell = spec("pixel-knn", "omniglot")
    cell["method"]["fields"] = {"metric": "cosine", "polarity": "paper"}
    match = protocol_match(cell, row)
    assert match.same
    assert match.unstated == ("polarity",)
    assert match.verdict == "as far as stated"
    assert "polarity" in match.text
    cell["method"]["fields"]["metric"] = "euclid"
    assert protocol_match(cell, row).reasons == ("distance euclid (paper cosine)",)


def test_closest_prefers_the_form_that_was_run() -> None:
    found = lookup("maml", "omniglot", way=5, shot=1)
    for backbone, variant in (("conv4", ""), ("mlp", "no convolutions")):
        cell = spec("maml", "omniglot", fields={"backbone": backbone, "order": "second"})
        first = published.closest(cell, found, {})[0]
        assert (first.source, first.variant) == ("Finn et al. 2017", variant)


def test_unrecorded_fields_are_not_compared() -> None:
    assert protocol_match(spec("reptile", "omniglot", fields={"lr": 1}), snell()).reasons


def test_a_missing_or_broken_file_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(published, "PLACES", (tmp_path / "published.csv",))
    published.rows.cache_clear()
    try:
        with pytest.raises(BenchError, match=r"there is no published\.csv"):
            rows()
        (tmp_path / "published.csv").write_text("method,value\nmann,high\n")
        with pytest.raises(BenchError, match="line 2"):
            rows()
    finally:
        published.rows.cache_clear()


def test_memory_that_is_kept_between_episodes_is_another_protocol() -> None:
    (kept,) = [r for r in lookup("mann", "omniglot-online", way=5, instance=2) if r.protocol.get("persistent") == "yes"]
    for episodes, differs in ((1, True), (10, False)):
        cell = spec("mann", "omniglot-online", fields={}, task_fields={"persistent": episodes})
        told = protocol_match(cell, kept).reasons
        assert any("memory kept between episodes" in reason for reason in told) == differs
