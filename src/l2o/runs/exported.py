"""The folder `best/`: the trained rule, and what its card says of it. Nothing else writes there."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from l2o.deploy import export
from l2o.training.learner import MetaLearner

log = logging.getLogger(__name__)


def export_best(learner: MetaLearner, folder: Path, card: Mapping[str, Any]) -> None:
    """Write the best φ into a folder, with a card to which the validation loss is added.

    The validation loss is None, which is null in JSON, where no validation came to a finite loss; φ is then the last
    one. A run writes the folder whenever φ has become better, and once more when the comparison's results are known:
    the card of the end extends the earlier ones.

    Raises OSError where the folder cannot be written.
    """
    export.save(learner.best_rule(), folder, {**card, "validation_loss": learner.state.best})


def warn_unvalidated(learner: MetaLearner, folder: Path) -> None:
    """Say in one line that nothing is known of the φ that is exported, and why."""
    why = (
        "no validation came to a finite loss: try a smaller learner.meta_optimizer.lr or output_scale"
        if learner.state.validated_at
        else "φ was never validated, because trainer.limit_val_batches=0 or because nothing was trained"
    )
    log.warning("'%s' holds the last φ, which may be no good: %s", folder, why)
