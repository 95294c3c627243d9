"""What an exported optimizer says of itself: the card in its config, and the README.md that is written from it."""

import json
from collections.abc import Collection, Mapping
from typing import Any

from l2o.deploy.description import plain
from l2o.files import finite
from l2o.optimizers.base import Scope, UpdateRule
from l2o.optimizers.partitioned import Partitioned
from l2o.optimizers.preprocessing import Preprocessing

LICENCE = "mit"


def checked(card: Any) -> dict[str, Any]:
    """Return a card as config.json takes it, with null for inf and nan; ValueError, naming the key, for all else."""
    if not isinstance(card, Mapping):
        raise ValueError(f"a card is a mapping such as {{'license': 'mit'}}, got a {type(card).__name__}")
    plain_card = plain(card, "card")
    for key in ("name", "license"):
        if not isinstance(plain_card.get(key, ""), str):
            raise ValueError(f"card['{key}'] must be text, got {plain_card[key]!r}")
    return finite(plain_card)


def readme(config: Mapping[str, Any], rule: UpdateRule, name: str, address: str | None = None) -> str:
    """Return the model card as Markdown with the Hub's front matter.

    `name` is the title where the card has none. `address` is what a reader gives to `from_pretrained`: a name of the
    package or of the Hub; by default the folder that the README lies in.
    """
    from huggingface_hub import ModelCard, ModelCardData  # slow to import

    card = config["card"]
    name = card.get("name", name)
    data = ModelCardData(
        license=card.get("license", LICENCE), library_name="l2o", tags=["learned-optimizer", "pytorch"]
    )
    paragraphs = [
        f"# {name}",
        f"A learned optimizer for PyTorch: {config['rule']['class']} of the package l2o.",
        _usage(address, foreign(rule), rule.needs),
        serves(rule),
        *_facts(card),
        *_table(card.get("results")),
        "The rule:",
        f"```json\n{json.dumps(config['rule'], indent=2)}\n```",
    ]
    front = data.to_yaml(original_order=["license"])
    return str(ModelCard(f"---\n{front}\n---\n" + "\n\n".join(paragraphs) + "\n"))


def serves(rule: UpdateRule) -> str:
    """Return a sentence on the models that a rule can be used for."""
    if isinstance(rule, Partitioned):
        groups = ", ".join(f"`{name}` by `{pattern}`" for name, pattern in rule.patterns.items())
        return (
            f"It has a rule for each group of parameters and serves any model. A parameter's name decides ({groups}; "
            "prefixes such as `module.` do not count); where names do not decide, parameters of three or more axes go "
            "to the convolutional rule and all others to the other one. "
            "`LearnedOptimizer(…, patterns={group: regular expression})` decides otherwise."
        )
    if rule.scope is Scope.COORDINATE:
        return "It moves each number by itself and serves any model, of any size, sharded or not."
    if rule.scope is Scope.TENSOR:
        return "It reads statistics of each tensor by itself and serves any model, of any size, sharded or not."
    return "It looks at all parameters of a group together and serves any model that is not sharded."


def foreign(rule: UpdateRule) -> list[str]:
    """Return the names of the classes in a rule that l2o does not define: a reader has to import them first."""
    kinds = {type(part) for part in rule.modules() if isinstance(part, UpdateRule | Preprocessing)}
    return sorted(kind.__name__ for kind in kinds if kind.__module__.partition(".")[0] != "l2o")


def _usage(address: str | None, classes: list[str], needs: Collection[str]) -> str:
    first = [f"# First import the module that defines {' and '.join(classes)}."] if classes else []
    where = "." if address is None else address
    note = "  # the folder of this README; from elsewhere, its path" if address is None else ""
    horizon = ", horizon=1000)  # the steps of your training" if "horizon" in needs else ")"
    return "\n".join(
        [
            "```python",
            "import l2o",
            "",
            *first,
            f'rule = l2o.from_pretrained("{where}"){note}',
            f"optimizer = l2o.LearnedOptimizer(model.named_parameters(), rule{horizon}",
            *(["optimizer.step(loss=loss)  # it reads the loss at every step"] if "loss" in needs else []),
            "```",
        ]
    )


def _facts(card: Mapping[str, Any]) -> list[str]:
    """One line for each thing that the card knows; nested ones as JSON."""
    titles = {"optimizee": "trained on", "command": "trained by", "horizon": "horizon (steps)"}
    shown = {key: value for key, value in card.items() if key not in ("name", "results", "license")}
    as_text = lambda value: f"`{value if isinstance(value, str) else json.dumps(value)}`"  # noqa: E731
    lines = [f"- {titles.get(key, key.replace('_', ' '))}: {as_text(value)}" for key, value in shown.items()]
    return ["\n".join(lines)] if lines else []


def _table(results: Any) -> list[str]:
    """Final losses on fresh problems, as in the run's summary.json; anything else that an author gives as JSON."""
    if not results:
        return []
    try:
        of = f" ({results['problem']})" if results.get("problem") else ""
        head = f"Mean loss after {results['num_steps']} steps on {results['num_tasks']} fresh problems{of}:"
        rows = [
            [name, *(row[k] for k in ("lr", "final_loss", "standard_error"))]
            for name, row in results["optimizers"].items()
        ]
        lines = ["| " + " | ".join([name, *map(_number, numbers)]) + " |" for name, *numbers in rows]
    except (AttributeError, KeyError, TypeError, ValueError):
        return [f"Results: `{json.dumps(results)}`"]
    table = ["| optimizer | learning rate | final loss | standard error |", "|---|---|---|---|", *lines]
    return [head, "\n".join(table)]


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"
