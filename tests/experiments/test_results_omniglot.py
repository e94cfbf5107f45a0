"""The results on Omniglot, run with tiny counts on digits that stand in for characters."""

import json
import math

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyrometa as pm
from experiments.results import omniglot_classification, omniglot_generation, omniglot_heads, omniglot_reader
from experiments.results.omniglot_report import half_width, over_seeds, updated
from pyrometa.tasks import Characters


def written(path):
    return json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} in JSON"))


def test_classification_scores_every_head(tmp_path):
    path = tmp_path / "result.json"
    options = ["--quick", "--json", str(path), "--keep", str(tmp_path), "--seeds", "3"]
    first, *others = omniglot_classification.ROWS
    omniglot_classification.main([*options, "--rows", first])
    result = omniglot_classification.main([*options, "--rows", *others])
    assert written(path) == json.loads(json.dumps(result))
    assert set(result["rows"]) == set(omniglot_classification.ROWS)
    for row in result["rows"].values():
        for scores in row.values():
            assert [scores["accuracy"]["mean"]] == pytest.approx(scores["accuracy"]["seeds"])
            assert 0 < scores["accuracy"]["mean"] < 1
            assert 0 < scores["nll"]["mean"] < 6
            assert 0 <= scores["ece"]["mean"] <= 1
            assert len(scores["cpu seconds"]["seeds"]) == 1


def test_what_is_kept_back_is_the_last_characters():
    labels = torch.tensor([3, 1, 2, 4, 4, 0])
    seen, kept_back = omniglot_classification.split(Characters(torch.rand(6, 2, 2), labels, labels // 2), 2)
    assert seen.labels.tolist() == [1, 2, 0]
    assert kept_back.labels.tolist() == [3, 4, 4]
    assert kept_back.alphabets.tolist() == [1, 2, 2]


def test_end_to_end_the_features_adapt_with_the_head():
    meta = omniglot_heads.maml_of_all_layers(omniglot_heads.Features(2, fixed=True), 5, shots=1)
    meta.init((torch.rand(1, 5, 1, 28, 28), torch.arange(5)[None]))
    names = {name for name, _ in meta.named_parameters()}
    of_model = {name for name in names if name.startswith("model.")}
    assert len(of_model) == 4 * 4 + 2  # four blocks, and the head
    assert names - of_model == {f"inner.log_lr.{name}" for name in of_model}


def test_fixed_statistics_make_features_of_each_image_alone():
    features = omniglot_heads.Features(4, fixed=False)
    images = torch.rand(6, 1, 28, 28)
    together = features(images)
    assert not torch.allclose(features(images[:3]), together[:3], atol=1e-3)
    features.fix(images)
    torch.testing.assert_close(features(images[:3]), features(images)[:3])
    again = omniglot_heads.Features(4, fixed=True)
    again.load_state_dict(features.state_dict())
    torch.testing.assert_close(again(images), features(images))


def test_prototypes_are_class_means_and_the_nearest_is_likeliest():
    meta = omniglot_heads.prototypes(omniglot_heads.Features(2, fixed=True), ways=3)
    x, y = torch.rand(6, 1, 28, 28), torch.tensor([0, 1, 2, 0, 1, 2])
    query = torch.rand(4, 1, 28, 28)
    logits = omniglot_heads.class_logits(meta.model, meta.guide.condition(x, y), query, y[:4], draws=1)[0]
    means = torch.stack([meta.model.features(x[y == k]).mean(0) for k in range(3)])
    distances = torch.cdist(meta.model.features(query), means).square() * meta.model.log_closeness.exp()
    torch.testing.assert_close(logits.log_softmax(-1), (-distances).log_softmax(-1), atol=1e-4, rtol=1e-4)


def test_the_predictive_nll_is_of_each_label_under_the_mean_of_the_draws():
    meta = omniglot_heads.abml(omniglot_heads.Ready(8), ways=5)
    x, y = torch.rand(5, 8), torch.arange(5)
    meta.init(x[None], kwargs={"y": y})
    torch.manual_seed(3)
    logits = omniglot_heads.class_logits(meta.model, meta.guide, x, y, draws=3)
    assert logits[0].ne(logits[1]).any()
    expected = -logits.softmax(-1).mean(0)[range(5), y].log().sum()
    torch.manual_seed(3)
    torch.testing.assert_close(omniglot_heads.predictive_nll(meta.model, meta.guide, x, y, draws=3), expected)


def test_generation_compares_on_the_same_characters(tmp_path):
    path = tmp_path / "result.json"
    result = omniglot_generation.main(["--quick", "--json", str(path), "--seeds", "3"])
    assert written(path) == json.loads(json.dumps(result))
    rows = result["rows"]
    assert {name: len(steps) for name, steps in rows["nats"].items()} == {
        "pooled": 6,
        "reader": 1,
        "reader, refined": 6,
    }
    for name, step in (("reader", "0"), ("reader, refined", "5")):
        difference = rows["nats"]["pooled"]["5"]["mean"] - rows["nats"][name][step]["mean"]
        assert rows["gain over five pooled steps"][name]["mean"] == pytest.approx(difference)
    (each,) = rows["each seed"]
    gradients = each["gradient evaluations x images"]
    assert gradients["pooled"] > gradients["reader"] - 128
    assert min(each["cpu seconds"].values()) > 0
    assert each["rate"] in result["settings"]["rates"]


def test_the_predictive_bound_is_tight_where_the_guide_is_exact():
    def model(x):
        c = pyro.sample("c", dist.Normal(torch.zeros(()), 1.0))
        with pyro.plate("drawings", len(x)):
            z = pyro.sample("z", dist.Normal(c, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        c = pyro.sample("c", dist.Delta(torch.tensor(0.5)))
        with pyro.plate("drawings", len(x)):
            pyro.sample("z", dist.Normal((x + c) / 2, 0.5**0.5))

    x = torch.tensor([0.3, -1.0]).repeat(10_000)  # so many that draws of z average out
    exact = -dist.Normal(0.5, 2**0.5).log_prob(x).mean()
    bound = omniglot_reader.predictive_bound(model, guide, x) / len(x)
    torch.testing.assert_close(bound, exact, atol=0.02, rtol=0.0)


def test_intervals_over_seeds_and_tasks():
    found = over_seeds([torch.tensor([1.0, 2.0, 3.0]), torch.tensor([3.0, 4.0, 5.0])])
    assert found["mean"] == 3.0
    assert found["seeds"] == [2.0, 4.0]
    assert found["half width over tasks"] == pytest.approx(1.96 / math.sqrt(3))
    assert found["half width over seeds"] == pytest.approx(12.706 * math.sqrt(2) / math.sqrt(2))
    assert half_width(torch.tensor([1.0])) is None


def test_rows_of_other_settings_are_not_kept(tmp_path):
    path = tmp_path / "result.json"
    updated(path, {"steps": 1}, {"one": 1})
    assert updated(path, {"steps": 1}, {"two": 2})["rows"] == {"one": 1, "two": 2}
    assert updated(path, {"steps": 2}, {"three": 3})["rows"] == {"three": 3}
    assert written(path)["versions"]["pyrometa"] == pm.__version__


def test_what_is_not_finite_is_none():
    found = over_seeds([torch.tensor([1.0, math.inf]), torch.tensor([3.0, 4.0])])
    assert found["seeds"] == [None, 3.5]
    assert (found["mean"], found["half width over tasks"], found["half width over seeds"]) == (None, None, None)
