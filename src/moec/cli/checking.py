"""What `moec check` does, without the library of the command line."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from moec import dsl, specs


def check(spec: str, overrides: Sequence[str], as_json: bool) -> int:
    """Print what a spec means in short, or with `as_json` what is wrong with it; 0 if nothing is.

    The JSON is an object: `ok`, `diagnostics` (`dsl.render_data`), and if `ok` the keys of `dsl.summary`.
    Raises SourceErrors where mistakes are not printed.
    """
    try:
        found = specs.load(spec, overrides)
    except dsl.SourceErrors as errors:
        if not as_json:
            raise
        print(json.dumps({"ok": False, "diagnostics": dsl.render_data(errors.diagnostics)}, indent=1))
        return 1
    if as_json:
        print(json.dumps({"ok": True, "diagnostics": [], **dsl.summary(found)}, indent=1))
    else:
        print(dsl.summary_text(found))
    return 0


def refuse(errors: dsl.SourceErrors) -> int:
    """Print the mistakes of a text; 1, the exit code of the user's input."""
    print(dsl.render_text(errors.diagnostics), file=sys.stderr)
    return 1
