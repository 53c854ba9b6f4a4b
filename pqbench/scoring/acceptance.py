"""Whether a full-precision model scores as it did when its workload was made."""

from __future__ import annotations

from pqbench.contracts.workload import AcceptanceWindow, Workload


def check_acceptance(workload: Workload, steps: int, n: int, fd: float) -> str:
    """One sentence when the full-precision model's distance lies outside the workload's window, else nothing."""
    window = _window(workload, steps, n)
    if window is None or window.low <= fd <= window.high:
        return ""
    return (
        f"The full-precision model of {workload.name} has {workload.distance} {fd:.2f} at {n} images and "
        f"{steps} steps, outside its acceptance window from {window.low:.2f} to {window.high:.2f}: "
        "this installation or protocol differs from the one that made the window, so no method is comparable. Look at "
        "its first images (cells/ in the run's folder), at pqbench env against the environment in the manifest of a "
        "run that was accepted (torch first), and at the protocol's sha256 of extractor and reference."
    )


def acceptance_note(workload: Workload, steps: int, n: int, fd: float) -> str:
    """What a reader must know of an accepted full-precision model: in which window it lies, or that there is none."""
    window = _window(workload, steps, n)
    if window is None:
        return f"No acceptance window is known for {n} images in {steps} steps: the full-precision model is unchecked."
    return f"{workload.distance} {fd:.2f} lies in its acceptance window, {window.low:.2f} to {window.high:.2f}."


def _window(workload: Workload, steps: int, n: int) -> AcceptanceWindow | None:
    return next((window for window in workload.acceptance() if (window.steps, window.n) == (steps, n)), None)
