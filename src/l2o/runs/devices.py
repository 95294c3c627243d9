"""The device that a run of evaluate.py works on."""

import torch


def chosen_device(asked: str, of_suite: str = "auto") -> str:
    """Return the device that was asked for; with "auto" that of the suite, which may leave it to the machine, too.

    Small tasks are as fast on a CPU, on which the package has tuned their baselines.
    """
    device = of_suite if asked == "auto" else asked
    return ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device


def usable(device: str) -> str:
    """Return a device on which tensors can be made. Raises ValueError where this machine has no such device."""
    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"device={device} cannot be used here: choose auto, cpu, cuda or cuda:NUMBER ({reason})"
        ) from error
    return device
