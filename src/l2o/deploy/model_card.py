"""What an exported optimizer says of itself: the card in its config, and the README.md that is written from it."""

import json
from collections.abc import Mapping
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from l2o.evaluation.comparison import Comparison, finite

LICENCE = "mit"


def of_run(cfg: DictConfig, comparison: Comparison | None, validation_loss: float) -> dict[str, Any]:
    """The card of a run of train.py: its problem, its command, what came out (None where nothing was compared).

    Of a path only the last part is kept: a card is shared, its author's folders are not.
    """
    overrides = HydraConfig.get().overrides.task
    return {
        "name": cfg.name,
        "optimizee": without_folders(OmegaConf.to_container(cfg.optimizee, resolve=True)),
        "horizon": cfg.learner.horizon,
        "seed": cfg.seed,
        "command": " ".join(["python train.py", *map(_override, overrides)]),
        "validation_loss": validation_loss,
        "results": finite(comparison.summary()) if comparison else None,
        "license": LICENCE,
    }


def readme(name: str, config: Mapping[str, Any]) -> str:
    """The model card as Markdown with the Hub's front matter; `name` is used where the card has none."""
    card, rule = config["card"], config["rule"]
    name = card.get("name", name)
    results = card.get("results") or {}
    lines = [
        "---",
        f"license: {card.get('license', LICENCE)}",
        "library_name: l2o",
        "tags: [learned-optimizer, pytorch]",
        "---",
        f"# {name}",
        "",
        f"A learned optimizer: {rule['class']}, for l2o.",
        "",
        "```python",
        "import l2o",
        "",
        f'rule = l2o.from_pretrained("{name}")',
        "optimizer = l2o.LearnedOptimizer(model.named_parameters(), rule)",
        "```",
        "",
        *_facts(card),
        *_table(results),
        "",
        "The rule:",
        "",
        "```json",
        json.dumps(rule, indent=2),
        "```",
    ]
    return "\n".join(lines) + "\n"


def _facts(card: Mapping[str, Any]) -> list[str]:
    """One line for each thing that the card knows; nested ones as JSON."""
    titles = {"optimizee": "trained on", "command": "trained by", "horizon": "horizon (steps)"}
    shown = {key: value for key, value in card.items() if key not in ("name", "results", "license")}
    as_text = lambda value: f"`{value if isinstance(value, str) else json.dumps(value)}`"  # noqa: E731
    return [f"- {titles.get(key, key.replace('_', ' '))}: {as_text(value)}" for key, value in shown.items()]


def _table(results: Mapping[str, Any]) -> list[str]:
    """Final losses on fresh problems, as in the run's summary.json."""
    rows = results.get("optimizers")
    if not rows:
        return []
    head = f"Mean loss after {results['num_steps']} steps on {results['num_tasks']} fresh problems:"
    table = ["", head, "", "| optimizer | learning rate | final loss | standard error |", "|---|---|---|---|"]
    number = lambda value: "–" if value is None else f"{value:.3g}"  # noqa: E731
    for name, row in rows.items():
        table.append(
            "| " + " | ".join([name, *(number(row[k]) for k in ("lr", "final_loss", "standard_error"))]) + " |"
        )
    return table


def without_folders(value: Any) -> Any:
    """A resolved config, or one value of it, with paths cut to their last part."""
    if isinstance(value, Mapping):
        return {key: without_folders(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_folders(item) for item in value]
    return value.rpartition("/")[2] if isinstance(value, str) and value.startswith(("/", "~", "./", "../")) else value


def _override(override: str) -> str:
    key, equals, value = override.partition("=")
    return key + equals + without_folders(value)
