"""conf/ and the code say the same thing."""

import ast
import inspect
import re
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from wavenet_ae import models, notes
from wavenet_ae.command import CONF
from wavenet_ae.models.spectral import SpectralAutoencoder

PACKAGE = Path(__file__).parents[1] / "wavenet_ae"
EVERY = sorted(CONF.rglob("*.yaml"))
ROOTS = [path for path in sorted(CONF.glob("*.yaml")) if path.name != "quiet.yaml"]
SUPPLIED = {"torch.optim.Adam": {"params", "lr"}}  # what the command gives


def composed(root, *overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(root, overrides=list(overrides))


def targets(node):
    """The node and those in it that name a class."""
    if isinstance(node, DictConfig):
        if "_target_" in node:
            yield node
        for key in node:
            if not OmegaConf.is_interpolation(node, key) and not OmegaConf.is_missing(node, key):
                yield from targets(node[key])


NODES = [(path, node) for path in EVERY for node in targets(OmegaConf.load(path))]


def named(value):
    return str(value.relative_to(CONF)) if isinstance(value, Path) else value.get("_target_", "")


def test_the_rules_see_conf():
    assert len(NODES) >= 15, "encoders and decoders among them"
    assert {path.stem for path in ROOTS} >= {"train", "encode", "generate", "prepare", "convert"}


@pytest.mark.parametrize(("path", "node"), NODES, ids=named)
def test_every_key_is_an_argument_and_every_argument_of_ours_a_key(path, node):
    keys = {str(key) for key in node if not str(key).startswith("_")}
    arguments = set(inspect.signature(get_object(node._target_)).parameters)
    assert keys <= arguments, f"{path.name}: {keys - arguments} are not arguments of {node._target_}"
    if node._target_.startswith("wavenet_ae."):
        assert arguments <= keys, f"{path.name} leaves {arguments - keys} of {node._target_} unsaid"


@pytest.mark.parametrize("path", sorted((CONF / "notes").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_corpus_is_what_notes_load_is_asked_for(path):
    arguments = set(inspect.signature(notes.load).parameters) - {"split"}
    assert {str(key) for key in OmegaConf.load(path)} == arguments


@pytest.mark.parametrize("path", sorted((CONF / "experiment").glob("*.yaml")), ids=lambda path: path.stem)
def test_an_experiment_composes_with_nothing_missing(path):
    cfg = composed("train", f"experiment={path.stem}", "run=somewhere")
    OmegaConf.resolve(cfg)
    assert not OmegaConf.missing_keys(cfg)
    assert len(path.read_text().splitlines()) < 30, "overrides only"
    with torch.device("meta"):
        model = models.build(OmegaConf.to_container(cfg.model))
    assert cfg.crop % model.hop == 0 or (isinstance(model, SpectralAutoencoder) and cfg.crop == 64_000)


@pytest.mark.parametrize("path", sorted((CONF / "model").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_model_has_as_many_parameters_as_its_file_says(path):
    said = re.findall(r"([\d,]+) parameters", path.read_text())
    with torch.device("meta"):
        model = models.build(OmegaConf.to_container(composed("train", f"model={path.stem}").model, resolve=True))
    count = sum(parameter.numel() for parameter in model.parameters())
    assert said in ([], [f"{count:,}"])


@pytest.mark.parametrize("group", ["model", "notes", "optimizer", "schedule"])
def test_every_choice_of_training_composes(group):
    for path in (CONF / group).glob("*.yaml"):
        cfg = composed("train", f"{group}={path.stem}", "run=somewhere")
        OmegaConf.resolve(cfg)
        assert not OmegaConf.missing_keys(cfg)


@pytest.mark.parametrize("overrides", [[f"source={path.stem}"] for path in (CONF / "source").glob("*.yaml")], ids=str)
def test_every_source_of_prepare_composes(overrides):
    OmegaConf.resolve(composed("prepare", *overrides))
    for path in (CONF / "corpus").glob("*.yaml"):
        cfg = composed("prepare", f"corpus={path.stem}")
        OmegaConf.resolve(cfg)
        assert not OmegaConf.missing_keys(cfg), "a named corpus says all that is needed"


@pytest.mark.parametrize("path", ROOTS, ids=lambda path: path.stem)
def test_a_command_uses_every_setting_and_no_other(path):
    file = next(file for file in (PACKAGE / f"{path.stem}.py", PACKAGE / path.stem / "__main__.py") if file.exists())
    tree = list(ast.walk(ast.parse(file.read_text())))
    used = {
        node.attr
        for node in tree
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "cfg"
    }
    named = {node.value for node in tree if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    keys = {str(key) for key in composed(path.stem)}
    assert used <= keys, f"{file.name} uses {used - keys}, which {path.name} does not give"
    assert keys <= used | named, f"{path.name} gives {keys - used - named}, which {file.name} does not use"


@pytest.mark.parametrize("path", ROOTS, ids=lambda path: path.stem)
def test_a_root_file_begins_with_how_it_is_used(path):
    assert path.read_text().startswith(f"# python -m wavenet_ae.{path.stem} ")


def test_settings_that_must_agree_do():
    nsynth = composed("train", "experiment=nsynth", "run=somewhere")
    published = (nsynth.steps, nsynth.batch, nsynth.crop, nsynth.ema_decay)
    assert published == (200_000, 32, 6144, 0.9999)
    assert composed("train", "run=x").notes.root == composed("demo").root, "the notes in the box"
