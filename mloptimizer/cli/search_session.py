"""Runs a search for the command line, and shows how it goes and how it ended."""

import re
import sys
from typing import Any

from mloptimizer.app import assembly
from mloptimizer.app.preparation import SearchRequest
from mloptimizer.cli.chosen_study import command_line, resume_command
from mloptimizer.cli.display import describe_summary, make_display
from mloptimizer.cli.options import stated_settings
from mloptimizer.cli.terminal import log_to, open_console, say
from mloptimizer.core.interrupts import stop_signals
from mloptimizer.study.storage import hide_secrets


def search_and_show(dataset: str | None, study: str | None, options: dict[str, Any]) -> None:
    """Search, or continue, as the words of the command line say, and show how it goes."""
    request = _make_request(dataset, study, options)
    console = open_console()
    log_to(console)
    with stop_signals() as stop:
        try:
            with make_display(console) as display:
                summary = assembly.run_request(request, listeners=(display,), interruptible=stop.interruptible)
        except KeyboardInterrupt:
            if display.began is None:
                raise
            again = resume_command(display.began.study, request.workspace, *_options_to_repeat(options))
            say(console, f"\nStopped; everything so far is recorded. Continue with: {again}")
            sys.exit(130)
    for line in describe_summary(summary):
        say(console, line)
    profile = request.workspace.profile(summary.study, request.profile_trial or 0)
    if request.profile_trial is not None and profile.is_dir():
        say(console, f"Profile of trial {request.profile_trial}: tensorboard --logdir {profile}")
        say(console, "It needs: pip install tensorboard tensorboard-plugin-profile")
    if summary.stopped:
        again = resume_command(summary.study, request.workspace, *_options_to_repeat(options))
        say(console, f"Continue with: {again}")
    elif summary.winner is not None:
        say(console, "Next:")
        for words in (("show", summary.study), ("export", summary.study, "-o", "DIR"), ("dashboard",)):
            say(console, f"  {command_line(request.workspace, *words)}")


def _options_to_repeat(options: dict[str, Any]) -> list[str]:
    """Return the options that a run does not keep with the study; a password in the storage's URL is left out."""
    storage = ["--storage", hide_secrets(options["storage"])] if options["storage"] else []
    return [*storage, *(["--explore-only"] if options["explore_only"] else [])]


def _make_request(dataset: str | None, study: str | None, options: dict[str, Any]) -> SearchRequest:
    more = re.fullmatch(r"\+(\d{1,9})", options["trials"] or "")
    if more:
        options = {**options, "trials": None}
    return SearchRequest(
        options["workspace"],
        dataset,
        study,
        stated_settings(options["workspace"], options),
        explore_only=options["explore_only"],
        profile_trial=options["profile_trial"],
        more_trials=int(more.group(1)) if more else 0,
        warm_start=options["warm_start"],
        enqueue=options["enqueue"],
    )
