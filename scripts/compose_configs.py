# SPDX-License-Identifier: Apache-2.0
"""Write the configs that people run from the parts that they share: configs/recipes over configs/parts.

    python scripts/compose_configs.py [--check]

A recipe names its parts in ``_parts_``; they are merged in order, as MONAI merges config files, the recipe last. A
recipe with ``_over_`` is laid over another config when it runs, so its keys stay as they are written. What is written
holds all that it needs: MONAI Label reads configs/inference.json alone. Handlers have names in the parts, so that
recipes can change one of them; MONAI wants a list.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from bundle import bundle_root
from bundle.io.files import whole_file

CONFIGS = Path(bundle_root()) / "configs"
PARTS, OVER = "_parts_", "_over_"
HANDLERS = "handlers"
WIDTH = 150  # of a line that holds a whole component


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; say which are not current")
    check = parser.parse_args().check
    stale = [path for path, text in compose() if not path.is_file() or path.read_text() != text]
    for path, text in compose():
        if path in stale and not check:
            with whole_file(path) as temporary:
                temporary.write_text(text)
    if stale:
        print(f"{'not current' if check else 'written'}: {', '.join(path.name for path in stale)}")
    sys.exit(bool(check and stale))


def compose() -> Iterator[tuple[Path, str]]:
    """Each config that is made, and what it is to hold."""
    for recipe in sorted((CONFIGS / "recipes").glob("*.json")):
        yield CONFIGS / recipe.name, to_json(in_order(merge(recipe))) + "\n"


def merge(recipe: Path) -> dict:
    """The parts of a recipe, and what it says itself."""
    own = json.loads(recipe.read_text())
    files = [CONFIGS / "parts" / f"{name}.json" for name in own[PARTS]]
    if OVER not in own:
        config: dict = ConfigParser.load_config_files([*files, recipe])
    else:
        config = {}
        parser = ConfigParser(config)
        for key, value in (pair for file in (*files, recipe) for pair in json.loads(file.read_text()).items()):
            place = parser if key.partition("#")[0] in config else config
            place[key] = value
    return as_lists({key: value for key, value in config.items() if key not in (PARTS, OVER)})


def as_lists(config: Any) -> Any:
    """The same with a list in the place of named handlers."""
    if not isinstance(config, dict):
        return config
    inner = {key: as_lists(value) for key, value in config.items()}
    return {key: [*one.values()] if key == HANDLERS and isinstance(one, dict) else one for key, one in inner.items()}


def in_order(config: dict) -> dict:
    """Imports, then what fits in a line, which is what people set, then components; what runs them last."""
    last = ("initialize", "run", "finalize")
    first = [key for key in config if key.endswith("imports")]
    plain = [key for key, value in config.items() if not isinstance(value, dict) and key not in (*first, *last)]
    others = [key for key in config if key not in (*first, *plain, *last)]
    return {key: config[key] for key in (*first, *plain, *others, *(key for key in last if key in config))}


def to_json(value: Any, indent: int = 0) -> str:
    """JSON, a component a line where it is short."""
    line = json.dumps(value, ensure_ascii=False)
    named = isinstance(value, dict) and "_target_" not in value  # components by name: a line each
    deep = named and any(isinstance(one, dict) for one in value.values())
    if not isinstance(value, (dict, list)) or (indent and not deep and indent + len(line) <= WIDTH):
        return line
    inner = " " * (indent + 4)
    if isinstance(value, list):
        items = [to_json(one, indent + 4) for one in value]
        return "[\n" + ",\n".join(inner + one for one in items) + "\n" + " " * indent + "]"
    items = [f"{json.dumps(key)}: {to_json(one, indent + 4)}" for key, one in value.items()]
    return "{\n" + ",\n".join(inner + one for one in items) + "\n" + " " * indent + "}"


if __name__ == "__main__":
    main()
