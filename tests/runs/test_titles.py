"""Titles name the problem in words."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from programs import ROOT

from l2o.runs.titles import in_words, title_of

TITLES = {
    "experiment=digits": "MLP 64–20–10 (sigmoid) on digits",
    "experiment=mnist_200steps": "MLP 784–20–10 (sigmoid) on MNIST",
    "experiment=mnist_2layers": "MLP 784–20–20–10 (sigmoid) on MNIST",
    "experiment=mnist_relu": "MLP 784–20–10 (ReLU) on MNIST",
    "experiment=cifar2_sub": "ConvNet 16–16–16–32–2 on 2 labels of CIFAR-10",
    "experiment=quadratic": "Random quadratics in 10 dimensions",
    "experiment=neural_art": "Neural art, 64×64 pictures",
    "optimizee=least_squares": "Least squares, 50 coordinates, condition 10000",
    "optimizee=matrix_factorisation": "Matrix factorisation",
    "optimizee=noisy_quadratic": "Noisy quadratics in 20 dimensions",
    "optimizee=digits_residual": "Residual network on digits",
}


@pytest.mark.parametrize("word", TITLES)
def test_a_problem_in_words(word):
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        assert title_of(compose("evaluate", [word])) == TITLES[word]


def test_every_problem_of_the_configs_has_words():
    for path in sorted((ROOT / "conf/optimizee").glob("*.yaml")):
        words = [f"optimizee={path.stem}", *(["dataset=text"] if "char" in path.stem else [])]
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            title = title_of(compose("evaluate", words))
        assert title and title[0].isupper() and "None" not in title and "_" not in title


@pytest.mark.parametrize(
    ("optimizee", "words"),
    [
        ({"_target_": "valleys.DeepValley"}, "Deep valley"),
        ({"_target_": "my.make_valley", "dataset": {"_target_": "my.data", "path": "my.npz"}}, "Make valley on my"),
        ({"_target_": "l2o.optimizees.Classifier"}, "Classifier"),
        ({"_target_": "l2o.optimizees.Classifier", "network": {"_target_": "mine.Net"}}, "Net"),
        ({"_target_": "l2o.optimizees.Quadratic"}, "Random quadratics"),
        ({"_target_": "l2o.optimizees.NeuralArt", "size": [32, 48]}, "Neural art, 32×48 pictures"),
        ({"_target_": "l2o.optimizees.NeuralArt", "size": None}, "Neural art"),
        ({}, ""),
        (None, ""),
    ],
)  # fmt: skip
def test_a_user_s_own_problem_has_the_name_of_its_class(optimizee, words):
    assert in_words(optimizee) == words


def test_data_from_a_file_are_named_by_it():
    data = {"_target_": "l2o.data.from_npz", "path": str(Path("x/cifar10.npz")), "labels": [1, 2, 3]}
    network = {"_target_": "l2o.optimizees.mlp", "in_features": 4, "hidden": [], "out_features": 3}
    title = in_words({"_target_": "l2o.optimizees.Classifier", "network": network, "dataset": data})
    assert title == "MLP 4–3 on 3 labels of CIFAR-10"
